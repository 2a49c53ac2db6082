"""Hard limits, each with its reason, and what a plan is worth."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agents.classifier.filters import (
    KEEPS_BAD,
    KEEPS_GOOD,
    Candidate,
    Need,
    _weigh_each,
    expected,
    weigh,
)
from agents.classifier.views import Why, views
from agents.signals import NO_SIGNALS, Signals
from registry.snapshot import Snapshot
from schemas.catalogue import Accept, Pattern, Plan, Route, Tenant
from schemas.enums import DataClass, TaskClass
from tests.agents.deciding import CASCADE, MODELS, PLANS, model, snapshot, step, with_policies

NEED = Need(tokens_in=1000, tokens_out=100, left_ms=60_000, cost_limit=None, confidence=1.0)


def candidate(
    plan: Plan = CASCADE,
    *,
    need: Need = NEED,
    signals: Signals = NO_SIGNALS,
    rules: Snapshot | None = None,
    tenant: str = "default",
    data_class: DataClass = DataClass.INTERNAL,
    capabilities: frozenset[str] = frozenset(),
    task_class: TaskClass = TaskClass.QA,
) -> Candidate:
    route = Route(id="r", plans=(plan.id,))
    rules = rules or snapshot(plans=(plan,), routes=(route,))
    found = rules.tenant(tenant)
    assert found
    (view,) = views(route, rules, tenant=found, data_class=data_class, capabilities=capabilities, task_class=task_class)
    return weigh(view, need, signals)


def whys(found: Candidate) -> set[Why]:
    return {exclusion.why for exclusion in found.exclusions}


def router(name: str) -> Plan:
    tier = {"small": "fast", "middle": "balanced", "large": "premium"}[name]
    return Plan(id="one", pattern=Pattern.ROUTER, steps=(step(tier, name),))


def test_without_limits_a_plan_begins_with_its_first_step():
    found = candidate()
    assert not found.exclusions
    assert (found.start, found.tier, found.model) == (0, "fast", "small@1")
    assert found.models == (("small@1",), ("middle@1",), ("large@1",))


@pytest.mark.parametrize(
    ("why", "arguments", "text"),
    [
        (Why.RIGHTS, {"tenant": "narrow"}, "tenant narrow may not use tier premium"),
        (Why.DATA_CLASS, {"data_class": DataClass.RESTRICTED}, "large@1 may not be shown restricted content"),
        (Why.CAPABILITY, {"capabilities": frozenset({"audio", "tools"})}, "large@1 lacks audio"),
        (Why.CONTEXT, {"need": replace(NEED, tokens_in=127_901)}, "takes 128000 tokens, the request about 128001"),
        (Why.COST, {"need": replace(NEED, cost_limit=4_199)}, "costs about 4200 micro-units, 4199 are allowed"),
        (Why.DEADLINE, {"need": replace(NEED, left_ms=2_999)}, "takes 3000 ms, 2999 ms are left"),
        (Why.BREAKER, {"signals": Signals(open_breakers=frozenset({"large@1"}))}, "its calls fail"),
        (Why.NO_CONSUMER, {"signals": Signals(live_tiers=frozenset({"fast"}))}, "nobody works on tier premium"),
        (Why.DEADLINE, {"signals": Signals(latency_ms={"large@1": 60_001.0})}, "takes 60001 ms"),
    ],
)
def test_each_limit_removes_the_plan_and_says_why(why: Why, arguments: dict[str, Any], text: str):
    found = candidate(router("large"), **arguments)
    assert whys(found) == {why}
    assert text in str(found.exclusions[0])
    assert (found.quality, found.cost, found.models) == (0.0, 0.0, ())


@pytest.mark.parametrize("name", ["large", "large@1", "premium"])
def test_the_kill_switch_holds_for_models_and_tiers(name: str):
    rules = with_policies(kill_switch=frozenset({name}))
    route = Route(id="r", plans=("best",))
    (view,) = views(
        route,
        rules,
        tenant=Tenant(id="default"),
        data_class=DataClass.INTERNAL,
        capabilities=frozenset(),
        task_class=TaskClass.QA,
    )
    assert whys(weigh(view, NEED, NO_SIGNALS)) == {Why.PROHIBITED}


def test_exactly_at_a_limit_is_allowed():
    exact = replace(NEED, tokens_in=127_900, left_ms=3_000)
    assert not candidate(router("large"), need=exact).exclusions
    assert not candidate(router("large"), need=replace(NEED, cost_limit=4_200)).exclusions


def test_a_cascade_begins_where_it_can_and_keeps_what_may_work_later():
    found = candidate(signals=Signals(live_tiers=frozenset({"balanced", "premium"})))
    assert (found.start, found.model) == (1, "middle@1")
    assert found.models == (("middle@1",), ("large@1",))
    later = candidate(signals=Signals(open_breakers=frozenset({"large@1"})))
    assert later.models == (("small@1",), ("middle@1",), ("large@1",))


def test_a_cascade_drops_steps_that_never_may_run():
    assert candidate(need=replace(NEED, tokens_in=8_500)).models == (("large@1",),)
    poor = candidate(need=replace(NEED, cost_limit=600))
    assert poor.models == (("small@1",), ("middle@1",), ())


def test_a_fallback_takes_the_first_place_while_the_first_choice_is_out():
    plan = Plan(id="one", pattern=Pattern.ROUTER, steps=(step("fast", "small", "middle"),))
    assert candidate(plan).model == "small@1"
    found = candidate(plan, signals=Signals(open_breakers=frozenset({"small@1"})))
    assert (found.model, found.models, found.quality) == ("middle@1", (("middle@1", "small@1"),), 0.62)


def test_a_specialist_is_passed_over_for_other_work():
    solver = model("solver", 0, 0.99, task_classes=frozenset({TaskClass.MATH}))
    plan = Plan(id="one", pattern=Pattern.SPECIALIST, steps=(step("fast", "solver"), step("premium", "large")))
    rules = snapshot(models=(*MODELS, solver), plans=(plan,), routes=(Route(id="r", plans=("one",)),))
    assert candidate(plan, rules=rules, task_class=TaskClass.MATH).models == (("solver@1",),)
    assert candidate(plan, rules=rules, task_class=TaskClass.QA).models == (("large@1",),)


def test_an_ensemble_costs_what_all_of_its_members_cost():
    plan = Plan(id="one", pattern=Pattern.ENSEMBLE, steps=(step("premium", "middle", "large"),))
    found = candidate(plan)
    assert found.models == (("middle@1", "large@1"),)
    assert found.cost == pytest.approx(candidate(router("middle")).cost + candidate(router("large")).cost)
    assert found.quality == 0.85


def test_a_pipeline_is_not_run_yet_and_says_so():
    plan = Plan(id="one", pattern=Pattern.PIPELINE, steps=(step("fast", "small"), step("premium", "large")))
    assert whys(candidate(plan)) == {Why.NOT_DONE}


def test_prices_samples_and_prompt_templates_count():
    plain = candidate(router("small")).cost
    assert plain == pytest.approx((1000 * 100_000 + 100 * 400_000) / 1_000_000)
    thrice = Plan(id="one", pattern=Pattern.ROUTER, steps=(step("fast", "small", parameters={"samples": 3}),))
    assert candidate(thrice).cost == pytest.approx(3 * plain)
    prompted = Plan(id="one", pattern=Pattern.ROUTER, steps=(step("fast", "small", prompt="brief"),))
    assert candidate(prompted).cost > plain
    bounded = Plan(id="one", pattern=Pattern.ROUTER, steps=(step("fast", "small", parameters={"max_tokens": 10}),))
    assert candidate(bounded, need=replace(NEED, tokens_out=None)).cost < plain


def test_an_unsure_class_draws_quality_to_the_mean():
    uneven = model("uneven", 1, {TaskClass.QA: 1.0, TaskClass.CODE: 0.0})
    plan = Plan(id="one", pattern=Pattern.ROUTER, steps=(step("fast", "uneven"),))
    rules = snapshot(models=(*MODELS, uneven), plans=(plan,), routes=(Route(id="r", plans=("one",)),))
    assert candidate(plan, rules=rules, need=NEED).quality == 1.0
    assert candidate(plan, rules=rules, need=replace(NEED, confidence=0.5)).quality == 0.75
    assert candidate(plan, rules=rules, task_class=TaskClass.CHAT).quality == 0.5


def test_what_a_cascade_is_worth():
    quality, cost = expected([(0.5, 100.0, True), (0.8, 1000.0, False)])
    escalated = 1 - 0.5 * KEEPS_GOOD[True] - 0.5 * KEEPS_BAD[True]
    assert cost == pytest.approx(100 + escalated * 1000)
    assert quality == pytest.approx(0.5 * KEEPS_GOOD[True] + escalated * 0.8)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1e6), st.booleans()), min_size=1, max_size=4))
def test_expected_quality_is_a_share_and_cost_lies_between_the_first_step_and_all(stages):
    quality, cost = expected(stages)
    assert 0 <= quality <= 1 + 1e-9
    assert stages[0][1] <= cost * (1 + 1e-9) + 1e-9
    assert cost <= sum(price for _, price, _ in stages) * (1 + 1e-9) + 1e-9


TRICKY = Plan(
    id="tricky",
    pattern=Pattern.CASCADE,
    steps=(
        step("fast", "small", "middle", accept=Accept(min_logprob=-1.0)),
        step("balanced", "middle", parameters={"samples": 2, "max_tokens": 50}),
        step("premium", "large", "middle"),
    ),
)


@given(
    plan=st.sampled_from([*PLANS, TRICKY]),
    tokens_in=st.integers(0, 140_000),
    tokens_out=st.none() | st.integers(1, 10_000),
    left_ms=st.integers(1, 10_000),
    cost_limit=st.none() | st.integers(0, 5_000),
    confidence=st.floats(0, 1),
    breakers=st.frozensets(st.sampled_from([each.ref for each in MODELS])),
    tiers=st.none() | st.frozensets(st.sampled_from(["fast", "balanced", "premium"])),
    latency=st.dictionaries(st.sampled_from([each.ref for each in MODELS]), st.floats(0, 10_000)),
    data_class=st.sampled_from(DataClass),
    tenant=st.sampled_from(["default", "narrow"]),
    quiet=st.booleans(),
)
def test_the_shortcut_gives_the_same_answer(
    plan, tokens_in, tokens_out, left_ms, cost_limit, confidence, breakers, tiers, latency, data_class, tenant, quiet
):
    route = Route(id="r", plans=(plan.id,))
    rules = snapshot(plans=(*PLANS, TRICKY), routes=(route,))
    found = rules.tenant(tenant)
    assert found
    (view,) = views(
        route,
        rules,
        tenant=found,
        data_class=data_class,
        capabilities=frozenset(),
        task_class=TaskClass.MATH,
    )
    need = Need(
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        left_ms=left_ms,
        cost_limit=None if quiet else cost_limit,
        confidence=confidence,
    )
    signals = (
        Signals(live_tiers=tiers) if quiet else Signals(open_breakers=breakers, live_tiers=tiers, latency_ms=latency)
    )
    assert weigh(view, need, signals) == _weigh_each(view, need, signals)


def test_views_are_kept_apart_by_what_they_depend_on():
    slow = tuple(each.model_copy(update={"typical_latency": timedelta(hours=1)}) for each in MODELS)
    assert not candidate(router("large")).exclusions
    assert whys(candidate(router("large"), data_class=DataClass.RESTRICTED)) == {Why.DATA_CLASS}
    route = Route(id="r", plans=("one",))
    other = snapshot(models=slow, plans=(router("large"),), routes=(route,))
    assert whys(candidate(router("large"), rules=other)) == {Why.DEADLINE}
