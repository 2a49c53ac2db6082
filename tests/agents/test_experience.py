"""What was learnt, in decisions: followed, only recorded, or not there; and confidence as it turned out on a route."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import orjson
import pytest

from agents.classifier.core import Choice, decide
from agents.classifier.experience import Experience
from agents.classifier.judged import Judged
from agents.classifier.learning.calibration import Calibration
from agents.classifier.learning.counters import Counters
from agents.classifier.learning.heads import retrain
from agents.classifier.learning.judging import JudgeWithHeads
from agents.classifier.learning.outcomes import Decided, Outcome
from agents.classifier.learning.packing import pack
from agents.classifier.learning.state import State
from agents.classifier.prompt import look_through
from agents.classifier.stage import ClassifierStage
from agents.signals import NO_SIGNALS
from registry.snapshot import Snapshot
from schemas.catalogue import Pattern, Plan, Route, RouteWhen, Tenant
from schemas.enums import TaskClass
from schemas.fakes import MemoryState
from schemas.flow import Assignment, Decision
from streams.receiver import Receiver
from tests.agents.deciding import CODEC, MODELS, NOW_MS, PLANS, context, record, request, snapshot, step
from tests.agents.test_classifier_stage import run

RULES = snapshot(routes=(Route(id="all", plans=("best", "cheap"), cost_weight=0.05),))
"""``cheap`` is one call of small@1 (.45), ``best`` one of large@1 (.85), which wins here."""
CHEAP_WINS = snapshot(routes=(Route(id="all", plans=("best", "cheap"), cost_weight=0.7),))
"""Here its price counts so much that the cheap one wins."""


def counted(model: str, good: float, times: int, base: float | None, **more: Any) -> Counters:
    counters = Counters()
    for number in range(times):
        parts: dict[str, Any] = {
            "tenant": "default",
            "task_class": TaskClass.QA,
            "domain": "",
            "model": model,
            "propensity": 1.0,
            "bases": {} if base is None else {model: base},
        }
        made = Decided(request_id=str(number), **(parts | more))
        counters.add(Outcome(decided=made, good=good, kind="human"))
    return counters


def choice(experience: Experience | None, rules: Snapshot = RULES, **more: Any) -> Choice:
    asked = look_through(request("Name three birds.", task_hint="qa"))
    return decide(asked, rules, NO_SIGNALS, NOW_MS, context=context(), experience=experience, **more)


def told(decision: Decision) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(decision.signals)["learned"]
    return found


def test_what_was_learnt_turns_a_decision_and_is_told():
    assert choice(None, CHEAP_WINS).decision.model == "small@1"
    bad = Experience(version="learned-3+ab", counters=counted("small@1", 0.0, 40, 0.45))
    decision = choice(bad, CHEAP_WINS).decision
    assert decision.model == "large@1"
    assert decision.classifier_version.endswith(" learned-3+ab")
    base, good = told(decision)["good"]["small@1"]
    assert base == 0.45
    assert good < 0.15
    assert told(decision)["good"]["large@1"] == [0.85, 0.85]
    row = decision.candidate_model.index("small@1")
    assert decision.candidate_quality[row] == pytest.approx(good, abs=1e-4)


def test_observed_only_it_changes_nothing_but_the_record():
    bad = Experience(version="learned-3+ab", counters=counted("small@1", 0.0, 40, 0.45), applied=False)
    plain, decision = choice(None, CHEAP_WINS).decision, choice(bad, CHEAP_WINS).decision
    assert decision.model == "small@1"
    assert decision.candidate_score == plain.candidate_score
    assert decision.classifier_version == plain.classifier_version
    assert not told(decision)["applied"]
    assert told(decision)["good"]["small@1"][1] < 0.15
    assert "learned" not in orjson.loads(plain.signals)


def test_good_news_of_a_cheaper_model_counts_only_as_far_as_it_is_sure():
    few = Experience(version="v", counters=counted("small@1", 1.0, 1, 0.45))
    many = Experience(version="v", counters=counted("small@1", 1.0, 300, 0.45))
    assert told(choice(few).decision)["good"]["small@1"][1] == 0.45
    assert told(choice(many).decision)["good"]["small@1"][1] > 0.9


def test_a_class_that_is_hard_for_one_model_is_not_held_to_be_easy_for_a_cheaper_one():
    """Nobody rated small@1; middle@1 turned out bad at questions."""
    routes = (Route(id="all", plans=("best", "middling", "cheap"), cost_weight=0.05),)
    middling = Plan(id="middling", pattern=Pattern.ROUTER, steps=(step("balanced", "middle"),))
    rules = snapshot(routes=routes, plans=(*PLANS, middling))
    hard = Experience(version="v", counters=counted("middle@1", 0.0, 20, 0.62))
    good = told(choice(hard, rules).decision)["good"]
    assert good["middle@1"][1] < good["small@1"][1] < 0.45 - 0.2
    assert good["large@1"] == [0.85, 0.85], "the dearest is not doubted for it"
    easy = Experience(version="v", counters=counted("middle@1", 1.0, 20, 0.62))
    assert told(choice(easy, rules).decision)["good"]["small@1"] == [0.45, 0.45], "good news of others leads nowhere"


def test_a_cold_start_that_knows_nothing_goes_up():
    unknown = tuple(model.model_copy(update={"quality": {}}) for model in MODELS)
    rules = snapshot(models=unknown, routes=RULES.catalogue.routes)
    assert choice(None, rules).decision.model == "small@1", "as the catalogue has it: all alike, so the cheapest"
    decision = choice(Experience(), rules).decision
    assert decision.model == "large@1"
    assert "learned" not in orjson.loads(decision.signals), "nothing was published that could be told of"
    for cheap in (1, 300):
        learnt = Experience(version="v", counters=counted("small@1", 1.0, cheap, None))
        assert choice(learnt, rules).decision.model == ("large@1" if cheap == 1 else "small@1")


def test_a_tenant_has_outcomes_of_its_own():
    mine = Experience(version="v", counters=counted("small@1", 0.0, 60, 0.45, tenant="other"))
    other = told(decide_for("other", mine).decision)["good"]["small@1"][1]
    default = told(decide_for("default", mine).decision)["good"]["small@1"][1]
    assert other < default < 0.45


def decide_for(tenant: str, experience: Experience) -> Choice:
    rules = snapshot(tenants=(Tenant(id="default"), Tenant(id="other")), routes=RULES.catalogue.routes)
    asked = look_through(request("Name three birds.", task_hint="qa"))
    return decide(asked, rules, NO_SIGNALS, NOW_MS, context=context(tenant=tenant), experience=experience)


# -- confidence by route --


def overconfident(route: str = "all") -> Experience:
    calibration = Calibration()
    for number in range(400):
        calibration.add(route, 0.95, right=number % 2 == 0)
    return Experience(version="v", corrections=calibration.corrections())


def judged(confidence: float) -> Judged:
    return Judged(task_class=TaskClass.QA, confidence=confidence, drift=0.0, version="m")


def ask(experience: Experience | None, rules: Snapshot = RULES) -> Decision:
    asked = look_through(request("Name three birds."))
    found = decide(asked, rules, NO_SIGNALS, NOW_MS, context=context(), judged=judged(0.95), experience=experience)
    return found.decision


def test_the_corrected_confidence_decides_how_much_cost_counts():
    plain, corrected = ask(None), ask(overconfident())
    assert plain.thresholds["trust"] == 1
    assert corrected.class_confidence == pytest.approx(0.5, abs=0.1)
    assert corrected.thresholds["trust"] == 0.25
    assert orjson.loads(corrected.signals)["judged"]["confidence"] == 0.95, "what the model said stays on record"
    assert ask(overconfident("another")).class_confidence == 0.95
    observed = replace(overconfident(), applied=False)
    assert ask(observed).class_confidence == 0.95


def test_each_route_sees_the_confidence_as_it_turned_out_there():
    routes = (
        Route(id="sure", when=RouteWhen(min_confidence=0.9), plans=("cheap",)),
        Route(id="all", plans=("best",)),
    )
    rules = snapshot(routes=routes)
    assert ask(None, rules).route_id == "sure"
    assert ask(overconfident("sure"), rules).route_id == "all"


def test_a_hint_is_not_corrected():
    assert choice(overconfident()).decision.class_confidence == 1


# -- heads --


def heads(weights: str = "m") -> State:
    """Of small@1: good where the first column is high."""
    random = np.random.default_rng(2)
    rows = []
    for number in range(400):
        x = float(random.normal())
        made = Decided(
            request_id=str(number), tenant="", task_class=TaskClass.QA, domain="", model="small@1", propensity=1.0,
            columns=(x, 0.0),
        )  # fmt: skip
        rows.append(Outcome(decided=made, good=float(x > 0), kind="program"))
    return State(number=1, catalogue="test", weights=weights, heads=pack(retrain(rows, 1, 7)))


def says(column: float) -> Judged:
    return replace(judged(0.95), columns=(column, 0.0))


def test_heads_speak_where_they_read_the_same_columns():
    def judge(texts: Sequence[str]) -> Sequence[Judged | None]:
        return [None if text == "?" else says(3.0 if text == "good" else -3.0) for text in texts]

    texts = ("good", "?", "bad")
    of_good, of_nothing, of_bad = JudgeWithHeads(judge, heads)(texts)
    assert of_nothing is None
    assert of_good is not None
    assert of_bad is not None
    assert of_good.heads["small@1"] > of_bad.heads["small@1"] + 0.2
    assert of_good.heads_number == of_bad.heads_number == 1
    for state in (lambda: None, lambda: heads("others")):
        assert not JudgeWithHeads(judge, state)(texts)[0].heads  # type: ignore[union-attr]


def test_damaged_heads_are_left_alone():
    broken = replace(heads(), heads={"version": 1, "lines": {"small@1": ["?", "?", "?", 0]}, "forests": {}})
    (found,) = JudgeWithHeads(lambda texts: [says(1.0)], lambda: broken)(["x"])
    assert found is not None
    assert not found.heads


def test_in_the_stage_one_state_holds_for_a_whole_request():
    """The state may be swapped between ``prepare`` and ``handle``; what was looked at first is what counts."""
    states = [Experience(version="learned-1+a"), Experience(version="learned-2+b")]
    stage = ClassifierStage(
        codec=CODEC,
        receiver=Receiver(MemoryState(), timedelta(days=1)),
        experience=lambda: states[min(calls.pop(0), 1)],
    )
    calls = [0, 1, 1, 1]
    (effects,) = run(stage, record({"prompt": "Name three birds.", "task_hint": "qa"}), rules=RULES)
    assignment = CODEC.decode(Assignment, effects.outputs[0].value)
    decision = CODEC.decode(Decision, assignment.decision)
    assert told(decision)["version"] == "learned-1+a"
