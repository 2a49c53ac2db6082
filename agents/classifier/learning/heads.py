"""Heads learnt from outcomes: P(answer is good) of each model, retrained in mini-batches. numpy only.

A head is a ridge regression on the features of a prompt, pulled hard, because one outcome says little; with many
outcomes of a model trees stand beside it. Decisions mix it with the counters of class and domain (see ``learner``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from agents.classifier.learned.boosting import Growth, grow
from agents.classifier.learned.forest import Floats, Forest
from agents.classifier.learned.linear import CLIP
from agents.classifier.learning.outcomes import Outcome

LEAST: Final = 50
"""Outcomes of a model below which it gets no head."""
TREES_FROM: Final = 1000
"""Outcomes of a model from which trees stand beside the line: with fewer they were worse (``bench/learning.py``)."""
RIDGE: Final = 1000.0
"""Pull towards the mean, in outcomes per standard deviation of a feature."""
GROWTH: Final = Growth(trees=80, depth=2, rate=0.06)


class Line(NamedTuple):
    """A linear head on standardised features."""

    centre: Floats
    spread: Floats
    slopes: Floats
    offset: float

    def predict(self, columns: Floats) -> Floats:
        """Expected share of good answers. Shape (rows,)."""
        found: Floats = np.clip((columns - self.centre) / self.spread, -CLIP, CLIP) @ self.slopes + self.offset
        return found


def fit_line(columns: Floats, good: Floats) -> Line:
    """Ridge regression.

    Args:
        columns: Shape (rows, features).
        good: Shape (rows,).
    """
    centre, spread = columns.mean(axis=0), columns.std(axis=0) + 1e-6
    standard = np.clip((columns - centre) / spread, -CLIP, CLIP)
    middle = standard.mean(axis=0)  # not quite 0, for clipping
    bent = (standard - middle).T @ (standard - middle) + RIDGE * np.eye(standard.shape[1])
    slopes = np.linalg.solve(bent, (standard - middle).T @ (good - good.mean())).astype(np.float32)
    return Line(centre, spread, slopes, float(good.mean() - middle @ slopes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """Heads of each model.

    Attributes:
        version: Rises with each retraining; 0 knows nothing.
        lines: By model; those with too few outcomes are missing.
        forests: By model; only those with many outcomes.
    """

    version: int = 0
    lines: Mapping[str, Line]
    forests: Mapping[str, Forest]

    def good(self, columns: Floats) -> Mapping[str, Floats]:
        """P(answer is good) by model, of prompts with these features. Shape (rows,) each."""
        found = {}
        for model, line in self.lines.items():
            said = line.predict(columns)
            if model in self.forests:
                said = 0.5 * (said + self.forests[model].predict(columns)[:, 0])
            found[model] = np.clip(said, 0.0, 1.0)
        return found


NOTHING: Final = Heads(lines={}, forests={})


def retrain(outcomes: Sequence[Outcome], version: int, seed: int) -> Heads:
    """Fit heads on logged outcomes.

    All count alike: a head sees what the choice of the model rested on, so weights by propensity would mend nothing
    here and add noise (APGR .619 with them, .625 without, after 3,000 outcomes of ``bench/learning.py``).

    Args:
        outcomes: With features.
        version: Of the heads.
        seed: Of the samples that trees see.
    """
    by_model: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_model.setdefault(outcome.decided.model, []).append(outcome)
    lines, forests = {}, {}
    for model, known in sorted(by_model.items()):
        if len(known) < LEAST:
            continue
        columns = np.array([each.decided.columns for each in known], np.float32)
        good = np.array([each.good for each in known], np.float32)
        lines[model] = fit_line(columns, good)
        if len(known) >= TREES_FROM:
            forests[model] = grow(columns, good[:, None], GROWTH, seed=seed)
    return Heads(version=version, lines=lines, forests=forests)
