"""Records on their way in and out, and what is committed with them."""

from collections.abc import Sequence
from typing import NamedTuple

from aiokafka import TopicPartition as TP  # noqa: N817 - the field's short name

__all__ = ["TP", "InRecord", "OffsetCommit", "OutRecord"]


class InRecord(NamedTuple):
    r"""A record as it was read.

    A named tuple because thousands are made a second: it is immutable and costs a third of a frozen dataclass.

    Attributes:
        topic: Physical topic.
        partition: Partition within it.
        offset: Position in the partition; gaps are normal (transaction markers, compaction).
        timestamp_ms: Unix milliseconds.
        timestamp_type: 0 when the producer set the time, 1 when the broker did.
        key: Original bytes.
        value: Original bytes; None is a tombstone.
        headers: In the order in which they were written. A null value reads as empty bytes; a name that is not UTF-8
            has each wrong byte as ``\xNN``.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]

    @property
    def tp(self) -> TP:
        """Topic and partition."""
        return TP(self.topic, self.partition)


class OutRecord(NamedTuple):
    """A record to write.

    Attributes:
        topic: Physical topic.
        key: Decides the partition (Java's murmur2); without one the partition is drawn anew for each commit.
        value: The bytes to write; None is a tombstone.
        headers: Names and values.
        partition: A partition chosen by the caller.
        timestamp_ms: Unix milliseconds; None is the time of the commit.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
    partition: int | None = None
    timestamp_ms: int | None = None


class OffsetCommit(NamedTuple):
    """A committed position.

    Attributes:
        offset: The next offset to read.
        metadata: Free text that is stored with it; Kafka takes up to 4,096 bytes unless configured otherwise.
    """

    offset: int
    metadata: str = ""
