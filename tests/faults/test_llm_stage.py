"""A language model in the classifier, in the flow: asked for real, paid for in the books, and never in the way."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import orjson
import pytest
from msgspec.structs import asdict

from agents.audit.story import Story, gaps, tell
from schemas.codec import Codec
from schemas.edges import Result
from schemas.enums import EventType, Outcome, Status
from schemas.flow import ProvenanceEvent
from schemas.headers import JSON
from schemas.ids import derived_id
from schemas.settings import LlmSettings
from streams.faults import Action, Fault, Point
from tests.faults.conftest import OpenWorld
from tests.faults.oracle import classifying
from tests.faults.provider import Call
from tests.faults.world import World

pytestmark = pytest.mark.timeout(240)

CODEC = Codec()


def settings(**llm: Any) -> Callable[[World], Any]:
    def made(world: World) -> Any:
        classifier = world.settings.classifier
        asked = classifier.llm.model_copy(update={"model": "large", "below": 1.0, **llm})
        return world.settings.model_copy(update={"classifier": classifier.model_copy(update={"llm": asked})})

    return made


def stories(world: World, ids: list[str]) -> list[Story]:
    topic = world.platform.names.topic("provenance")
    rows = [
        asdict(CODEC.decode(ProvenanceEvent, each.value or b"")) for each in world.tail.records if each.topic == topic
    ]
    return [tell(request_id, [row for row in rows if row["request_id"] == request_id]) for request_id in ids]


def results(world: World, ids: list[str]) -> list[Result]:
    topic = world.platform.names.topic("results")
    found = [CODEC.decode(Result, each.value or b"", JSON) for each in world.tail.records if each.topic == topic]
    return [each for each in found if each.request_id in ids]


@pytest.mark.parametrize("limit", [timedelta(seconds=2), timedelta(milliseconds=1)])
async def test_requests_go_on_and_the_books_balance(on_embedded: OpenWorld, limit: timedelta) -> None:
    """With time to ask, and without."""
    enough = limit >= timedelta(seconds=1)
    async with on_embedded() as world:
        chosen = settings(time_limit=limit)(world)
        for kind in ("audit", "guardrail", "worker", "classifier"):
            await world.start(kind, settings=chosen)
        ids = world.send(5)
        assert await world.settled(frozenset(ids))
        ended = results(world, ids)
        assert [each.status for each in ended] == [Status.ANSWERED] * 5
        for story in stories(world, ids):
            assert gaps(story) == []
            (decided,) = [each for each in story.events if each["event_type"] == EventType.ROUTE_DECIDED]
            llm = orjson.loads(decided["detail"])["signals"]["llm"]
            assert llm["heard"] in ({"agreed"} if enough else {"late", "busy", "resting", "unclaimed"})
            assert (decided["status"] == "llm") is enough
        calls = sum(each["event_type"] == EventType.MODEL_ATTEMPTED for each in _all(stories(world, ids)))
        assert calls == sum(each.attempts for each in ended)
        assert (calls >= 15) is enough


def _all(found: list[Story]) -> list[Any]:
    return [event for story in found for event in story.events]


ASKS = {"llm": LlmSettings(model="large", below=1.0)}


def sorting_calls(world: World) -> list[Call]:
    """What the provider counted of the questions for a class, by the keys that they carry."""
    keys = {
        derived_id("classification", sent.request_id, "large@1", str(sample))
        for sent in world.sent
        for sample in range(ASKS["llm"].samples)
    }
    return [call for call in world.provider.calls(world.prefix) if call.key in keys]


def owner(event: ProvenanceEvent) -> str:
    return str(orjson.loads(event.detail)["claim_owner"])


@asynccontextmanager
async def asking(on_kafka: OpenWorld) -> AsyncIterator[World]:
    async with on_kafka(classifier=ASKS) as world:
        # The one that was measured asked nobody: it had no connection to a provider, and no thread that finds one.
        world.at_rest = {kind: held for kind, held in world.at_rest.items() if kind != "classifier"}
        yield world


@pytest.mark.parametrize("point", [Point.DURING_CALL, Point.AFTER_CALL, Point.AFTER_JOURNAL])
async def test_a_classifier_killed_in_a_call_is_told_of_and_asks_nothing_twice(
    on_kafka: OpenWorld, point: Point
) -> None:
    """The oracle holds the provider's count against the records; here: which calls, and by whom."""
    async with asking(on_kafka) as world:
        fault = Fault(point, Action.KILL, passes=4, seconds=0.1, marker=world.marker("classifier"))
        await world.start_flow({"classifier": [fault]})
        before = world.send(8, slow_ms=400)
        await world.struck("classifier")
        assert await world.gone("classifier") < 0
        world.crashes += 1
        await world.start("classifier")
        assert await world.settled(frozenset(before))
        after = world.send(4)
        found = await world.verdict()
        made, told = sorting_calls(world), classifying(found.sorted)
        assert made
        assert {call.number for call in made} == {1}, "no question was asked twice"
        assert {event.operation_key for event in told} >= {call.key for call in made}
        second = {owner(event) for event in told if event.request_id in after}
        assert len(second) == 1
        left = [event for event in told if event.request_id in before and owner(event) not in second]
        assert left, "what the dead one did is in the books"
        assert {event.status for event in left} <= {Outcome.OK, Outcome.UNKNOWN}
        if point is Point.AFTER_JOURNAL:
            assert sum(event.status == Outcome.OK for event in left) >= 4, "the journal's answers were used"
        else:
            lost = [event for event in left if event.status == Outcome.UNKNOWN]
            assert lost
            assert all(event.billed_micros == event.estimated_micros > 0 for event in lost)


async def test_a_frozen_classifier_that_wakes_in_its_call_changes_nothing(on_kafka: OpenWorld) -> None:
    async with asking(on_kafka) as world:
        fault = Fault(Point.DURING_CALL, Action.FREEZE, passes=4, seconds=0.1, marker=world.marker("classifier"))
        await world.start_flow({"classifier": [fault]})
        ids = world.send(8, slow_ms=400)
        await world.struck("classifier")
        world.crashes += 1
        await world.start("classifier", name="second")
        assert await world.settled(frozenset(ids))
        world.agent("classifier").resume()
        world.send(4)
        found = await world.verdict()
        assert {call.number for call in sorting_calls(world)} == {1}
        assert Outcome.UNKNOWN in {event.status for event in classifying(found.sorted)}
        assert world.agent("classifier").returncode is None
