"""The registry log as a port, with a fake, and what is done to it: publish, roll back.

The broker's adapter is in ``streams.snapshot_log``; it moves bytes and knows nothing of what they mean.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import NamedTuple, Protocol

from registry.envelope import Envelope
from registry.errors import CatalogueError, RegistryConflictError
from registry.history import History, LogRecord, fold, record_key
from registry.snapshot import Snapshot
from schemas.catalogue import Catalogue
from schemas.ids import uuid7


class SnapshotLog(Protocol):
    """An append-only log in one order for everybody.

    Each method raises ``DeliveryError`` when the broker does not do it.
    """

    async def append(self, key: bytes, value: bytes) -> int:
        """Write a record; return its position once it can't be lost."""
        ...

    async def read(self, position: int = 0, *, through: int = -1) -> Sequence[LogRecord]:
        """All records from a position to the end as it is now, and to ``through`` at least (it exists already)."""
        ...

    async def poll(self, position: int, wait: timedelta) -> Sequence[LogRecord]:
        """Records from a position on, waiting for the first of them; empty when none came."""
        ...


class MemoryRecord(NamedTuple):
    """A record of the fake."""

    position: int
    key: bytes | None
    value: bytes | None


class MemoryLog:
    """A log in memory: the fake of ``SnapshotLog``, for tests and for runs in one process.

    Attributes:
        records: What is in it; tests may put damaged ones there.
        failures: Errors to raise, one for each coming call of any method.
    """

    def __init__(self) -> None:
        self.records: list[MemoryRecord] = []
        self.failures: list[Exception] = []
        self._changed = asyncio.Event()

    async def append(self, key: bytes | None, value: bytes | None) -> int:
        """See ``SnapshotLog.append``."""
        await self._step()
        self.records.append(MemoryRecord(len(self.records), key, value))
        self._changed.set()
        self._changed = asyncio.Event()
        return len(self.records) - 1

    async def read(self, position: int = 0, *, through: int = -1) -> Sequence[MemoryRecord]:
        """See ``SnapshotLog.read``."""
        del through
        await self._step()
        return self.records[position:]

    async def poll(self, position: int, wait: timedelta) -> Sequence[MemoryRecord]:
        """See ``SnapshotLog.poll``."""
        await self._step()
        if position >= len(self.records):
            try:
                await asyncio.wait_for(self._changed.wait(), wait.total_seconds())
            except TimeoutError:
                return ()
        return self.records[position:]

    async def _step(self) -> None:
        await asyncio.sleep(0)  # a real log gives way to others here, so the fake does too
        if self.failures:
            raise self.failures.pop(0)


async def read_history(log: SnapshotLog, onto: History | None = None) -> History:
    """What the log holds now.

    Raises:
        DeliveryError: The broker does not answer.
    """
    start = onto or History()
    return fold(await log.read(start.position), start)


async def publish(
    log: SnapshotLog,
    catalogue: Catalogue,
    *,
    now_ms: int,
    author: str,
    approver: str = "",
    expected: int | None = None,
) -> Snapshot:
    """Publish a catalogue under the next number; nobody else can have that number then.

    Args:
        log: Where.
        catalogue: What is to rule.
        now_ms: Unix milliseconds.
        author: Who does it.
        approver: Who approved it.
        expected: Number that the caller believes to be the current one (0: there is none yet); None takes any.

    Raises:
        RegistryConflictError: Somebody published first; what they published rules, and this does not.
        CatalogueError: The catalogue has errors.
        DeliveryError: The broker does not answer. Whether it was published is open: look, then publish again.
    """
    history = _as_expected(await read_history(log), expected)
    number = history.number + 1
    made = Snapshot.from_catalogue(catalogue, number=number, author=author, approver=approver, published_ms=now_ms)
    return await _append(log, history, made.envelope())


async def publish_if_changed(log: SnapshotLog, catalogue: Catalogue, *, now_ms: int, author: str) -> Snapshot:
    """Publish a catalogue unless it rules already; for starts, which may happen several at a time.

    Raises:
        RegistryConflictError: Somebody published another catalogue at the same moment.
        CatalogueError: The catalogue has errors.
        DeliveryError: The broker does not answer.
    """
    wanted = Snapshot.from_catalogue(catalogue).hash
    history = await read_history(log)
    if ruling := _ruling(history, wanted):
        return ruling
    try:
        return await publish(log, catalogue, now_ms=now_ms, author=author, expected=history.number)
    except RegistryConflictError:
        if ruling := _ruling(await read_history(log), wanted):
            return ruling
        raise


async def rollback(
    log: SnapshotLog,
    to_number: int,
    *,
    now_ms: int,
    author: str,
    approver: str = "",
    expected: int | None = None,
) -> Snapshot:
    """Publish the content of an earlier snapshot under the next number; it has the same hash as then.

    Raises:
        CatalogueError: There is no such snapshot, or it rules already.
        RegistryConflictError: Somebody published first.
        DeliveryError: The broker does not answer.
    """
    history = _as_expected(await read_history(log), expected)
    old = history.find(to_number)
    if old is None:
        there = f"there are 1 to {history.number}" if history.number else "nothing was published yet"
        raise CatalogueError(f"no snapshot {to_number} to go back to: {there}")
    old.understood()  # one that can't be used must not come to rule again
    if _ruling(history, old.envelope.hash):
        raise CatalogueError(f"the content of snapshot {to_number} rules already, as number {history.number}")
    again = replace(old.envelope, number=history.number + 1, author=author, approver=approver, published_ms=now_ms)
    return await _append(log, history, again)


def _ruling(history: History, content_hash: str) -> Snapshot | None:
    """The snapshot in force, if it has this content."""
    last = history.last
    return last.understood() if last and last.envelope.hash == content_hash else None


def _as_expected(history: History, expected: int | None) -> History:
    if expected is not None and history.number != expected:
        by = f", by {history.last.envelope.author or 'somebody'}" if history.last else ""
        raise RegistryConflictError(f"the registry is at {history.number}{by}, not at {expected}: look at it again")
    return history


async def _append(log: SnapshotLog, history: History, envelope: Envelope) -> Snapshot:
    key = record_key(envelope, uuid7())
    position = await log.append(key, envelope.to_bytes())
    after = fold(await log.read(history.position, through=position), history)
    winner = after.find(envelope.number)
    if winner is None or winner.key != key:
        by = (winner.envelope.author if winner else "") or "somebody"
        raise RegistryConflictError(f"{by} published snapshot {envelope.number} first: look at it, then publish again")
    return winner.understood()
