"""What one process knows of its claim on an operation.

The states::

    CLAIMING ──granted──> HELD ──lapsed──> LOST
       │                   │ └<──renewed────┘ │
    refused                └─settled, abandoned─┐
       v                                        v
    REFUSED                              SETTLED, ABANDONED
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from schemas.errors import TierflowError


class Phase(StrEnum):
    """Where a claim of this process is in its life."""

    CLAIMING = "claiming"
    """Asked for, no reply yet."""
    REFUSED = "refused"
    """Somebody else has it or has answered, or the store did not say."""
    HELD = "held"
    LOST = "lost"
    """The lease is over; somebody else may have claimed since."""
    SETTLED = "settled"
    """There is an answer in the journal."""
    ABANDONED = "abandoned"
    """Given up without an answer; the note stays for the next owner."""


class Event(StrEnum):
    """What can happen to a claim."""

    GRANTED = "granted"
    REFUSED = "refused"
    RENEWED = "renewed"
    LAPSED = "lapsed"
    SETTLED = "settled"
    ABANDONED = "abandoned"


TRANSITIONS: Final[Mapping[tuple[Phase, Event], Phase]] = MappingProxyType(
    {
        (Phase.CLAIMING, Event.GRANTED): Phase.HELD,
        (Phase.CLAIMING, Event.REFUSED): Phase.REFUSED,
        (Phase.HELD, Event.RENEWED): Phase.HELD,
        (Phase.HELD, Event.LAPSED): Phase.LOST,
        (Phase.HELD, Event.SETTLED): Phase.SETTLED,
        (Phase.HELD, Event.ABANDONED): Phase.ABANDONED,
        (Phase.LOST, Event.RENEWED): Phase.HELD,
        (Phase.LOST, Event.LAPSED): Phase.LOST,
        (Phase.LOST, Event.SETTLED): Phase.SETTLED,
        (Phase.LOST, Event.ABANDONED): Phase.ABANDONED,
    }
)
"""What follows; anything else is a mistake of the caller."""

OPEN: Final = frozenset({Phase.HELD, Phase.LOST})
"""The work goes on."""


def _future() -> "asyncio.Future[bytes | None]":
    return asyncio.get_running_loop().create_future()


@dataclass(slots=True, eq=False)
class Claim:
    """The right to work on an operation, as far as this process knows.

    Attributes:
        key: Operation key.
        token: Who holds the lease: process and number of the claim within it.
        phase: Where it is in its life.
        note: What was noted last.
        renewed_at: Monotonic seconds at which the last successful claim or renewal was asked for.
        ended: Done when the claim ends; holds the journaled answer, or None.
    """

    key: str
    token: str
    note: bytes
    renewed_at: float
    phase: Phase = Phase.CLAIMING
    ended: asyncio.Future[bytes | None] = field(repr=False, default_factory=_future)

    @property
    def lost(self) -> bool:
        """Whether the lease is over: another owner may be doing the same work now."""
        return self.phase is Phase.LOST

    @property
    def open(self) -> bool:
        """Whether the work goes on."""
        return self.phase in OPEN

    def on(self, event: Event) -> None:
        """Move on.

        Raises:
            TierflowError: The event is impossible in this phase.
        """
        following = TRANSITIONS.get((self.phase, event))
        if following is None:
            raise TierflowError(f"claim of {self.key} is {self.phase}, it can't be {event}")
        self.phase = following
