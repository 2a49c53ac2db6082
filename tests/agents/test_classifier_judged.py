"""The trained model's word in decisions: acting, only observed, or missing; and exploration under a cap."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import orjson
import pytest

from agents.classifier.core import Choice, decide
from agents.classifier.judged import Judged
from agents.classifier.prompt import look_through
from agents.classifier.stage import ClassifierStage
from agents.signals import NO_SIGNALS
from schemas.catalogue import Route
from schemas.enums import TaskClass
from schemas.fakes import MemoryState
from schemas.headers import Name
from streams.receiver import Receiver
from tests.agents.deciding import CODEC, NOW_MS, context, record, request, snapshot, view

SURE = Judged(task_class=TaskClass.CODE, confidence=0.97, drift=0.0, version="router-9+abc")


def choice(judged: Judged | None, rules: Any = None, asked: Any = None, **more: Any) -> Choice:
    ctx = context(request_id=more.pop("request_id", "r-1"))
    return decide(
        look_through(asked or request("Hello there")), rules or snapshot(), NO_SIGNALS, NOW_MS, context=ctx,
        judged=judged, **more,
    )  # fmt: skip


def test_its_class_and_confidence_are_taken_and_recorded():
    decision = choice(SURE).decision
    assert (decision.task_class, decision.stage, decision.class_confidence) == (TaskClass.CODE, "model", 0.97)
    assert decision.classifier_version == "router-9+abc"
    assert decision.thresholds["trust"] == 1
    told = orjson.loads(decision.signals)["judged"]
    assert told["applied"]
    assert told["version"] == "router-9+abc"


def test_a_hint_comes_before_it():
    decision = choice(SURE, asked=request("Hello there", task_hint="math")).decision
    assert (decision.task_class, decision.stage) == (TaskClass.MATH, "hint")
    assert decision.thresholds["trust"] == 1


def test_observed_only_it_changes_nothing_but_the_record():
    plain = choice(None).decision
    observed = choice(Judged(task_class=TaskClass.CODE, confidence=0.97, drift=0, version="v", applied=False)).decision
    assert observed.stage == "surface"
    assert observed.candidate_score == plain.candidate_score
    assert not orjson.loads(observed.signals)["judged"]["applied"]
    assert "judged" not in orjson.loads(plain.signals)


def test_a_text_without_words_is_left_to_the_surface():
    assert choice(SURE, asked=request("?!")).decision.stage == "surface"


def test_doubt_leads_to_the_better_model():
    rules = snapshot(routes=(Route(id="all", plans=("best", "cheap"), cost_weight=0.35),))
    doubtful = Judged(task_class=TaskClass.CODE, confidence=0.4, drift=1.0, version="v")
    sure, unsure = choice(SURE, rules).decision, choice(doubtful, rules).decision
    assert unsure.thresholds["cost_weight"] < sure.thresholds["cost_weight"]
    assert (sure.plan_id, unsure.plan_id) == ("cheap", "best")


def test_learnt_quality_takes_the_place_of_the_catalogues():
    rules = snapshot(routes=(Route(id="all", plans=("best", "cheap"), cost_weight=0.0),))
    assert choice(SURE, rules).decision.plan_id == "best"
    learnt = Judged(
        task_class=TaskClass.CODE, confidence=0.97, drift=0, version="v", good={"small@1": 0.9, "large@1": 0.2}
    )
    decision = choice(learnt, rules).decision
    assert decision.plan_id == "cheap"
    assert decision.confidence == pytest.approx(0.9)


def test_what_is_too_dear_to_try_is_not_explored():
    rules = snapshot(routes=(Route(id="all", plans=("best", "cheap"), cost_weight=50.0),))
    free = choice(None, rules, exploration=0.2).decision
    assert free.plan_id == "cheap" or free.seed
    assert min(free.candidate_propensity) == pytest.approx(0.1)
    capped = choice(None, rules, exploration=0.2, exploration_cap=0).decision
    assert capped.plan_id == "cheap"
    assert sorted(capped.candidate_propensity) == pytest.approx([0, 1])
    taken = {choice(None, rules, exploration=0.2, request_id=f"r-{number}").decision.plan_id for number in range(60)}
    assert taken == {"best", "cheap"}


class Spy:
    def __init__(self) -> None:
        self.asked: list[Sequence[str]] = []

    def __call__(self, texts: Sequence[str]) -> Sequence[Judged | None]:
        self.asked.append(list(texts))
        return [SURE, *([None] * (len(texts) - 1))]


async def test_a_stage_asks_once_for_a_batch_and_only_what_is_open():
    spy = Spy()
    stage = ClassifierStage(codec=CODEC, receiver=Receiver(MemoryState(), timedelta(days=1)), judge=spy)
    bodies = [{"prompt": "one"}, {"prompt": "two", "task_hint": "math"}, {"prompt": "three"}]
    records = [
        record(body, offset=number, headers=((Name.REQUEST_ID.value, f"r{number}".encode()),))
        for number, body in enumerate(bodies)
    ]
    arrivals = await stage.prepare(records, view())
    assert spy.asked == [["one", "three"]]
    effects = [stage.handle(each, view(prepared=arrival)) for each, arrival in zip(records, arrivals, strict=True)]
    assert all(len(each.outputs) == 1 for each in effects)
