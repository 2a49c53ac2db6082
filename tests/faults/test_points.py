"""Every named point of every agent: killed there, and frozen there past its session (the aimed zombie).

One case a point: all agents that pass it are hurt in the same run, so that faults also meet each other.
"""

import asyncio

import pytest

from streams.faults import CALL_POINTS, Action, Fault, Point
from tests.faults.conftest import OpenWorld
from tests.faults.provider import Trick
from tests.faults.world import FLOW, World

pytestmark = pytest.mark.timeout(240)

CALLS_MS = 400
"""At the points of a call: long enough that several calls are under way when the worker is hurt."""


def victims_of(point: Point) -> tuple[str, ...]:
    """Agents that pass a point."""
    return ("worker",) if point in CALL_POINTS else FLOW


def planned(world: World, point: Point, action: Action) -> dict[str, list[Fault]]:
    """Each victim is hurt at its second pass, so that something was committed before."""
    once = point is Point.AFTER_SOME_SENDS  # needs a commit to several partitions, which comes when it comes
    seconds = 0.1 if point is Point.DURING_CALL else 0.0
    return {
        kind: [Fault(point, action, passes=1 if once else 2, seconds=seconds, marker=world.marker(kind))]
        for kind in victims_of(point)
    }


async def hurt(world: World, point: Point, action: Action) -> None:
    """Requests, a few at a time, until everybody was hurt who should be; each is replaced as soon as it was."""
    slow = CALLS_MS if point in CALL_POINTS else 0
    await world.start_flow(planned(world, point, action))
    world.send(12, slow_ms=slow)
    world.send(4, trick=Trick.DOUBT)

    async def replace(kind: str) -> None:
        await world.struck(kind, within_s=90)
        if action is Action.KILL:
            assert await world.gone(kind) < 0
        name = "first" if action is Action.KILL else "second"
        await world.start(kind, name=name)

    waiting = {asyncio.create_task(replace(kind), name=kind) for kind in victims_of(point)}
    while waiting:
        done, waiting = await asyncio.wait(waiting, timeout=2, return_when=asyncio.ALL_COMPLETED)
        for task in done:
            task.result()
        if waiting:
            world.send(4, slow_ms=slow)
    world.crashes += "worker" in victims_of(point)


@pytest.mark.parametrize("point", Point)
async def test_killed_there_and_restarted(on_kafka: OpenWorld, point: Point) -> None:
    async with on_kafka() as world:
        await hurt(world, point, Action.KILL)
        world.send(4)
        await world.verdict()


@pytest.mark.parametrize("point", Point)
async def test_frozen_there_past_its_session(on_kafka: OpenWorld, point: Point) -> None:
    async with on_kafka() as world:
        await hurt(world, point, Action.FREEZE)
        # The others have taken over and done the frozen ones' work: now these wake, and go on where they stood.
        assert await world.settled()
        for kind in victims_of(point):
            world.agent(kind).resume()
        world.send(12)
        await world.verdict()
        for kind in victims_of(point):
            assert world.agent(kind).returncode is None, f"{kind} did not survive its own waking"
