"""Hard limits first, then what a plan is worth. Pure.

A limit never makes a plan worse, it removes it, with a reason that the Decision records. What depends on the snapshot
and the kind of request only is worked out once and kept; the rest (size, time, cost, breakers) is looked at each time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final, NamedTuple

from agents.signals import Signals
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

KEEPS_GOOD: Final = {True: 0.85, False: 1.0}
KEEPS_BAD: Final = {True: 0.6, False: 0.9}
"""Share of good and of bad answers that a step's check lets through, with a threshold on confidence and without one
(empty, truncated and schema-breaking answers are caught either way). Set by hand, on the careful side: a cascade must
not look better than it is. To be replaced by what is measured per route."""


_CHOOSING: Final = frozenset({Pattern.CASCADE, Pattern.SPECIALIST})
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
class Need:
    """What a request asks of a model, beside its kind (see ``views``)."""

    tokens_in: int
    """Prompt tokens, estimated on the high side."""
    tokens_out: int | None
    """Most answer tokens, as the request bounds them."""
    left_ms: int
    """Milliseconds until the deadline."""
    cost_limit: int | None
    """Most micro-units for all calls."""
    confidence: float
    """In the task class: quality is mixed with that over all classes as far as the class is in doubt."""


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


class Candidate(NamedTuple):
    """What a plan is worth for one request."""

    view: PlanView
    tier: str
    model: str
    quality: float
    """Expected, 0 to 1."""
    cost: float
    """Expected, in micro-units."""
    start: int
    """Step of the plan to begin with."""
    models: tuple[tuple[str, ...], ...]
    """Models that may be called, for each step from ``start`` on, those that can be called now first."""
    exclusions: tuple[Exclusion, ...]
    """Why no step can be run; empty if one can."""


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


def _usual(plan: Plan, steps: tuple[StepView, ...]) -> Usual | None:
    allowed = [[call for call in step.calls if call.exclusion is None] for step in steps]
    start = next((index for index, calls in enumerate(allowed) if calls), len(steps))
    if start == len(steps) or plan.pattern is Pattern.ENSEMBLE or (start and plan.pattern not in _CHOOSING):
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


class _Look(NamedTuple):
    """A step, as one request sees it."""

    now: list[str]
    """Models that can be called now."""
    later: list[str]
    """Models that may be called, but can't be at present."""
    quality: float
    cost: float
    against: list[Exclusion]


def weigh(view: PlanView, need: Need, signals: Signals) -> Candidate:
    """What a plan is worth for a request, or why it can't take it."""
    usual = view.usual
    if (
        usual is not None
        and need.cost_limit is None
        and need.left_ms >= usual.slowest_ms
        and not signals.open_breakers
        and not signals.latency_ms
        and (signals.live_tiers is None or usual.tiers <= signals.live_tiers)
    ):
        bound, sure = need.tokens_out, need.confidence
        if need.tokens_in + (bound or usual.tokens_out) <= usual.room:
            stages = [
                (
                    sure * call.quality + (1 - sure) * call.overall,
                    call.cost(need.tokens_in, min(bound or call.tokens_out, call.model.max_output_tokens)),
                    checked,
                )
                for call, checked in usual.stages
            ]
            quality, cost = expected(stages)
            step, models = view.steps[usual.start], usual.models
            return Candidate(view, step.tier, models[0][0], quality, cost, usual.start, models, ())
    return _weigh_each(view, need, signals)


def _weigh_each(view: PlanView, need: Need, signals: Signals) -> Candidate:
    pattern = view.plan.pattern
    steps = view.steps if pattern in _CHOOSING else view.steps[:1]
    looks = [_look(step, need, signals, together=pattern is Pattern.ENSEMBLE) for step in steps]
    start = next((index for index, look in enumerate(looks) if look.now), -1)
    if view.exclusion is not None or start < 0:
        against = [exclusion for look in looks for exclusion in look.against]
        first = view.steps[0]
        return Candidate(
            view,
            first.tier,
            first.calls[0].ref,
            0.0,
            0.0,
            0,
            (),
            (view.exclusion,) if view.exclusion else tuple(against),
        )
    used = looks[start:] if pattern is Pattern.CASCADE else looks[start : start + 1]
    quality, cost = expected(
        [
            (look.quality, look.cost, step.checked)
            for look, step in zip(used, steps[start:], strict=False)
            if look.now or look.later
        ]
    )
    models = tuple([(*look.now, *look.later) for look in used])
    return Candidate(view, steps[start].tier, used[0].now[0], quality, cost, start, models, ())


def _look(step: StepView, need: Need, signals: Signals, *, together: bool) -> _Look:
    """Which models of a step can be called. Of several the first one counts, unless all are asked ``together``."""
    now: list[str] = []
    later: list[str] = []
    against: list[Exclusion] = []
    quality = cost = 0.0
    for call in step.calls:
        price, lasting = _price_or_exclusion(call, need)
        if lasting is not None:
            against.append(lasting)
            continue
        passing = _passing(call, step.tier, need, signals)
        counts = not now and (passing is None or not later)
        if passing is None:
            now.append(call.ref)
        else:
            against.append(passing)
            later.append(call.ref)
        mixed = need.confidence * call.quality + (1 - need.confidence) * call.overall
        if together:
            quality, cost = max(quality, mixed), cost + price
        elif counts:
            quality, cost = mixed, price
    return _Look(now, later, quality, cost, against)


def _price_or_exclusion(call: CallView, need: Need) -> tuple[float, Exclusion | None]:
    """Expected micro-units of a call, and what no waiting changes."""
    if call.exclusion is not None:
        return 0.0, call.exclusion
    tokens_out = min(need.tokens_out or call.tokens_out, call.model.max_output_tokens)
    total = need.tokens_in + call.tokens_before + tokens_out
    if total > call.model.context_tokens:
        return 0.0, Exclusion(
            Why.CONTEXT, f"{call.ref} takes {call.model.context_tokens} tokens, the request about {total}"
        )
    micros = call.cost(need.tokens_in, tokens_out)
    if need.cost_limit is not None and micros > need.cost_limit:
        return micros, Exclusion(
            Why.COST, f"{call.ref} costs about {micros:.0f} micro-units, {need.cost_limit} are allowed"
        )
    return micros, None


def _passing(call: CallView, tier: str, need: Need, signals: Signals) -> Exclusion | None:
    """What may be over when a later step or a fallback comes to its turn."""
    if call.ref in signals.open_breakers:
        return Exclusion(Why.BREAKER, f"{call.ref} is not called at present: its calls fail")
    if signals.live_tiers is not None and tier not in signals.live_tiers:
        return Exclusion(Why.NO_CONSUMER, f"nobody works on tier {tier}")
    latency = signals.latency_ms.get(call.ref, call.latency_ms)
    if latency > need.left_ms:
        return Exclusion(Why.DEADLINE, f"{call.ref} takes {latency:.0f} ms, {need.left_ms} ms are left")
    return None


def expected(stages: list[tuple[float, float, bool]]) -> tuple[float, float]:
    """Quality and cost of steps that are run until one is accepted.

    Args:
        stages: Quality, cost in micro-units, and whether confidence is checked, of each step. Steps count as
            independent: that a question which beat the first model is harder for the second, too, is not in the sum.
    """
    quality = cost = 0.0
    reached = 1.0
    last = len(stages) - 1
    for index, (good, price, checked) in enumerate(stages):
        cost += reached * price
        if index == last:
            return quality + reached * good, cost
        kept = good * KEEPS_GOOD[checked]
        quality += reached * kept
        reached *= 1 - kept - (1 - good) * KEEPS_BAD[checked]
    return quality, cost
