"""The current snapshot of a process: swaps, waits, what is pinned, and a log that goes away."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import pytest

from registry.errors import RegistryBehindError
from registry.holder import KEEP, SnapshotHolder
from registry.log import publish, rollback
from registry.snapshot import Snapshot
from schemas.errors import BrokerUnavailableError
from schemas.fakes import MemoryOrderedLog
from tests.registry.catalogues import named

SOON = timedelta(seconds=10)
NOW = timedelta(0)


def snapshot(number: int, name: str = "test") -> Snapshot:
    return Snapshot.from_catalogue(named(name), number=number)


async def put(log: MemoryOrderedLog, name: str) -> Snapshot:
    return await publish(log, named(name), now_ms=1, author="ann")


@asynccontextmanager
async def watching(holder: SnapshotHolder, log: MemoryOrderedLog) -> AsyncIterator[list[timedelta]]:
    """Follows the log meanwhile; gives the pauses that were made between tries."""
    pauses: list[timedelta] = []

    async def sleep(pause: timedelta) -> None:
        pauses.append(pause)
        await asyncio.sleep(0)

    task = asyncio.create_task(holder.watch(log, poll=SOON, sleep=sleep))
    try:
        yield pauses
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_snapshot_is_swapped_in_when_it_is_published() -> None:
    log = MemoryOrderedLog()
    await put(log, "one")
    holder = await SnapshotHolder.open(log, within=SOON)
    held = holder.current
    async with watching(holder, log):
        await put(log, "two")
        assert (await holder.at_least(2, SOON)).catalogue.name == "two"
        await rollback(log, 1, now_ms=2, author="bo")
        assert (await holder.at_least(3, SOON)).catalogue.name == "one"
    assert held.number == 1  # who took it at the start of a record keeps it
    assert holder.current.number == 3
    assert [found.number for n in (1, 2, 3) if (found := holder.numbered(n))] == [1, 2, 3]
    assert holder.numbered(4) is None


async def test_waiting_for_a_number_is_bounded_and_others_may_wait_at_the_same_time() -> None:
    holder = SnapshotHolder(snapshot(1))
    assert (await holder.at_least(1, NOW)).number == 1
    with pytest.raises(RegistryBehindError, match="snapshot 2 is not here after 0 s; the last is 1"):
        await holder.at_least(2, NOW)
    waiting = [asyncio.create_task(holder.at_least(number, SOON)) for number in (2, 3, 3)]
    await asyncio.sleep(0)
    assert holder.offer(snapshot(2))
    assert (await waiting[0]).number == 2
    assert not any(task.done() for task in waiting[1:])
    assert holder.offer(snapshot(3))
    assert [(await task).number for task in waiting[1:]] == [3, 3]


def test_only_newer_snapshots_are_taken_and_the_last_few_are_kept() -> None:
    holder = SnapshotHolder(snapshot(5))
    assert not holder.offer(snapshot(5, "other"))
    assert not holder.offer(snapshot(4))
    assert holder.current.catalogue.name == "test"
    for number in range(6, 6 + KEEP):
        assert holder.offer(snapshot(number))
    assert holder.numbered(5) is None
    assert holder.numbered(6) is not None


async def test_a_process_that_starts_late_knows_what_records_in_flight_were_decided_under() -> None:
    log = MemoryOrderedLog()
    for name in ("one", "two", "three"):
        await put(log, name)
    holder = await SnapshotHolder.open(log, within=SOON)
    assert holder.current.number == 3
    assert holder.pinned(1).catalogue.name == "one"
    assert holder.pinned(2) is holder.pinned(2)
    assert holder.pinned(3) is holder.current


async def test_what_is_older_than_all_that_is_kept_gets_the_oldest() -> None:
    log = MemoryOrderedLog()
    for number in range(KEEP + 2):
        await put(log, f"n{number + 1}")
    holder = await SnapshotHolder.open(log, within=SOON)
    assert holder.pinned(1).catalogue.name == "n3"
    assert holder.pinned(KEEP + 1).catalogue.name == f"n{KEEP + 1}"


async def test_a_start_waits_for_the_first_snapshot() -> None:
    log = MemoryOrderedLog()
    opening = asyncio.create_task(SnapshotHolder.open(log, within=SOON))
    await asyncio.sleep(0)
    await put(log, "one")
    assert (await opening).current.number == 1


async def test_a_start_without_any_snapshot_says_what_to_do() -> None:
    with pytest.raises(RegistryBehindError, match="nothing was published: tierflow registry publish"):
        await SnapshotHolder.open(MemoryOrderedLog(), within=NOW)


async def test_a_log_that_goes_away_is_asked_again_with_growing_pauses(caplog: pytest.LogCaptureFixture) -> None:
    log = MemoryOrderedLog()
    await put(log, "one")
    holder = await SnapshotHolder.open(log, within=SOON)
    log.failures = [BrokerUnavailableError(f"away {n}") for n in range(9)]
    with caplog.at_level(logging.INFO):
        async with watching(holder, log) as pauses:
            while log.failures:
                await asyncio.sleep(0)
            await put(log, "two")
            await holder.at_least(2, SOON)
    assert [each.total_seconds() for each in pauses] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert "registry not readable, snapshot 1 stays in force, next try in 0.5 s: away 0" in caplog.text
    assert "by ann rules" in caplog.text


async def test_damaged_records_are_reported_once_and_do_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    log = MemoryOrderedLog()
    await put(log, "one")
    holder = await SnapshotHolder.open(log, within=SOON)
    with caplog.at_level(logging.ERROR):
        async with watching(holder, log):
            await log.append(b"2:x:y", b"noise")
            await log.append(b"2:x:y", None)
            await put(log, "two")
            await holder.at_least(2, SOON)
            await put(log, "three")
            await holder.at_least(3, SOON)
    assert [each.message.partition(":")[0] for each in caplog.records] == [
        "registry record 1 counts for nothing",
        "registry record 2 counts for nothing",
    ]


async def test_a_snapshot_that_cannot_be_understood_leaves_the_last_one_in_force(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = MemoryOrderedLog()
    await put(log, "one")
    newer = snapshot(2).to_bytes().replace(b'"format":1', b'"format":9')
    await log.append(f"2:{snapshot(2).hash}:x".encode(), newer)
    holder = await SnapshotHolder.open(log, within=SOON)
    assert holder.current.number == 1
    assert "has format 9, and this program knows 1: update it" in caplog.text
    async with watching(holder, log):
        await put(log, "three")
        assert (await holder.at_least(3, SOON)).catalogue.name == "three"
    assert holder.numbered(2) is None
