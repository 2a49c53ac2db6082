"""The parts of learning: what doubt does, what a verdict says, calibration by route, and the published state."""

import hashlib
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.classifier.learning import counters as counting
from agents.classifier.learning.calibration import IDENTITY, Calibration, Correction
from agents.classifier.learning.counters import STRENGTH, Counters
from agents.classifier.learning.credit import credited
from agents.classifier.learning.heads import NOTHING, retrain
from agents.classifier.learning.outcomes import WEIGHT_OF_GUARDRAIL, Decided, Outcome
from agents.classifier.learning.packing import pack, unpack
from agents.classifier.learning.replay import Comparison
from agents.classifier.learning.state import State, read_state
from agents.classifier.learning.verdicts import posterior, ratio_of
from agents.classifier.metrics import calibration_error
from agents.guardrail.checks import DENY_LIST, LOGPROB, OUTCOME, TRUNCATED
from schemas.edges import Verdict
from schemas.enums import Action, TaskClass
from schemas.errors import UndecodableError

MODEL = "small@1"
shares = st.floats(0, 1)


def outcome(good: float, request_id: str = "r", kind: str = "human", **more: Any) -> Outcome:
    earlier = more.pop("earlier", None)
    parts: dict[str, Any] = {
        "tenant": "t",
        "task_class": TaskClass.QA,
        "domain": "",
        "model": MODEL,
        "propensity": 1.0,
    } | more
    return Outcome(decided=Decided(request_id=request_id, **parts), good=good, kind=kind, earlier=earlier)


# -- credit --


@given(shares, shares, st.floats(0, 0.5), st.booleans())
def test_doubt_never_leads_down(expected: float, base: float, doubt: float, dearest: bool):
    found = credited(expected, base, doubt, dearest=dearest)
    assert min(base, expected) <= found <= max(base, expected)
    if dearest:
        assert found >= expected
    else:
        assert found <= expected
    surer = credited(expected, base, doubt / 2, dearest=dearest)
    assert abs(surer - expected) <= abs(found - expected)


def test_what_nobody_knew_is_credited_with_what_it_surely_has():
    assert credited(0.5, None, 0.5, dearest=False) == 0
    assert credited(0.5, None, 0.5, dearest=True) == 0.5


# -- counters --


def test_what_was_expected_of_each_request_stays():
    """Answers as good as expected change nothing, whatever was expected of each."""
    counters = Counters()
    for number in range(300):
        expected = 0.9 if number % 2 else 0.1
        counters.add(outcome(expected, str(number), bases={MODEL: expected}))
    assert counters.share(MODEL, TaskClass.QA, "", "t", 0.9) == pytest.approx(0.9)
    assert counters.share(MODEL, TaskClass.QA, "", "t", 0.1) == pytest.approx(0.1)


def test_a_surer_word_takes_the_place_of_an_earlier_one():
    once, twice = Counters(), Counters()
    once.add(outcome(1.0, bases={MODEL: 0.5}))
    twice.add(outcome(0.2, kind="guardrail", bases={MODEL: 0.5}))
    assert twice.seen(MODEL, TaskClass.QA) == pytest.approx(WEIGHT_OF_GUARDRAIL)
    twice.add(outcome(1.0, earlier=(0.2, "guardrail"), bases={MODEL: 0.5}))
    assert twice.seen(MODEL, TaskClass.QA) == pytest.approx(once.seen(MODEL, TaskClass.QA))
    assert twice.share(MODEL, TaskClass.QA) == pytest.approx(once.share(MODEL, TaskClass.QA))


def test_cells_are_bounded_and_those_of_all_stay(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(counting, "MOST_CELLS", 40)
    counters = Counters()
    for number in range(200):
        counters.add(outcome(1.0, str(number), tenant=f"t{number}", domain=f"d{number % 3}"))
    assert len(list(counters.rows())) <= 41
    assert counters.seen(MODEL, TaskClass.QA) > 150


# -- verdicts --


def said(check: str, action: Action) -> Verdict:
    return Verdict(check=check, action=action)


def test_what_verdicts_say():
    assert ratio_of([said(TRUNCATED, Action.ESCALATE)], answered=False) == 0
    doubted = ratio_of([said(LOGPROB, Action.ESCALATE)], answered=True)
    passed = ratio_of([said(LOGPROB, Action.ALLOW)], answered=True)
    plain = ratio_of([], answered=True)
    assert doubted is not None
    assert passed is not None
    assert plain is not None
    assert 0 < doubted < 1 < plain < passed
    # A policy, a provider that is away, a deadline: nothing that the model could help.
    assert ratio_of([said(DENY_LIST, Action.REFUSE)], answered=False) is None
    assert ratio_of([said(OUTCOME, Action.ESCALATE)], answered=False) is None
    assert ratio_of([], answered=False) is None


@given(st.floats(0.01, 0.99))
def test_checks_that_do_what_is_expected_of_them_change_nothing(prior: float):
    """The mean over verdicts, as often as each is expected, is what was expected before."""
    passed, doubted = (ratio_of([said(LOGPROB, action)], answered=True) for action in (Action.ALLOW, Action.ESCALATE))
    assert passed is not None
    assert doubted is not None
    passes = prior * 0.85 + (1 - prior) * 0.6
    mean = passes * posterior(prior, passed) + (1 - passes) * posterior(prior, doubted)
    assert mean == pytest.approx(prior)


# -- calibration --


@given(st.floats(0, 1))
def test_without_a_word_a_confidence_stays_as_it_is(confidence: float):
    assert Calibration().correction("r").of(confidence) == confidence
    assert Correction(1.0, 0.0).of(confidence) == confidence


def shifted(random: np.random.Generator, count: int, slope: float, offset: float) -> tuple[np.ndarray, np.ndarray]:
    """Confidences, and whether the class was right, on a route where they are off."""
    confidence = random.uniform(0.3, 0.98, count)
    truth = 1 / (1 + np.exp(-(slope * np.log(confidence / (1 - confidence)) + offset)))
    return confidence, random.random(count) < truth


@pytest.mark.parametrize(("slope", "offset"), [(1.0, -1.5), (0.5, 0.0), (1.0, 1.2), (2.0, -0.5)])
def test_a_shifted_route_is_calibrated_by_its_words(slope: float, offset: float):
    random = np.random.default_rng(3)
    calibration = Calibration()
    for confidence, right in zip(*shifted(random, 600, slope, offset), strict=True):
        calibration.add("shifted", float(confidence), right=bool(right))
    confidence, right = shifted(random, 4000, slope, offset)
    corrected = np.array([calibration.correction("shifted").of(float(each)) for each in confidence])
    before, after = calibration_error(confidence, right), calibration_error(corrected, right)
    assert after < 0.05
    assert after < before / 2
    assert calibration.correction("other") is IDENTITY


def test_few_words_hardly_move_it():
    calibration = Calibration()
    for _ in range(2):
        calibration.add("r", 0.9, right=False)
    assert 0.7 < calibration.correction("r").of(0.9) < 0.9


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40))
def test_a_correction_keeps_the_order(words: list[tuple[float, bool]]):
    calibration = Calibration()
    for confidence, right in words:
        calibration.add("r", confidence, right=right)
    correction = calibration.correction("r")
    found = [correction.of(each / 20) for each in range(21)]
    assert found == sorted(found)
    assert all(0 < each < 1 for each in found)


# -- the published state --


def learnt() -> State:
    counters, calibration = Counters(), Calibration()
    for number in range(30):
        counters.add(outcome(number % 3 / 2, str(number), domain="science", bases={MODEL: 0.6}))
        calibration.add("all", 0.5 + number / 100, right=number % 2 == 0)
    random = np.random.default_rng(1)
    rows = [
        outcome(float(random.random() < 0.5), str(number), columns=tuple(random.normal(size=4).tolist()))
        for number in range(1100)
    ]
    return State(
        number=7,
        catalogue="mine",
        weights="router-1+abc",
        heard=30,
        counters=tuple(counters.rows()),
        calibration=calibration.rows(),
        heads=pack(retrain(rows, 3, 7)),
        candidate=5,
        comparisons=((5, Comparison(120, 0.5, 0.6, 0.01, 2.5)),),
        positions={"tier.fast/0": 12, "feedback/1": 3},
    )


def test_a_state_comes_back_as_it_was():
    state = learnt()
    raw = state.to_bytes()
    back = read_state(raw)
    assert back.to_bytes() == raw, "equal states are equal bytes"
    assert back.version.startswith("learned-7+")
    assert (back.heard, back.candidate, back.positions) == (30, 5, state.positions)
    assert back.comparisons[0][1].promoted
    counters, calibration = back.restored()
    before, _ = state.restored()
    assert counters.share(MODEL, TaskClass.QA, "science", "t") == pytest.approx(
        before.share(MODEL, TaskClass.QA, "science", "t"), abs=1e-3
    )
    assert calibration.correction("all").of(0.7) == pytest.approx(
        state.restored()[1].correction("all").of(0.7), abs=1e-3
    )


def test_heads_come_back_with_their_trees():
    random = np.random.default_rng(1)
    rows = [
        outcome(float(random.random() < 0.5), str(number), columns=tuple(random.normal(size=4).tolist()))
        for number in range(1100)
    ]
    heads = retrain(rows, 3, 7)
    assert heads.forests
    columns = random.normal(size=(5, 4)).astype(np.float32)
    back = unpack(orjson.loads(orjson.dumps(pack(heads))))
    assert back.version == 3
    assert np.allclose(back.good(columns)[MODEL], heads.good(columns)[MODEL], atol=1e-5)
    assert unpack(pack(NOTHING)) is NOTHING


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.replace(b'"heard":30', b'"heard":31'),
        lambda raw: raw[:-1],
        lambda _: b"[]",
        lambda _: b"{}",
        lambda _: b"",
    ],
)
def test_what_was_changed_on_the_way_is_refused(change):
    with pytest.raises(UndecodableError):
        read_state(change(learnt().to_bytes()))


def test_a_newer_format_is_refused():
    content = orjson.loads(learnt().to_bytes())
    del content["hash"]
    content["format"] = 99
    raw = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    content["hash"] = hashlib.sha256(raw).hexdigest()
    with pytest.raises(UndecodableError, match="format 99"):
        read_state(orjson.dumps(content))


def test_strength_is_what_the_cell_above_is_worth():
    counters = Counters()
    for number in range(int(STRENGTH)):
        counters.add(outcome(1.0, str(number), tenant="", bases={MODEL: 0.0}))
    # The model's cell is half convinced; its class, resting on that, three quarters.
    assert counters.share(MODEL, TaskClass.QA, "", "", 0.0) == pytest.approx(0.75, abs=0.01)
