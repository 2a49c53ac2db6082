"""A fake of every port, so that tests need no server and no clock. Each keeps its port's promises in memory."""

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from schemas.blobs import dataref_of, digest_in
from schemas.errors import ConfigurationError, InvalidRequestError, ProviderError, SchemaRegistryError, StateStoreError
from schemas.ports import (
    ANSWER_SUFFIX,
    NOTE_SUFFIX,
    ClaimReply,
    ClaimState,
    Clock,
    LogEntry,
    ModelAnswer,
    ModelCall,
)

_MILLISECOND = timedelta(milliseconds=1)


class FakeClock:
    """A clock that stands still until it is told to go on.

    Args:
        now_ms: Unix milliseconds at the start.
    """

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = now_ms
        self._monotonic = 0.0

    def now_ms(self) -> int:
        """See ``Clock``."""
        return self._now_ms

    def monotonic(self) -> float:
        """See ``Clock``."""
        return self._monotonic

    def advance(self, duration: timedelta) -> None:
        """Let time pass on both clocks."""
        if duration < timedelta(0):
            raise ValueError("time does not go back; use set_wall for a wall clock that was put right")
        self._now_ms += duration // _MILLISECOND
        self._monotonic += duration.total_seconds()

    def set_wall(self, now_ms: int) -> None:
        """Put the wall clock right, as NTP does; the monotonic clock goes on."""
        self._now_ms = now_ms


class FakeSleep:
    """A ``Sleep`` that waits for nothing: it notes how long and lets a clock advance by it.

    Attributes:
        slept: Every wait, in order.
    """

    def __init__(self, clock: FakeClock | None = None) -> None:
        self.slept: list[timedelta] = []
        self._clock = clock

    async def __call__(self, duration: timedelta) -> None:
        """See ``Sleep``."""
        self.slept.append(duration)
        if self._clock is not None:
            self._clock.advance(duration)
        await asyncio.sleep(0)


@dataclass(slots=True)
class _Entry:
    value: bytes
    ends: float


class MemoryState:
    """A ``StateStore`` of one process. Lifetimes follow the monotonic side of the clock it is given.

    Attributes:
        failing: While true, every method raises ``StateStoreError``: the store is away.
        operations: How many operations were asked for, failed ones included.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.failing = False
        self.operations = 0
        self._clock: Clock = FakeClock() if clock is None else clock
        self._entries: dict[str, _Entry] = {}

    async def get(self, key: str) -> bytes | None:
        """See ``StateStore``."""
        self._ask(key)
        return self._value(key)

    async def put(self, key: str, value: bytes, ttl: timedelta) -> None:
        """See ``StateStore``."""
        self._ask(key)
        self._set(key, value, ttl)

    async def put_if_absent(self, key: str, value: bytes, ttl: timedelta) -> bytes | None:
        """See ``StateStore``."""
        self._ask(key)
        there = self._value(key)
        if there is None:
            self._set(key, value, ttl)
        return there

    async def put_each_if_absent(self, entries: Sequence[tuple[str, bytes]], ttl: timedelta) -> list[bytes | None]:
        """See ``StateStore``."""
        return [await self.put_if_absent(key, value, ttl) for key, value in entries]

    async def renew(self, key: str, value: bytes, ttl: timedelta) -> bool:
        """See ``StateStore``."""
        self._ask(key)
        if self._value(key) != value:
            return False
        self._set(key, value, ttl)
        return True

    async def release(self, key: str, value: bytes) -> bool:
        """See ``StateStore``."""
        self._ask(key)
        if self._value(key) != value:
            return False
        del self._entries[key]
        return True

    async def claim(self, key: str, owner: str, lease: timedelta, note: bytes, ttl: timedelta) -> ClaimReply:
        """See ``StateStore``."""
        self._ask(key)
        answer = self._value(key + ANSWER_SUFFIX)
        if answer is not None:
            return ClaimReply(ClaimState.ANSWERED, answer)
        holder = self._value(key)
        if holder is not None and holder != owner.encode():
            return ClaimReply(ClaimState.THEIRS, owner=holder.decode())
        self._set(key, owner.encode(), lease)
        left = self._note(key)
        if left is not None and left[0] != owner:
            return ClaimReply(ClaimState.MINE, left[1])
        self._set_note(key, owner, note, ttl)
        return ClaimReply(ClaimState.MINE)

    async def touched(self, key: str) -> bool:
        """See ``StateStore``."""
        self._ask(key)
        return any(self._value(key + suffix) is not None for suffix in ("", ANSWER_SUFFIX, NOTE_SUFFIX))

    async def annotate(self, key: str, owner: str, note: bytes, ttl: timedelta) -> bool:
        """See ``StateStore``."""
        self._ask(key)
        if self._value(key) != owner.encode():
            return False
        self._set_note(key, owner, note, ttl)
        return True

    async def settle(self, key: str, owner: str, answer: bytes, ttl: timedelta) -> bytes | None:
        """See ``StateStore``."""
        self._ask(key)
        first = self._value(key + ANSWER_SUFFIX)
        if first is None:
            self._set(key + ANSWER_SUFFIX, answer, ttl)
        if self._value(key) == owner.encode():
            del self._entries[key]
        left = self._note(key)
        if left is not None and left[0] == owner:
            del self._entries[key + NOTE_SUFFIX]
        return first

    async def ping(self) -> None:
        """See ``StateStore``."""
        self._ask("ping")

    async def close(self) -> None:
        """See ``StateStore``."""

    def keys(self) -> set[str]:
        """Keys that are alive."""
        return {key for key in list(self._entries) if self._value(key) is not None}

    def forget_everything(self) -> None:
        """What a store restarted empty looks like."""
        self._entries.clear()

    def _ask(self, key: str) -> None:
        self.operations += 1
        if self.failing:
            raise StateStoreError("the state store does not answer")
        if not key or any(character.isspace() for character in key):
            raise ValueError(f"a key has no white space and is not empty: {key!r}")

    def _value(self, key: str) -> bytes | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.ends <= self._clock.monotonic():
            del self._entries[key]
            return None
        return entry.value

    def _set(self, key: str, value: bytes, ttl: timedelta) -> None:
        if ttl < _MILLISECOND:
            raise ValueError(f"a lifetime of {ttl} is too short: one millisecond is the least")
        self._entries[key] = _Entry(bytes(value), self._clock.monotonic() + ttl.total_seconds())

    def _note(self, key: str) -> tuple[str, bytes] | None:
        raw = self._value(key + NOTE_SUFFIX)
        if raw is None:
            return None
        by, _, note = raw.partition(b"\x00")
        return by.decode(), note

    def _set_note(self, key: str, owner: str, note: bytes, ttl: timedelta) -> None:
        self._set(key + NOTE_SUFFIX, owner.encode() + b"\x00" + note, ttl)


Scripted: TypeAlias = ModelAnswer | ProviderError | Callable[[ModelCall], ModelAnswer]


class ScriptedProvider:
    """A ``Provider`` that plays a script: answers are returned, errors raised, functions asked, one a call.

    Args:
        script: What happens, in order.
        default: What happens after that; without one, a call too many is an ``AssertionError``.

    Attributes:
        calls: Every call, in order.
        closed: Whether it was closed.
    """

    def __init__(self, *script: Scripted, default: Scripted | None = None) -> None:
        self.calls: list[ModelCall] = []
        self.closed = False
        self._script: list[Scripted] = list(script)
        self._default = default

    async def complete(self, call: ModelCall) -> ModelAnswer:
        """See ``Provider``."""
        self.calls.append(call)
        await asyncio.sleep(0)
        turn = self._script.pop(0) if self._script else self._default
        if turn is None:
            raise AssertionError(f"the script ended before call {len(self.calls)} of model {call.model}")
        if isinstance(turn, ProviderError):
            raise turn
        return turn if isinstance(turn, ModelAnswer) else turn(call)

    async def close(self) -> None:
        """See ``Provider``."""
        self.closed = True


class MemoryOrderedLog:
    """An ``OrderedLog`` of one process.

    Attributes:
        records: What is in it; tests may put damaged ones there.
        failures: Errors to raise, one for each coming call of any method.
    """

    def __init__(self) -> None:
        self.records: list[LogEntry] = []
        self.failures: list[Exception] = []
        self._changed = asyncio.Event()

    async def append(self, key: bytes | None, value: bytes | None) -> int:
        """See ``OrderedLog``."""
        await self._step()
        self.records.append(LogEntry(len(self.records), key, value))
        self._changed.set()
        self._changed = asyncio.Event()
        return len(self.records) - 1

    async def read(self, position: int = 0, *, through: int = -1) -> Sequence[LogEntry]:
        """See ``OrderedLog``."""
        del through
        await self._step()
        return self.records[position:]

    async def last(self, count: int = 1) -> Sequence[LogEntry]:
        """See ``OrderedLog``."""
        await self._step()
        return self.records[-count:]

    async def poll(self, position: int, wait: timedelta) -> Sequence[LogEntry]:
        """See ``OrderedLog``."""
        await self._step()
        if position >= len(self.records):
            try:
                await asyncio.wait_for(self._changed.wait(), wait.total_seconds())
            except TimeoutError:
                return ()
        return self.records[position:]

    async def _step(self) -> None:
        await asyncio.sleep(0)  # a real log gives way to others here, so the fake does too
        if self.failures:
            raise self.failures.pop(0)


class MemoryBlobs:
    """A ``BlobStore`` of one process.

    Attributes:
        contents: What is stored, by ``dataref``; a test may damage it.
        failing: While true, every method raises ``StateStoreError``.
    """

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.failing = False

    async def put(self, content: bytes, media_type: str) -> str:
        """See ``BlobStore``."""
        del media_type
        self._ask()
        dataref = dataref_of(content)
        self.contents[dataref] = content
        return dataref

    async def get(self, dataref: str, sha256: str) -> bytes:
        """See ``BlobStore``."""
        self._ask()
        digest_in(dataref, sha256)
        if dataref not in self.contents:
            raise InvalidRequestError("dataref", "nothing is stored under it")
        content = self.contents[dataref]
        if dataref_of(content) != dataref:
            raise InvalidRequestError("dataref", "the stored content is damaged: its hash is another")
        return content

    def _ask(self) -> None:
        if self.failing:
            raise StateStoreError("the blob store does not answer")


class MemoryRegistry:
    """A ``SchemaRegistry`` of one process.

    Attributes:
        failing: While true, every method raises ``SchemaRegistryError``.
        asked: Ids that were asked for, in order.
    """

    def __init__(self, schemas: Iterable[str] = (), *, may_register: bool = True) -> None:
        self.failing = False
        self.asked: list[int] = []
        self._may_register = may_register
        self._schemas = list(schemas)

    def register(self, subject: str, schema: str) -> int:
        """See ``SchemaRegistry``."""
        self._ask()
        if schema not in self._schemas:
            if not self._may_register:
                raise ConfigurationError(f"the schema registry has no schema of ours under subject {subject}")
            json.loads(schema)
            self._schemas.append(schema)
        return self._schemas.index(schema) + 1

    def schema(self, schema_id: int) -> str | None:
        """See ``SchemaRegistry``."""
        self._ask()
        self.asked.append(schema_id)
        return self._schemas[schema_id - 1] if 0 < schema_id <= len(self._schemas) else None

    def close(self) -> None:
        """See ``SchemaRegistry``."""

    def _ask(self) -> None:
        if self.failing:
            raise SchemaRegistryError("the schema registry does not answer")
