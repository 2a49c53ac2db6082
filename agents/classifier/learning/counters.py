"""Counters of good answers per class, domain and model: known at once after each outcome. Pure.

A cell that has seen little says what the cell above it says: a tenant's domain of a class rests on that class and
domain of all tenants, that on the class, that on the model, that on the prior. So a new tenant starts with what is
known of all.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import sqrt
from typing import Final

from agents.classifier.learning.outcomes import Outcome
from schemas.enums import TaskClass

STRENGTH: Final = 12.0
"""Outcomes that the cell above is worth."""
PRIOR: Final = 0.5
"""Share of good answers of a model that the catalogue says nothing of."""
MOST_WEIGHT: Final = 5.0
"""Of one outcome, however unlikely its decision was: a rare draw must not turn a cell around."""
FORGET: Final = 0.999
"""A cell's outcomes keep this share of their weight with each new one: about the last thousand count."""

Cell = tuple[str, ...]


@dataclass(slots=True)
class _Count:
    good: float = 0.0
    all: float = 0.0


@dataclass(slots=True)
class Counters:
    """Running shares of good answers.

    Args:
        priors: Share of good answers by model and class, as the catalogue knows it.
    """

    priors: Mapping[str, Mapping[TaskClass, float]] = field(default_factory=dict)
    _cells: dict[Cell, _Count] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        """Count an outcome, weighted by how unlikely its decision was."""
        weight = min(1 / outcome.decided.propensity, MOST_WEIGHT)
        for cell in _cells(
            outcome.decided.model, outcome.decided.task_class, outcome.decided.domain, outcome.decided.tenant
        ):
            count = self._cells.setdefault(cell, _Count())
            count.good = count.good * FORGET + weight * outcome.good
            count.all = count.all * FORGET + weight

    def share(self, model: str, task_class: TaskClass, domain: str = "", tenant: str = "") -> float:
        """Expected share of good answers."""
        known = self.priors.get(model, {})
        mean = known.get(task_class, sum(known.values()) / len(known) if known else PRIOR)
        for cell in _cells(model, task_class, domain, tenant):
            count = self._cells.get(cell)
            if count is not None:
                mean = (count.good + STRENGTH * mean) / (count.all + STRENGTH)
        return mean

    def seen(self, model: str, task_class: TaskClass) -> float:
        """Weight of the outcomes of a model in a class."""
        count = self._cells.get((model, task_class.value))
        return count.all if count is not None else 0.0

    def careful(self, model: str, task_class: TaskClass, domain: str = "", tenant: str = "") -> float:
        """The share less one standard error: what a cheaper model is credited with: doubt leads up, not down."""
        mean = self.share(model, task_class, domain, tenant)
        return max(0.0, mean - sqrt(mean * (1 - mean) / (self.seen(model, task_class) + 1)))


def _cells(model: str, task_class: TaskClass, domain: str, tenant: str) -> tuple[Cell, ...]:
    """From the widest to the narrowest."""
    cells: list[Cell] = [(model,), (model, task_class.value)]
    if domain:
        cells.append((model, task_class.value, domain))
    if tenant:
        cells.append((model, task_class.value, domain, "tenant", tenant))
    return tuple(cells)
