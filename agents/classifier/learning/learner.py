"""The learner: takes outcomes, counts them at once, retrains in mini-batches, and promotes what replay says is better.

It runs beside the flow. What decisions use is ``good``: the promoted heads and the counters, swapped whole.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np

from agents.classifier.learned.forest import Floats
from agents.classifier.learning.counters import Counters
from agents.classifier.learning.heads import NOTHING, Heads, retrain
from agents.classifier.learning.outcomes import Outcome
from agents.classifier.learning.replay import Comparison, Logged, compare
from schemas.enums import TaskClass
from schemas.ids import chance

BATCH: Final = 250
"""Outcomes between two retrainings: a few seconds of one core."""
KEPT: Final = 20_000
"""Outcomes learnt from; the oldest go first."""
HELD_OUT: Final = 0.2
"""Share of requests, by a hash of their id, that no head is trained on: replay is done on them."""


COUNTED: Final = 0.2
"""Weight of the counters beside heads: they are coarser, but hear of an outcome at once."""


class Mode(StrEnum):
    """What learning may do: one switch."""

    OBSERVE = "observe"
    """Learns; decisions don't hear of it."""
    APPLY = "apply"
    BYPASS = "bypass"
    """Learns nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A prompt, as the learner needs it."""

    task_class: TaskClass
    columns: tuple[float, ...]
    domain: str = ""
    tenant: str = ""


class Learner:
    """Learns P(answer is good) of each model from outcomes.

    Args:
        models: Those that are chosen from, with what each is expected to cost per request; the dearest is where
            doubt leads.
        cost_weight: What a unit of cost is worth in quality.
        mode: What learning may do.
        priors: Share of good answers by model and class, as the catalogue knows it.
        seed: Of all chance.
    """

    def __init__(
        self,
        models: Mapping[str, float],
        *,
        cost_weight: float,
        mode: Mode = Mode.APPLY,
        priors: Mapping[str, Mapping[TaskClass, float]] | None = None,
        seed: int = 7,
    ) -> None:
        self._models = dict(models)
        self._cost_weight = cost_weight
        self.mode = mode
        self._seed = seed
        self.counters = Counters(priors or {})
        self.heads: Heads = NOTHING
        """Those in use."""
        self.candidate: Heads = NOTHING
        """The shadow."""
        self.comparisons: list[Comparison] = []
        self._outcomes: list[Outcome] = []
        self._since = 0

    def learn(self, outcome: Outcome) -> None:
        """Take an outcome. Every so many a candidate is trained and compared, which takes seconds."""
        if self.mode is Mode.BYPASS:
            return
        self.counters.add(outcome)
        if outcome.decided.columns:
            self._outcomes.append(outcome)
            del self._outcomes[:-KEPT]
            self._since += 1
        if self._since >= BATCH:
            self._since = 0
            self._retrain()

    def _retrain(self) -> None:
        training = [each for each in self._outcomes if not held_out(each.decided.request_id)]
        held = [each for each in self._outcomes if held_out(each.decided.request_id)]
        self.candidate = retrain(training, self.candidate.version + 1, self._seed)
        found = compare([self._logged(each) for each in held])
        self.comparisons.append(found)
        if found.promoted:
            self.heads = self.candidate

    def _logged(self, outcome: Outcome) -> Logged:
        decided = outcome.decided
        asked = Asked(
            task_class=decided.task_class, columns=decided.columns, domain=decided.domain, tenant=decided.tenant
        )
        return Logged(
            value=outcome.good - self._cost_weight * self._models.get(decided.model, 0.0),
            propensity=decided.propensity,
            current=float(self.choose(asked, self.heads) == decided.model),
            candidate=float(self.choose(asked, self.candidate) == decided.model),
            current_error=self._error(asked, outcome, self.heads),
            candidate_error=self._error(asked, outcome, self.candidate),
        )

    def _error(self, asked: Asked, outcome: Outcome, heads: Heads) -> float:
        """Squared error of what was expected of the model that answered; 0 for one that isn't chosen from any more."""
        expected = self.good([asked], heads).get(outcome.decided.model)
        return 0.0 if expected is None else (float(expected[0]) - outcome.good) ** 2

    def good(self, asked: Sequence[Asked], heads: Heads | None = None) -> Mapping[str, Floats]:
        """P(answer is good) of each model; what decisions are made by."""
        heads = self.heads if heads is None else heads
        columns = np.array([each.columns for each in asked], np.float32)
        learnt = heads.good(columns) if heads.lines else {}
        found = {}
        for model in self._models:
            counted = np.array(
                [self.counters.share(model, each.task_class, each.domain, each.tenant) for each in asked], np.float32
            )
            found[model] = COUNTED * counted + (1 - COUNTED) * learnt[model] if model in learnt else counted
        return found

    def choose(self, asked: Asked, heads: Heads | None = None) -> str:
        """The model with the best quality less weighed cost; a cheaper one is credited with what it surely has."""
        good = self.good([asked], heads)
        dearest = max(self._models, key=self._models.__getitem__)
        best, most = dearest, float(good[dearest][0]) - self._cost_weight * self._models[dearest]
        for model, cost in self._models.items():
            if model == dearest:
                continue
            doubt = self.counters.share(model, asked.task_class, asked.domain, asked.tenant) - self.counters.careful(
                model, asked.task_class, asked.domain, asked.tenant
            )
            value = float(good[model][0]) - doubt - self._cost_weight * cost
            if value > most:
                best, most = model, value
        return best


def held_out(request_id: str) -> bool:
    """Whether a request is kept for replay."""
    return chance(request_id, "replay") < HELD_OUT
