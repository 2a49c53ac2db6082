"""Each safeguard against the fault that it is there for; and the oracle, which must notice when it is switched off."""

import asyncio
from datetime import timedelta

import pytest

from agents.monitor.alerts import Alert
from agents.monitor.core import Kind
from schemas.enums import EventType
from streams.faults import Action, Fault, Point
from streams.records import TP
from streams.topics import ALERTS
from tests.faults.conftest import OpenWorld
from tests.faults.oracle import Evidence, judge
from tests.faults.provider import Trick
from tests.faults.reading import committed, ends
from tests.faults.sabotage import Safeguard
from tests.faults.world import PARTITIONS, SESSION, World

pytestmark = pytest.mark.timeout(240)

LONG = {"commit_timeout": timedelta(seconds=40), "transaction_timeout": timedelta(seconds=45)}
"""So that only the group's generation stands between a zombie and its commit, not the end of its transaction."""


async def problems(world: World, *, within_s: float = 60) -> list[str]:
    """The oracle's list, for cases in which it should not be empty."""
    await world.settled(within_s=within_s)
    return judge(await world.evidence())


async def taken_over(world: World, within_s: float = 60) -> None:
    """Wait until the workers' group has done everything that its topic holds."""
    bootstrap, topic = world.platform.connection.kafka.bootstrap, world.platform.names.topic("tier.fast")
    group, partitions = world.platform.names.group("worker-fast"), [TP(topic, n) for n in range(PARTITIONS)]
    async with asyncio.timeout(within_s):
        while True:
            done = await asyncio.to_thread(committed, bootstrap, {group: partitions})
            end = await asyncio.to_thread(ends, bootstrap, partitions)
            # Behind the last record lies its transaction's marker, which a commit may or may not include.
            if all(done[group, tp] >= end[tp].high - 1 for tp in partitions):
                return
            await asyncio.sleep(0.3)


async def zombie(world: World, point: Point, *, without: str = "") -> None:
    """A worker is frozen inside its transaction, another does its work, and it wakes before the transaction ends."""
    plan = [Fault(point, Action.FREEZE, passes=2, marker=world.marker("worker"))]
    await world.start_flow({"worker": plan}, without={"worker": without})
    world.send(30)
    await world.struck("worker")
    await world.start("worker", name="second")
    if point is Point.AFTER_OFFSETS:
        # Its offsets are pending: the other waits for their fate rather than repeat the work.
        await asyncio.sleep(SESSION.total_seconds() + 4)
    else:
        await taken_over(world)
    world.crashes += 1
    world.agent("worker").resume()
    world.send(6)


@pytest.mark.parametrize("point", [Point.AFTER_SENDS, Point.AFTER_OFFSETS])
async def test_a_zombie_commits_nothing_that_is_not_its_own(on_kafka: OpenWorld, point: Point) -> None:
    async with on_kafka(loop=LONG) as world:
        await zombie(world, point)
        await world.verdict()
        if point is Point.AFTER_SENDS:
            assert "starting again from the committed offsets" in world.agent("worker").log.read_text()


async def test_without_fencing_the_oracle_sees_the_zombie(on_kafka: OpenWorld) -> None:
    async with on_kafka(loop=LONG) as world:
        await zombie(world, Point.AFTER_SENDS, without=Safeguard.FENCING)
        found = await problems(world)
        assert any(problem.startswith("duplicated") for problem in found), found


async def test_a_record_above_the_brokers_limit_fails_alone_and_visibly(on_kafka: OpenWorld) -> None:
    async with on_kafka() as world:
        await world.start_flow()
        assert await world.settled(frozenset(world.send(2)))  # it would not start on such a topic
        world.configure("completions", max_message_bytes="60000")
        world.send(6)
        huge = world.send(2, trick=Trick.HUGE)
        world.send(6)
        found = await world.verdict()
        failed = {result.request_id: result for result in results_of(found) if result.request_id in huge}
        assert {result.status for result in failed.values()} == {"failed"}
        assert len(failed) == 2


async def test_without_gathering_the_oracle_sees_the_loss(on_kafka: OpenWorld) -> None:
    async with on_kafka() as world:
        await world.start_flow(without={"worker": Safeguard.GATHERING})
        well = world.send(2)
        assert await world.settled(frozenset(well))
        world.configure("completions", max_message_bytes="60000")
        huge = world.send(2, trick=Trick.HUGE)
        well += world.send(6, key="another")
        found = await problems(world, within_s=12)
        lost = {f"lost: {request_id} has no result" for request_id in huge}
        assert lost <= set(found), found
        assert not {f"lost: {request_id} has no result" for request_id in well[:2]} & set(found)


async def sent_twice(world: World) -> None:
    """The same ids again: at once and after they ended, to the partition of the first and to another."""
    early = world.send(4)
    for number, request_id in enumerate(early):
        world.send_again(request_id, partition=number % PARTITIONS)
        world.send_again(request_id)
    assert await world.settled()
    for number, request_id in enumerate(early):
        world.send_again(request_id, partition=(number + 3) % PARTITIONS)
    # What is sent now is behind them in each partition, and so ends after them.
    for number in range(PARTITIONS):
        world.send(1, key=f"after-{number}")


async def test_an_id_that_comes_again_is_told_and_dropped(on_kafka: OpenWorld) -> None:
    async with on_kafka(monitor={"grace": timedelta(0)}) as world:
        await world.start_flow()
        await sent_twice(world)
        found = await world.verdict()
        dropped = [event for _, event in found.sorted.events if event.event_type is EventType.REQUEST_DUPLICATE]
        assert len(dropped) == 12
        assert max(call.number for call in found.calls) == 1
        # A monitor that starts now reads it all, and says nothing before it has: it grants no time at all here.
        await world.start("monitor")
        await asyncio.sleep(6)
        await world.stop("monitor")
        said, count = world.agent("monitor").log.read_text(), len(world.accepted)
        assert f"accepted {count} = ended {count} + in flight 0; 0 offences" in said, said


async def test_without_the_receiver_the_oracle_sees_the_duplicates(on_kafka: OpenWorld) -> None:
    async with on_kafka() as world:
        await world.start_flow(without={"classifier": Safeguard.RECEIVER})
        await world.start("monitor")
        await sent_twice(world)
        found = await problems(world)
        assert any(problem.startswith("duplicated") for problem in found), found
        twice = [each.request_id for each in world.sent[:4]]
        await world.stop("monitor")
        said = world.agent("monitor").log.read_text()
        assert all(f"ALARM ended-twice: {request_id}" in said for request_id in twice), "the monitor names them, too"
        # Programs are told by a topic. A monitor that is started again has nothing new to tell.
        assert await world.tail.until(lambda _: len(alerts_of(world)) >= len(twice), 20)
        told = alerts_of(world)
        assert {(alert.kind, alert.subject) for alert in told} >= {(Kind.ENDED_TWICE, each) for each in twice}
        await world.start("monitor", name="second")
        await asyncio.sleep(6)
        await world.stop("monitor", "second")
        assert "ALARM ended-twice" not in world.agent("monitor", "second").log.read_text()
        assert len({alert.id for alert in alerts_of(world)}) == len(alerts_of(world))


async def test_an_incomplete_story_is_seen(on_kafka: OpenWorld) -> None:
    async with on_kafka() as world:
        await world.start_flow(without={"audit": Safeguard.EVENTS})
        ids = world.send(8)
        found = await problems(world)
        wanted = {request_id for request_id in ids if not int(request_id[-1]) % 2}
        told = {problem.split()[2].rstrip(":") for problem in found if "model_attempted is missing" in problem}
        assert told == wanted, found


def alerts_of(world: World) -> list[Alert]:
    topic = world.platform.names.topic(ALERTS)
    return [Alert.decode(record.value or b"") for record in world.tail.records if record.topic == topic]


def results_of(found: Evidence):
    return [result for _, result in found.sorted.results]
