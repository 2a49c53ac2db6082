"""The plans of a route as one kind of request sees them: the hard limits that don't depend on its size, time or money.

Worked out once for a snapshot and a kind of request, and kept. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final, NamedTuple

from registry.snapshot import Snapshot
from schemas.catalogue import Model, Pattern, Plan, Route, StepSpec, Tenant
from schemas.enums import DataClass, TaskClass

_MILLISECOND: Final = timedelta(milliseconds=1)
_KEPT: Final = 1024
"""Kinds of request whose views are kept for a snapshot; more mean that producers invent capabilities."""
_SNAPSHOTS: Final = 4
"""Snapshots whose views are kept: the current one, and a few in case replicas or tests go back and forth."""

TYPICAL_OUTPUT: Final[Mapping[TaskClass, int]] = {
    TaskClass.MATH: 150,
    TaskClass.CODE: 250,
    TaskClass.WRITING: 400,
    TaskClass.QA: 80,
    TaskClass.REASONING: 120,
    TaskClass.EXTRACT: 120,
    TaskClass.SUPPORT: 100,
    TaskClass.CHAT: 80,
    TaskClass.OTHER: 200,
}
"""Answer tokens taken where neither request nor step bounds them. Set by hand; only costs are estimated by them."""
UNKNOWN_QUALITY: Final = 0.5
"""Taken for a model that the catalogue knows no quality of."""

CHOOSING: Final = frozenset({Pattern.CASCADE, Pattern.SPECIALIST})
"""Patterns that begin with the first step that can be run; the others have one step, or begin with the first."""


class Why(StrEnum):
    """Kinds of hard limits."""

    PROHIBITED = "prohibited"
    RIGHTS = "rights"
    DATA_CLASS = "data_class"
    TASK_CLASS = "task_class"
    CAPABILITY = "capability"
    CONTEXT = "context"
    COST = "cost"
    DEADLINE = "deadline"
    BREAKER = "breaker"
    NO_CONSUMER = "no_consumer"
    NOT_DONE = "not_done"


class Exclusion(NamedTuple):
    """Why a model can't take a request."""

    why: Why
    text: str

    def __str__(self) -> str:
        return f"{self.why.value}: {self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallView:
    """A model in a step, as a kind of request sees it."""

    model: Model
    ref: str
    exclusion: Exclusion | None
    tokens_before: int
    """Prompt tokens that the step's template adds."""
    tokens_out: int
    """Most answer tokens, as the step bounds them; else what is typical of the task class."""
    samples: int
    input_price: int
    """Micro-units per million tokens."""
    output_price: int
    latency_ms: int
    quality: float
    """For the task class."""
    overall: float
    """Mean over all classes."""

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """Micro-units that the step costs with this model."""
        prompt = tokens_in + self.tokens_before
        return self.samples * (prompt * self.input_price + tokens_out * self.output_price) / 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StepView:
    """A step, as a kind of request sees it."""

    tier: str
    calls: tuple[CallView, ...]
    checked: bool
    """Whether answers are held against a threshold on confidence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usual:
    """What becomes of a plan while nothing beside its kind stands against the request: worked out once, used often.

    A shortcut of ``weigh`` for nearly all requests, which must not change its answer (a test compares the two).
    """

    room: int
    """Tokens of prompt and answer that every model takes."""
    tokens_out: int
    """Most answer tokens of any model, unless the request bounds them."""
    slowest_ms: int
    tiers: frozenset[str]
    models: tuple[tuple[str, ...], ...]
    start: int
    stages: tuple[tuple[CallView, bool], ...]
    """The model that counts of each step, and whether its answers are checked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanView:
    """A plan, as a kind of request sees it."""

    plan: Plan
    steps: tuple[StepView, ...]
    usual: Usual | None = None
    """None where the shortcut doesn't fit."""
    exclusion: Exclusion | None = None


Kind = tuple[str, str, DataClass, frozenset[str], TaskClass]
_kept: dict[tuple[int, str], dict[Kind, tuple[PlanView, ...]]] = {}


def views(
    route: Route,
    snapshot: Snapshot,
    *,
    tenant: Tenant,
    data_class: DataClass,
    capabilities: frozenset[str],
    task_class: TaskClass,
) -> tuple[PlanView, ...]:
    """The plans of a route as this kind of request sees them: what is known before the request's size, time and money.

    Kept by snapshot number and content hash, so that the same arguments give the same answer.
    """
    of_snapshot = _kept.get((snapshot.number, snapshot.hash))
    if of_snapshot is None:
        if len(_kept) >= _SNAPSHOTS:
            _kept.clear()
        of_snapshot = _kept[snapshot.number, snapshot.hash] = {}
    kind = (route.id, tenant.id, data_class, capabilities, task_class)
    found = of_snapshot.get(kind)
    if found is None:
        if len(of_snapshot) >= _KEPT:
            of_snapshot.clear()
        found = of_snapshot[kind] = tuple(
            _plan_view(snapshot.plan(name), snapshot, tenant, data_class, capabilities, task_class)
            for name in route.plans
        )
    return found


def _plan_view(
    plan: Plan,
    snapshot: Snapshot,
    tenant: Tenant,
    data_class: DataClass,
    capabilities: frozenset[str],
    task_class: TaskClass,
) -> PlanView:
    steps = tuple(
        StepView(
            tier=step.tier,
            calls=tuple(
                _call_view(
                    snapshot.model(name),
                    step,
                    snapshot,
                    _static_exclusion(
                        snapshot.model(name), step.tier, snapshot, tenant, data_class, capabilities, task_class
                    ),
                    task_class,
                )
                for name in step.models
            ),
            checked=step.accept.min_logprob is not None or step.accept.min_agreement is not None,
        )
        for step in plan.steps
    )
    if plan.pattern is Pattern.PIPELINE and len(steps) > 1:
        # The slip can do it; the records have no place yet for what one step hands to the next.
        return PlanView(plan=plan, steps=steps, exclusion=Exclusion(Why.NOT_DONE, "pipelines are not run yet"))
    return PlanView(plan=plan, steps=steps, usual=_usual(plan, steps))


def stages_from(plan: Plan, snapshot: Snapshot, task_class: TaskClass, first: str) -> tuple[tuple[CallView, bool], ...]:
    """The models that a cascade comes to when it begins with one: of each step, and whether its answers are checked.

    What keeps a later step from a request (rights, data class, size) is not looked at.

    Args:
        plan: The cascade.
        snapshot: Has it.
        task_class: Of the request.
        first: ``id@version`` of the model that it begins with; nothing is found if no step has it.
    """
    refs = [[snapshot.model(name).ref for name in step.models] for step in plan.steps]
    start = next((index for index, names in enumerate(refs) if first in names), len(refs))
    return tuple(
        (
            _call_view(snapshot.model(first if index == start else step.models[0]), step, snapshot, None, task_class),
            step.accept.min_logprob is not None or step.accept.min_agreement is not None,
        )
        for index, step in enumerate(plan.steps)
        if index >= start
    )


def _usual(plan: Plan, steps: tuple[StepView, ...]) -> Usual | None:
    allowed = [[call for call in step.calls if call.exclusion is None] for step in steps]
    start = next((index for index, calls in enumerate(allowed) if calls), len(steps))
    if start == len(steps) or plan.pattern is Pattern.ENSEMBLE or (start and plan.pattern not in CHOOSING):
        return None
    end = len(steps) if plan.pattern is Pattern.CASCADE else start + 1
    calls = [call for of_step in allowed[start:end] for call in of_step]
    return Usual(
        room=min(call.model.context_tokens - call.tokens_before for call in calls),
        tokens_out=max(call.tokens_out for call in calls),
        slowest_ms=max(call.latency_ms for call in calls),
        tiers=frozenset(step.tier for step in steps[start:end]),
        models=tuple(tuple(call.ref for call in of_step) for of_step in allowed[start:end]),
        start=start,
        stages=tuple(
            (of_step[0], step.checked)
            for of_step, step in zip(allowed[start:end], steps[start:end], strict=True)
            if of_step
        ),
    )


def _call_view(
    model: Model, step: StepSpec, snapshot: Snapshot, exclusion: Exclusion | None, task_class: TaskClass
) -> CallView:
    prompt = snapshot.prompt(step.prompt) if step.prompt else None
    samples, bound = step.parameters.get("samples"), step.parameters.get("max_tokens")
    overall = sum(model.quality.values()) / len(model.quality) if model.quality else UNKNOWN_QUALITY
    return CallView(
        model=model,
        ref=model.ref,
        exclusion=exclusion,
        tokens_before=(len(prompt.system.encode()) + len(prompt.suffix.encode())) * 2 // 5 if prompt else 0,
        tokens_out=bound if isinstance(bound, int) else TYPICAL_OUTPUT[task_class],
        samples=samples if isinstance(samples, int) else 1,
        input_price=model.price.input_micros_per_million,
        output_price=model.price.output_micros_per_million,
        latency_ms=model.typical_latency // _MILLISECOND,
        quality=model.quality.get(task_class, overall),
        overall=overall,
    )


def _static_exclusion(
    model: Model,
    tier: str,
    snapshot: Snapshot,
    tenant: Tenant,
    data_class: DataClass,
    capabilities: frozenset[str],
    task_class: TaskClass,
) -> Exclusion | None:
    if reason := snapshot.prohibited(model, tier=tier):
        return Exclusion(Why.PROHIBITED, reason)
    if tenant.tiers is not None and tier not in tenant.tiers:
        return Exclusion(Why.RIGHTS, f"tenant {tenant.id} may not use tier {tier}")
    if data_class not in model.data_classes:
        return Exclusion(Why.DATA_CLASS, f"{model.ref} may not be shown {data_class.value} content")
    if model.task_classes is not None and task_class not in model.task_classes:
        return Exclusion(Why.TASK_CLASS, f"{model.ref} is not for {task_class.value}")
    if missing := capabilities - model.capabilities:
        return Exclusion(Why.CAPABILITY, f"{model.ref} lacks {', '.join(sorted(missing))}"[:200])
    return None
