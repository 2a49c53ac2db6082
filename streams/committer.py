"""Makes finished work visible: outputs, dead letters and offsets together, or none of them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from schemas.delivery import DeliveryMode
from schemas.errors import OutputRefusedError, TierflowError
from schemas.ports import Clock
from streams.deadletters import dead_letter
from streams.effects import Counters, Effects
from streams.errors import EffectsRefusedError
from streams.partition import Partition, Work
from streams.records import TP, OffsetCommit, OutRecord
from streams.stamping import Stamper, time_header
from streams.topics import Names, dead_letter_topic

log = logging.getLogger(__name__)


class Sink(Protocol):
    """Takes outputs and offsets; ``streams.sink`` has both kinds.

    ``commit`` is all or nothing where the broker does transactions. It raises ``OutputRefusedError`` (one output can't
    be written; nothing is committed), ``CommitRejectedError`` (nothing is committed), ``CommitUnknownError`` (in doubt)
    or ``BrokerUnavailableError`` (nothing is committed, the same commit may be tried again).
    """

    @property
    def mode(self) -> DeliveryMode:
        """What it can promise."""
        ...

    async def start(self) -> None:
        """Open."""
        ...

    async def stop(self) -> None:
        """Close."""
        ...

    async def commit(self, outputs: Sequence[OutRecord], offsets: Mapping[TP, OffsetCommit]) -> None:
        """Write and commit."""
        ...


class Positions(Protocol):
    """Where the consumer stands."""

    def position(self, tp: TP) -> int:
        """The next offset that will be read."""
        ...


@dataclass(frozen=True, slots=True)
class _Batch:
    outputs: list[OutRecord]
    owners: list[Work]
    offsets: dict[TP, OffsetCommit]
    sequences: dict[TP, int]
    dead_letters: int


class Committer:
    """Builds commits and books what they did.

    Args:
        stage: Name of the stage.
        group: Consumer group, for dead letters.
        sink: Where commits go.
        source: Knows positions.
        names: Physical topic names.
        clock: Wall clock.
        counters: What the loop did.
        max_bytes: Largest record that dead-letter topics take.
    """

    def __init__(
        self,
        *,
        stage: str,
        group: str,
        sink: Sink,
        source: Positions,
        names: Names,
        clock: Clock,
        counters: Counters,
        max_bytes: int,
    ) -> None:
        self._stage = stage
        self._group = group
        self._sink = sink
        self._source = source
        self._clock = clock
        self._counters = counters
        self._max_bytes = max_bytes
        self._stamper = Stamper(names, sink.mode)
        self._dead_letters = names.topic(dead_letter_topic(stage.split("-", 1)[0]))

    async def commit(self, batch: Sequence[Work]) -> EffectsRefusedError | None:
        """Commit the effects of ``batch``, whose partitions are alive.

        Every effect must be marked done in its tracker by the caller.

        Returns:
            None when all is visible. An ``EffectsRefusedError`` whose ``index`` is the position in ``batch`` of the
            work with an output that can't be written: nothing was committed, its effects must be replaced.

        Raises:
            DeliveryError: Nothing is booked; see ``Sink``.
        """
        built = self._build(batch)
        try:
            await self._sink.commit(built.outputs, built.offsets)
        except OutputRefusedError as error:
            owner = built.owners[error.index]
            outputs = () if owner.effects is None else owner.effects.outputs
            return EffectsRefusedError(batch.index(owner), error.reason, outputs)
        self._book(batch, built)
        return None

    def _build(self, batch: Sequence[Work]) -> _Batch:
        outputs: list[OutRecord] = []
        owners: list[Work] = []
        sequences: dict[TP, int] = {}
        partitions: dict[TP, Partition] = {}
        now_ms = self._clock.now_ms()
        time = time_header(now_ms)
        stamp = self._stamper.stamp
        dead = 0
        for work in batch:
            effects, partition = work.effects, work.partition
            if effects is None:
                raise TierflowError("work without effects reached the committer")
            sequence = sequences.get(partition.tp, partition.sequence)
            for emit in effects.outputs:
                sequence += 1
                outputs.append(
                    stamp(emit, source=partition.source, epoch=partition.epoch, sequence=sequence, time=time)
                )
                owners.append(work)
            for letter in effects.dead_letters:
                outputs.append(
                    dead_letter(
                        work.record,
                        letter,
                        topic=self._dead_letters,
                        stage=self._stage,
                        group=self._group,
                        now_ms=now_ms,
                        max_bytes=self._max_bytes,
                    )
                )
                owners.append(work)
                dead += 1
            sequences[partition.tp] = sequence
            partitions[partition.tp] = partition
        offsets = {
            tp: partition.commit_for(self._source.position(tp), sequences[tp]) for tp, partition in partitions.items()
        }
        return _Batch(outputs, owners, offsets, sequences, dead)

    def _book(self, batch: Sequence[Work], built: _Batch) -> None:
        counters = self._counters
        for work in batch:
            work.partition.sequence = built.sequences[work.partition.tp]
            work.partition.committed = built.offsets[work.partition.tp]
            work.partition.release(work)
        counters.commits += 1
        counters.committed += len(batch)
        counters.emitted += len(built.outputs) - built.dead_letters
        counters.dead_lettered += built.dead_letters


def mark(work: Work, effects: Effects) -> None:
    """Give work its effects; the first time its offset counts as done in the next commit."""
    if work.effects is None:
        work.partition.tracker.done(work.record.offset)
    work.effects = effects
