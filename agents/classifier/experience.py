"""What was learnt from outcomes, as a decision takes it. Pure, and without numpy.

``Experience`` is one published state of the learner; ``Lesson`` is what it says of one request. Decisions ask the
lesson for P(answer is good) of each model, and it keeps what it said, so that the decision can record it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from agents.classifier.learning.calibration import IDENTITY, Correction
from agents.classifier.learning.counters import Counters
from agents.classifier.learning.credit import credited, mixed, spread
from agents.classifier.views import CallView, PlanView
from schemas.enums import TaskClass

_DIGITS: Final = 4
_KEPT: Final = 4_096
"""Kinds of request that are remembered of a state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experience:
    """A state of the learner.

    Attributes:
        version: Number and checksum of the state; empty where nothing was published.
        counters: Of good answers.
        corrections: Of the trained model's confidence, by route.
        applied: Whether decisions follow it; else what it says is only recorded.
    """

    version: str = ""
    counters: Counters = field(default_factory=Counters)
    corrections: Mapping[str, Correction] = field(default_factory=dict)
    applied: bool = True
    _known: dict[tuple[str, TaskClass, str, str], tuple[float, float]] = field(
        default_factory=dict, repr=False, compare=False
    )
    _dearest: dict[int, tuple[Sequence[PlanView], str]] = field(default_factory=dict, repr=False, compare=False)

    def better(self, ref: str, task_class: TaskClass, domain: str, tenant: str) -> tuple[float, float]:
        """By how much a model's answers are better than expected, and the weight of what that rests on.

        Kept: a state does not change, and there are few kinds of request.
        """
        kind = (ref, task_class, domain, tenant)
        found = self._known.get(kind)
        if found is None:
            if len(self._known) >= _KEPT:
                self._known.clear()
            counters = self.counters
            found = counters.better(ref, task_class, domain, tenant), counters.seen(ref, task_class)
            self._known[kind] = found
        return found

    def dearest(self, plans: Sequence[PlanView]) -> str:
        """The dearest model of candidates. Kept: the plans of a kind of request are one object (see ``views``)."""
        known = self._dearest.get(id(plans))
        if known is None or known[0] is not plans:
            if len(self._dearest) >= _KEPT:
                self._dearest.clear()
            calls = [call for plan in plans for step in plan.steps for call in step.calls]
            known = self._dearest[id(plans)] = plans, max(calls, key=_price).ref if calls else ""
        return known[1]

    def confidence(self, route: str, confidence: float) -> float:
        """The trained model's confidence, as it turned out on a route."""
        return self.corrections.get(route, IDENTITY).of(confidence) if self.applied else confidence

    def lesson(
        self,
        plans: Sequence[PlanView],
        task_class: TaskClass,
        domain: str,
        tenant: str,
        heads: Mapping[str, float],
        heads_number: int = 0,
    ) -> "Lesson":
        """What it says of one request.

        Args:
            plans: The candidates.
            task_class: What the request was taken for.
            domain: Subject area; empty if nobody said.
            tenant: Whose it is.
            heads: P(answer is good) by the promoted heads, by model.
            heads_number: Which heads; 0 for none.
        """
        return Lesson(self, task_class, domain, tenant, heads, heads_number, self.dearest(plans))


def _price(call: CallView) -> tuple[int, str]:
    return call.samples * (call.input_price + call.output_price), call.ref


class Lesson:
    """What an experience says of one request; made by ``Experience.lesson``."""

    __slots__ = ("_dearest", "_domain", "_experience", "_heads", "_number", "_said", "_task_class", "_tenant")

    def __init__(
        self,
        experience: Experience,
        task_class: TaskClass,
        domain: str,
        tenant: str,
        heads: Mapping[str, float],
        heads_number: int,
        dearest: str,
    ) -> None:
        self._experience = experience
        self._task_class = task_class
        self._domain = domain
        self._tenant = tenant
        self._heads = heads
        self._number = heads_number
        self._dearest = dearest
        self._said: dict[str, tuple[float, float]] = {}

    def quality(self, call: CallView, base: float, *, known: bool) -> float:
        """Expected quality of a model's answer.

        Args:
            call: The model in its step.
            base: Its quality before anything was learnt.
            known: Whether the catalogue or the weights say anything of it; else ``base`` is a guess.
        """
        ref = call.ref
        said = self._said.get(ref)
        if said is None:
            better, seen = self._experience.better(ref, self._task_class, self._domain, self._tenant)
            share = min(max(base + better, 0.0), 1.0)
            good = credited(
                mixed(share, self._heads.get(ref)),
                base if known else None,
                spread(share, seen),
                dearest=ref == self._dearest,
            )
            said = self._said[ref] = base, good
        return said[1] if self._experience.applied else said[0]

    def told(self) -> dict[str, object]:
        """For the record beside a decision: of each model, what was expected before and what is expected now.

        ``heads`` is the number of the heads that had a say in it; 0 for none.
        """
        return {
            "applied": self._experience.applied,
            "version": self._experience.version,
            "heads": self._number,
            "good": {ref: [round(base, _DIGITS), round(good, _DIGITS)] for ref, (base, good) in self._said.items()},
        }
