"""The routing slip: every pattern, outcome and position; what is forbidden later; how a plan ends."""

from datetime import timedelta
from itertools import product

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.plan import (
    BARRED,
    TRANSITIONS,
    End,
    Limits,
    Run,
    StepOutcome,
    StepState,
    advance,
    barrier,
    make_slip,
    onward,
)
from schemas.catalogue import ModelStatus, Pattern, Plan, Policies
from schemas.enums import DataClass, Status
from schemas.errors import CatalogueError
from schemas.flow import Slip
from tests.agents.deciding import CASCADE, MODELS, NOW_MS, PROMPT, catalogue, snapshot, step, with_policies

DEADLINE = NOW_MS + 60_000
STEPS = CASCADE.steps


def outcome(state: StepState) -> StepOutcome:
    return StepOutcome(state=state, code="" if state is StepState.ACCEPTED else "c", reason="why")


def slip_at(pattern: Pattern, index: int, length: int = 3) -> Slip:
    plan = Plan(id="p", pattern=pattern, steps=STEPS[:length])
    made = make_slip(plan, snapshot(plans=(plan.model_copy(update={"pattern": Pattern.CASCADE}),), routes=()))
    return Slip(plan_id=made.plan_id, plan_hash=made.plan_hash, pattern=pattern.value, index=index, steps=made.steps)


def expected(pattern: Pattern, state: StepState, *, last: bool, release: bool) -> Status | str:
    """The table in words: what a reader of the design would expect."""
    good = state is StepState.ACCEPTED or (state is StepState.DOUBTED and release)
    if state is StepState.REFUSED:
        return Status.REFUSED
    if pattern is Pattern.CASCADE and not last:
        return Status.ANSWERED if state is StepState.ACCEPTED else "next"
    if pattern is Pattern.PIPELINE and not last:
        return "next" if state is StepState.ACCEPTED else Status.FAILED
    return Status.ANSWERED if good else Status.FAILED


@pytest.mark.parametrize(
    ("pattern", "state", "index", "policy"),
    list(product(Pattern, StepState, range(3), ["release", "fail"])),
    ids=str,
)
def test_every_pattern_outcome_and_position(pattern: Pattern, state: StepState, index: int, policy: str):
    move = advance(slip_at(pattern, index), outcome(state), with_policies(on_exhausted=policy), NOW_MS, DEADLINE)
    wanted = expected(pattern, state, last=index == 2, release=policy == "release")
    if wanted == "next":
        assert move == Run(index + 1)
    else:
        assert isinstance(move, End)
        assert move.status is wanted
        assert (move.code == "") == (wanted is Status.ANSWERED)


def test_the_table_has_a_line_for_every_pattern_and_outcome():
    assert {(pattern, state) for pattern, line in TRANSITIONS.items() for state in line} == set(
        product(Pattern, StepState)
    )


@pytest.mark.parametrize("state", list(StepState))
def test_after_the_deadline_everything_expires(state: StepState):
    move = advance(slip_at(Pattern.CASCADE, 0), outcome(state), snapshot(), DEADLINE, DEADLINE)
    assert isinstance(move, End)
    assert (move.status, move.code) == (Status.EXPIRED, "deadline.exceeded")
    assert "on-fast" in move.reason


@given(
    pattern=st.sampled_from(Pattern),
    states=st.lists(st.sampled_from(StepState), min_size=8, max_size=8),
    length=st.integers(1, 3),
    killed=st.sets(st.sampled_from(["small", "middle", "large", "balanced", "premium"])),
    policy=st.sampled_from(["release", "fail"]),
)
def test_a_plan_ends_within_its_steps(pattern, states, length, killed, policy):
    rules = with_policies(on_exhausted=policy, kill_switch=frozenset(killed))
    slip = slip_at(pattern, 0, length)
    ran = [slip.steps[0].step_id]
    for state in states:
        move = advance(slip, outcome(state), rules, NOW_MS, DEADLINE)
        if isinstance(move, End):
            break
        assert move.index > slip.index
        slip = onward(slip, move.index)
        step_now = slip.steps[slip.index]
        assert not {*step_now.models, step_now.tier} & {f"{name}@1" for name in killed} | ({step_now.tier} & killed)
        ran.append(step_now.step_id)
        assert slip.index == len(ran) - 1
    else:
        pytest.fail("the plan never ended")
    assert len(ran) <= length
    assert len(ran) == len(set(ran))


def test_a_cascade_passes_over_what_was_forbidden_meanwhile():
    slip = slip_at(Pattern.CASCADE, 0)
    move = advance(
        slip, outcome(StepState.DOUBTED), with_policies(number=9, kill_switch=frozenset({"middle"})), NOW_MS, DEADLINE
    )
    assert move == Run(2)
    following = onward(slip, 2)
    assert [each.step_id for each in following.steps] == ["on-fast", "on-premium"]
    assert following.index == 1
    assert following.plan_hash == slip.plan_hash


def test_a_pipeline_does_not_pass_over_a_step():
    rules = with_policies(kill_switch=frozenset({"middle"}))
    move = advance(slip_at(Pattern.PIPELINE, 0), outcome(StepState.ACCEPTED), rules, NOW_MS, DEADLINE)
    assert isinstance(move, End)
    assert (move.status, move.code) == (Status.FAILED, BARRED)
    assert "kill switch on middle" in move.reason


def test_an_exhausted_cascade_says_what_it_passed_over():
    rules = with_policies(kill_switch=frozenset({"balanced", "large"}))
    move = advance(slip_at(Pattern.CASCADE, 0), outcome(StepState.DOUBTED), rules, NOW_MS, DEADLINE)
    assert isinstance(move, End)
    assert move.status is Status.FAILED
    assert "why" in move.reason
    assert "step on-balanced: kill switch on" in move.reason
    assert "kill switch on large" in move.reason


def test_an_answer_against_its_schema_is_not_released_even_where_doubts_are():
    move = advance(
        slip_at(Pattern.CASCADE, 2), outcome(StepState.INVALID), with_policies(on_exhausted="release"), NOW_MS, DEADLINE
    )
    assert isinstance(move, End)
    assert move.status is Status.FAILED


def test_barriers():
    pinned = slip_at(Pattern.CASCADE, 0).steps[2]
    rules = snapshot()
    assert barrier(pinned, rules, 10_000) == ""
    assert barrier(pinned, rules, 10_000, Limits(cost_left_micros=1, tiers=frozenset({"premium"}))) == ""
    assert barrier(pinned, rules, 2_999) == "large@1 takes 3000 ms and 2999 ms are left"
    assert "cost allowance" in barrier(pinned, rules, 10_000, Limits(cost_left_micros=0))
    assert "may not use tier premium" in barrier(pinned, rules, 10_000, Limits(tiers=frozenset({"fast"})))
    assert "restricted" in barrier(pinned, rules, 10_000, Limits(data_class=DataClass.RESTRICTED))
    gone = snapshot(4, models=MODELS[:2], plans=(Plan(id="p", pattern=Pattern.CASCADE, steps=STEPS[:2]),), routes=())
    assert "not in the catalogue any more (snapshot 4)" in barrier(pinned, gone, 10_000)
    retired = (MODELS[2].model_copy(update={"status": ModelStatus.RETIRED}), *MODELS[:2])
    assert "large@1 is retired" in barrier(pinned, snapshot(models=retired, plans=(CASCADE,), routes=()), 10_000)


def test_one_model_left_is_enough():
    plan = Plan(id="p", pattern=Pattern.CASCADE, steps=(step("fast", "small"), step("balanced", "middle", "small")))
    slip = make_slip(plan, snapshot(plans=(plan,), routes=()))
    rules = with_policies(kill_switch=frozenset({"middle"}))
    assert advance(slip, outcome(StepState.FAILED), rules, NOW_MS, DEADLINE) == Run(1)


def test_a_slip_pins_versions_prompt_and_parameters():
    newer = MODELS[0].model_copy(update={"version": "2"})
    plan = Plan(
        id="p",
        pattern=Pattern.ROUTER,
        steps=(
            step(
                "fast",
                "small",
                "middle@1",
                prompt="brief",
                parameters={"temperature": 0, "samples": 3},
                timeout=timedelta(seconds=1.5),
            ),
        ),
    )
    rules = snapshot(models=(*MODELS, newer), plans=(plan,), routes=())
    slip = make_slip(plan, rules)
    pinned = slip.steps[0]
    assert pinned.models == ("small@2", "middle@1")
    assert (pinned.prompt, pinned.prompt_hash) == (PROMPT.ref, rules.prompt_hash("brief"))
    assert orjson.loads(pinned.parameters) == {"samples": 3, "temperature": 0}
    assert pinned.parameters.index("samples") < pinned.parameters.index("temperature")
    assert pinned.timeout_ms == 1500
    assert slip.plan_hash == rules.plan_hash("p")


def test_a_slip_leaves_out_what_may_not_be_called():
    rules = snapshot()
    slip = make_slip(CASCADE, rules, start=1, models=((), ("large@1",)))
    assert [(each.step_id, each.models) for each in slip.steps] == [("on-premium", ("large@1",))]
    assert slip.index == 0
    with pytest.raises(ValueError, match="no step that may run"):
        make_slip(CASCADE, rules, models=((), ()))
    with pytest.raises(CatalogueError, match="nobody"):
        make_slip(Plan(id="cascade", pattern=Pattern.ROUTER, steps=(step("fast", "nobody"),)), rules)


def test_the_catalogue_of_these_tests_has_no_policies_by_accident():
    assert catalogue().policies == Policies()
