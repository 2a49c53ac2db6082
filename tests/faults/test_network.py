"""A worker behind a bad link: answers lost after the broker has acted, cuts, latency, resets, pieces, a late commit."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from streams.brokers import KafkaCluster
from streams.brokers.ports import LOOPBACK, pick_free
from tests.faults.provider import Provider
from tests.faults.proxy import Api, Proxy
from tests.faults.world import World, open_world
from tests.fixtures_brokers import TEST_BROKER_SETTINGS, TEST_JVM_OPTIONS, require_kafka
from tierflow.environment import with_section

pytestmark = [pytest.mark.timeout(240), pytest.mark.kafka]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def behind_proxy(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[KafkaCluster, Proxy]]:
    """A broker that a proxy stands before; its own address leads past it."""
    await require_kafka()
    (port,) = pick_free(1)
    cluster = KafkaCluster(
        work_dir=tmp_path_factory.mktemp("kafka"),
        proxies=[f"{LOOPBACK}:{port}"],
        jvm_options=TEST_JVM_OPTIONS,
        settings=TEST_BROKER_SETTINGS,
    )
    async with cluster, Proxy(port) as proxy:
        proxy.target = int(cluster.proxy_targets[0].rpartition(":")[2])
        yield cluster, proxy


@asynccontextmanager
async def bad_link(
    behind_proxy: tuple[KafkaCluster, Proxy], state: str, provider: Provider, folder: Path
) -> AsyncIterator[tuple[World, Proxy]]:
    """A flow of which the worker alone goes through the proxy."""
    cluster, proxy = behind_proxy
    proxy.heal()
    async with open_world(cluster.bootstrap, f"redis://{state}/0", provider, folder) as world:
        through = with_section(world.settings, "kafka", bootstrap=f"{LOOPBACK}:{proxy.port}")
        for kind in ("audit", "guardrail", "classifier"):
            await world.start(kind)
        await world.start("worker", settings=through)
        first = frozenset(world.send(4))
        assert await world.settled(first)
        yield world, proxy


async def test_answers_that_are_lost_after_the_broker_acted(
    behind_proxy: tuple[KafkaCluster, Proxy], embedded_state: str, provider: Provider, tmp_path: Path
) -> None:
    async with bad_link(behind_proxy, embedded_state, provider, tmp_path) as (world, proxy):
        apis = (Api.PRODUCE, Api.ADD_PARTITIONS, Api.ADD_OFFSETS, Api.TXN_OFFSET_COMMIT, Api.END_TXN)
        for api in (*apis, Api.INIT_PRODUCER_ID):
            before = proxy.lost[api]
            while proxy.lost[api] < before + 2:
                proxy.lose[api] = 1
                if api is Api.INIT_PRODUCER_ID:
                    proxy.lose[Api.END_TXN] = 1  # what makes a new producer necessary
                world.send(4)
                await asyncio.sleep(0.7)
        proxy.heal()
        await world.verdict()
        # The worker kept its partitions or got them again; either way no call was made twice.
        assert max(call.number for call in world.provider.calls(world.prefix)) == 1


async def test_a_commit_that_arrives_when_the_next_transaction_is_open(
    behind_proxy: tuple[KafkaCluster, Proxy], embedded_state: str, provider: Provider, tmp_path: Path
) -> None:
    """KIP-890: without a new epoch the late commit would end a transaction that it does not belong to."""
    async with bad_link(behind_proxy, embedded_state, provider, tmp_path) as (world, proxy):
        proxy.late[Api.END_TXN] = 4.6  # after the client's deadline of 4 s: it has taken a new epoch by then
        world.send(4)
        await asyncio.sleep(1.5)
        proxy.late.clear()
        world.crashes += 1
        for _ in range(12):
            world.send(4)
            await asyncio.sleep(0.4)
        await world.verdict()
        assert proxy.delivered_late > 0


async def test_a_slow_link_a_resetting_one_and_one_that_delivers_in_pieces(
    behind_proxy: tuple[KafkaCluster, Proxy], embedded_state: str, provider: Provider, tmp_path: Path
) -> None:
    async with bad_link(behind_proxy, embedded_state, provider, tmp_path) as (world, proxy):
        proxy.sliced = True
        world.send(8)
        await asyncio.sleep(3)
        proxy.sliced = False
        for _ in range(5):
            proxy.reset()
            world.send(4)
            await asyncio.sleep(0.7)
        proxy.latency_s = 2.0
        world.send(6)
        await asyncio.sleep(6)
        proxy.heal()
        world.crashes += 2  # a session may end while nothing gets through
        await world.verdict()


@pytest.mark.parametrize("cut", ["requests", "answers", "both"])
async def test_a_cut_link(
    behind_proxy: tuple[KafkaCluster, Proxy], embedded_state: str, provider: Provider, tmp_path: Path, cut: str
) -> None:
    """Longer than the session: somebody else takes over past the cut, and the worker comes back as a stranger."""
    async with bad_link(behind_proxy, embedded_state, provider, tmp_path) as (world, proxy):
        world.send(6)
        proxy.deaf, proxy.mute = cut in {"requests", "both"}, cut in {"answers", "both"}
        world.crashes += 1
        await world.start("worker", name="second")
        for _ in range(4):
            world.send(4)
            await asyncio.sleep(1.5)
        proxy.heal()
        world.send(6)
        await world.verdict()
