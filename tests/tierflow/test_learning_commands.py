"""``tierflow feedback`` and ``tierflow classifier learned`` at a broker."""

from datetime import timedelta

import pytest

from agents.classifier.learning.calibration import Calibration
from agents.classifier.learning.counters import Count
from agents.classifier.learning.replay import Comparison
from agents.classifier.learning.state import State
from registry.load import load_catalogue
from schemas.codec import Codec
from schemas.edges import Feedback
from schemas.headers import JSON
from schemas.settings import Settings
from streams.log_reader import open_log
from streams.records import InRecord
from streams.runtime import find_platform
from streams.topics import FEEDBACK
from tests.tierflow.conftest import Run
from tierflow.environment import with_section
from tierflow.wiring import learned_topic

NAME = load_catalogue("small").name


@pytest.fixture
async def made(at_broker: Run, embedded_broker: str) -> Settings:
    """Topics and rules of a test's own; settings that lead there."""
    created = await at_broker("topics", "create", "--catalogue", "small", "--json")
    assert created.code == 0, created.err
    published = await at_broker("registry", "publish", "small", "--author", "me")
    assert published.code == 0, published.err
    shown = await at_broker("config", "show", "--json")
    prefix = shown.json[0]["topics"]["prefix"]
    settings = with_section(Settings(), "kafka", bootstrap=embedded_broker)
    return with_section(settings, "topics", prefix=prefix)


async def test_a_word_on_an_answer_goes_to_its_topic(at_broker: Run, made: Settings) -> None:
    ran = await at_broker("feedback", "r-1", "--score", "0.25", "--by", "program", "--class", "math", "--json")
    assert ran.code == 0, ran.err
    platform = await find_platform(made)
    topic = platform.names.topic(FEEDBACK)
    async with open_log(platform.connection, [topic], kind=platform.capabilities.kind) as reader:
        records: list[InRecord] = []
        while not records:
            records = await reader.poll(timedelta(seconds=1))
    said = Codec().decode(Feedback, records[0].value or b"", JSON)
    assert (said.request_id, said.rating, said.kind, dict(said.metadata)) == (
        "r-1",
        0.25,
        "program",
        {"task_class": "math"},
    )
    assert ran.json[0]["feedback_id"] == said.feedback_id
    assert records[0].key == b"r-1"


@pytest.mark.parametrize("wrong", [[], ["--score", "2"], ["--class", "sums"], ["--score", "1", "--by", "me"]])
async def test_what_is_no_word_is_refused(cli: Run, wrong: list[str]) -> None:
    assert (await cli("feedback", "r-1", *wrong)).code == 2


async def test_what_was_learnt_is_shown(at_broker: Run, made: Settings) -> None:
    nothing = await at_broker("classifier", "learned")
    assert (nothing.code, nothing.out) == (1, "")
    assert "nothing was learnt yet" in nothing.err
    calibration = Calibration()
    for _ in range(50):
        calibration.add("questions", 0.9, right=False)
    state = State(
        number=3,
        catalogue=NAME,
        weights="router-1+abc",
        heard=8,
        counters=[(("tiny@1", "qa"), Count(good=6.0, base=4.0, all=8.0))],
        calibration=calibration.rows(),
        comparisons=((1, Comparison(120, 0.5, 0.6, 0.01, 2.0)),),
    )
    async with learned_topic(await find_platform(made)) as topic:
        await topic.append(NAME.encode(), state.to_bytes())
    ran = await at_broker("classifier", "learned", "--json")
    assert ran.code == 0, ran.err
    (found,) = ran.json
    assert found["version"].startswith("learned-3+")
    assert found["models"] == [{"model": "tiny@1", "class": "qa", "outcomes": 8.0, "good": 0.75, "expected": 0.5}]
    assert found["routes"][0]["at_0.9"] < 0.7
    assert found["comparisons"][0]["promoted"]
    shown = await at_broker("classifier", "learned")
    assert "tiny@1" in shown.out
