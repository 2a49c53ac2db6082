"""Three nodes, everything on three of them and acknowledged by two: each is killed in turn, coordinators included."""

import asyncio
from pathlib import Path

import pytest

from streams.brokers import EmbeddedState, KafkaCluster
from tests.faults.provider import Provider
from tests.faults.world import open_world
from tests.fixtures_brokers import TEST_BROKER_SETTINGS, TEST_JVM_OPTIONS, require_kafka

pytestmark = [pytest.mark.timeout(400), pytest.mark.kafka]


async def test_each_node_is_killed_and_comes_back(provider: Provider, tmp_path: Path) -> None:
    await require_kafka()
    cluster = KafkaCluster(
        nodes=3, work_dir=tmp_path / "kafka", jvm_options=TEST_JVM_OPTIONS, settings=TEST_BROKER_SETTINGS
    )
    topics = {"replication": 3, "min_insync": 2}
    async with (
        cluster,
        EmbeddedState() as state,
        open_world(cluster.bootstrap, state.url, provider, tmp_path, watched=False, topics=topics) as world,
    ):
        await world.start_flow()
        assert await world.settled(frozenset(world.send(4)))
        for node in (1, 2, 3):
            world.send(6)
            await cluster.kill(node)
            for _ in range(4):
                world.send(4)
                await asyncio.sleep(0.5)
            await cluster.restart(node)
            world.crashes += 1  # members may lose their sessions, and leases with them
        world.send(6)
        await world.verdict(within_s=120)
