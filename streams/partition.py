"""What a loop knows of one partition during one assignment."""

from dataclasses import dataclass, field

from schemas.ids import coordinates
from streams import offset_map
from streams.effects import Effects
from streams.keys import KeyScheduler
from streams.records import TP, InRecord, OffsetCommit
from streams.tracker import Tracker


@dataclass(slots=True, eq=False)
class Work:
    """A record on its way through the stage."""

    record: InRecord
    partition: "Partition"
    size: int
    prepared: object = None
    effects: Effects | None = None
    refused: bool = False


@dataclass(slots=True, eq=False)
class Partition:
    """Offsets, order and numbering of one assigned partition.

    Attributes:
        tp: Topic and partition.
        tracker: Offsets in flight.
        source: ``ce_source`` of everything that is emitted because of this partition.
        epoch: Epoch of the sequence; rises when the sequence can't be continued.
        sequence: Last sequence number that a commit made visible.
        alive: False once the partition was revoked or reset; late effects are dropped then.
        keys: Order by key.
        committed: Offset last committed by this assignment.
        held: Records taken and not yet committed, by offset.
        bytes_in_flight: Their size.
        due_ms: Unix milliseconds until which it is left alone, as its head is not due before; 0 if it is not.
    """

    tp: TP
    tracker: Tracker
    source: bytes
    epoch: int
    sequence: int
    alive: bool = True
    keys: KeyScheduler[Work] = field(default_factory=KeyScheduler)
    committed: OffsetCommit | None = None
    held: dict[int, Work] = field(default_factory=dict)
    bytes_in_flight: int = 0
    due_ms: int = 0

    @property
    def in_flight(self) -> int:
        """How many records were taken and not yet committed."""
        return len(self.held)

    def hold(self, work: Work) -> None:
        """Count work in that was taken."""
        self.held[work.record.offset] = work
        self.bytes_in_flight += work.size

    def holds(self, work: Work) -> bool:
        """Whether work counts still: what was given back is read again, and must not run twice."""
        return self.alive and self.held.get(work.record.offset) is work

    def release(self, work: Work) -> None:
        """Count work out that was committed."""
        del self.held[work.record.offset]
        self.bytes_in_flight -= work.size

    def give_back(self, offset: int) -> None:
        """Everything from ``offset`` on that is not done is read again from there; what lies before it goes on."""
        for work in [work for at, work in self.held.items() if at >= offset and work.effects is None]:
            self.release(work)
        self.tracker.rewind(offset)

    def commit_for(self, position: int, sequence: int) -> OffsetCommit:
        """Offset and metadata to commit, given the sequence number after this commit's records."""
        ready = self.tracker.committable(position)
        return OffsetCommit(ready.offset, offset_map.encode(ready.offset, self.epoch, sequence, ready.beyond))


def open_partition(tp: TP, committed: OffsetCommit, *, stage: str, logical_topic: str, now_ms: int) -> Partition:
    """Start from a committed offset and its metadata.

    Args:
        tp: Topic and partition.
        committed: What the group committed last.
        stage: Name of the stage.
        logical_topic: Topic without the installation's prefix.
        now_ms: Unix milliseconds; the epoch of a sequence that starts anew, so that it is above any earlier one.

    Raises:
        OffsetMapError: The metadata is somebody else's.
    """
    progress = offset_map.decode(committed.offset, committed.metadata)
    source = f"/{stage}/{logical_topic}/{tp.partition}".encode()
    if progress is None:
        return Partition(tp, Tracker(committed.offset), source, epoch=now_ms, sequence=0, committed=committed)
    return Partition(
        tp,
        Tracker(committed.offset, progress.beyond),
        source,
        epoch=progress.epoch,
        sequence=progress.sequence,
        committed=committed,
    )


def work_size(record: InRecord) -> int:
    """Bytes a record holds in memory, roughly: key, value and headers."""
    size = len(record.value or b"") + len(record.key or b"")
    for name, value in record.headers:
        size += len(name) + len(value)
    return size


def place(record: InRecord) -> str:
    """Coordinates of a record as text."""
    return coordinates(record.topic, record.partition, record.offset)
