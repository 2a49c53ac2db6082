"""How sure the model is of its class: calibrated on sources that it was not trained on.

A softmax says how the scores compare, not how often such a guess is right; on prompts of another origin the two are far
apart. So the confidence is a logistic function of the lead and of how familiar the prompt looks, fitted on held-out
sources together with held-out prompts of known ones: prompts that look like training get the confidence that is due
to those, others what is due to others.
"""

from enum import StrEnum
from typing import NamedTuple

import numpy as np

from agents.classifier.judged import ABSTAIN_BELOW, SURE_FROM
from agents.classifier.learned.forest import Floats


class Sureness(StrEnum):
    """What a confidence means for routing."""

    SURE = "sure"
    UNSURE = "unsure"
    """The choice is widened towards the higher tier."""
    ABSTAIN = "abstain"
    """The class is a guess that nothing should rest on; an answer, not an error."""


def sureness(confidence: float) -> Sureness:
    """The band of a calibrated confidence."""
    if confidence >= SURE_FROM:
        return Sureness.SURE
    return Sureness.UNSURE if confidence >= ABSTAIN_BELOW else Sureness.ABSTAIN


class Evidence(NamedTuple):
    """What confidence rests on, one row per prompt."""

    scores: Floats
    """Of the classes. Shape (rows, classes)."""
    familiarity: Floats
    """Highest score of a training source: about 1 for its own prompts. Shape (rows,)."""
    unknown: Floats
    """Share of words that training knows nothing of. Shape (rows,)."""

    def columns(self) -> Floats:
        """The regressors of the confidence. Shape (rows, 7)."""
        ranked = np.sort(self.scores, axis=1)
        top, lead = ranked[:, -1], ranked[:, -1] - ranked[:, -2]
        known = np.clip(self.familiarity, 0.0, 1.0)
        return np.stack(
            (np.ones_like(top), lead, np.minimum(lead, 0.3), top, known, known * lead, self.unknown),
            axis=1,
        )


class Confidence(NamedTuple):
    """The fitted function, and the shape of the probabilities around it."""

    weights: Floats
    """Of ``Evidence.columns``. Shape (7,)."""
    sharpness: float
    """Factor of scores in the softmax."""

    def of(self, evidence: Evidence) -> tuple[Floats, Floats]:
        """Calibrated probabilities of the classes, and the drift, of each row.

        Returns:
            Probabilities of shape (rows, classes), the highest of which is the confidence; drift of shape (rows,):
            0 for a prompt like those of training, 1 for one like none.
        """
        top = np.clip(1 / (1 + np.exp(-(evidence.columns() @ self.weights))), 0.02, 0.995)
        scaled = self.sharpness * (evidence.scores - evidence.scores.max(axis=1, keepdims=True))
        shares = np.exp(scaled)
        best = shares.argmax(axis=1)
        rows = np.arange(len(shares))
        shares[rows, best] = 0.0
        others = np.maximum(shares.sum(axis=1), 1e-9)
        # Never below an even share: the class named is the likeliest one.
        top = np.maximum(top, 1.0 / shares.shape[1] + 1e-6)
        shares *= ((1 - top) / others)[:, None]
        np.minimum(shares, top[:, None], out=shares)
        shares[rows, best] = top
        drift = np.clip(1 - evidence.familiarity, 0.0, 1.0) * 0.5 + np.clip(2 * evidence.unknown, 0.0, 1.0) * 0.5
        return shares / shares.sum(axis=1, keepdims=True), drift.astype(np.float32)


def fit_logistic(columns: Floats, right: Floats, weights: Floats, *, ridge: float = 1e-3, rounds: int = 50) -> Floats:
    """Logistic regression by Newton's method.

    Args:
        columns: Shape (rows, regressors), the first one constant.
        right: 0 or 1. Shape (rows,).
        weights: Of rows. Shape (rows,).
        ridge: Pull towards 0, per unit of weight.
        rounds: Steps at most.
    """
    beta = np.zeros(columns.shape[1])
    weights = weights / weights.sum()
    for _ in range(rounds):
        said = 1 / (1 + np.exp(-(columns @ beta)))
        slope = columns.T @ (weights * (said - right)) + ridge * beta
        bend = (columns * (weights * said * (1 - said))[:, None]).T @ columns + ridge * np.eye(len(beta))
        step = np.linalg.solve(bend, slope)
        beta -= step
        if np.abs(step).max() < 1e-8:
            break
    return beta.astype(np.float32)
