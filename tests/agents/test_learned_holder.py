"""Following what was learnt: the newest state of one's own catalogue, and never a failure."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from agents.classifier.learning.calibration import Calibration
from agents.classifier.learning.state import State
from agents.learner.published import BACK_OFF, LearnedHolder, follow, newest
from schemas.errors import BrokerUnavailableError
from schemas.fakes import MemoryOrderedLog


def state(number: int, catalogue: str = "mine") -> State:
    return State(number=number, catalogue=catalogue, weights="m")


async def publish(topic: MemoryOrderedLog, made: State) -> None:
    await topic.append(made.catalogue.encode(), made.to_bytes())


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def test_the_newest_of_ones_own_catalogue_counts():
    topic = MemoryOrderedLog()
    await publish(topic, state(1))
    await publish(topic, state(9, "others"))
    await topic.append(b"mine", b"damaged")
    await topic.append(b"mine", None)
    found = newest(topic.records, "mine")
    assert found is not None
    assert found.number == 1
    assert newest(topic.records, "nobody") is None


async def test_a_holder_follows_and_no_failure_ends_it():
    topic, pauses = MemoryOrderedLog(), []
    opened = 0

    @asynccontextmanager
    async def open_topic() -> AsyncIterator[MemoryOrderedLog]:
        nonlocal opened
        opened += 1
        if opened == 1:
            raise BrokerUnavailableError("away")
        yield topic

    async def sleep(duration: timedelta) -> None:
        pauses.append(duration)
        await asyncio.sleep(0)

    topic.failures.append(BrokerUnavailableError("away again"))
    holder = LearnedHolder("mine", applied=True)
    assert holder.experience is not None
    assert not holder.experience.version
    task = asyncio.create_task(follow(holder, open_topic, sleep=sleep))
    await until(lambda: opened == 3)
    for number in (1, 2):
        await publish(topic, state(number))
        await until(lambda number=number: holder.state is not None and holder.state.number == number)
    assert holder.experience.version.startswith("learned-2+")
    assert pauses == [BACK_OFF] * 2
    task.cancel()


def test_only_where_decisions_follow_it_there_is_something_before_the_first_state():
    holder = LearnedHolder("mine", applied=False)
    assert (holder.experience, holder.state) == (None, None)
    calibration = Calibration()
    calibration.add("r", 0.9, right=False)
    holder.offer(State(number=1, catalogue="mine", weights="m", calibration=calibration.rows()))
    assert holder.experience is not None
    assert not holder.experience.applied
    assert holder.experience.confidence("r", 0.9) == 0.9
