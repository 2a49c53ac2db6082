"""Takes records as long as there is room, and leaves partitions alone that have none or are not due."""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from datetime import timedelta

from schemas.errors import BrokerUnavailableError
from schemas.ports import Clock
from streams import faults
from streams.effects import Counters
from streams.flight import Flight
from streams.partition import Partition, Work, work_size
from streams.ports import Source
from streams.records import InRecord

log = logging.getLogger(__name__)

POLL_RECORDS = 500
"""Most records of one poll: keeps the time between two turns of the event loop short."""

POLL_WAIT = timedelta(milliseconds=250)
"""How long a poll waits for the first record. It only bounds how fast the loop notices that it should stop."""

HOLD = timedelta(seconds=20)
"""How long a full loop may leave the consumer unpolled. Pausing throws prefetched records away, so short waits don't
pause; a consumer unpolled for 300 s is put out of its group, so long ones do."""

LOOK = timedelta(seconds=1)
"""How often partitions are looked at whose head is not due yet: what is due waits half of it on average."""


class Polling:
    """The loop's poll task.

    Args:
        flight: What the loop holds.
        source: The consumer.
        back_off: Pause while the broker is away.
        clock: Wall clock.
        counters: What the loop did.
    """

    def __init__(
        self, *, flight: Flight, source: Source, back_off: timedelta, clock: Clock, counters: Counters
    ) -> None:
        self._flight = flight
        self._source = source
        self._back_off_s = back_off.total_seconds()
        self._clock = clock
        self._counters = counters
        self._looking: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Poll for ever."""
        flight = self._flight
        while True:
            try:
                free = flight.free()
                if free == 0:
                    await self._wait_for_room()
                    continue
                polled = await self._source.poll(POLL_WAIT, min(free, POLL_RECORDS))
            except BrokerUnavailableError as error:
                log.warning("can't read: %s", error)
                await asyncio.sleep(self._back_off_s)
                continue
            for tp, records in polled.items():
                partition = flight.partitions.get(tp)
                if partition is not None:
                    self._take(partition, records)
            if faults.armed and polled:
                await faults.reach(faults.Point.AFTER_FETCH)

    def close(self) -> None:
        """Stop looking at partitions that are not due."""
        if self._looking is not None:
            self._looking.cancel()

    def _take(self, partition: Partition, records: Sequence[InRecord]) -> None:
        tracker = partition.tracker
        intake = self._flight.intake
        for record in records:
            if not tracker.fits(record.offset):
                self._source.seek(partition.tp, record.offset)
                break
            if tracker.take(record.offset):
                work = Work(record, partition, work_size(record))
                partition.hold(work)
                intake.append(work)
                self._counters.taken += 1
        if tracker.full:
            self._source.pause(partition.tp)
            self._flight.full.add(partition.tp)
        if intake:
            self._flight.intake_filled.set()

    async def _wait_for_room(self) -> None:
        """Full: wait without polling for a while, then keep membership by polling paused partitions."""
        flight = self._flight
        flight.room.clear()
        try:
            async with asyncio.timeout(HOLD.total_seconds()):
                await flight.room.wait()
        except TimeoutError:
            paused = tuple(flight.partitions)
            self._source.pause(*paused)
            try:
                await self._source.poll(timedelta(0), 1)
            finally:
                if not flight.draining:
                    self._source.resume(*(tp for tp in paused if flight.may_read(tp)))

    def resume_with_room(self) -> None:
        """Read partitions again whose tracker was full and is not any more."""
        flight = self._flight
        for tp in [tp for tp in flight.full if not flight.partitions[tp].tracker.full]:
            flight.full.discard(tp)
            if flight.may_read(tp):
                self._source.resume(tp)
        flight.room.set()

    def leave_alone(self, work: Work, due_ms: int) -> None:
        """Give back a record that is not due, and what was taken behind it; its partition is read again when it is."""
        flight, partition, offset = self._flight, work.partition, work.record.offset
        partition.due_ms = due_ms
        partition.give_back(offset)
        flight.intake = deque(each for each in flight.intake if each.partition.holds(each))
        self._source.pause(partition.tp)
        self._source.seek(partition.tp, offset)
        flight.room.set()
        if self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(LOOK.total_seconds(), self._look)

    def _look(self) -> None:
        """Read partitions again whose head is due."""
        flight = self._flight
        now_ms = self._clock.now_ms()
        for tp, partition in flight.partitions.items():
            if partition.due_ms and partition.due_ms <= now_ms:
                partition.due_ms = 0
                if not flight.draining and flight.may_read(tp):
                    self._source.resume(tp)
        waiting = any(partition.due_ms for partition in flight.partitions.values())
        later = asyncio.get_running_loop().call_later
        self._looking = later(LOOK.total_seconds(), self._look) if waiting else None
