"""Whole plans in learning: what a cascade was worth, climbed or not, and which plan a policy would have chosen."""

from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.classifier.core import Choice, decide
from agents.classifier.experience import Experience
from agents.classifier.filters import expected
from agents.classifier.learning.heads import Heads, fit_line
from agents.classifier.learning.joiner import Joiner
from agents.classifier.learning.learner import BATCH, Learner
from agents.classifier.learning.outcomes import Decided, Option, Outcome, Planned, Stage
from agents.classifier.learning.plans import preferred, with_options
from agents.classifier.learning.verdicts import posterior
from agents.classifier.prompt import look_through
from agents.guardrail.checks import LOGPROB, TRUNCATED
from agents.learner.core import decided as read_decision
from agents.signals import NO_SIGNALS
from registry.snapshot import Snapshot
from schemas.catalogue import Route
from schemas.enums import Action, TaskClass
from tests.agents.deciding import NOW_MS, context, request, snapshot
from tests.agents.test_experience import counted
from tests.agents.test_learner_core import climbed, ended, judge, rated, said, seen, study
from tests.agents.test_learner_core import decided as handed_on

SMALL, LARGE = "small@1", "large@1"
DOUBTED = 0.375
"""How much likelier a good answer is than a bad one where a threshold doubts it."""

# -- joining --


def of(request_id: str = "a", **more: Any) -> Decided:
    parts: dict[str, Any] = {
        "tenant": "t",
        "task_class": TaskClass.QA,
        "domain": "",
        "bases": {SMALL: 0.8},
        "model": SMALL,
    }
    return Decided(request_id=request_id, propensity=1.0, **(parts | more))


@given(st.permutations(["decide", "check", "climb", "end", "tell"]))
def test_a_plan_that_climbed_is_told_once_its_end_and_a_rating_are_known(order: list[str]):
    joiner = Joiner()
    acts: dict[str, Callable[[], object]] = {
        "decide": lambda: joiner.decide(of()),
        "check": lambda: joiner.check("a", DOUBTED),
        "climb": lambda: joiner.end("a", first=False),
        "end": lambda: joiner.end("a", first=False, micros=700),
        "tell": lambda: joiner.tell("a", 1.0, "human"),
    }
    found = []
    for act in order:
        acts[act]()
        if (whole := joiner.whole("a")) is not None:
            found.append(whole)
    *before, last = found
    assert (last.final, last.kind, last.micros, last.spoken) == (1.0, "human", 700, True)
    assert last.good == posterior(0.8, DOUBTED)
    assert [each.counted for each in found] == [True] + [False] * len(before), "new once"
    assert all(not each.spoken for each in before), "told before only where the guardrail's word came last"
    for act in order:
        acts[act]()
        assert joiner.whole("a") is None
    joiner.tell("a", 0.0, "program")
    surer = joiner.whole("a")
    assert surer is not None
    assert (surer.final, surer.counted) == (0.0, False)


def test_one_that_did_not_climb_or_was_not_rated_is_none():
    joiner = Joiner()
    joiner.decide(of("a"))
    joiner.end("a", first=True, micros=300)
    outcome = joiner.tell("a", 1.0, "human")
    assert outcome is not None
    assert (outcome.final, outcome.micros) == (None, 300)
    assert joiner.whole("a") is None
    joiner.decide(of("b"))
    joiner.end("b", first=False, micros=700)
    joiner.check("b", DOUBTED)
    assert joiner.whole("b") is None
    assert joiner.whole("nobody") is None


def test_what_was_whole_before_a_restart_is_not_told_as_new():
    joiner = Joiner()
    joiner.decide(of(), fresh=False)
    joiner.end("a", first=False, micros=700, fresh=False)
    joiner.tell("a", 1.0, "human", fresh=False)
    whole = joiner.whole("a")
    assert whole is not None
    assert not whole.counted


# -- reading --


@pytest.mark.parametrize(("check", "ratio"), [(LOGPROB, DOUBTED), (TRUNCATED, 0.0)])
def test_the_learner_reads_a_climb_from_the_flow(check: str, ratio: float):
    found, first = study(view=judge), handed_on("r-1")
    found.take(
        [
            first,
            climbed(first, 1, said(check, Action.ESCALATE)),
            ended("r-1", steps=2, cost_micros=900, model=LARGE),
            rated("r-1", 1.0, by="human"),
        ]
    )
    (kept,) = found.learner._outcomes.values()
    assert (kept.final, kept.micros) == (1.0, 900)
    assert kept.good == pytest.approx(posterior(kept.decided.bases[SMALL], ratio), abs=0.01)
    assert kept.decided.bases.keys() == {SMALL, "middle@1", LARGE}, "of later models, too"
    (option,) = kept.decided.options
    assert [stage.model for stage in option.stages] == [SMALL, "middle@1", LARGE]
    assert [stage.checked for stage in option.stages] == [True, True, False]
    assert seen(found) == 0.1, "the guardrail's word; the rating is of another model's answer"
    assert found.learner.heard == 1


# -- choosing --

ROUTE = Route(id="all", plans=("cascade", "best", "cheap"), cost_weight=0.3)


def chosen(experience: Experience, rules: Snapshot) -> Choice:
    asked = look_through(request("Name three birds.", task_hint="qa"))
    return decide(asked, rules, NO_SIGNALS, NOW_MS, context=context(), experience=experience)


@pytest.mark.parametrize("weight", [0.02, 0.1, 0.3, 0.7, 2.0])
@pytest.mark.parametrize("good", [0.0, 0.5, 1.0])
def test_replay_prefers_the_plan_that_a_decision_takes(weight: float, good: float):
    rules = snapshot(routes=(ROUTE.model_copy(update={"cost_weight": weight}),))
    decision = chosen(Experience(version="v", counters=counted(SMALL, good, 60, 0.45)), rules).decision
    found = read_decision(decision, "default", rules)
    assert found is not None
    found = with_options(found, look_through(request("Name three birds.", task_hint="qa")), rules)
    said_of = {ref: after for ref, (_, after) in orjson.loads(decision.signals)["learned"]["good"].items()}
    assert preferred(found.options, said_of) == decision.plan_id
    for option in found.options:
        quality, cost = expected([(said_of[stage.model], stage.cost, stage.checked) for stage in option.stages])
        row = decision.candidate_plan.index(option.plan)
        assert quality == pytest.approx(decision.candidate_quality[row], abs=1e-3)
        assert cost == pytest.approx(found.cost_weight * decision.candidate_cost_micros[row], abs=found.cost_weight)


def test_where_a_plan_is_gone_first_models_are_compared():
    rules = snapshot()
    found = read_decision(chosen(Experience(version="v"), rules).decision, "default", rules)
    assert found is not None
    others = snapshot(plans=rules.catalogue.plans[1:], routes=(Route(id="all", plans=("best", "cheap")),))
    assert with_options(found, look_through(request()), others).options == ()


# -- replaying --

CLIMB = Option("climb", (Stage(SMALL, 0.05, checked=True), Stage(LARGE, 0.4, checked=False)))
DIRECT = Option("direct", (Stage(LARGE, 0.4, checked=False),))
PLANS = (Planned("climb", SMALL, 0.5, 0.2), Planned("direct", LARGE, 0.5, 0.4))
BASES = {SMALL: 0.5, LARGE: 0.95}


def planned(request_id: str, plan: str, x: float = 0.0) -> Decided:
    model = SMALL if plan == "climb" else LARGE
    return of(
        request_id,
        model=model,
        plan=plan,
        plans=PLANS,
        costs={SMALL: 0.2, LARGE: 0.4},
        options=(CLIMB, DIRECT),
        cost_weight=1e-3,
        bases=BASES,
        columns=(x, 0.0),
    )


def of_plan(good_: float, request_id: str, plan: str, x: float, micros: int, **more: Any) -> Outcome:
    return Outcome(decided=planned(request_id, plan, x), good=good_, kind="human", micros=micros, **more)


def test_a_climb_is_worth_its_final_answer_less_all_that_it_cost():
    learner = Learner({}, cost_weight=0.0)
    logged = learner._logged(of_plan(0.3, "a", "climb", 0.0, 450, final=1.0))
    assert logged.value == pytest.approx(1 - 0.45)
    assert logged.propensity == 0.5
    assert logged.current_error > 0
    silent = learner._logged(of_plan(0.5, "a", "climb", 0.0, 450, final=1.0, spoken=False))
    assert (silent.value, silent.current_error) == (logged.value, 0.0)


def test_policies_are_compared_by_plan():
    """Where small is bad a cascade costs both; heads that know it go to the large model at once."""
    columns = np.array([[x, 0.0] for x in (-1.0, 1.0) * 50], np.float32)
    line = fit_line(columns, (columns[:, 0] > 0).astype(np.float32))
    learner = Learner({}, cost_weight=0.0)
    learner.candidate = Heads(version=1, lines={SMALL: line._replace(slopes=line.slopes * 10)}, forests={})
    for number in range(200):  # half of its answers are good, whatever was asked: nobody doubts that any more
        learner.counters.add(of_plan(number % 2, f"n{number}", "climb", 0.0, 50))
    for x, plan in ((-3.0, "direct"), (3.0, "climb")):
        logged = learner._logged(of_plan(1.0, "a", plan, x, 400))
        assert logged.candidate == 1.0
        logged = learner._logged(of_plan(1.0, "a", "climb" if plan == "direct" else "direct", x, 400))
        assert logged.candidate == 0.0


def test_heads_learn_of_answers_that_were_caught_and_not_of_silence():
    """Of released answers all are good: without those that were caught, the first model would look perfect."""

    def learnt(**climb: Any) -> float:
        learner = Learner({}, cost_weight=0.0)
        for number in range(BATCH):
            if number % 2:
                learner.learn(of_plan(1.0, f"n{number}", "climb", float(number % 7), 50))
            else:
                learner.learn(of_plan(0.1, f"n{number}", "climb", float(number % 7), 450, final=1.0, **climb))
        return float(learner.candidate.good(np.zeros((1, 2), np.float32))[SMALL][0])

    assert learnt() == pytest.approx(0.55, abs=0.05)
    assert learnt(spoken=False) == pytest.approx(1.0, abs=0.05)
