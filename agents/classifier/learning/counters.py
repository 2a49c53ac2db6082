"""Counters of good answers per class, domain and model: known at once after each outcome. Pure.

A cell holds by how much answers were better than expected. One that has seen little says what the cell above it says:
a tenant's domain of a class rests on that class and domain of all tenants, that on the class, that on the model, that
on what other models did in the class, that on what was expected. So a new tenant starts with what is known of all, a
model that nobody rated yet with how hard a class turned out for others, and what was expected of each request stays.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from agents.classifier.learning.credit import spread
from agents.classifier.learning.outcomes import PRIOR, Decided, Outcome, weight_of
from schemas.enums import TaskClass

STRENGTH: Final = 12.0
"""Outcomes that the cell above is worth."""
MOST_WEIGHT: Final = 5.0
"""Of one outcome, however unlikely its decision was: a rare draw must not turn a cell around."""
FORGET: Final = 0.999
"""A cell's outcomes keep this share of their weight with each new one of weight 1: about the last thousand count."""
MOST_CELLS: Final = 5_000
"""Cells kept; beyond them those that saw least are let go."""

ANY: Final = "*"
"""Stands for all models in the name of a cell."""
_OF_TENANT: Final = 5
"""Length of the name of a tenant's cell."""

Cell = tuple[str, ...]


@dataclass(slots=True)
class Count:
    """What a cell has seen.

    Attributes:
        good: Sum of how good answers were, weighted.
        base: Sum of how good they were expected to be.
        all: Sum of the weights.
    """

    good: float = 0.0
    base: float = 0.0
    all: float = 0.0


_NOTHING: Final = Count()


@dataclass(slots=True)
class Counters:
    """Running shares of good answers.

    Args:
        priors: Share of good answers by model and class, for requests of which nothing closer is expected.
    """

    priors: Mapping[str, Mapping[TaskClass, float]] = field(default_factory=dict)
    _cells: dict[Cell, Count] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        """Count an outcome, weighted by how unlikely its decision was; it takes the place of a less sure word."""
        decided = outcome.decided
        unlikely = min(1 / decided.propensity, MOST_WEIGHT)
        weight = unlikely * outcome.weight
        good = weight * outcome.good
        if outcome.earlier is not None:
            before = unlikely * weight_of(outcome.earlier[1])
            weight, good = weight - before, good - before * outcome.earlier[0]
        base = self.base(decided.model, decided.task_class, decided.bases.get(decided.model))
        keep = FORGET**outcome.weight if outcome.earlier is None else 1.0
        for cell in ((ANY, decided.task_class.value), *_cells_of(decided)):
            count = self._cells.setdefault(cell, Count())
            count.all = max(0.0, count.all * keep + weight)
            count.good = min(max(0.0, count.good * keep + good), count.all)
            count.base = min(max(0.0, count.base * keep + weight * base), count.all)
        if len(self._cells) > MOST_CELLS:
            self._let_go()

    def base(self, model: str, task_class: TaskClass, expected: float | None = None) -> float:
        """What is expected of a model before any outcome."""
        if expected is not None:
            return expected
        known = self.priors.get(model, {})
        return known.get(task_class, sum(known.values()) / len(known) if known else PRIOR)

    def share(
        self, model: str, task_class: TaskClass, domain: str = "", tenant: str = "", expected: float | None = None
    ) -> float:
        """Expected share of good answers.

        Args:
            model: Of which model.
            task_class: In which class.
            domain: In which subject area.
            tenant: Of whom.
            expected: Of this request before any outcome: what was learnt is added to it. If None there is only a
                prior, a guess that gives way to what was seen.
        """
        if expected is not None:
            return min(max(expected + self.better(model, task_class, domain, tenant), 0.0), 1.0)
        mean = self.base(model, task_class)
        for cell in _cells(model, task_class, domain, tenant):
            count = self._cells.get(cell)
            if count is not None:
                mean = (count.good + STRENGTH * mean) / (count.all + STRENGTH)
        return mean

    def better(self, model: str, task_class: TaskClass, domain: str = "", tenant: str = "") -> float:
        """By how much answers are better than what is expected of each request."""
        found = self._of_others(model, task_class)
        for cell in _cells(model, task_class, domain, tenant):
            count = self._cells.get(cell)
            if count is not None:
                found = (count.good - count.base + STRENGTH * found) / (count.all + STRENGTH)
        return found

    def _of_others(self, model: str, task_class: TaskClass) -> float:
        """By how much answers of other models in a class were better than expected."""
        everybody = self._cells.get((ANY, task_class.value))
        if everybody is None:
            return 0.0
        own = self._cells.get((model, task_class.value), _NOTHING)
        better = everybody.good - everybody.base - (own.good - own.base)
        return better / (max(everybody.all - own.all, 0.0) + STRENGTH)

    def seen(self, model: str, task_class: TaskClass) -> float:
        """Weight of the outcomes of a model in a class."""
        count = self._cells.get((model, task_class.value))
        return count.all if count is not None else 0.0

    def careful(self, model: str, task_class: TaskClass, domain: str = "", tenant: str = "") -> float:
        """The share less one standard error."""
        mean = self.share(model, task_class, domain, tenant)
        return max(0.0, mean - spread(mean, self.seen(model, task_class)))

    def rows(self) -> Iterator[tuple[Cell, Count]]:
        """All cells, in the order of their names."""
        for cell in sorted(self._cells):
            yield cell, self._cells[cell]

    def restore(self, rows: Sequence[tuple[Cell, Count]]) -> None:
        """Take cells as ``rows`` gave them, in place of what is here."""
        self._cells = dict(rows)

    def _let_go(self) -> None:
        """Cells of all tenants stay as long as there are others."""
        by_worth = sorted(self._cells, key=lambda cell: (len(cell) < _OF_TENANT, self._cells[cell].all))
        for cell in by_worth[: MOST_CELLS // 4]:
            del self._cells[cell]


def _cells_of(decided: Decided) -> tuple[Cell, ...]:
    return _cells(decided.model, decided.task_class, decided.domain, decided.tenant)


def _cells(model: str, task_class: TaskClass, domain: str, tenant: str) -> tuple[Cell, ...]:
    """From the widest to the narrowest."""
    cells: list[Cell] = [(model,), (model, task_class.value)]
    if domain:
        cells.append((model, task_class.value, domain))
    if tenant:
        cells.append((model, task_class.value, domain, "tenant", tenant))
    return tuple(cells)
