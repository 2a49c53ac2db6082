"""An in-memory log with the loop's source and sink over it: the fake that goes with ``streams.ports``.

It keeps what matters for the loop (offsets, groups, metadata, all-or-nothing commits, rebalances, refusals) and is
shipped so that stages can be tested without a broker. It is no broker: nothing is durable and nobody else can join.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta

from schemas.delivery import DeliveryMode
from schemas.errors import CommitRejectedError, OffsetsLostError, OutputRefusedError
from streams.partitioner import partition_of
from streams.records import TP, InRecord, OffsetCommit, OutRecord
from streams.source import Listener


class MemoryLog:
    """Topics, partitions and committed offsets.

    Args:
        max_bytes: Values above it are refused, as by ``max.message.bytes``.
    """

    def __init__(self, max_bytes: int = 2 * 1024 * 1024) -> None:
        self.max_bytes = max_bytes
        self.records: dict[TP, list[InRecord]] = {}
        self.offsets: dict[tuple[str, TP], OffsetCommit] = {}
        self.commits: list[tuple[str, dict[TP, OffsetCommit]]] = []
        self.changed = asyncio.Event()
        self.generations: dict[str, int] = {}
        self._partitions: dict[str, int] = {}

    def create(self, topic: str, partitions: int = 1, groups: Sequence[str] = ()) -> None:
        """Make a topic and commit the initial offsets of its groups."""
        self._partitions[topic] = partitions
        for number in range(partitions):
            tp = TP(topic, number)
            self.records[tp] = []
            for group in groups:
                self.offsets[group, tp] = OffsetCommit(0)

    def partitions(self, topic: str) -> list[TP]:
        """The partitions of a topic."""
        return [TP(topic, number) for number in range(self._partitions[topic])]

    def append(self, record: OutRecord, timestamp_ms: int = 0) -> InRecord:
        """Write one record."""
        count = self._partitions[record.topic]
        number = record.partition
        if number is None:
            number = 0 if record.key is None else partition_of(record.key, count)
        log = self.records[TP(record.topic, number)]
        stored = InRecord(
            record.topic,
            number,
            log[-1].offset + 1 if log else 0,
            record.timestamp_ms or timestamp_ms,
            0,
            record.key,
            record.value,
            tuple(record.headers),
        )
        log.append(stored)
        self.changed.set()
        return stored

    def read(self, topic: str) -> list[InRecord]:
        """All records of a topic, by partition."""
        return [record for tp in self.partitions(topic) for record in self.records[tp]]


class MemorySource:
    """Reads a ``MemoryLog`` as the only member of a group, or as one of several that the test moves partitions between.

    Args:
        log: What is read.
        listener: Told of assignments and revocations.
        group: Consumer group.
        topics: Physical topics.
        assign: Partitions at start; all when left out.
    """

    def __init__(
        self, log: MemoryLog, listener: Listener, group: str, topics: Sequence[str], assign: Sequence[TP] | None = None
    ) -> None:
        self._log = log
        self._group = group
        everything = [tp for topic in topics for tp in log.partitions(topic)]
        self._assigned = everything if assign is None else list(assign)
        self._listener = listener
        self._positions: dict[TP, int] = {}
        self._paused: set[TP] = set()

    async def start(self) -> None:
        """Assign the partitions."""
        await self.assign(self._assigned)

    async def stop(self) -> None:
        """Nothing to close."""

    async def assign(self, partitions: Sequence[TP]) -> None:
        """A rebalance gives partitions.

        Raises:
            OffsetsLostError: One has no committed offset.
        """
        found = await self.committed(partitions)
        positions = {tp: commit for tp, commit in found.items() if commit is not None}
        if len(positions) < len(found):
            raise OffsetsLostError(f"no committed offset on {sorted(set(found) - set(positions))}")
        for tp, commit in positions.items():
            self._positions[tp] = commit.offset
        await self._listener.on_assigned(positions)

    async def revoke(self, partitions: Sequence[TP], *, lost: bool = False) -> None:
        """A rebalance takes partitions. Whether they were paused is forgotten, as by the real client."""
        await self._listener.on_revoked(frozenset(partitions), lost=lost)
        self._log.generations[self._group] = self._log.generations.get(self._group, 0) + 1
        for tp in partitions:
            self._positions.pop(tp, None)
            self._paused.discard(tp)

    async def poll(self, timeout: timedelta, max_records: int | None = None) -> Mapping[TP, Sequence[InRecord]]:  # noqa: ASYNC109 - as the port
        """Records behind the positions of partitions that are not paused."""
        room = max_records or 500
        found = self._fetch(room)
        if not found and timeout:
            self._log.changed.clear()
            try:
                async with asyncio.timeout(timeout.total_seconds()):
                    await self._log.changed.wait()
            except TimeoutError:
                return {}
            found = self._fetch(room)
        return found

    def _fetch(self, room: int) -> dict[TP, list[InRecord]]:
        found: dict[TP, list[InRecord]] = {}
        for tp, position in self._positions.items():
            if tp in self._paused or room <= 0:
                continue
            records = [record for record in self._log.records[tp] if record.offset >= position][:room]
            if records:
                found[tp] = records
                room -= len(records)
                self._positions[tp] = records[-1].offset + 1
        return found

    async def committed(self, partitions: Collection[TP]) -> Mapping[TP, OffsetCommit | None]:
        """What the group committed."""
        return {tp: self._log.offsets.get((self._group, tp)) for tp in partitions}

    def seek(self, tp: TP, offset: int) -> None:
        """Read on from ``offset``."""
        self._positions[tp] = offset

    def position(self, tp: TP) -> int:
        """The next offset that will be read."""
        return self._positions.get(tp, 0)

    def pause(self, *partitions: TP) -> None:
        """Stop reading."""
        self._paused.update(partitions)

    def resume(self, *partitions: TP) -> None:
        """Read again."""
        self._paused.difference_update(partitions)
        self._log.changed.set()


class MemorySink:
    """Commits to a ``MemoryLog``, all or nothing.

    Attributes:
        mode: What it says it can promise.
        faults: Errors for the next commits, first in first out; None lets one through. ``before`` are raised with
            nothing done, ``after`` once everything is done (a lost answer).
    """

    def __init__(self, log: MemoryLog, group: str, mode: DeliveryMode = DeliveryMode.EXACTLY_ONCE) -> None:
        self.mode = mode
        self.before: list[Exception | None] = []
        self.after: list[Exception | None] = []
        self._log = log
        self._group = group
        self._open = False

    async def start(self) -> None:
        """Open."""
        self._open = True

    async def stop(self) -> None:
        """Close."""
        self._open = False

    async def commit(self, outputs: Sequence[OutRecord], offsets: Mapping[TP, OffsetCommit]) -> None:
        """Write and commit, or raise what the test asked for. Refused if partitions were revoked since the call."""
        if not self._open:
            raise CommitRejectedError("the sink is closed")
        generation = self._log.generations.get(self._group)
        await asyncio.sleep(0)
        if generation != self._log.generations.get(self._group):
            raise CommitRejectedError("the group has moved on")
        _raise_next(self.before)
        for index, record in enumerate(outputs):
            if len(record.value or b"") > self._log.max_bytes:
                raise OutputRefusedError(index, f"value has {len(record.value or b'')} bytes")
        for record in outputs:
            self._log.append(record)
        for tp, commit in offsets.items():
            self._log.offsets[self._group, tp] = commit
        self._log.commits.append((self._group, dict(offsets)))
        _raise_next(self.after)


def _raise_next(faults: list[Exception | None]) -> None:
    if faults:
        error = faults.pop(0)
        if error is not None:
            raise error
