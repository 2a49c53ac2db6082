"""The state store behind its port: Valkey (7.2 or newer) or Redis (7.0 or newer)."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from schemas.ports import ANSWER_SUFFIX, NOTE_SUFFIX, ClaimReply, ClaimState
from schemas.settings import StateSettings
from streams.state_link import NoScriptError, StateLink
from streams.state_scripts import ANNOTATE, CLAIM, RELEASE, RENEW, SCRIPTS, SETTLE, Script

_MILLISECOND = timedelta(milliseconds=1)
_KEEPS_ALL = "noeviction"


class ValkeyState:
    """``schemas.ports.StateStore`` on a Valkey or Redis server.

    One connection, opened when it is first needed. Everything that is asked within one turn of the event loop goes out
    in one write. A server that does not answer within ``settings.timeout`` is a ``StateStoreError``; whether the
    operation was done is then unknown, and each can be asked again.

    Args:
        settings: URL (credentials and TLS included) and timeout.
        prefix: Put before each key, so that installations can share a server.

    Raises:
        ConfigurationError: The URL is wrong.
    """

    def __init__(self, settings: StateSettings, *, prefix: str = "tierflow:") -> None:
        self._prefix = prefix
        self._link = StateLink(settings, [("SCRIPT", "LOAD", script.text) for script in SCRIPTS])

    async def get(self, key: str) -> bytes | None:
        """The value, or None."""
        value: bytes | None = await self._link.ask(("GET", self._prefix + key))
        return value

    async def put(self, key: str, value: bytes, ttl: timedelta) -> None:
        """Set or replace."""
        await self._link.ask(("SET", self._prefix + key, value, "PX", _ms(ttl)))

    async def put_if_absent(self, key: str, value: bytes, ttl: timedelta) -> bytes | None:
        """Set only if there is none; returns the value that was there, or None if ours was set."""
        there: bytes | None = await self._link.ask(("SET", self._prefix + key, value, "NX", "GET", "PX", _ms(ttl)))
        return there

    async def put_each_if_absent(self, entries: Sequence[tuple[str, bytes]], ttl: timedelta) -> list[bytes | None]:
        """``put_if_absent`` for each of them in their order, in one write."""
        ask, prefix, lifetime = self._link.ask, self._prefix, _ms(ttl)
        asked = [ask(("SET", prefix + key, value, "NX", "GET", "PX", lifetime)) for key, value in entries]
        try:
            return [await future for future in asked]
        finally:
            for future in asked:  # after a failure or a cancellation nobody asks for the rest
                if not (future.cancel() or future.cancelled()):
                    future.exception()

    async def renew(self, key: str, value: bytes, ttl: timedelta) -> bool:
        """Extend the lifetime if the value is still ``value``."""
        return bool(await self._run(RENEW, (key,), value, _ms(ttl)))

    async def release(self, key: str, value: bytes) -> bool:
        """Delete if the value is still ``value``."""
        return bool(await self._run(RELEASE, (key,), value))

    async def claim(self, key: str, owner: str, lease: timedelta, note: bytes, ttl: timedelta) -> ClaimReply:
        """Take the lease unless there is an answer or another owner's lease."""
        keys = (key, key + ANSWER_SUFFIX, key + NOTE_SUFFIX)
        state, *more = await self._run(CLAIM, keys, owner, _ms(lease), note, _ms(ttl))
        found = ClaimState(state.decode())
        if found is ClaimState.THEIRS:
            return ClaimReply(found, owner=more[0].decode())
        return ClaimReply(found, more[0] if more else None)

    async def touched(self, key: str) -> bool:
        """Whether a claim left anything: a lease, an answer or a note."""
        named = self._prefix + key
        return bool(await self._link.ask(("EXISTS", named, named + ANSWER_SUFFIX, named + NOTE_SUFFIX)))

    async def annotate(self, key: str, owner: str, note: bytes, ttl: timedelta) -> bool:
        """Replace the note if ``owner`` holds the lease."""
        return bool(await self._run(ANNOTATE, (key, key + NOTE_SUFFIX), owner, note, _ms(ttl)))

    async def settle(self, key: str, owner: str, answer: bytes, ttl: timedelta) -> bytes | None:
        """Keep the answer unless there is one, then drop the owner's lease and note."""
        keys = (key, key + ANSWER_SUFFIX, key + NOTE_SUFFIX)
        first: bytes | None = await self._run(SETTLE, keys, owner, answer, _ms(ttl))
        return first

    async def ping(self) -> None:
        """Raise ``StateStoreError`` unless the store answers."""
        await self._link.ask(("PING",))

    async def forgets(self) -> str:
        """What the store may throw out to make room: its eviction policy; empty where it keeps all it was given."""
        raw = await self._link.ask(("INFO", "memory"))
        told = dict(line.split(":", 1) for line in raw.decode().splitlines() if ":" in line)
        policy = told.get("maxmemory_policy", _KEEPS_ALL)
        return "" if policy == _KEEPS_ALL or told.get("maxmemory", "0") == "0" else policy

    async def close(self) -> None:
        """Close the connection; what still waits raises ``StateStoreError``."""
        await self._link.close()

    async def _run(self, script: Script, keys: tuple[str, ...], *arguments: str | bytes | int) -> Any:
        named = [self._prefix + key for key in keys]
        try:
            return await self._link.ask(("EVALSHA", script.sha, len(named), *named, *arguments))
        except NoScriptError:  # somebody emptied the server's script cache; EVAL fills it again
            return await self._link.ask(("EVAL", script.text, len(named), *named, *arguments))


def _ms(duration: timedelta) -> int:
    millis = duration // _MILLISECOND
    if millis < 1:
        raise ValueError(f"a lifetime of {duration} is too short: one millisecond is the least")
    return millis
