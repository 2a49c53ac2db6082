"""Outcomes: what came of a decision, joined by request id with the probability that it was made.

A decision and the word on its answer come at different times and in any order; each side waits for the other within a
bound. Pure.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from schemas.edges import Feedback
from schemas.enums import TaskClass
from schemas.flow import Decision

_Value = TypeVar("_Value")

WAITING: Final = 100_000
"""Decisions that wait for a word on their answer; older ones are let go, most answers are never rated."""
_SURER: Final = {"program": 3, "human": 2, "judge": 1, "guardrail": 0}
"""Whose word counts when several speak of one answer: what a program checked, then people, judges, guardrails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What learning needs of a decision.

    Attributes:
        request_id: Which request.
        tenant: Whose.
        task_class: What it was taken for.
        domain: Subject area; empty if nobody said.
        model: What answered, ``id@version``.
        propensity: Probability that this candidate was chosen, above 0.
        columns: Features as they were at the decision, see ``Model.view``.
        cost_micros: Expected cost.
    """

    request_id: str
    tenant: str
    task_class: TaskClass
    domain: str
    model: str
    propensity: float
    columns: tuple[float, ...] = ()
    cost_micros: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A decision and how good the answer was, 0 to 1."""

    decided: Decided
    good: float
    kind: str
    """Whose word it is: program, human, judge, guardrail."""


def decided_of(decision: Decision, tenant: str, *, domain: str = "", columns: Sequence[float] = ()) -> Decided | None:
    """What learning needs of a recorded decision; None if it can't be learnt from (its propensity is not known)."""
    chosen = zip(
        decision.candidate_plan,
        decision.candidate_model,
        decision.candidate_propensity,
        decision.candidate_cost_micros,
        strict=True,
    )
    for plan, model, propensity, cost in chosen:
        if plan == decision.plan_id and model == decision.model and propensity > 0:
            return Decided(
                request_id=decision.request_id,
                tenant=tenant,
                task_class=decision.task_class,
                domain=domain,
                model=model,
                propensity=propensity,
                columns=tuple(columns),
                cost_micros=cost,
            )
    return None


def goodness(feedback: Feedback) -> float | None:
    """How good an answer was, as somebody says; None if they don't say."""
    if feedback.correct is not None:
        return float(feedback.correct)
    return feedback.rating


class Joiner:
    """Brings decisions and words on their answers together.

    Args:
        waiting: Decisions, and words, that wait at most.
    """

    def __init__(self, waiting: int = WAITING) -> None:
        self._waiting = waiting
        self._decided: OrderedDict[str, Decided] = OrderedDict()
        self._words: OrderedDict[str, tuple[float, str]] = OrderedDict()
        self._told: OrderedDict[str, str] = OrderedDict()

    def decide(self, decided: Decided) -> Outcome | None:
        """Take a decision; its outcome if the word came first. A decision that is known already changes nothing."""
        if decided.request_id in self._decided:
            return None
        _put(self._decided, decided.request_id, decided, self._waiting)
        word = self._words.pop(decided.request_id, None)
        return self._outcome(decided, *word) if word is not None else None

    def tell(self, request_id: str, good: float, kind: str) -> Outcome | None:
        """Take a word on an answer; its outcome if the decision is known.

        The first word of the surest kind counts; repeats, and words less sure than one that was told, change nothing.
        """
        if not 0 <= good <= 1:
            raise ValueError(f"good must be between 0 and 1, is {good}")
        told = self._told.get(request_id)
        if told is not None and _SURER.get(kind, 0) <= _SURER.get(told, 0):
            return None
        decided = self._decided.get(request_id)
        if decided is None:
            _put(self._words, request_id, (good, kind), self._waiting)
            return None
        return self._outcome(decided, good, kind)

    def _outcome(self, decided: Decided, good: float, kind: str) -> Outcome:
        _put(self._told, decided.request_id, kind, self._waiting)
        return Outcome(decided=decided, good=good, kind=kind)


def _put(table: "OrderedDict[str, _Value]", key: str, value: _Value, most: int) -> None:
    table[key] = value
    while len(table) > most:
        table.popitem(last=False)
