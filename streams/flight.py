"""What a loop holds: records taken and not committed, and who waits for them.

Synchronous on purpose: what is found here stays true until the next ``await`` of the finder.
"""

import asyncio
from collections import deque
from collections.abc import Iterable

from schemas.settings import LoopSettings
from streams.committer import mark
from streams.effects import Effects
from streams.partition import Partition, Work
from streams.records import TP


class Flight:
    """Everything between the source and a commit, and the events by which the loop's tasks wake each other.

    Args:
        settings: How much may be held.

    Attributes:
        partitions: Those assigned now.
        intake: Taken, not handed to the stage.
        ready: Done, not committed.
        full: Partitions that may not be read, since their tracker has no room.
        draining: Nothing new is begun.
        intake_filled: Set while ``intake`` holds something.
        ready_filled: Set while ``ready`` holds something.
        room: Set when more may be taken than before.
    """

    def __init__(self, settings: LoopSettings) -> None:
        self.partitions: dict[TP, Partition] = {}
        self.intake: deque[Work] = deque()
        self.ready: list[Work] = []
        self.full: set[TP] = set()
        self.draining = False
        self.intake_filled = asyncio.Event()
        self.ready_filled = asyncio.Event()
        self.room = asyncio.Event()
        self._max_records = settings.max_in_flight
        self._max_bytes = settings.max_in_flight_bytes

    @property
    def records(self) -> int:
        """Records taken and not yet committed."""
        return sum(partition.in_flight for partition in self.partitions.values())

    @property
    def bytes(self) -> int:
        """Their size."""
        return sum(partition.bytes_in_flight for partition in self.partitions.values())

    def free(self) -> int:
        """How many records may be taken."""
        if self.draining or self.bytes >= self._max_bytes:
            return 0
        return max(0, self._max_records - self.records)

    def may_read(self, tp: TP) -> bool:
        """Whether a partition is ours, has room and is not left alone."""
        partition = self.partitions.get(tp)
        return partition is not None and tp not in self.full and not partition.due_ms

    def finish(self, work: Work, effects: Effects) -> None:
        """Work is done; it is dropped if its partition went away meanwhile."""
        if work.partition.alive:
            mark(work, effects)
            self.ready.append(work)
            self.ready_filled.set()

    def offer_again(self, work: Work) -> None:
        """Put work in front that the stage could not finish yet."""
        if work.partition.holds(work):
            self.intake.appendleft(work)
            self.intake_filled.set()

    def next_batch(self, limit: int) -> list[Work]:
        """Take what was offered, in order."""
        batch: list[Work] = []
        while self.intake and len(batch) < limit:
            work = self.intake.popleft()
            if work.partition.alive:
                batch.append(work)
        if not self.intake:
            self.intake_filled.clear()
        return batch

    def give_back(self, batch: list[Work]) -> None:
        """Put a batch in front again, in its order."""
        self.intake.extendleft(reversed([work for work in batch if work.partition.alive]))
        if self.intake:
            self.intake_filled.set()

    def forget(self, partitions: Iterable[TP]) -> None:
        """Partitions went away, with everything of them that is held."""
        for tp in partitions:
            partition = self.partitions.pop(tp, None)
            if partition is not None:
                partition.alive = False
                partition.keys.clear()
            self.full.discard(tp)
        self.intake = deque(work for work in self.intake if work.partition.alive)
        self.ready = [work for work in self.ready if work.partition.alive]
        self.room.set()
