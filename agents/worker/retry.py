"""What follows a failed call: the same model again, the step's next model, or the end of the step. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from schemas.errors import FailureClass
from schemas.ids import chance


class Follow(StrEnum):
    """What may help after a failure."""

    AGAIN = "again"
    """The same call a little later; then the next model."""
    OTHER = "other"
    """Not the same call; another model may answer."""
    END = "end"
    """No call of this step: somebody has to change something, or the plan has to go on."""


TABLE: Final[Mapping[FailureClass, Follow]] = MappingProxyType(
    {
        FailureClass.RATE_LIMIT: Follow.AGAIN,
        FailureClass.SERVER: Follow.AGAIN,
        FailureClass.TIMEOUT: Follow.AGAIN,
        FailureClass.CONNECTION: Follow.AGAIN,
        FailureClass.CONTEXT_OVERFLOW: Follow.OTHER,
        FailureClass.CONTENT_REFUSAL: Follow.OTHER,
        FailureClass.BAD_OUTPUT: Follow.OTHER,
        FailureClass.UNKNOWN: Follow.OTHER,
        FailureClass.AUTH: Follow.END,
        FailureClass.BAD_REQUEST: Follow.END,
        FailureClass.PROHIBITED: Follow.END,
        FailureClass.ALLOWANCE: Follow.END,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How often and how long to try again, from local settings."""

    max_retries: int
    """Tries of one model after the first."""
    base_ms: float
    """Longest first pause; doubled with each further one."""
    cap_ms: float
    """Longest pause of our own choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The failed call and those before it."""

    failure: FailureClass
    operation_key: str
    """Of the call; the pauses are drawn from it."""
    tries: int
    """Calls of this model in this step so far, from 1."""
    retry_after_ms: float = 0.0
    """What the provider asked to wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What is left, in time and money."""

    now_ms: int
    deadline_ms: int
    left_micros: int | None = None
    """Cost allowance left; None if unlimited."""
    cost_micros: int = 0
    """Most that the same call can cost again."""
    others: Sequence[tuple[int, int]] = ()
    """Index and highest cost of the step's later models that may be called, in their order."""


@dataclass(frozen=True, slots=True)
class Retry:
    """The same call after a pause."""

    delay_ms: float


@dataclass(frozen=True, slots=True)
class Fallback:
    """The step's model at this index, at once."""

    index: int


@dataclass(frozen=True, slots=True)
class Stop:
    """The step ends with this failure."""

    failure: FailureClass
    reason: str


Next = Retry | Fallback | Stop


def next_try(failed: Failed, room: Room, policy: Policy) -> Next:
    """What to do after a failed call.

    A retry starts before the deadline, and neither it nor a fallback can cost more than what is left. A wait that the
    provider asks for is kept to; where it is longer than our own longest pause, another model is asked instead, if
    there is one.
    """
    follow = TABLE[failed.failure]
    if follow is Follow.END:
        return Stop(failed.failure, "no other call would help")
    if room.now_ms >= room.deadline_ms:
        return Stop(failed.failure, "the deadline passed")
    affordable = [index for index, cost in room.others if _affords(room, cost)]
    why = "no other model is left"
    if follow is Follow.AGAIN:
        delay_ms = pause_ms(failed, policy)
        if failed.tries > policy.max_retries:
            why = f"{failed.tries} tries"
        elif room.now_ms + delay_ms >= room.deadline_ms:
            why = "the next try would come after the deadline"
        elif not _affords(room, room.cost_micros):
            why = "the cost allowance is used up"
        elif failed.retry_after_ms <= policy.cap_ms or not affordable:
            return Retry(delay_ms)
    return Fallback(affordable[0]) if affordable else Stop(failed.failure, why)


def pause_ms(failed: Failed, policy: Policy) -> float:
    """Exponential back-off with full jitter, after what the provider asked for; drawn from the operation key.

    Full jitter (a draw from 0 to the bound) spreads callers that failed together better than any fixed share of it.
    """
    bound = min(policy.cap_ms, policy.base_ms * 2.0 ** min(failed.tries - 1, 32))
    return failed.retry_after_ms + bound * chance(failed.operation_key, f"retry-{failed.tries}")


def _affords(room: Room, cost: int) -> bool:
    return room.left_micros is None or cost <= room.left_micros
