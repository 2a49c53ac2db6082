"""The topic of what was learnt: the newest state of a catalogue, and following it in the background.

Reading never fails and never delays a decision: while nobody publishes, or the broker is away, what was read last
holds.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Final, NoReturn

from agents.classifier.experience import Experience
from agents.classifier.learning.state import State, read_state
from schemas.errors import DeliveryError, UndecodableError
from schemas.ports import LogEntry, OrderedLog, Sleep

log = logging.getLogger(__name__)

POLL: Final = timedelta(seconds=5)
"""Longest wait for a new state before asking again; a new one ends the wait at once."""
BACK_OFF: Final = timedelta(seconds=5)
"""Pause while the topic can't be read."""
LAST: Final = 32
"""Records looked at from the end for the newest state of one's own catalogue: others may share the topic."""


def newest(entries: Iterable[LogEntry], catalogue: str) -> State | None:
    """The last state of a catalogue that can be read; damaged ones and those of a newer format are passed over."""
    found = None
    for entry in entries:
        if entry.key != catalogue.encode() or entry.value is None:
            continue
        try:
            found = read_state(entry.value)
        except UndecodableError as error:
            log.warning("record %d of what was learnt counts for nothing: %s", entry.position, error)
    return found


class LearnedHolder:
    """What was learnt, as this process knows it now. ``state`` and ``experience`` are swapped whole, between records.

    Args:
        catalogue: Whose models.
        applied: Whether decisions follow it.
    """

    def __init__(self, catalogue: str, *, applied: bool) -> None:
        self._catalogue = catalogue
        self._applied = applied
        self.state: State | None = None
        # Where decisions follow it: knows nothing at first, which sends what nobody knows up.
        self.experience: Experience | None = Experience() if applied else None

    def offer(self, state: State) -> None:
        """Take a state. The newest published one counts, also where its number is lower: somebody began anew."""
        counters, calibration = state.restored()
        self.experience = Experience(
            version=state.version,
            counters=counters,
            corrections=calibration.corrections(),
            applied=self._applied,
        )
        self.state = state

    async def watch(self, topic: OrderedLog) -> NoReturn:
        """Follow the topic for ever.

        Raises:
            DeliveryError: It can't be read.
        """
        entries = await topic.last(LAST)
        position = 0
        while True:
            if entries:
                position = entries[-1].position + 1
                state = newest(entries, self._catalogue)
                if state is not None:
                    self.offer(state)
                    log.info("%s is known (%s)", state.version, "applied" if self._applied else "only recorded")
            entries = await topic.poll(position, POLL)


async def follow(
    holder: LearnedHolder,
    open_topic: Callable[[], AbstractAsyncContextManager[OrderedLog]],
    *,
    sleep: Sleep | None = None,
) -> NoReturn:
    """Keep a holder current for ever; run it as a task and cancel it. A topic that can't be read is tried again.

    Args:
        holder: What to keep current.
        open_topic: Connects.
        sleep: Waits before the next try.
    """
    while True:
        try:
            async with open_topic() as topic:
                await holder.watch(topic)
        except DeliveryError as error:
            log.warning("what was learnt can't be read, what is known stays: %s", error)
        await (sleep or _sleep)(BACK_OFF)


async def _sleep(duration: timedelta) -> None:
    await asyncio.sleep(duration.total_seconds())
