"""What the rooms need from outside, as small protocols; a fake of each is in ``schemas.fakes``.

Cores get values, never ports. Ports are for the edge: the loop, the stages, the command line.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import NamedTuple, Protocol

from schemas.enums import FinishReason


class Clock(Protocol):
    """Wall clock and monotonic clock."""

    def now_ms(self) -> int:
        """Unix milliseconds."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start, never going back."""
        ...


class ClaimState(StrEnum):
    """What a claim met."""

    MINE = "mine"
    """Nobody held it: the claimant does now."""
    THEIRS = "theirs"
    """Somebody else holds the lease, and there is no answer yet."""
    ANSWERED = "answered"
    """There is an answer; nothing was claimed."""


@dataclass(frozen=True, slots=True)
class ClaimReply:
    """What the store says to a claim.

    Attributes:
        state: What the claim met.
        value: The answer when answered; when mine, the note of an earlier owner whose lease died before it answered.
        owner: Who holds the lease, when it is somebody else.
    """

    state: ClaimState
    value: bytes | None = None
    owner: str = ""


ANSWER_SUFFIX = ":answer"
NOTE_SUFFIX = ":note"


class StateStore(Protocol):
    """A shared key-value store. Every method raises ``StateStoreError`` when the store does not answer in time.

    Keys are text without white space; values are bytes. ``ttl`` is the entry's lifetime.

    ``claim``, ``annotate`` and ``settle`` are for work to be done once: the lease is an entry under the key itself
    with the owner as its value (so ``get``, ``renew`` and ``release`` work on it), the answer an entry under the key
    and ``ANSWER_SUFFIX``, the note one under the key and ``NOTE_SUFFIX`` (its form is the store's own).
    """

    async def get(self, key: str) -> bytes | None:
        """The value, or None."""
        ...

    async def put(self, key: str, value: bytes, ttl: timedelta) -> None:
        """Set or replace."""
        ...

    async def put_if_absent(self, key: str, value: bytes, ttl: timedelta) -> bytes | None:
        """Set only if there is none; returns the value that was there, or None if ours was set. Atomic."""
        ...

    async def renew(self, key: str, value: bytes, ttl: timedelta) -> bool:
        """Extend the lifetime if the value is still ``value``; False if it is not. Atomic."""
        ...

    async def release(self, key: str, value: bytes) -> bool:
        """Delete if the value is still ``value``; False if it is not. Atomic."""
        ...

    async def put_each_if_absent(self, entries: Sequence[tuple[str, bytes]], ttl: timedelta) -> list[bytes | None]:
        """``put_if_absent`` for each of them in their order, in one go. Each is atomic, all together are not."""
        ...

    async def claim(self, key: str, owner: str, lease: timedelta, note: bytes, ttl: timedelta) -> ClaimReply:
        """Take the lease unless there is an answer or another owner's lease. Atomic.

        The note is kept for ``ttl``, unless an earlier owner left one: that is returned and stays until ``annotate``.
        The same owner may claim again; what it noted itself is not returned.
        """
        ...

    async def touched(self, key: str) -> bool:
        """Whether a claim left anything: a lease, an answer or a note."""
        ...

    async def annotate(self, key: str, owner: str, note: bytes, ttl: timedelta) -> bool:
        """Replace the note if ``owner`` holds the lease; False if it does not. Atomic."""
        ...

    async def settle(self, key: str, owner: str, answer: bytes, ttl: timedelta) -> bytes | None:
        """Keep the answer unless there is one, then drop the owner's lease and note. Atomic.

        The lease need not be held any more: the first answer wins, whoever gives it.

        Returns:
            None if this answer was kept, else the one that was there.
        """
        ...

    async def ping(self) -> None:
        """Raise ``StateStoreError`` unless the store answers."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatMessage:
    """A turn as providers take it: text, or the OpenAI-style list of content parts."""

    role: str
    content: "str | Sequence[Mapping[str, object]]"
    name: str = ""
    tool_calls: Sequence[Mapping[str, object]] = ()
    tool_call_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCall:
    """One call of a model."""

    model: str
    """The provider's name of the model."""
    messages: tuple[ChatMessage, ...]
    timeout: timedelta
    operation_key: str
    """Sent as the provider's idempotency key where it takes one."""
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    tools: tuple[Mapping[str, object], ...] = ()
    output_schema: Mapping[str, object] | None = None
    logprobs: bool = False
    """Ask for token log-probabilities."""
    extra: Mapping[str, object] = field(default_factory=dict)
    """Provider-specific body fields from the catalogue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAnswer:
    """What a model answered."""

    text: str
    finish_reason: FinishReason
    model: str = ""
    """Responding model as the provider names it."""
    tool_calls: tuple[Mapping[str, object], ...] = ()
    tokens_in: int = 0
    tokens_in_cached: int = 0
    tokens_out: int = 0
    tokens_reasoning: int = 0
    mean_logprob: float | None = None
    min_logprob: float | None = None
    provider_request_id: str = ""
    region: str = ""
    cpu_us: int = 0
    """CPU microseconds of a local model; 0 when unknown."""
    sources: tuple[str, ...] = ()


class Provider(Protocol):
    """Anything that can run a step: an HTTP API, a local server, a Python function."""

    async def complete(self, call: ModelCall) -> ModelAnswer:
        """Make the call. Raises ``ProviderError`` with a failure class; never retries by itself."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...


class LogEntry(NamedTuple):
    """A record of an ordered log.

    Attributes:
        position: Its place in the log; rises.
        key: As written.
        value: As written; None is a tombstone.
    """

    position: int
    key: bytes | None
    value: bytes | None


class OrderedLog(Protocol):
    """An append-only log of bytes in one order for everybody: the registry's, and that of what was learnt.

    What the bytes mean is its readers' business. Each method raises ``DeliveryError`` when the broker does not do it.
    """

    async def append(self, key: bytes, value: bytes) -> int:
        """Write a record; return its position once it can't be lost."""
        ...

    async def read(self, position: int = 0, *, through: int = -1) -> Sequence[LogEntry]:
        """All records from a position to the end as it is now, and to ``through`` at least (it exists already)."""
        ...

    async def last(self, count: int = 1) -> Sequence[LogEntry]:
        """The last records, at least ``count`` of them where there are so many."""
        ...

    async def poll(self, position: int, wait: timedelta) -> Sequence[LogEntry]:
        """Records from a position on, waiting for the first of them; empty when none came."""
        ...


class BlobStore(Protocol):
    """Content above the inline cap, addressed by hash."""

    async def put(self, content: bytes, media_type: str) -> str:
        """Store and return the ``dataref``."""
        ...

    async def get(self, dataref: str, sha256: str) -> bytes:
        """Read and verify; raises ``InputError`` when missing or when the hash differs."""
        ...


Sleep = Callable[[timedelta], Awaitable[None]]
"""Waits; tests pass one that only counts."""
