"""Learning from outcomes: joined once, counted at once, promoted only on evidence, and upwards while in doubt."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.classifier.learning.counters import Counters
from agents.classifier.learning.heads import LEAST, NOTHING, retrain
from agents.classifier.learning.joiner import Joiner
from agents.classifier.learning.learner import BATCH, Asked, Learner, Mode, held_out
from agents.classifier.learning.outcomes import Decided, Outcome, decided_of, goodness
from agents.classifier.learning.replay import LEAST_OUTCOMES, Logged, compare
from schemas.edges import Feedback
from schemas.enums import TaskClass
from tests.agents.deciding import NOW_MS, context, request, snapshot

CHEAP, DEAR = "small@1", "large@1"


def decided(request_id: str = "r", model: str = CHEAP, propensity: float = 0.5, **more) -> Decided:
    parts = {"tenant": "t", "task_class": TaskClass.QA, "domain": "science"} | more
    return Decided(request_id=request_id, model=model, propensity=propensity, **parts)


def outcome(good: float, request_id: str = "r", **more) -> Outcome:
    return Outcome(decided=decided(request_id, **more), good=good, kind="human")


@given(st.permutations(["decide", "end", "tell"]))
def test_a_decision_its_end_and_a_word_meet_in_any_order(order: list[str]):
    joiner = Joiner()
    acts = {
        "decide": lambda: joiner.decide(decided("a")),
        "end": lambda: joiner.end("a", first=True),
        "tell": lambda: joiner.tell("a", 1.0, "human"),
    }
    found = [acts[act]() for act in order]
    assert found[:2] == [None, None]
    assert found[2] is not None
    assert (found[2].good, found[2].kind, found[2].counted) == (1, "human", True)
    assert [acts[act]() for act in order] == [None, None, None]


def answered(joiner: Joiner, request_id: str, *, first: bool = True) -> None:
    joiner.decide(decided(request_id))
    joiner.end(request_id, first=first)


def test_repeats_change_nothing_and_surer_words_do():
    joiner = Joiner()
    answered(joiner, "a")
    assert joiner.check("a", 0.0) is not None
    assert joiner.check("a", 0.0) is None
    assert joiner.decide(decided("a")) is None
    surer = joiner.tell("a", 1.0, "program")
    assert surer is not None
    assert (surer.good, surer.earlier) == (1, (0.0, "guardrail"))
    assert joiner.tell("a", 0.0, "human") is None


def test_a_word_on_a_later_models_answer_says_nothing_of_the_first():
    joiner = Joiner()
    answered(joiner, "a", first=False)
    assert joiner.tell("a", 1.0, "human") is None
    refused = joiner.check("a", 0.0)
    assert refused is not None
    assert refused.good == 0


def test_what_was_complete_before_a_restart_is_not_told_as_new():
    joiner = Joiner()
    joiner.decide(decided("a"), fresh=False)
    joiner.end("a", first=True, fresh=False)
    before = joiner.tell("a", 1.0, "human", fresh=False)
    assert before is not None
    assert not before.counted
    joiner.decide(decided("b"), fresh=False)
    joiner.end("b", first=True, fresh=False)
    after = joiner.tell("b", 1.0, "human")
    assert after is not None
    assert after.counted
    assert joiner.tell("a", 0.0, "human") is None
    surer = joiner.tell("a", 0.0, "program")
    assert surer is not None
    assert surer.counted


def test_what_waits_is_bounded():
    joiner = Joiner(waiting=2)
    for name in "abc":
        answered(joiner, name)
    assert joiner.tell("b", 1.0, "human") is not None
    assert len(joiner) == 2
    assert "a" not in joiner
    assert joiner.tell("a", 1.0, "human") is None
    assert len(joiner) == 2


def test_a_word_out_of_range_is_refused():
    with pytest.raises(ValueError, match="between 0 and 1"):
        Joiner().tell("a", 1.5, "human")


def test_what_feedback_says():
    def said(**more) -> float | None:
        return goodness(Feedback(feedback_id="f", request_id="r", given_at_ms=1, **more))

    assert said(rating=0.3) == 0.3
    assert said(correct=True, rating=0.3) == 1
    assert said(reason="hm") is None


def test_a_recorded_decision_becomes_what_is_learnt_from():
    from agents.classifier.core import decide
    from agents.classifier.prompt import look_through
    from agents.signals import NO_SIGNALS

    choice = decide(look_through(request()), snapshot(), NO_SIGNALS, NOW_MS, context=context(), exploration=0.3)
    found = decided_of(choice.decision, "default", columns=(1.0,))
    assert found is not None
    assert found.model == choice.decision.model
    # Two of three plans begin with the same model: one choice, as far as that model's answers go.
    assert found.propensity == pytest.approx(0.7 + 2 * 0.1)
    assert found.costs.keys() == {CHEAP, DEAR}
    assert found.costs[DEAR] > found.costs[CHEAP] > 0


def test_counters_know_an_outcome_at_once():
    counters = Counters({CHEAP: {TaskClass.QA: 0.6, TaskClass.MATH: 0.2}})
    assert counters.share(CHEAP, TaskClass.QA) == 0.6
    assert counters.share(CHEAP, TaskClass.CODE) == pytest.approx(0.4)
    assert counters.share("unknown@1", TaskClass.QA) == 0.5
    before = counters.share(CHEAP, TaskClass.QA, "science", "t")
    counters.add(outcome(1.0))
    assert counters.share(CHEAP, TaskClass.QA, "science", "t") > before


def test_a_tenant_starts_with_what_is_known_of_all_and_ends_with_its_own():
    counters = Counters()
    for number in range(200):
        counters.add(outcome(1.0, str(number), tenant="many", propensity=1.0))
    assert counters.share(CHEAP, TaskClass.QA, "science", "new") > 0.9
    for number in range(100):
        counters.add(outcome(0.0, f"n{number}", tenant="new", propensity=1.0))
    assert counters.share(CHEAP, TaskClass.QA, "science", "new") < 0.3
    assert counters.share(CHEAP, TaskClass.QA, "science", "many") > 0.6


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.001, 1)), max_size=30))
def test_shares_stay_shares(told: list[tuple[float, float]]):
    counters = Counters()
    for number, (good, propensity) in enumerate(told):
        counters.add(outcome(good, str(number), propensity=propensity))
    share = counters.share(CHEAP, TaskClass.QA, "science", "t")
    assert 0 <= counters.careful(CHEAP, TaskClass.QA, "science", "t") <= share <= 1


def test_a_cold_start_goes_up_not_down():
    learner = Learner({CHEAP: 0.1, DEAR: 1.0}, cost_weight=0.05)
    assert learner.choose(Asked(task_class=TaskClass.QA, columns=(0.0,))) == DEAR


def stream(learner: Learner, count: int) -> None:
    """Requests whose first feature decides whether the cheap model is good enough; the dear one always is."""
    random = np.random.default_rng(5)
    for number in range(count):
        x = float(random.normal())
        model = CHEAP if random.random() < 0.5 else DEAR
        good = 1.0 if model == DEAR or x > 0 else 0.0
        columns = (x, float(random.normal()))
        learner.learn(outcome(good, f"s{number}", model=model, columns=columns))


def test_heads_are_promoted_when_they_win_and_then_decide():
    learner = Learner({CHEAP: 0.1, DEAR: 1.0}, cost_weight=0.3)
    stream(learner, 9 * BATCH)
    assert learner.heads.version > 0
    assert learner.numbered[-1][1].outcomes >= LEAST_OUTCOMES
    assert learner.choose(Asked(task_class=TaskClass.QA, columns=(2.0, 0.0))) == CHEAP
    assert learner.choose(Asked(task_class=TaskClass.QA, columns=(-2.0, 0.0))) == DEAR


def test_heads_that_foresee_nothing_stay_in_the_shadow():
    learner = Learner({CHEAP: 0.1, DEAR: 1.0}, cost_weight=0.1)
    random = np.random.default_rng(2)
    for number in range(4 * BATCH):
        columns = tuple(random.normal(size=8).tolist())
        model = CHEAP if random.random() < 0.5 else DEAR
        learner.learn(outcome(float(random.random() < 0.5), f"n{number}", model=model, columns=columns))
    assert learner.candidate.version == 4
    assert learner.heads is NOTHING


def test_bypass_learns_nothing():
    learner = Learner({CHEAP: 0.1, DEAR: 1.0}, cost_weight=0.1, mode=Mode.BYPASS)
    stream(learner, 2 * BATCH)
    assert learner.candidate is NOTHING
    assert learner.counters.seen(CHEAP, TaskClass.QA) == 0


def test_held_out_requests_train_no_head():
    names = [f"x{number}" for number in range(2000)]
    share = sum(map(held_out, names)) / len(names)
    assert 0.15 < share < 0.25


def test_a_model_with_few_outcomes_gets_no_head():
    few = [outcome(1.0, str(number), columns=(0.0,)) for number in range(LEAST - 1)]
    assert not retrain(few, 1, 0).lines


def logged(value: float, *, candidate: bool, current: bool, better: float = 0.0) -> Logged:
    return Logged(
        value=value,
        propensity=0.5,
        current=float(current),
        candidate=float(candidate),
        current_error=0.3 + better,
        candidate_error=0.3,
    )


def test_replay_values_what_a_policy_would_have_chosen():
    log = [logged(1.0, candidate=True, current=False), logged(0.0, candidate=False, current=True)] * 100
    found = compare(log)
    assert (found.candidate, found.current) == pytest.approx((1, 0))
    assert not found.promoted  # it foresees no better
    noise = np.random.default_rng(1).normal(0.05, 0.1, len(log))
    better = [
        Logged(
            value=each.value,
            propensity=each.propensity,
            current=each.current,
            candidate=each.candidate,
            current_error=float(each.current_error + shift),
            candidate_error=each.candidate_error,
        )
        for each, shift in zip(log, noise, strict=True)
    ]
    assert compare(better).promoted
    assert not compare(better[: LEAST_OUTCOMES - 2]).promoted


def test_what_has_no_propensity_can_not_be_replayed():
    with pytest.raises(ValueError, match="propensity"):
        compare([Logged(value=1, propensity=0, current=1, candidate=1, current_error=0, candidate_error=0)])
    assert not compare([]).promoted
