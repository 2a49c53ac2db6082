"""Measures of a router, against values that can be worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.classifier.metrics import calibration_error, class_scores, cost_at, quality_curve, routing

WEAK = np.array([1.0, 0.0] * 50)
STRONG = np.ones(100)


def test_an_oracle_recovers_the_gap_with_as_many_calls_as_there_are_gains():
    found = routing(STRONG - WEAK, WEAK, STRONG)
    assert found.apgr == pytest.approx(0.75)
    assert found.cpt50 == pytest.approx(25)
    assert found.cpt80 == pytest.approx(40)


def test_equal_scores_are_chance_whatever_the_order_of_the_file():
    found = routing(np.zeros(100), np.sort(WEAK), STRONG)
    assert found == pytest.approx((0.5, 50, 80))


def test_the_worst_router_is_below_chance():
    assert routing(WEAK - STRONG, WEAK, STRONG).apgr == pytest.approx(0.25)


def test_without_a_gap_there_is_nothing_to_measure():
    with pytest.raises(ValueError, match="no gap"):
        routing(np.zeros(3), np.ones(3), np.ones(3))
    with pytest.raises(ValueError, match="no gap"):
        routing(np.zeros(0), np.zeros(0), np.zeros(0))


@given(st.integers(0, 10_000))
def test_curves_start_and_end_with_the_models(seed: int):
    random = np.random.default_rng(seed)
    weak, strong, scores = random.random((3, 37))
    curve = quality_curve(scores, weak, strong)
    assert curve[0] == pytest.approx(weak.mean())
    assert curve[-1] == pytest.approx(strong.mean())


def test_calibration_error():
    assert calibration_error(np.array([0.9] * 10), np.array([1.0] * 9 + [0.0])) == pytest.approx(0)
    assert calibration_error(np.array([0.9] * 10), np.zeros(10)) == pytest.approx(0.9)
    assert calibration_error(np.zeros(0), np.zeros(0)) == 0


def test_class_scores():
    one, two = class_scores(["a", "a", "b", "b"], ["a", "b", "b", "b"])
    assert one.precision == 1
    assert one.recall == 0.5
    assert two.precision == pytest.approx(2 / 3)
    assert two.recall == 1
    assert class_scores(["a"], ["b"])[0].f1 == 0


def test_cost_of_a_share_of_premium_quality():
    costs, qualities = np.array([0.0, 0.5, 1.0]), np.array([0.4, 0.7, 0.8])
    assert cost_at(0.95, costs, qualities, 0.8) == pytest.approx(0.8)
    assert cost_at(0.5, costs, qualities, 0.8) == 0
    assert cost_at(1.1, costs, qualities, 0.8) is None
