"""SIGKILL in the middle of a run, and a restart: nothing is lost, on either broker; on Kafka nothing comes twice."""

from streams.faults import Action, Fault, Point
from tests.faults.conftest import OpenWorld
from tests.faults.provider import Trick
from tests.faults.world import World

VICTIMS = ("worker", "classifier", "guardrail")


async def killed_and_restarted(world: World) -> None:
    """Each victim kills itself once its records are written and not committed, and is started again under its name."""
    plans = {kind: [Fault(Point.AFTER_SENDS, Action.KILL, passes=2, marker=world.marker(kind))] for kind in VICTIMS}
    await world.start_flow(plans)
    world.send(12)
    world.send(6, trick=Trick.DOUBT)
    waiting = set(VICTIMS)
    while waiting:
        # A killed classifier feeds nobody, so each is restarted before the next is waited for.
        for kind in sorted(waiting):
            if world.marker(kind).exists():
                assert await world.gone(kind) < 0
                world.crashes += kind == "worker"
                await world.start(kind)
                waiting.discard(kind)
        world.send(2)
        await world.moment()


async def test_kafka_loses_nothing_and_shows_nothing_twice(on_kafka: OpenWorld) -> None:
    async with on_kafka() as world:
        await world.start("monitor")
        await killed_and_restarted(world)
        await world.verdict()
        await world.stop("monitor")
        said = world.agent("monitor").log.read_text()
        assert "ALARM" not in said
        count = len(world.accepted)
        assert f"accepted {count} = ended {count} + in flight 0; 0 offences" in said


async def test_the_embedded_broker_loses_nothing(on_embedded: OpenWorld) -> None:
    async with on_embedded() as world:
        await killed_and_restarted(world)
        await world.verdict()
