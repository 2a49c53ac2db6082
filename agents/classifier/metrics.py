"""Measures of a router, as pure functions: how much quality for how many dear calls, classes, calibration.

APGR and CPT are those of RouteLLM (Ong et al., ICLR 2025): with the quality of a weak and a strong model for each
question and a router's score, questions go to the strong model in the order of their scores.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

POINTS: Final = 11
"""Shares of strong calls that the curve is taken at: 0, 10 %, ... 100 %."""
BINS: Final = 15
"""Of equal width, for the calibration error."""


class Routing(NamedTuple):
    """How well scores find the questions that need the strong model."""

    apgr: float
    """Average share of the gap between the models that is recovered; chance gives 0.5."""
    cpt50: float
    """Per cent of strong calls that recover half of the gap; chance gives 50."""
    cpt80: float
    """Per cent of strong calls that recover 80 % of the gap; chance gives 80."""


def quality_curve(scores: Numbers, weak: Numbers, strong: Numbers, points: int = POINTS) -> Numbers:
    """Mean quality when the highest-scored questions go to the strong model, by rising share of strong calls.

    Questions of one score are taken as a group of which the same share goes up, so that their order in a file does
    not matter.

    Args:
        scores: Higher needs the strong model more. Shape (questions,).
        weak: Quality of the weak model's answers. Shape (questions,).
        strong: Quality of the strong model's answers. Shape (questions,).
        points: Shares looked at, 0 and 1 among them.
    """
    order = np.argsort(-scores, kind="stable")
    ranked, gain = scores[order], (strong - weak)[order]
    first = np.flatnonzero(np.concatenate(([True], ranked[1:] != ranked[:-1])))
    sizes = np.diff(np.append(first, len(gain)))
    gain = np.repeat(np.add.reduceat(gain, first) / sizes, sizes)
    total = np.concatenate(([0.0], np.cumsum(gain)))
    calls = np.linspace(0, 1, points) * len(gain)
    found: Numbers = weak.mean() + np.interp(calls, np.arange(len(gain) + 1), total) / len(gain)
    return found


def routing(scores: Numbers, weak: Numbers, strong: Numbers) -> Routing:
    """APGR, CPT(50 %) and CPT(80 %) of scores.

    Raises:
        ValueError: There is no question, or the strong model is no better than the weak one: there is no gap.
    """
    if not len(scores) or strong.mean() <= weak.mean():
        raise ValueError("there is no gap between the models to recover")
    recovered = (quality_curve(scores, weak, strong) - weak.mean()) / (strong.mean() - weak.mean())
    area = float(np.sum((recovered[1:] + recovered[:-1]) / 2) / (POINTS - 1))
    return Routing(area, _calls_for(0.5, recovered), _calls_for(0.8, recovered))


def _calls_for(share: float, recovered: Numbers) -> float:
    """Per cent of strong calls at which a share of the gap is first recovered, linear between points."""
    at = int(np.argmax(recovered >= share))
    if recovered[at] < share or at == 0:
        return 0.0 if recovered[at] >= share else 100.0
    below, above = recovered[at - 1], recovered[at]
    return float(100 * (at - 1 + (share - below) / (above - below)) / (len(recovered) - 1))


def calibration_error(confidence: Numbers, right: Numbers, bins: int = BINS) -> float:
    """Expected calibration error: how far confidence and share of right guesses lie apart, in bins of equal width."""
    if not len(confidence):
        return 0.0
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    sums = np.bincount(place, confidence - right, bins)
    return float(np.abs(sums).sum() / len(confidence))


class ClassScore(NamedTuple):
    """How well one class is found."""

    label: str
    prompts: int
    precision: float
    recall: float
    f1: float


def class_scores(truth: Sequence[str], guesses: Sequence[str]) -> list[ClassScore]:
    """Precision, recall and F1 of each class that occurs among the labels."""
    found = []
    for label in sorted(set(truth)):
        of_label = sum(each == label for each in truth)
        guessed = sum(each == label for each in guesses)
        right = sum(one == other == label for one, other in zip(truth, guesses, strict=True))
        precision, recall = right / guessed if guessed else 0.0, right / of_label
        f1 = 2 * precision * recall / (precision + recall) if right else 0.0
        found.append(ClassScore(label, of_label, precision, recall, f1))
    return found


def cost_at(share: float, costs: Numbers, qualities: Numbers, premium: float) -> float | None:
    """The least cost at which a share of premium quality is reached, linear between the points of a curve.

    Args:
        share: Of premium quality, such as 0.95.
        costs: Of each point. Shape (points,).
        qualities: Of each point. Shape (points,).
        premium: Quality of always asking the premium model.

    Returns:
        None if no point reaches it.
    """
    order = np.argsort(costs, kind="stable")
    costs, qualities = costs[order], qualities[order]
    goal = share * premium
    for at in range(len(costs)):
        if qualities[at] >= goal:
            if at == 0 or qualities[at - 1] >= goal:
                return float(costs[at])
            part = (goal - qualities[at - 1]) / (qualities[at] - qualities[at - 1])
            return float(costs[at - 1] + part * (costs[at] - costs[at - 1]))
    return None
