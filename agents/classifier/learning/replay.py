"""Replay: would a candidate have done better on what was logged, and did it foresee it better? Pure.

Each logged decision knows the probability of its choice, so decisions of another policy can be valued without making
them: an outcome counts as often as the other policy would have chosen the same, divided by how often it was chosen
(self-normalised importance weights; Swaminathan and Joachims, 2015). That is noisy where few decisions were explored;
how well each policy foresaw the outcomes is not. A candidate is promoted only if it foresees them better by more than
chance would have it, and its decisions are not worth less.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Final

WINS_BY: Final = 1.64
"""Standard errors by which a candidate must lead: one time in twenty an equal one is taken for better."""
LEAST_OUTCOMES: Final = 100
LARGEST_WEIGHT: Final = 20.0
"""Weights are cut here: a bound on how much one outcome can say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """One logged decision, seen with the eyes of two policies.

    Attributes:
        value: Quality less weighed cost of what was chosen.
        propensity: Probability with which it was chosen.
        current: Probability with which the current policy would choose the same.
        candidate: Probability with which the candidate would.
        current_error: Squared error of what the current policy expected of this outcome.
        candidate_error: Squared error of what the candidate expected.
    """

    value: float
    propensity: float
    current: float
    candidate: float
    current_error: float
    candidate_error: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """What replay found.

    Attributes:
        outcomes: How many were looked at.
        current: Value of the current policy.
        candidate: Value of the candidate.
        error: Standard error of the difference.
        foreseen: By how much the candidate's squared error is smaller, in standard errors.
    """

    outcomes: int
    current: float
    candidate: float
    error: float
    foreseen: float

    @property
    def promoted(self) -> bool:
        """Whether the candidate wins."""
        return (
            self.outcomes >= LEAST_OUTCOMES
            and self.foreseen > WINS_BY
            and self.candidate >= self.current - WINS_BY * self.error
        )


def compare(log: Sequence[Logged]) -> Comparison:
    """Value two policies on logged outcomes that neither was trained on.

    Raises:
        ValueError: A propensity is not above 0: such a decision can't be replayed.
    """
    if any(each.propensity <= 0 for each in log):
        raise ValueError("a logged decision without propensity can't be replayed")
    current = [min(each.current / each.propensity, LARGEST_WEIGHT) for each in log]
    candidate = [min(each.candidate / each.propensity, LARGEST_WEIGHT) for each in log]
    of_current, of_candidate = _value(log, current), _value(log, candidate)
    sums = (sum(current) or 1.0, sum(candidate) or 1.0)
    parts = [
        b * (each.value - of_candidate) / sums[1] - a * (each.value - of_current) / sums[0]
        for each, a, b in zip(log, current, candidate, strict=True)
    ]
    return Comparison(
        outcomes=len(log),
        current=of_current,
        candidate=of_candidate,
        error=sqrt(sum(part * part for part in parts)),
        foreseen=_lead([each.current_error - each.candidate_error for each in log]),
    )


def _lead(differences: Sequence[float]) -> float:
    """Mean of differences in units of its standard error; 0 where nothing can be said."""
    count = len(differences)
    if count < 2:
        return 0.0
    mean = sum(differences) / count
    spread = sqrt(sum((each - mean) ** 2 for each in differences) / (count - 1))
    return mean / (spread / sqrt(count)) if spread > 0 else 0.0


def _value(log: Sequence[Logged], weights: Sequence[float]) -> float:
    total = sum(weights)
    return sum(weight * each.value for weight, each in zip(weights, log, strict=True)) / total if total else 0.0
