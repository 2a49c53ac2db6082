"""The snapshot in force in this process: swapped between records, never within one."""

import asyncio
import logging
from datetime import timedelta
from typing import Final, NoReturn, Self

from registry.errors import RegistryBehindError, SnapshotFormatError
from registry.history import History, fold
from registry.log import read_history
from registry.snapshot import Snapshot
from schemas.errors import DeliveryError
from schemas.ports import OrderedLog, Sleep

_LOG = logging.getLogger(__name__)

KEEP: Final = 16
"""Snapshots kept by number, for records that were decided under an earlier one. Records wait minutes at most, and
nobody publishes sixteen times in that; an older choice is resolved by the oldest that is kept."""
POLL: Final = timedelta(seconds=5)
"""Longest wait for a new snapshot before asking again; a new one ends the wait at once."""
_RETRY_FIRST: Final = timedelta(milliseconds=500)
_RETRY_LONGEST: Final = timedelta(seconds=30)


async def _sleep(duration: timedelta) -> None:
    await asyncio.sleep(duration.total_seconds())


class SnapshotHolder:
    """Holds the current snapshot and the last few.

    ``current`` is one attribute: reading it is atomic, also from another thread. Take it once a record, keep it for the
    whole of it.

    Args:
        first: The snapshot to start with.
        history: What ``first`` was read from; ``watch`` goes on behind it.
    """

    def __init__(self, first: Snapshot, *, history: History | None = None) -> None:
        self._current = first
        self._kept = {first.number: first}
        self._history = (history or History()).trimmed(KEEP)
        self._swapped = asyncio.Event()

    @classmethod
    async def open(cls, log: OrderedLog, *, within: timedelta) -> Self:
        """Read the log, and wait until it holds a snapshot that this program understands.

        Raises:
            RegistryBehindError: There was none in time.
            DeliveryError: The broker does not answer.
        """
        clock = asyncio.get_running_loop().time
        until = clock() + within.total_seconds()
        history = await read_history(log)
        while True:
            snapshot, problem = history.current()
            if snapshot is not None:
                holder = cls(snapshot, history=history)
                holder._report(history, problem)
                return holder
            left = until - clock()
            if left <= 0:
                what = problem or "nothing was published: tierflow registry publish"
                raise RegistryBehindError(f"no snapshot to start with after {within.total_seconds():g} s: {what}")
            history = fold(await log.poll(history.position, timedelta(seconds=left)), history)

    @property
    def current(self) -> Snapshot:
        """The snapshot in force."""
        return self._current

    def numbered(self, number: int) -> Snapshot | None:
        """An earlier snapshot, if it is among the last few; also one that was published before this process started."""
        kept = self._kept.get(number)
        if kept is None and (found := self._history.find(number)) is not None:
            try:
                kept = found.understood()
            except SnapshotFormatError:
                return None
            self._keep(kept)
        return kept

    def pinned(self, number: int) -> Snapshot:
        """The snapshot that a record was decided under; the next one after it that is known, if it is too old."""
        later = (each.envelope.number for each in self._history.published if each.envelope.number >= number)
        return self.numbered(number) or next((found for each in later if (found := self.numbered(each))), self._current)

    def offer(self, snapshot: Snapshot) -> bool:
        """Take a snapshot if it is newer than the current one."""
        if snapshot.number <= self._current.number:
            return False
        self._keep(snapshot)
        self._current = snapshot
        swapped, self._swapped = self._swapped, asyncio.Event()
        swapped.set()
        return True

    async def at_least(self, number: int, timeout: timedelta) -> Snapshot:  # noqa: ASYNC109 - part of the question
        """The current snapshot, once its number is at least ``number``.

        Raises:
            RegistryBehindError: It is not, after ``timeout``; the record should be offered again later.
        """
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                while self._current.number < number:
                    await self._swapped.wait()
        except TimeoutError:
            raise RegistryBehindError(
                f"snapshot {number} is not here after {timeout.total_seconds():g} s; the last is {self._current.number}"
            ) from None
        return self._current

    async def watch(self, log: OrderedLog, *, poll: timedelta = POLL, sleep: Sleep = _sleep) -> NoReturn:
        """Follow the log for ever; run it as a task and cancel it. A broker that is away is asked again and again.

        Args:
            log: What to follow.
            poll: Longest wait for news before asking again.
            sleep: Waits before the next try.
        """
        pause = _RETRY_FIRST
        while True:
            try:
                records = await log.poll(self._history.position, poll)
            except DeliveryError as error:
                _LOG.warning(
                    "registry not readable, snapshot %d stays in force, next try in %.1f s: %s",
                    self._current.number,
                    pause.total_seconds(),
                    error,
                )
                await sleep(pause)
                pause = min(pause * 2, _RETRY_LONGEST)
                continue
            pause = _RETRY_FIRST
            if records:
                self._take(fold(records, self._history))

    def _take(self, history: History) -> None:
        snapshot, problem = history.current()
        self._report(history, problem)
        self._history = history.trimmed(KEEP)
        if snapshot is not None and self.offer(snapshot):
            _LOG.info(
                "snapshot %d (%s) by %s rules", snapshot.number, snapshot.hash[:12], snapshot.author or "somebody"
            )

    def _keep(self, snapshot: Snapshot) -> None:
        self._kept[snapshot.number] = snapshot
        for oldest in sorted(self._kept)[:-KEEP]:
            del self._kept[oldest]

    @staticmethod
    def _report(history: History, problem: str) -> None:
        for each in history.skipped:
            level = logging.ERROR if each.damaged else logging.INFO
            _LOG.log(level, "registry record %d counts for nothing: %s", each.position, each.reason)
        if problem:
            _LOG.error("the newest snapshot can't be used, an older one stays in force: %s", problem)
