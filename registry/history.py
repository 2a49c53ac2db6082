"""Which snapshots were published: a pure fold over the registry log.

The log's order decides. The first sound record with the number after the last one wins; every reader of the same log
finds the same winners, so appending and reading back is a compare-and-set on any broker.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from registry.envelope import Envelope, open_envelope
from registry.errors import SnapshotFormatError
from registry.snapshot import Snapshot
from schemas.ports import LogEntry


@dataclass(frozen=True, slots=True)
class Skipped:
    """A record that counts for nothing.

    Attributes:
        position: Its place in the log.
        reason: Why.
        damaged: Whether it should not be there at all; a lost race is no damage.
    """

    position: int
    reason: str
    damaged: bool = True


@dataclass(frozen=True, slots=True)
class Published:
    """A snapshot that counts, whether or not this program can understand it.

    Attributes:
        position: Its place in the log.
        key: Key of its record; no other record has it.
        envelope: Its number, hash and content.
    """

    position: int
    key: bytes
    envelope: Envelope

    def understood(self) -> Snapshot:
        """The snapshot itself.

        Raises:
            SnapshotFormatError: This program is too old for it.
        """
        return Snapshot.from_envelope(self.envelope)


@dataclass(frozen=True, slots=True)
class History:
    """What a log holds, up to a position.

    Attributes:
        published: What counts, by rising number.
        skipped: What does not, and why.
        position: Where to read on.
    """

    published: tuple[Published, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    position: int = 0

    @property
    def last(self) -> Published | None:
        """What was published last."""
        return self.published[-1] if self.published else None

    @property
    def number(self) -> int:
        """The last number taken; 0 before the first."""
        return self.last.envelope.number if self.last else 0

    def find(self, number: int) -> Published | None:
        """What was published under a number."""
        return next((each for each in reversed(self.published) if each.envelope.number == number), None)

    def current(self) -> tuple[Snapshot | None, str]:
        """The latest snapshot that this program understands, and what is wrong with those after it."""
        problem = ""
        for each in reversed(self.published):
            try:
                return each.understood(), problem
            except SnapshotFormatError as error:
                problem = problem or str(error)
        return None, problem

    def trimmed(self, keep: int) -> "History":
        """The same without what is long past; for readers that only follow, so that their memory does not grow."""
        return History(self.published[-keep:], (), self.position)


def record_key(envelope: Envelope, attempt: str) -> bytes:
    """The key under which a snapshot is written.

    Args:
        envelope: The snapshot.
        attempt: Different for each try. Without it, compaction could drop the first of two tries with the same content
            and so let a competitor between them win afterwards.
    """
    return f"{envelope.number}:{envelope.hash}:{attempt}".encode()


def fold(records: Iterable[LogEntry], onto: History | None = None) -> History:
    """Adds records to a history; the same records give the same history, in one go or in several."""
    history = onto or History()
    published, skipped, position = list(history.published), list(history.skipped), history.position
    last = history.number
    for record in records:
        if record.position < position:
            continue  # read twice
        position = record.position + 1
        outcome = _judge(record, last)
        if isinstance(outcome, Published):
            published.append(outcome)
            last = outcome.envelope.number
        else:
            skipped.append(outcome)
    return History(tuple(published), tuple(skipped), position)


def _judge(record: LogEntry, last: int) -> Published | Skipped:
    """Judged by the envelope alone: old and new programs must find the same winners."""
    at = record.position
    if record.key is None or record.value is None:
        return Skipped(at, "has no key" if record.key is None else "is a tombstone: snapshots are not deleted")
    try:
        envelope = open_envelope(record.value)
    except SnapshotFormatError as error:
        return Skipped(at, str(error))
    if not record.key.startswith(f"{envelope.number}:{envelope.hash}:".encode()):
        return Skipped(at, f"has a key that does not belong to snapshot {envelope.number} ({envelope.hash[:12]})")
    if envelope.number <= last:
        by = envelope.author or "somebody"
        return Skipped(at, f"{by} published {envelope.number} ({envelope.hash[:12]}) too late", damaged=False)
    if envelope.number > last + 1:
        return Skipped(at, f"has number {envelope.number} after {last}: published without reading the log")
    return Published(at, record.key, envelope)
