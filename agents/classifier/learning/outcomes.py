"""Outcomes: what came of a decision, and how surely somebody says so. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from schemas.edges import Feedback
from schemas.enums import TaskClass
from schemas.flow import Decision

PRIOR: Final = 0.5
"""Share of good answers of a model that nobody says anything of."""
GUARDRAIL: Final = "guardrail"
JUDGE: Final = "judge"
SURER: Final = {"program": 3, "human": 2, JUDGE: 1, GUARDRAIL: 0}
"""Whose word counts when several speak of one answer: what a program checked, then people, judges, guardrails."""
WEIGHT_OF_GUARDRAIL: Final = 0.1
"""Of a guardrail's word beside a rating's 1. A check that lets through 85 % of the good answers and 60 % of the bad
says about a twelfth of what is said by who knows (ratio of the Fisher informations at 60 % good answers: .08)."""


class Planned(NamedTuple):
    """A candidate that was not excluded.

    Attributes:
        plan: Its plan.
        model: The model that it begins with, ``id@version``.
        propensity: Probability with which it could have been chosen.
        cost: Expected cost, in units of quality as the route weighs it.
    """

    plan: str
    model: str
    propensity: float
    cost: float


class Stage(NamedTuple):
    """A step of a plan.

    Attributes:
        model: Who is asked, ``id@version``.
        cost: Expected cost of it alone, in units of quality.
        checked: Whether its answers are held against a threshold on confidence.
    """

    model: str
    cost: float
    checked: bool


class Option(NamedTuple):
    """A plan that could have been chosen, with the steps that it may come to."""

    plan: str
    stages: tuple[Stage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What learning needs of a decision.

    Attributes:
        request_id: Which request.
        tenant: Whose.
        task_class: What it was taken for.
        domain: Subject area; empty if nobody said.
        model: What was to answer first, ``id@version``.
        propensity: Probability that this model was chosen, above 0.
        columns: Features as they were at the decision, see ``Model.view``.
        cost_micros: Expected cost.
        bases: P(answer is good) of each candidate before anything was learnt in the flow: from the weights, else the
            catalogue. A candidate that nobody knows anything of is missing.
        costs: Expected cost of each candidate in units of quality, as the route weighs it; empty where it wasn't said.
        route: Which route.
        judged: What the trained model took it for, and how sure it was before any correction; None if it wasn't asked.
        plan: Which plan was chosen.
        plans: The candidates, which plans are.
        options: The same with their steps; empty where they aren't known.
        cost_weight: What a micro-unit is worth in quality.
    """

    request_id: str
    tenant: str
    task_class: TaskClass
    domain: str
    model: str
    propensity: float
    columns: tuple[float, ...] = ()
    cost_micros: int = 0
    bases: Mapping[str, float] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    route: str = ""
    judged: tuple[str, float] | None = None
    plan: str = ""
    plans: tuple[Planned, ...] = ()
    options: tuple[Option, ...] = ()
    cost_weight: float = 0.0

    @property
    def plan_propensity(self) -> float:
        """Probability with which the plan was chosen; above 0 where it is among the candidates."""
        return min(sum(each.propensity for each in self.plans if each.plan == self.plan), 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A decision and how good the answer of the model that it chose was, 0 to 1.

    Attributes:
        decided: The decision.
        good: How good that answer was.
        kind: Whose word it is: program, human, judge, guardrail.
        earlier: What a less sure word said before, and whose it was: this outcome takes its place.
        counted: Whether it is new; False for one that was counted before a restart, and is only remembered.
        final: How good the final answer was, where the plan went on to another model; None where it did not. Then
            ``good`` is what the guardrail's word makes likely, which was told and counted before.
        spoken: Whether anybody said something of the first model's answer; if not, ``good`` is what was expected.
        micros: Micro-units billed for all calls of the request; None where nobody said.
    """

    decided: Decided
    good: float
    kind: str
    earlier: tuple[float, str] | None = None
    counted: bool = True
    final: float | None = None
    spoken: bool = True
    micros: int | None = None

    @property
    def weight(self) -> float:
        """What it counts beside a rating."""
        return weight_of(self.kind)


def weight_of(kind: str) -> float:
    """What a word of this kind counts beside a rating."""
    return WEIGHT_OF_GUARDRAIL if kind == GUARDRAIL else 1.0


def decided_of(
    decision: Decision,
    tenant: str,
    *,
    domain: str = "",
    columns: Sequence[float] = (),
    bases: Mapping[str, float] | None = None,
    judged: tuple[str, float] | None = None,
) -> Decided | None:
    """What learning needs of a recorded decision; None if it can't be learnt from (its propensity is not known).

    Plans that begin with the same model are one choice as far as that model's answers go: their propensities add up.
    """
    weight = decision.thresholds.get("cost_weight", 0.0) / 1000
    propensity, costs = 0.0, dict[str, float]()
    micros = 0
    plans: list[Planned] = []
    for plan, model, share, cost, excluded in zip(
        decision.candidate_plan,
        decision.candidate_model,
        decision.candidate_propensity,
        decision.candidate_cost_micros,
        decision.candidate_excluded,
        strict=True,
    ):
        if excluded:
            continue
        plans.append(Planned(plan, model, share, weight * cost))
        costs[model] = min(weight * cost, costs.get(model, weight * cost))
        if model == decision.model:
            propensity += share
            if plan == decision.plan_id:
                micros = cost
    if propensity <= 0:
        return None
    return Decided(
        request_id=decision.request_id,
        tenant=tenant,
        task_class=decision.task_class,
        domain=domain,
        model=decision.model,
        propensity=min(propensity, 1.0),
        columns=tuple(columns),
        cost_micros=micros,
        bases={} if bases is None else bases,
        costs=costs,
        route=decision.route_id,
        judged=judged,
        plan=decision.plan_id,
        plans=tuple(plans),
        cost_weight=weight,
    )


def goodness(feedback: Feedback) -> float | None:
    """How good an answer was, as somebody says; None if they don't say."""
    if feedback.correct is not None:
        return float(feedback.correct)
    return feedback.rating
