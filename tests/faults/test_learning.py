"""Learning in the flow: ratings move counters, decisions follow where they may, and no death of the learner matters."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from agents.classifier.learning.replay import LEAST_OUTCOMES
from agents.classifier.learning.state import State
from agents.learner.published import LAST, newest
from schemas.codec import Codec
from schemas.enums import TaskClass
from schemas.flow import Assignment, Decision
from streams.topics import FEEDBACK
from tests.faults.provider import Provider
from tests.faults.world import World, open_world
from tierflow.environment import with_section
from tierflow.wiring import learned_topic
from tierflow_client.feedback import make_feedback

pytestmark = pytest.mark.timeout(240)

RULES: Final = Path(__file__).with_name("learning.yaml")
SMALL, LARGE = "small@1", "large@1"
CODEC = Codec()
Open = Callable[..., AbstractAsyncContextManager[World]]


@pytest.fixture
def learning(any_broker: str, embedded_state: str, provider: Provider, tmp_path: Path) -> Open:
    """Opens a world with the flow running and no learner."""

    @asynccontextmanager
    async def opened(mode: str) -> AsyncIterator[World]:
        sections: dict[str, Any] = {
            "classifier": {"learning": mode},
            "learner": {"publish_every": timedelta(milliseconds=200)},
        }
        redis = f"redis://{embedded_state}/0"
        async with open_world(any_broker, redis, provider, tmp_path, rules=RULES, **sections) as world:
            await world.start_flow()
            yield world

    return opened


async def ended(world: World, count: int) -> list[str]:
    """Requests that were sent and have ended."""
    ids = world.send(count, task_hint="qa")
    assert await world.settled(frozenset(ids))
    return ids


def rate(world: World, ids: list[str], score: float) -> None:
    rate_each(world, [(request_id, score) for request_id in ids])


def rate_each(world: World, words: list[tuple[str, float]]) -> None:
    made = [make_feedback(request_id, score, by="human") for request_id, score in words]
    world.send_many([(each.key, each.value, each.headers) for each in made], topic=FEEDBACK)


def decisions(world: World, ids: list[str]) -> list[Decision]:
    """In no order."""
    topic = world.platform.names.topic("tier.fast")
    found = [CODEC.decode(Assignment, each.value or b"") for each in world.tail.records if each.topic == topic]
    return [CODEC.decode(Decision, each.decision) for each in found if each.request_id in ids]


async def learnt(world: World, enough: Callable[[State], bool], within_s: float = 45) -> State:
    """What is published, once it is enough."""
    state = None
    async with learned_topic(world.platform) as topic:
        try:
            async with asyncio.timeout(within_s):
                while state is None or not enough(state):
                    await asyncio.sleep(0.2)
                    state = newest(await topic.last(LAST), "learning") or state
        except TimeoutError:
            raise AssertionError(f"not learnt in time: {state}") from None
    return state


def rated(state: State, model: str = SMALL) -> tuple[float, float]:
    """Weight of a model's outcomes, and how good they were."""
    counters, _ = state.restored()
    return counters.seen(model, TaskClass.QA), counters.share(model, TaskClass.QA)


def counted(least: float) -> Callable[[State], bool]:
    return lambda state: rated(state)[0] >= least


async def known(world: World, state: State) -> None:
    """Wait until the classifier knows a state."""
    async with asyncio.timeout(30):
        while f"{state.version} is known" not in world.agent("classifier").log.read_text():
            await asyncio.sleep(0.1)


def words_read(state: State) -> int:
    return sum(offset for place, offset in state.positions.items() if place.rpartition("/")[0].endswith(FEEDBACK))


async def decided_by(world: World, learning: str, asked: Mapping[str, int]) -> dict[str, list[Decision]]:
    """What a new classifier, in place of the one before, decides of questions: by question."""
    await asyncio.gather(*(child.stop() for label, child in world.agents.items() if label.startswith("classifier")))
    name = f"to-{learning}"
    settings = with_section(world.settings, "classifier", learning=learning)
    classifier = await world.start("classifier", name=name, settings=settings)
    if learning != "bypass":
        async with asyncio.timeout(30):
            while " is known (" not in classifier.log.read_text():
                await asyncio.sleep(0.1)
    sent = {question: world.send(count, question=question, slow_ms=5) for question, count in asked.items()}
    assert await world.settled(frozenset(itertools.chain(*sent.values())))
    return {question: decisions(world, ids) for question, ids in sent.items()}


EASY = "Which organelle of the cell produces energy in biology: the nucleus, the membrane or the mitochondrion?"
HARD = f"{EASY}\nA) the nucleus\nB) the membrane\nC) the mitochondrion\nD) none"
"""Of one class and domain, whatever label stands before them, so that counters can't tell them apart; heads can."""
ENOUGH = 375
"""Of each: three retrainings, the last with about 150 outcomes held out, of which 100 are needed."""


@pytest.mark.timeout(120)  # it takes half a minute where others work, too
async def test_promoted_heads_turn_decisions_and_a_rollback_takes_them_back(
    kafka_broker: str, embedded_state: str, provider: Provider, tmp_path: Path
) -> None:
    sections: dict[str, Any] = {
        "classifier": {"time_limit": timedelta(seconds=10)},  # a busy machine must not leave any to the surface
        "learner": {"publish_every": timedelta(milliseconds=200)},
    }
    redis = f"redis://{embedded_state}/0"
    async with open_world(kafka_broker, redis, provider, tmp_path, rules=RULES, watched=False, **sections) as world:
        await world.start_flow()
        await world.start("learner")
        easy = world.send(ENOUGH, question=EASY, slow_ms=5, keys=64)
        hard = world.send(ENOUGH, question=HARD, slow_ms=5, keys=64)
        assert await world.settled(frozenset(easy + hard))
        shipped = decisions(world, easy + hard)
        assert {each.model for each in shipped} == {SMALL}
        assert len({(each.task_class, each.stage, each.classifier_version) for each in shipped}) == 1

        pairs = zip(easy, hard, strict=True)
        words = [word for good, bad in pairs for word in ((good, 1.0), (bad, 0.0))]
        rate_each(world, words)
        state = await learnt(world, lambda state: bool(state.heads) and words_read(state) == len(words))
        await world.stop("learner")  # what follows would be learnt from, too
        assert {cell[2] for cell, _ in state.counters if len(cell) == len((SMALL, "class", "domain"))} == {"science"}
        number = state.heads["version"]
        promoted = dict(state.comparisons)[number]
        assert promoted.promoted
        assert promoted.outcomes >= LEAST_OUTCOMES

        few = {EASY: 4, HARD: 4}
        applied = await decided_by(world, "apply", few)
        assert {each.model for each in applied[EASY]} == {SMALL}
        assert {each.model for each in applied[HARD]} == {LARGE}
        for decision in (*applied[EASY], *applied[HARD]):
            told = orjson.loads(decision.signals)["learned"]
            assert (told["applied"], told["version"], told["heads"]) == (True, state.version, number)
            assert decision.classifier_version == f"{shipped[0].classifier_version} {state.version}"

        bypassed = await decided_by(world, "bypass", few)
        for decision in (*bypassed[EASY], *bypassed[HARD]):
            assert (decision.model, decision.classifier_version) == (SMALL, shipped[0].classifier_version)
            assert "learned" not in orjson.loads(decision.signals)


@pytest.mark.parametrize("mode", ["apply", "observe"])
async def test_ratings_move_counters_and_decisions_follow_where_they_may(learning: Open, mode: str) -> None:
    async with learning(mode) as world:
        await world.start("learner")
        first = await ended(world, 12)
        assert {each.model for each in decisions(world, first)} == {SMALL}
        rate(world, first, 0.0)
        state = await learnt(world, counted(11.5))
        assert state.heard == 12
        assert rated(state)[1] < 0.4
        await known(world, state)
        later = decisions(world, await ended(world, 6))
        assert {each.model for each in later} == ({LARGE} if mode == "apply" else {SMALL})
        for decision in later:
            told = orjson.loads(decision.signals)["learned"]
            base, good = told["good"][SMALL]
            assert told["applied"] is (mode == "apply")
            assert base == 0.8
            assert good < 0.4
            assert (told["version"] in decision.classifier_version) is (mode == "apply")
            assert told["version"].startswith("learned-")


async def test_a_learner_that_dies_counts_nothing_twice_and_holds_up_nobody(learning: Open) -> None:
    async with learning("observe") as world:
        await world.start("learner")
        ids = await ended(world, 10)
        rate(world, ids[:5], 1.0)
        await learnt(world, counted(5))
        for round_ in range(2):
            await world.agent("learner").kill()
            rate(world, ids[: 6 + round_], 1.0)  # the first ones say it once more
            ids += await ended(world, 5)  # nobody waits for a learner
            await world.start("learner")
            await learnt(world, counted(6 + round_))
        await world.agent("learner").kill()
        await world.start("learner")
        rate(world, ids, 1.0)
        count = len(ids)
        state = await learnt(world, counted(count - 0.5))
        # Each counts once: a little less, as a cell forgets a thousandth with each outcome.
        assert state.heard == count == 20
        assert count * (1 - 0.001 * count) < rated(state)[0] <= count
        await world.verdict()
