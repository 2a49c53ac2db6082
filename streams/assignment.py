"""Where partitions start: at what the group committed, at an assignment and again after a failed commit."""

import asyncio
import logging
from collections.abc import Mapping
from datetime import timedelta

from schemas.errors import BrokerUnavailableError, OffsetsLostError
from schemas.ports import Clock
from streams.flight import Flight
from streams.partition import open_partition
from streams.ports import Source
from streams.records import TP, OffsetCommit
from streams.topics import Names

log = logging.getLogger(__name__)


class Assignment:
    """Opens partitions.

    Args:
        flight: What the loop holds.
        source: The consumer.
        stage: Name of the stage.
        names: Physical topic names.
        back_off: Pause before the broker is asked what is committed.
        clock: Wall clock.
    """

    def __init__(
        self, *, flight: Flight, source: Source, stage: str, names: Names, back_off: timedelta, clock: Clock
    ) -> None:
        self._flight = flight
        self._source = source
        self._stage = stage
        self._names = names
        self._back_off_s = back_off.total_seconds()
        self._clock = clock

    def open(self, positions: Mapping[TP, OffsetCommit]) -> None:
        """Start partitions at what is committed. Synchronous: no poll can slip in between.

        Raises:
            OffsetMapError: The metadata of a committed offset is somebody else's.
        """
        flight = self._flight
        now_ms = self._clock.now_ms()
        flight.forget(positions)
        for tp, committed in positions.items():
            flight.partitions[tp] = open_partition(
                tp, committed, stage=self._stage, logical_topic=self._names.logical(tp.topic), now_ms=now_ms
            )
        if flight.draining:
            self._source.pause(*positions)
        flight.room.set()

    async def reset(self, reason: Exception) -> None:
        """Forget everything in flight and start again from what the broker says is committed.

        Raises:
            OffsetsLostError: It says that nothing is.
        """
        log.warning("starting again from the committed offsets: %s", reason)
        held = self._flight.partitions
        before = dict(held)
        for partition in before.values():
            partition.alive = False
        while True:
            await asyncio.sleep(self._back_off_s)
            before = {tp: partition for tp, partition in before.items() if held.get(tp) is partition}
            try:
                committed = await self._source.committed(tuple(before))
            except BrokerUnavailableError as error:
                log.warning("can't read committed offsets: %s", error)
                continue
            # A rebalance may have come and gone meanwhile; what it opened is newer than what was read here.
            self._open_again({tp: committed[tp] for tp, old in before.items() if held.get(tp) is old})
            return

    def _open_again(self, positions: Mapping[TP, OffsetCommit | None]) -> None:
        known = {tp: found for tp, found in positions.items() if found is not None}
        if len(known) < len(positions):
            raise OffsetsLostError(f"committed offsets vanished: {sorted(set(positions) - set(known))}")
        self.open(known)
        for tp, found in known.items():
            self._source.seek(tp, found.offset)
        if not self._flight.draining:
            self._source.resume(*known)
