"""A language model in the classifier, in the flow: asked for real, paid for in the books, and never in the way."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import orjson
import pytest
from msgspec.structs import asdict

from agents.audit.story import Story, gaps, tell
from schemas.codec import Codec
from schemas.edges import Result
from schemas.enums import EventType, Status
from schemas.flow import ProvenanceEvent
from schemas.headers import JSON
from tests.faults.conftest import OpenWorld
from tests.faults.world import World

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
    """The provider answers with a number, which names no class; or there is no time to ask."""
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
            assert llm["heard"] in ({"unreadable"} if limit >= timedelta(seconds=1) else {"late", "busy", "resting"})
            assert decided["status"] != "llm"
        calls = sum(each["event_type"] == EventType.MODEL_ATTEMPTED for each in _all(stories(world, ids)))
        assert calls == sum(each.attempts for each in ended)
        assert (calls >= 15) is (limit >= timedelta(seconds=1))


def _all(found: list[Story]) -> list[Any]:
    return [event for story in found for event in story.events]
