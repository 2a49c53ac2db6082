"""Offsets in flight of one partition: what was handed out, what is done, what may be committed.

The algorithm is that of ordered acknowledgement over a log: only offsets that were handed out are tracked (gaps from
compaction and transaction markers need no special case), the committed offset is the lowest one that is not done, and
what is done beyond it travels as a bit set in the commit's metadata, so that it is never done again.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from schemas.errors import DeliveryError

SPAN_LIMIT = 18_000
"""Most offsets between the committed one and the newest handed out. A bit set of that span takes 3,000 bytes in base64,
three quarters of Kafka's 4,096 bytes for metadata, which leaves room for sequence and epoch."""


class OffsetOrderError(DeliveryError):
    """Offsets were handed out backwards, or one was finished that was never handed out: a bug, not a fault."""

    code = "delivery.offset-order"
    retryable = False


@dataclass(frozen=True, slots=True)
class Committable:
    """What may be committed now.

    Attributes:
        offset: The lowest offset that is not done; everything below is.
        beyond: Offsets above it that are done, ascending.
    """

    offset: int
    beyond: tuple[int, ...]


class Tracker:
    """Offsets in flight of one partition in one assignment.

    Args:
        base: Committed offset, where reading starts.
        beyond: Offsets above it that were already done (from the commit's metadata).
    """

    __slots__ = ("_ahead", "_beyond", "_next", "_pending", "_waiting")

    def __init__(self, base: int, beyond: Iterable[int] = ()) -> None:
        self._next = self._ahead = base
        self._beyond = {offset for offset in beyond if offset >= base}
        self._pending: deque[int] = deque()
        self._waiting: set[int] = set()

    @property
    def in_flight(self) -> int:
        """Handed out and not done."""
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether no further record may be taken: its completion could no longer be remembered."""
        return bool(self._pending) and max(self._next, self._ahead) - self._pending[0] >= SPAN_LIMIT

    def fits(self, offset: int) -> bool:
        """Whether an offset, the next in the log, may be handed out; if not, the tracker is full until it may."""
        self._ahead = offset
        return not self.full

    def take(self, offset: int) -> bool:
        """Hand an offset out.

        Returns:
            False if it is already done and must not be handled again.

        Raises:
            OffsetOrderError: It lies before one that was handed out earlier.
        """
        if offset < self._next:
            raise OffsetOrderError(f"offset {offset} came after {self._next - 1}")
        self._next = offset + 1
        if offset in self._beyond:
            return False
        self._pending.append(offset)
        self._waiting.add(offset)
        return True

    def done(self, offset: int) -> None:
        """Note that all effects of an offset are part of the next commit.

        Raises:
            OffsetOrderError: It is not in flight.
        """
        if offset not in self._waiting:
            raise OffsetOrderError(f"offset {offset} is not in flight")
        self._waiting.discard(offset)
        self._beyond.add(offset)
        while self._pending and self._pending[0] not in self._waiting:
            self._beyond.discard(self._pending.popleft())

    def rewind(self, offset: int) -> None:
        """Take back what was handed out from ``offset`` on and is not done: it is handed out again from there."""
        while self._pending and self._pending[-1] >= offset:
            self._waiting.discard(self._pending.pop())
        self._next = self._ahead = min(self._next, offset)

    def committable(self, position: int | None = None) -> Committable:
        """What may be committed.

        Args:
            position: The consumer's position. With nothing in flight it is committed, so that transaction markers
                behind the last record do not look like lag for ever.
        """
        if self._pending:
            offset = self._pending[0]
            beyond = tuple(sorted(number for number in self._beyond if number > offset))
        else:
            offset = max(self._next, position or 0)
            beyond = tuple(sorted(number for number in self._beyond if number >= offset))
        self._beyond = set(beyond)
        return Committable(offset, beyond)
