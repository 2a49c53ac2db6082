"""Publishing: compare-and-set by the log's order, on the fake and on real brokers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count
from typing import TypeAlias

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from registry.errors import RegistryConflictError
from registry.history import fold, record_key
from registry.log import publish, publish_if_changed, read_history, rollback
from registry.snapshot import Snapshot
from schemas.errors import BrokerUnavailableError, CatalogueError
from schemas.fakes import MemoryOrderedLog
from schemas.ports import OrderedLog
from streams.connection import BrokerKind, KafkaConnection
from streams.ordered_log import KafkaOrderedLog
from tests.registry.catalogues import named

Open: TypeAlias = Callable[[], AbstractAsyncContextManager[OrderedLog]]
"""Opens the same log again, as another process would."""

_topics = count()


async def _create(address: str, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    try:
        made = NewTopic(topic, num_partitions=1, replication_factor=1, topic_configs={"cleanup.policy": "compact"})
        await admin.create_topics([made])
    finally:
        await admin.close()


def _on(address: str, kind: BrokerKind) -> Open:
    topic = f"registry-publish-{next(_topics)}"
    created: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def opened() -> AsyncIterator[OrderedLog]:
        if not created:
            created.append(asyncio.create_task(_create(address, topic)))
        await created[0]
        async with KafkaOrderedLog(KafkaConnection.at(address), topic=topic, kind=kind) as log:
            yield log

    return opened


@pytest.fixture(
    params=[
        "memory",
        pytest.param("embedded", marks=pytest.mark.embedded),
        pytest.param("kafka", marks=[pytest.mark.kafka, pytest.mark.xdist_group("kafka")]),
    ]
)
def opener(request: pytest.FixtureRequest) -> Open:
    if request.param != "memory":
        return _on(request.getfixturevalue(f"{request.param}_broker"), BrokerKind(request.param))
    log = MemoryOrderedLog()

    @asynccontextmanager
    async def opened() -> AsyncIterator[OrderedLog]:
        yield log

    return opened


async def test_numbers_rise_and_a_second_reader_sees_the_same(opener: Open) -> None:
    async with opener() as log:
        assert (await read_history(log)).number == 0
        first = await publish(log, named("one"), now_ms=5, author="ann", approver="bo")
        second = await publish(log, named("two"), now_ms=6, author="ann", expected=1)
    assert (first.number, first.author, first.approver, first.published_ms) == (1, "ann", "bo", 5)
    async with opener() as other:
        history = await read_history(other)
    assert [each.understood().catalogue.name for each in history.published] == ["one", "two"]
    assert history.current()[0] is not None
    assert history.published[1].envelope == second.envelope()
    assert history.skipped == ()


async def test_of_many_publishers_at_once_one_wins_each_number(opener: Open) -> None:
    async def race(name: str) -> Snapshot | None:
        async with opener() as log:
            history = await read_history(log)
            await asyncio.sleep(0)
            try:
                return await publish(log, named(name), now_ms=1, author=name, expected=history.number)
            except RegistryConflictError:
                return None

    won: list[Snapshot] = []
    for turn in range(2):
        found = await asyncio.gather(*(race(f"p{turn}{index}") for index in range(4)))
        won += sorted((each for each in found if each), key=lambda each: each.number)
    async with opener() as log:
        history = await read_history(log)
    assert [each.number for each in won] == list(range(1, history.number + 1))
    assert [each.hash for each in won] == [each.envelope.hash for each in history.published]
    assert history.number >= 2


async def test_a_stale_view_is_refused_before_anything_is_written(opener: Open) -> None:
    async with opener() as log:
        await publish(log, named("one"), now_ms=1, author="ann")
        with pytest.raises(RegistryConflictError, match="the registry is at 1, by ann, not at 0"):
            await publish(log, named("two"), now_ms=1, author="bo", expected=0)
        assert len(await log.read()) == 1


async def test_who_loses_at_the_log_is_told_who_won(opener: Open) -> None:
    async with opener() as log:
        rival = Snapshot.from_catalogue(named("rival"), author="zed").envelope()

        class Slow:
            """A publisher between whose reading and writing somebody else writes."""

            async def append(self, key: bytes, value: bytes) -> int:
                await log.append(record_key(rival, "x"), rival.to_bytes())
                return await log.append(key, value)

            read, last = log.read, log.last
            poll = log.poll

        with pytest.raises(RegistryConflictError, match="zed published snapshot 1 first"):
            await publish(Slow(), named("mine"), now_ms=1, author="me")
        history = fold(await log.read())
    assert [each.envelope.author for each in history.published] == ["zed"]
    assert [each.damaged for each in history.skipped] == [False]


async def test_rolling_back_publishes_the_old_content_under_a_new_number(opener: Open) -> None:
    async with opener() as log:
        first = await publish(log, named("one"), now_ms=1, author="ann")
        await publish(log, named("two"), now_ms=2, author="ann")
        back = await rollback(log, 1, now_ms=3, author="bo", approver="cy", expected=2)
        assert (back.number, back.hash, back.author, back.published_ms) == (3, first.hash, "bo", 3)
        with pytest.raises(CatalogueError, match="the content of snapshot 1 rules already, as number 3"):
            await rollback(log, 1, now_ms=4, author="bo")
        with pytest.raises(CatalogueError, match="no snapshot 9 to go back to: there are 1 to 3"):
            await rollback(log, 9, now_ms=4, author="bo")
        with pytest.raises(RegistryConflictError, match="not at 2"):
            await rollback(log, 2, now_ms=4, author="bo", expected=2)
        assert len(await log.read()) == 3


async def test_starting_twice_publishes_once(opener: Open) -> None:
    async def start() -> Snapshot:
        async with opener() as log:
            return await publish_if_changed(log, named("one"), now_ms=1, author="start")

    found = await asyncio.gather(start(), start(), start())
    assert {each.number for each in found} == {1}
    async with opener() as log:
        assert (await read_history(log)).number == 1
        again = await publish_if_changed(log, named("one"), now_ms=9, author="start")
        assert (again.number, again.published_ms) == (1, 1)
        changed = await publish_if_changed(log, named("two"), now_ms=9, author="start")
        assert changed.number == 2


async def test_an_unsound_catalogue_is_not_written() -> None:
    log = MemoryOrderedLog()
    with pytest.raises(CatalogueError, match="tiers: must not be empty"):
        await publish(log, named("one").model_copy(update={"tiers": ()}), now_ms=1, author="ann")
    assert log.records == []


async def test_a_broker_that_fails_is_told_as_such() -> None:
    log = MemoryOrderedLog()
    log.failures.append(BrokerUnavailableError("away"))
    with pytest.raises(BrokerUnavailableError, match="away"):
        await publish(log, named("one"), now_ms=1, author="ann")
