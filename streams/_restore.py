"""Where newly assigned partitions go on: the committed offset, once no transaction on it is open."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Protocol

from aiokafka import AIOKafkaConsumer

from streams._aiokafka import Wire
from streams.errors import BrokerUnavailableError, OffsetsLostError
from streams.offsets import read_offsets
from streams.records import TP, OffsetCommit

_LOG = logging.getLogger(__name__)


class MissingOffsets(StrEnum):
    """What a partition without a committed offset means."""

    REFUSE = "refuse"
    EARLIEST = "earliest"
    LATEST = "latest"


class Listener(Protocol):
    """Who works on the records."""

    async def on_assigned(self, positions: Mapping[TP, OffsetCommit]) -> None:
        """Partitions are ours from these positions on; their records follow after this returns.

        Called more than once for one assignment when some partitions still wait for another worker's transaction.
        """
        ...

    async def on_revoked(self, partitions: frozenset[TP], *, lost: bool) -> None:
        """Partitions are going away. Commits are accepted until this returns, within the revoke budget.

        Args:
            partitions: All that were assigned.
            lost: The group has already given them away: no commit can succeed.
        """
        ...


class Restorer:
    """Reads offsets in a task of its own: the client sends no heartbeat while its assignment callback runs.

    Args:
        consumer: Started; the partitions are paused.
        wire: Connections to read offsets over.
        group: Consumer group.
        missing: What a partition without a committed offset means.
        begin: Called for each partition with its position, before the listener is told.
        listener: Told of the positions.
        release: Called after that; lets the records come.
        fail: Called with an error that ends it.
    """

    def __init__(
        self,
        *,
        consumer: AIOKafkaConsumer,
        wire: Wire,
        group: str,
        missing: MissingOffsets,
        begin: Callable[[TP, int], None],
        listener: Listener,
        release: Callable[[frozenset[TP]], None],
        fail: Callable[[BaseException, str], None],
    ) -> None:
        self._consumer = consumer
        self._wire = wire
        self._group = group
        self._missing = missing
        self._begin = begin
        self._listener = listener
        self._release = release
        self._fail = fail
        self._task: asyncio.Task[None] | None = None

    def start(self, partitions: frozenset[TP]) -> None:
        """Begin with newly assigned partitions."""
        self._task = asyncio.create_task(self._run(partitions), name=f"restore {self._group}")

    async def cancel(self) -> None:
        """Stop; the partitions are going away."""
        task, self._task = self._task, None
        if task is not None and not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self, partitions: frozenset[TP]) -> None:
        try:
            waiting = partitions
            while waiting:
                try:
                    found = await read_offsets(self._wire, self._group, waiting, partial=True)
                except BrokerUnavailableError as error:
                    # They are ours all the same: nobody else reads them while this member lives.
                    _LOG.warning("partitions wait for their offsets: %s", error)
                    continue
                positions = await self._filled(found)
                for tp, commit in positions.items():
                    self._begin(tp, commit.offset)
                await self._listener.on_assigned(positions)
                self._release(frozenset(positions))
                waiting -= positions.keys()
        except Exception as error:  # noqa: BLE001 - raised by the next poll
            self._fail(error, "on_assigned")

    async def _filled(self, found: Mapping[TP, OffsetCommit | None]) -> Mapping[TP, OffsetCommit]:
        missing = [tp for tp, commit in found.items() if commit is None]
        starts: Mapping[TP, int] = {}
        if missing and self._missing is MissingOffsets.REFUSE:
            names = ", ".join(f"{tp.topic}[{tp.partition}]" for tp in sorted(missing))
            raise OffsetsLostError(
                f"group {self._group} has no committed offset on {names}: either the offsets expired, or the topics "
                "were created or given partitions elsewhere; starting anywhere would repeat or skip requests, so "
                "commit initial offsets first"
            )
        if missing:
            earliest = self._missing is MissingOffsets.EARLIEST
            ask = self._consumer.beginning_offsets if earliest else self._consumer.end_offsets
            starts = await ask(missing)
            _LOG.info("group %s begins at the %s offsets on %s", self._group, self._missing.value, missing)
        return {tp: commit if commit is not None else OffsetCommit(starts[tp]) for tp, commit in found.items()}
