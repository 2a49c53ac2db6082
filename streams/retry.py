"""When a step whose providers failed is tried again: one topic a delay, and never later than it may be. Pure.

A request that waits in a retry topic is as live as any other: its record there is its one token. One topic holds one
delay, so the record at the head of a partition is the next that is due, and a partition that is paused until then
blocks nothing else. (Jitter makes a record wait for those before it, by the jitter at most.)
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Self

from schemas.ids import chance
from schemas.settings import TopicSettings

RETRY_PREFIX: Final = "retry."
JITTER: Final = 0.2
"""Share of the delay that is drawn on top of it, so that what failed together does not come back together."""

_MILLISECOND: Final = timedelta(milliseconds=1)
_UNITS: Final = (("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1))


def retry_topic(delay: timedelta) -> str:
    """Logical topic of a delay in whole milliseconds, such as ``retry.10s``."""
    millis = delay // _MILLISECOND
    size, unit = next((size, unit) for unit, size in _UNITS if millis % size == 0)
    return f"{RETRY_PREFIX}{millis // size}{unit}"


@dataclass(frozen=True, slots=True)
class Due:
    """A try to come.

    Attributes:
        topic: Logical retry topic to wait in.
        at_ms: Unix milliseconds before which it is not handed out.
        number: Which try of the step it is, from 2.
    """

    topic: str
    at_ms: int
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The delays of an installation.

    Attributes:
        delays: Before the second try, the third and so on: their number caps the tries.
        max_age: A request accepted longer ago is not tried again.
    """

    delays: tuple[timedelta, ...]
    max_age: timedelta

    @classmethod
    def of(cls, settings: TopicSettings) -> Self:
        """As settings say."""
        return cls(delays=settings.retry_delays, max_age=settings.retry_age)

    @property
    def topics(self) -> tuple[str, ...]:
        """Logical retry topics, shortest delay first."""
        return tuple(retry_topic(delay) for delay in self.delays)

    def after(
        self, tries: int, *, request_id: str, step_id: str, now_ms: int, accepted_at_ms: int, deadline_ms: int
    ) -> Due | None:
        """The try that follows ``tries`` failed ones; None if none may.

        Args:
            tries: Tries of the step so far, from 1.
            request_id: Whose; the jitter is drawn from it, so that a redelivery draws the same.
            step_id: Which step.
            now_ms: Unix milliseconds.
            accepted_at_ms: When the request was accepted.
            deadline_ms: When it is over: a try that would be due then is not scheduled.
        """
        if not 1 <= tries <= len(self.delays):
            return None
        delay_ms = self.delays[tries - 1] // _MILLISECOND
        at_ms = now_ms + delay_ms + int(delay_ms * JITTER * chance(request_id, f"retry-{step_id}-{tries}"))
        if at_ms >= deadline_ms or at_ms - accepted_at_ms > self.max_age // _MILLISECOND:
            return None
        return Due(retry_topic(self.delays[tries - 1]), at_ms, tries + 1)
