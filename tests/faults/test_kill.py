"""SIGKILL in the middle of a run, and a restart: nothing is lost, on either broker; on Kafka nothing comes twice."""

import pytest

from streams.faults import Action, Fault, Point
from tests.faults.conftest import OpenWorld
from tests.faults.provider import Trick
from tests.faults.world import World

VICTIMS = ("worker", "classifier", "guardrail")


async def killed_and_restarted(world: World, kind: str, point: Point, passes: int = 3) -> None:
    """One agent kills itself in the middle of a run and is started again under the same name."""
    plan = [Fault(point, Action.KILL, passes=passes, marker=world.marker(kind))]
    await world.start_flow({kind: plan})
    world.send(20)
    world.send(6, trick=Trick.DOUBT)
    first = frozenset({world.sent[0].request_id})
    assert await world.tail.until(lambda _: world.marker(kind).exists() or world.ended(first), 45)
    world.send(10)
    await world.struck(kind)
    assert await world.gone(kind) < 0
    world.crashes += kind == "worker"
    world.send(6)
    await world.start(kind)


@pytest.mark.parametrize("kind", VICTIMS)
async def test_kafka_loses_nothing_and_shows_nothing_twice(on_kafka: OpenWorld, kind: str) -> None:
    async with on_kafka() as world:
        await killed_and_restarted(world, kind, Point.AFTER_SENDS)
        await world.verdict()


@pytest.mark.parametrize("kind", VICTIMS)
async def test_the_embedded_broker_loses_nothing(on_embedded: OpenWorld, kind: str) -> None:
    async with on_embedded() as world:
        await killed_and_restarted(world, kind, Point.AFTER_SENDS, passes=2)
        await world.verdict()
