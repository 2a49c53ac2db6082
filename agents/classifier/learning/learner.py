"""The learner: takes outcomes, counts them at once, retrains in mini-batches, and promotes what replay says is better.

It runs beside the flow, in the learner agent (``agents.learner``) as in ``bench/learning.py``. What decisions use is
what ``good`` says: the promoted heads and the counters.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import numpy as np

from agents.classifier.learned.forest import Floats
from agents.classifier.learning.calibration import Calibration
from agents.classifier.learning.counters import Counters
from agents.classifier.learning.credit import COUNTED, credited, spread
from agents.classifier.learning.heads import NOTHING, Heads, retrain
from agents.classifier.learning.outcomes import GUARDRAIL, Decided, Outcome
from agents.classifier.learning.plans import preferred
from agents.classifier.learning.replay import Comparison, Logged, compare
from schemas.enums import TaskClass
from schemas.ids import chance

BATCH: Final = 250
"""Outcomes between two retrainings: a few seconds of one core."""
KEPT: Final = 20_000
"""Outcomes learnt from; the oldest go first."""
HELD_OUT: Final = 0.2
"""Share of requests, by a hash of their id, that no head is trained on: replay is done on them."""


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
    bases: Mapping[str, float] = field(default_factory=dict)
    """P(answer is good) before any outcome, by model; see ``Decided.bases``."""
    costs: Mapping[str, float] = field(default_factory=dict)
    """Models to choose from with their weighed costs; those of the learner if empty."""


class Learner:
    """Learns P(answer is good) of each model from outcomes.

    Args:
        models: Those that are chosen from, with what each is expected to cost per request; the dearest is where
            doubt leads.
        cost_weight: What a unit of cost is worth in quality.
        mode: What learning may do.
        priors: Share of good answers by model and class to begin with, where ``Asked.bases`` doesn't say it closer: a
            guess, so a cheaper model is credited with less.
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
        self.calibration = Calibration()
        self.heads: Heads = NOTHING
        """Those in use."""
        self.candidate: Heads = NOTHING
        """The shadow."""
        self.numbered: list[tuple[int, Comparison]] = []
        """What replay found, with the number of each candidate."""
        self.heard = 0
        """Outcomes taken, corrections of earlier ones not counted."""
        self._outcomes: dict[str, Outcome] = {}
        self._since = 0

    def learn(self, outcome: Outcome) -> None:
        """Take an outcome. Every so many a candidate is trained and compared, which takes seconds.

        One that was counted before a restart is only learnt from by the heads, whose outcomes are not kept elsewhere.
        A guardrail's word says too little of a single answer for them; but where a plan went on to another model, it is
        what there is on the first one's, and heads that learnt of released answers only would think too well of it.
        """
        if self.mode is Mode.BYPASS:
            return
        if outcome.counted and outcome.final is None:
            self.counters.add(outcome)
            self.heard += outcome.earlier is None
        if outcome.decided.columns and outcome.kind != GUARDRAIL:
            self._outcomes[outcome.decided.request_id] = outcome
            while len(self._outcomes) > KEPT:
                del self._outcomes[next(iter(self._outcomes))]
            self._since += outcome.counted
        if self._since >= BATCH:
            self._since = 0
            self._retrain()

    def _retrain(self) -> None:
        known = self._outcomes.values()
        training = [each for each in known if each.spoken and not held_out(each.decided.request_id)]
        held = [each for each in known if held_out(each.decided.request_id)]
        self.candidate = retrain(training, self.candidate.version + 1, self._seed)
        found = compare([self._logged(each) for each in held])
        self.numbered.append((self.candidate.version, found))
        if found.promoted:
            self.heads = self.candidate

    def _logged(self, outcome: Outcome) -> Logged:
        """What came of a whole plan beside what each policy would have chosen; of a model where plans aren't known."""
        decided = outcome.decided
        asked = asked_of(decided)
        by_plan = decided.options and decided.plan_propensity > 0
        if by_plan:
            taken, propensity = decided.plan, decided.plan_propensity
            micros = decided.cost_micros if outcome.micros is None else outcome.micros
            cost = decided.cost_weight * micros
        else:
            taken, propensity = decided.model, decided.propensity
            cost = decided.costs.get(decided.model, self._cost_weight * self._models.get(decided.model, 0.0))
        return Logged(
            value=(outcome.good if outcome.final is None else outcome.final) - cost,
            propensity=propensity,
            current=float(self._choice(decided, asked, self.heads) == taken),
            candidate=float(self._choice(decided, asked, self.candidate) == taken),
            current_error=self._error(asked, outcome, self.heads),
            candidate_error=self._error(asked, outcome, self.candidate),
        )

    def _choice(self, decided: Decided, asked: Asked, heads: Heads) -> str:
        """The plan that a policy chooses; its first model where plans aren't known."""
        if not decided.options or decided.plan_propensity <= 0:
            return self.choose(asked, heads)
        prices = {stage.model: stage.cost for option in decided.options for stage in option.stages}
        good = self._credited(asked, heads, prices)
        return preferred(decided.options, good)

    def _error(self, asked: Asked, outcome: Outcome, heads: Heads) -> float:
        """Squared error of what was expected of the model that answered; 0 for one that isn't chosen from any more.

        And 0 where nobody said anything of its answer.
        """
        if not outcome.spoken:
            return 0.0
        expected = self.good([asked], heads).get(outcome.decided.model)
        return 0.0 if expected is None else (float(expected[0]) - outcome.good) ** 2

    def good(
        self, asked: Sequence[Asked], heads: Heads | None = None, models: Iterable[str] = ()
    ) -> Mapping[str, Floats]:
        """P(answer is good) of each model; what decisions are made by.

        Args:
            asked: Prompts.
            heads: Those in use if None.
            models: Of which models; those to choose from if empty.
        """
        heads = self.heads if heads is None else heads
        columns = np.array([each.columns for each in asked], np.float32)
        learnt = heads.good(columns) if heads.lines else {}
        found = {}
        for model in models or ({**self._models, **asked[0].costs} if len(asked) == 1 else self._models):
            counted = np.array(
                [
                    self.counters.share(model, each.task_class, each.domain, each.tenant, each.bases.get(model))
                    for each in asked
                ],
                np.float32,
            )
            found[model] = COUNTED * counted + (1 - COUNTED) * learnt[model] if model in learnt else counted
        return found

    def choose(self, asked: Asked, heads: Heads | None = None) -> str:
        """The model with the best quality less weighed cost; see ``credited`` for what doubt does."""
        costs = asked.costs or {model: self._cost_weight * cost for model, cost in self._models.items()}
        good = self._credited(asked, heads, costs)
        best, most = max(costs, key=costs.__getitem__), -np.inf
        for model, cost in sorted(costs.items(), key=lambda item: -item[1]):
            if good[model] - cost > most:
                best, most = model, good[model] - cost
        return best

    def _credited(self, asked: Asked, heads: Heads | None, prices: Mapping[str, float]) -> dict[str, float]:
        """What a decision takes for P(answer is good) of models with these prices."""
        good, dearest = self.good([asked], heads, prices), max(prices, key=prices.__getitem__)
        found = {}
        for model in prices:
            base = asked.bases.get(model)
            share = self.counters.share(model, asked.task_class, asked.domain, asked.tenant, base)
            doubt = spread(share, self.counters.seen(model, asked.task_class))
            found[model] = credited(float(good[model][0]), base, doubt, dearest=model == dearest)
        return found


def asked_of(decided: Decided) -> Asked:
    """A prompt as its decision saw it."""
    return Asked(
        task_class=decided.task_class,
        columns=decided.columns,
        domain=decided.domain,
        tenant=decided.tenant,
        bases=decided.bases,
        costs=decided.costs,
    )


def held_out(request_id: str) -> bool:
    """Whether a request is kept for replay."""
    return chance(request_id, "replay") < HELD_OUT
