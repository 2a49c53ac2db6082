"""Coming and going: drains, rolling restarts, scaling, rebalances in a row, two workers under one name."""

import asyncio
from collections import Counter
from datetime import timedelta

import pytest

from schemas.enums import Status
from streams.faults import Action, Fault, Point
from tests.faults.conftest import OpenWorld
from tests.faults.world import CONCURRENCY, SESSION, World

pytestmark = pytest.mark.timeout(240)


def repeated_calls(world: World) -> dict[str, int]:
    """Calls that were made more than once, by request."""
    counted = Counter(call.who for call in world.provider.calls(world.prefix))
    return {who: count for who, count in counted.items() if count > 1}


async def flowing(world: World) -> None:
    """Wait until the first requests of a case have ended: everybody has joined."""
    first = frozenset(world.send(4))
    assert await world.settled(first)


async def test_a_drain_ends_what_it_began_and_starts_nothing(on_kafka: OpenWorld) -> None:
    async with on_kafka() as world:
        await world.start_flow()
        await flowing(world)
        world.send(24, slow_ms=600)
        await asyncio.sleep(0.5)
        await asyncio.gather(*(world.stop(kind) for kind in ("worker", "classifier", "guardrail")))
        assert {world.agent(kind).returncode for kind in ("worker", "classifier", "guardrail")} == {0}
        for kind in ("worker", "classifier", "guardrail"):
            await world.start(kind)
        await world.verdict()
        assert repeated_calls(world) == {}


async def test_a_drain_does_not_wait_for_calls_beyond_its_grace(on_kafka: OpenWorld) -> None:
    async with on_kafka(loop={"drain_grace": timedelta(seconds=1)}) as world:
        await world.start_flow()
        await flowing(world)
        slow = world.send(6, slow_ms=3_000)
        await asyncio.sleep(1)
        await world.stop("worker")
        assert world.agent("worker").returncode == 0
        world.crashes += 1  # calls that were cut off have no known end
        await world.start("worker")
        found = await world.verdict()
        ended = {result.request_id: result.status for _, result in found.sorted.results}
        assert {ended[each] for each in slow} == {Status.ANSWERED}


async def test_a_second_signal_ends_at_once_and_loses_nothing(on_kafka: OpenWorld) -> None:
    async with on_kafka() as world:
        await world.start_flow()
        await flowing(world)
        world.send(8, slow_ms=2_000)
        await asyncio.sleep(0.7)
        world.terminate("worker")
        await asyncio.sleep(0.3)
        world.terminate("worker")
        assert await world.gone("worker", within_s=3) < 0
        world.crashes += 1
        await world.start("worker")
        await world.verdict()


async def test_a_rolling_restart_repeats_no_call(on_kafka: OpenWorld) -> None:
    async with on_kafka() as world:
        await world.start_flow()
        await world.start("worker", name="second")
        await flowing(world)
        for name in ("first", "second"):
            world.send(12, slow_ms=300)
            await asyncio.sleep(0.3)
            await world.stop("worker", name)
            await world.start("worker", name=name)
            await asyncio.sleep(1)
        for kind in ("guardrail", "classifier", "audit"):
            world.send(6)
            await world.stop(kind)
            await world.start(kind)
        await world.verdict()
        assert repeated_calls(world) == {}


async def test_scaling_up_and_down_repeats_no_call(on_kafka: OpenWorld) -> None:
    async with on_kafka() as world:
        await world.start_flow()
        await flowing(world)
        more = ("second", "third", "fourth")
        for name in more:
            world.send(10, slow_ms=500)
            await world.start("worker", name=name)
        await asyncio.sleep(3)
        for name in more[1:]:
            world.send(10, slow_ms=500)
            await world.stop("worker", name)
        await world.verdict()
        assert repeated_calls(world) == {}


async def test_a_storm_of_rebalances_repeats_no_call(on_kafka: OpenWorld) -> None:
    async with on_kafka() as world:
        await world.start_flow()
        await flowing(world)
        before = world.resources("worker")
        # Somebody joins the workers' group and leaves it again, ten times in thirty seconds.
        for _ in range(10):
            world.send(6, slow_ms=800)
            await world.disturb("worker-fast", for_s=1.0)
            await asyncio.sleep(1.5)
        await world.verdict()
        assert repeated_calls(world) == {}
        after = world.resources("worker")
        # A few connections to the provider stay open; nothing may grow with the number of rebalances.
        assert after.descriptors <= before.descriptors + 8 + CONCURRENCY, (before, after)
        assert after.threads <= before.threads + 2, (before, after)
        assert after.mebibytes <= before.mebibytes + 40, (before, after)


async def test_two_workers_under_one_name_fence_each_other_and_nothing_comes_twice(on_kafka: OpenWorld) -> None:
    async with on_kafka() as world:
        await world.start_flow()
        await flowing(world)
        twin = world.agent("worker")
        await world.start("worker", name="first")  # the same instance, and so the same transactional id
        world.agents["worker-fast-twin"] = twin
        for _ in range(6):
            world.send(8)
            await asyncio.sleep(0.7)
        await world.verdict()
        assert repeated_calls(world) == {}


async def test_an_event_loop_that_stands_still_past_its_session_comes_back_as_a_member(on_kafka: OpenWorld) -> None:
    async with on_kafka() as world:
        seconds = SESSION.total_seconds() + 3
        plan = [Fault(Point.AFTER_CALL, Action.BLOCK, seconds=seconds, marker=world.marker("worker"))]
        await world.start_flow({"worker": plan})
        await world.start("worker", name="second")
        world.send(30)
        striking = asyncio.create_task(world.struck("worker"))
        while not striking.done():  # the second may have joined first, and done all that there was
            world.send(6)
            await asyncio.wait([striking], timeout=1)
        await striking
        world.crashes += 1  # its leases die with its heartbeats
        world.send(6)
        await world.verdict()
        assert world.agent("worker").returncode is None


async def test_an_error_that_nobody_expects_ends_the_process_instead_of_hanging_it(on_kafka: OpenWorld) -> None:
    async with on_kafka() as world:
        plans = {
            kind: [Fault(Point.AFTER_SENDS, Action.RAISE, marker=world.marker(kind))]
            for kind in ("worker", "classifier")
        }
        await world.start_flow(plans)
        world.send(12)
        for kind in ("classifier", "worker"):
            await world.struck(kind)
            assert await world.gone(kind) > 0
            assert "injected at after-sends" in world.agent(kind).log.read_text()
            world.crashes += 1
            await world.start(kind)
        await world.verdict()
