"""The consumer side of the loop as a port; what commits is ``streams.committer.Sink``."""

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Protocol

from streams.records import TP, InRecord, OffsetCommit


class Source(Protocol):
    """The consumer side of the loop; ``streams.source`` has the real one, ``streams.memory`` the fake."""

    async def start(self) -> None:
        """Join the group; rebalances call the listener's ``on_revoked`` and ``on_assigned``."""
        ...

    async def stop(self) -> None:
        """Leave the group."""
        ...

    async def poll(self, timeout: timedelta, max_records: int | None = None) -> Mapping[TP, Sequence[InRecord]]:  # noqa: ASYNC109 - waited for without a task
        """Records of partitions that are not paused."""
        ...

    async def committed(self, partitions: Collection[TP]) -> Mapping[TP, OffsetCommit | None]:
        """Committed offsets with metadata, once no transaction on them is open."""
        ...

    def seek(self, tp: TP, offset: int) -> None:
        """Read on from ``offset``; takes effect before the next poll returns."""
        ...

    def position(self, tp: TP) -> int:
        """Offset behind the last record that was returned."""
        ...

    def pause(self, *partitions: TP) -> None:
        """Stop reading."""
        ...

    def resume(self, *partitions: TP) -> None:
        """Read again."""
        ...
