"""``decide``: the choice, what it records, and how a request ends that nobody may or can take."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.classifier.core import (
    VERSION,
    Choice,
    CostImpossibleError,
    DeadlineImpossibleError,
    NoRouteError,
    NotPermittedError,
    classify,
    decide,
)
from agents.classifier.features import extract
from agents.classifier.prompt import TOKENS_OF_MEDIA, TOKENS_OF_MESSAGE, look_through, tokens_of
from agents.signals import NO_SIGNALS, Signals
from registry.snapshot import Snapshot
from schemas.catalogue import Pattern, Plan, Policies, Route, RouteWhen, Rule
from schemas.edges import Request
from schemas.enums import DataClass, Status, TaskClass
from schemas.errors import DeniedError
from schemas.headers import JSON
from tests.agents.deciding import CODEC, MODELS, NOW_MS, context, model, request, snapshot, step

MATH = "A train travels 120 km in 1.5 hours. What is its average speed in km per hour?"


def choose(
    prompt: str = MATH,
    rules: Snapshot | None = None,
    *,
    signals: Signals = NO_SIGNALS,
    exploration: float = 0.0,
    ask: dict[str, Any] | None = None,
    **more: Any,
) -> Choice:
    return decide(
        look_through(request(prompt, **(ask or {}))),
        rules or snapshot(),
        signals,
        NOW_MS,
        context=context(**more),
        exploration=exploration,
    )


def test_a_decision_explains_itself():
    rules = snapshot(number=5)
    signals = Signals(live_tiers=frozenset({"premium", "fast", "balanced"}), budget_left_micros=2_000)
    choice = choose(rules=rules, signals=signals)
    decision = choice.decision
    assert decision.task_class is TaskClass.MATH
    assert (decision.stage, decision.classifier_version) == ("surface", VERSION)
    assert decision.feature_hash == extract(MATH).hash()
    assert (decision.route_id, decision.plan_id) == ("all", choice.plan.id)
    assert decision.candidate_plan == ("cascade", "best", "cheap")
    assert decision.candidate_tier == ("fast", "premium", "fast")
    assert decision.candidate_model == ("small@1", "large@1", "small@1")
    chosen = decision.candidate_plan.index(decision.plan_id)
    assert decision.candidate_propensity[chosen] == 1.0
    assert decision.candidate_score[chosen] == max(decision.candidate_score)
    assert decision.candidate_excluded == ("", "", "")
    assert orjson.loads(decision.signals) == {
        "budget_left_micros": 2000,
        "live_tiers": ["balanced", "fast", "premium"],
    }
    assert (decision.registry_number, decision.registry_hash) == (5, rules.hash)
    assert decision.policy_hash == rules.policy_hash
    assert decision.thresholds["cost_weight"] == 0.3
    assert decision.thresholds["left_ms"] == 60_000
    assert decision.seed == 0
    assert CODEC.decode(type(decision), CODEC.encode(decision)) == decision


def test_the_weight_of_cost_decides_between_good_and_cheap():
    assert choose(rules=snapshot(routes=(Route(id="r", plans=("best", "cheap"), cost_weight=0.0),))).plan.id == "best"
    assert choose(rules=snapshot(routes=(Route(id="r", plans=("best", "cheap"), cost_weight=9.0),))).plan.id == "cheap"


def test_equal_candidates_are_taken_in_the_order_of_the_route():
    plans = tuple(Plan(id=name, pattern=Pattern.ROUTER, steps=(step("fast", "small"),)) for name in ("b", "a"))
    routes = (Route(id="r", plans=("b", "a")),)
    assert choose(rules=snapshot(plans=plans, routes=routes)).plan.id == "b"


def test_hint_then_rule_then_surface():
    rule = Rule(id="sql", pattern=r"\bselect\b", task_class=TaskClass.CODE)
    rules = snapshot(policies=Policies(rules=(rule,)))
    asked = look_through(request("select all rows"))
    guess = classify(asked, extract(asked.text), rules)
    assert (guess.task_class, guess.confidence, guess.stage, guess.rule_id) == (TaskClass.CODE, 1.0, "rule", "sql")
    hinted = look_through(request("select all rows", task_hint="chat"))
    guess = classify(hinted, extract(hinted.text), rules)
    assert (guess.task_class, guess.confidence, guess.stage, guess.rule_id) == (TaskClass.CHAT, 1.0, "hint", "")
    other = look_through(request(MATH))
    assert classify(other, extract(other.text), rules).stage == "surface"
    assert choose("select all rows", rules).decision.rule_id == "sql"


@pytest.mark.parametrize(
    ("when", "fits"),
    [
        (RouteWhen(task_classes=frozenset({TaskClass.MATH})), True),
        (RouteWhen(task_classes=frozenset({TaskClass.CODE})), False),
        (RouteWhen(tenants=frozenset({"default"})), True),
        (RouteWhen(tenants=frozenset({"narrow"})), False),
        (RouteWhen(impacts=frozenset({"normal"})), True),
        (RouteWhen(impacts=frozenset({"critical"})), False),
        (RouteWhen(data_classes=frozenset({DataClass.INTERNAL})), True),
        (RouteWhen(data_classes=frozenset({DataClass.PUBLIC})), False),
        (RouteWhen(min_confidence=0.01), True),
        (RouteWhen(min_confidence=1.0), False),
        (RouteWhen(max_prompt_chars=len(MATH)), True),
        (RouteWhen(max_prompt_chars=len(MATH) - 1), False),
        (RouteWhen(min_prompt_chars=len(MATH)), True),
        (RouteWhen(min_prompt_chars=len(MATH) + 1), False),
    ],
)
def test_the_first_route_whose_conditions_hold(when: RouteWhen, fits: bool):
    routes = (Route(id="first", when=when, plans=("best",)), Route(id="rest", plans=("cheap",)))
    choice = choose(rules=snapshot(routes=routes))
    assert choice.decision.route_id == ("first" if fits else "rest")


def test_no_route_at_all():
    rules = snapshot(routes=(Route(id="r", when=RouteWhen(tenants=frozenset({"narrow"})), plans=("best",)),))
    with pytest.raises(NoRouteError, match="no route takes a request of class math") as raised:
        choose(rules=rules)
    assert (raised.value.status, raised.value.code) == (Status.FAILED, "routing.no-candidate")


@pytest.mark.parametrize(
    ("arguments", "kind", "status"),
    [
        ({"tenant": "narrow", "data_class": DataClass.RESTRICTED}, NotPermittedError, Status.REFUSED),
        ({"ask": {"cost_limit_micros": 1}}, CostImpossibleError, Status.REFUSED),
        ({"tenant": "narrow", "ask": {"cost_limit_micros": 1}}, CostImpossibleError, Status.REFUSED),
        ({"signals": Signals(budget_left_micros=0)}, CostImpossibleError, Status.REFUSED),
        ({"deadline_ms": NOW_MS + 100}, DeadlineImpossibleError, Status.REFUSED),
        ({"tenant": "narrow", "deadline_ms": NOW_MS + 100}, DeadlineImpossibleError, Status.REFUSED),
        ({"ask": {"required_capabilities": ["flying"]}}, NoRouteError, Status.FAILED),
        ({"signals": Signals(live_tiers=frozenset({"elsewhere"}))}, NoRouteError, Status.FAILED),
        (
            {"tenant": "narrow", "signals": Signals(open_breakers=frozenset({"small@1"}))},
            NoRouteError,
            Status.FAILED,
        ),
    ],
)
def test_how_a_request_ends_that_nobody_takes(arguments: dict[str, Any], kind: type[NoRouteError], status: Status):
    with pytest.raises(NoRouteError) as raised:
        choose(**arguments)
    assert type(raised.value) is kind
    assert raised.value.status is status
    for plan in ("cascade", "best", "cheap"):
        assert f"{plan}: " in str(raised.value)


def test_a_specialist_for_other_work_does_not_make_a_refusal_a_failure():
    solver = model("solver", 1, 1.0, task_classes=frozenset({TaskClass.CODE}))
    plan = Plan(id="p", pattern=Pattern.SPECIALIST, steps=(step("fast", "solver"), step("premium", "large")))
    rules = snapshot(models=(*MODELS, solver), plans=(plan,), routes=(Route(id="r", plans=("p",)),))
    with pytest.raises(NotPermittedError):
        choose(rules=rules, tenant="narrow")


def test_an_unknown_tenant_is_denied():
    with pytest.raises(DeniedError, match="tenant ghost is not known"):
        choose(tenant="ghost")


def test_an_excluded_candidate_is_recorded_with_its_reason():
    decision = choose(signals=Signals(open_breakers=frozenset({"large@1"}))).decision
    assert decision.candidate_plan[1] == "best"
    assert decision.candidate_excluded[1].startswith("breaker: large@1")
    assert (decision.candidate_propensity[1], decision.candidate_score[1]) == (0.0, 0.0)


def test_the_lower_of_the_cost_limits_holds():
    assert choose(ask={"cost_limit_micros": 5_000}).cost_limit == 5_000
    assert choose().cost_limit is None
    rules = snapshot(tenants=(snapshot().catalogue.tenants[0].model_copy(update={"max_cost_micros": 4_000}),))
    assert choose(rules=rules, ask={"cost_limit_micros": 5_000}).cost_limit == 4_000


@given(
    request_id=st.uuids().map(str),
    exploration=st.floats(0, 1),
    breakers=st.frozensets(st.sampled_from(["small@1", "large@1", "middle@1"]), max_size=2),
)
def test_decisions_repeat_and_propensities_sum_to_one(request_id: str, exploration: float, breakers: frozenset[str]):
    signals = Signals(open_breakers=breakers)
    choice = choose(signals=signals, exploration=exploration, request_id=request_id)
    assert choice == choose(signals=signals, exploration=exploration, request_id=request_id)
    decision = choice.decision
    assert sum(decision.candidate_propensity) == pytest.approx(1.0)
    for excluded, propensity in zip(decision.candidate_excluded, decision.candidate_propensity, strict=True):
        assert bool(excluded) <= (propensity == 0.0)
    taken = decision.candidate_plan.index(decision.plan_id)
    assert decision.candidate_propensity[taken] > 0
    assert not decision.candidate_excluded[taken]


def test_exploration_takes_each_candidate_about_as_often_as_it_says():
    taken = [choose(exploration=0.6, request_id=f"r-{number}").decision for number in range(600)]
    best = max(range(3), key=lambda index: taken[0].candidate_propensity[index])
    for index, plan in enumerate(taken[0].candidate_plan):
        share = sum(decision.plan_id == plan for decision in taken) / len(taken)
        assert share == pytest.approx(0.6 if index == best else 0.2, abs=0.08)
    assert len({decision.seed for decision in taken}) == len(taken)


def conversation(*messages: dict[str, Any], **more: Any) -> Request:
    return CODEC.decode(Request, orjson.dumps({"messages": messages} | more), JSON)


def test_what_is_asked():
    asked = look_through(
        conversation(
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "first", "name": "ann"},
            {"role": "assistant", "content": "answer"},
            {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
            tools=[{"name": "search", "description": "finds"}],
            required_capabilities=["json"],
        )
    )
    assert asked.text == "one\ntwo"
    assert asked.capabilities == {"tools", "json"}
    assert "ann" in asked.texts, "a model is shown it, so a deny list must be"
    assert asked.chars == sum(map(len, asked.texts))
    assert any("search finds" in text for text in asked.texts)
    assert asked.tokens == sum(map(tokens_of, asked.texts)) + 4 * TOKENS_OF_MESSAGE


def test_a_picture_needs_a_model_that_sees():
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
    asked = look_through(conversation({"role": "user", "content": [{"type": "text", "text": "What is it?"}, picture]}))
    assert asked.capabilities == {"vision"}
    assert asked.tokens > TOKENS_OF_MEDIA
    choice = decide(asked, snapshot(), NO_SIGNALS, NOW_MS, context=context())
    assert choice.decision.model == "large@1"
    excluded = dict(zip(choice.decision.candidate_plan, choice.decision.candidate_excluded, strict=True))
    assert excluded["cheap"] == "capability: small@1 lacks vision"
