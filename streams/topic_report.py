"""How full the topics are, and how far each group has read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from streams.clients import partitions_of, reader
from streams.connection import BrokerKind, KafkaConnection
from streams.offsets import committed_offsets
from streams.records import TP
from streams.topics import Names, Topic


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionReport:
    """One partition.

    Attributes:
        partition: Its number.
        start: Oldest offset.
        stable: First offset of the oldest open transaction, or the end: how far committed records reach.
        end: Next offset to be written. Transaction markers take offsets, so differences are no counts of records.
        committed: Next offset to read, by group; None where a group has none.
    """

    partition: int
    start: int
    stable: int
    end: int
    committed: Mapping[str, int | None]

    def lag(self, group: str) -> int | None:
        """Offsets between what the group has committed and the end of the log."""
        return self._behind(group, self.end)

    def stable_lag(self, group: str) -> int | None:
        """Offsets between what the group has committed and what it can read; open transactions hide the rest."""
        return self._behind(group, self.stable)

    def _behind(self, group: str, end: int) -> int | None:
        committed = self.committed.get(group)
        return None if committed is None else max(0, end - committed)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicReport:
    """One topic.

    Attributes:
        name: Physical name.
        exists: Whether the broker has it.
        partitions: In order; empty if it does not exist.
    """

    name: str
    exists: bool
    partitions: tuple[PartitionReport, ...]

    @property
    def held(self) -> int:
        """Offsets that the log holds, over all partitions."""
        return sum(part.end - part.start for part in self.partitions)

    def lag(self, group: str) -> int | None:
        """Lag of a group over all partitions; None if it has no offset on one of them."""
        lags = [part.lag(group) for part in self.partitions]
        return None if any(lag is None for lag in lags) else sum(lag or 0 for lag in lags)

    def stable_lag(self, group: str) -> int | None:
        """Lag of a group to what it can read, over all partitions; None if it has no offset on one of them."""
        lags = [part.stable_lag(group) for part in self.partitions]
        return None if any(lag is None for lag in lags) else sum(lag or 0 for lag in lags)


async def describe_topics(
    connection: KafkaConnection, topics: Sequence[Topic], names: Names, *, kind: BrokerKind = BrokerKind.UNKNOWN
) -> list[TopicReport]:
    """Offsets and lag of every topic of the table. The embedded broker's ends can be a batch short.

    Args:
        connection: Where.
        topics: The topic table.
        names: Physical names.
        kind: What answers.

    Raises:
        BrokerUnavailableError: No answer.
        NotPermittedError: A group is not allowed to us.
    """
    wanted = {names.topic(topic.name): topic for topic in topics}
    partitions = await partitions_of(connection, wanted)
    everything = [tp for found in partitions.values() for tp in found]
    async with reader(connection, kind) as consumer:
        starts = await consumer.beginning_offsets(everything)
        stable = await consumer.end_offsets(everything)
    async with reader(connection, kind, committed=False) as consumer:
        ends = await consumer.end_offsets(everything)
    committed: dict[str, Mapping[TP, int | None]] = {}
    for group, of_group in _by_group(wanted, partitions, names).items():
        offsets = await committed_offsets(connection, group, of_group)
        committed[group] = {tp: None if commit is None else commit.offset for tp, commit in offsets.items()}
    return [
        TopicReport(
            name=name,
            exists=name in partitions,
            partitions=tuple(
                PartitionReport(
                    partition=tp.partition,
                    start=starts[tp],
                    stable=stable[tp],
                    end=ends[tp],
                    committed={group: offsets[tp] for group, offsets in committed.items() if tp in offsets},
                )
                for tp in partitions.get(name, ())
            ),
        )
        for name in wanted
    ]


def _by_group(wanted: Mapping[str, Topic], partitions: Mapping[str, Sequence[TP]], names: Names) -> dict[str, list[TP]]:
    groups: dict[str, list[TP]] = {}
    for name, topic in wanted.items():
        for stage in topic.consumers:
            if name in partitions:
                groups.setdefault(names.group(stage), []).extend(partitions[name])
    return groups
