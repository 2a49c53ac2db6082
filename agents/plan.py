"""The routing slip: a plan that travels with its request, and how it moves on. Pure.

What a step runs (models, prompt, parameters) is pinned when the slip is made. What is forbidden is asked of the latest
snapshot each time the plan moves. A step that may not run is taken off the slip, so a step's index is also the number
of steps that ran before it, and a plan ends after at most as many steps as it has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

import orjson
from msgspec.structs import replace

from registry.snapshot import Snapshot
from schemas.catalogue import Pattern, Plan, StepSpec
from schemas.enums import DataClass, Status
from schemas.errors import CatalogueError, DeadlineExceededError
from schemas.flow import Slip, Step

_MILLISECOND: Final = timedelta(milliseconds=1)
BARRED: Final = "plan.barred"
"""Code of a request whose next step may not or can't run."""


class StepState(StrEnum):
    """How a step ended, as the guardrail sees it."""

    ACCEPTED = "accepted"
    DOUBTED = "doubted"
    """A proper answer, but with too little confidence: where policies allow it, it's released if no step is left."""
    INVALID = "invalid"
    """An answer that must not be released: empty, truncated, against its schema."""
    FAILED = "failed"
    """No answer."""
    REFUSED = "refused"
    """A policy forbids the answer; no further step may try."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutcome:
    """How the step at the slip's index ended."""

    state: StepState
    code: str = ""
    """Stable error code, empty when accepted."""
    reason: str = ""
    """For people, without content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What bounds this request, beside its deadline; None bounds nothing."""

    data_class: DataClass | None = None
    tiers: frozenset[str] | None = None
    """Tiers that the tenant may use."""
    cost_left_micros: int | None = None


NO_LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True)
class Run:
    """The step at ``index`` of the slip is next; see ``onward``."""

    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The request ends."""

    status: Status
    code: str = ""
    reason: str = ""


Move = Run | End


class _Rule(StrEnum):
    """What follows from an outcome under a pattern."""

    ANSWER = "answer"
    NEXT = "next"
    """The following step, each in turn; the answer if it was the last one."""
    CLIMB = "climb"
    """The first later step that may run; else as ``EXHAUST``."""
    EXHAUST = "exhaust"
    """No further step is tried: release what may be released, or fail."""
    LAST = "last"
    """As ``EXHAUST`` for the last step; what an earlier one made is no answer to the request, so it fails."""
    FAIL = "fail"
    REFUSE = "refuse"


_SINGLE: Final[Mapping[StepState, _Rule]] = {
    StepState.ACCEPTED: _Rule.ANSWER,
    StepState.DOUBTED: _Rule.EXHAUST,
    StepState.INVALID: _Rule.FAIL,
    StepState.FAILED: _Rule.FAIL,
    StepState.REFUSED: _Rule.REFUSE,
}
TRANSITIONS: Final[Mapping[Pattern, Mapping[StepState, _Rule]]] = {
    Pattern.ROUTER: _SINGLE,
    Pattern.ENSEMBLE: _SINGLE,
    Pattern.SPECIALIST: _SINGLE,
    Pattern.CASCADE: {
        StepState.ACCEPTED: _Rule.ANSWER,
        StepState.DOUBTED: _Rule.CLIMB,
        StepState.INVALID: _Rule.CLIMB,
        StepState.FAILED: _Rule.CLIMB,
        StepState.REFUSED: _Rule.REFUSE,
    },
    Pattern.PIPELINE: {**_SINGLE, StepState.ACCEPTED: _Rule.NEXT, StepState.DOUBTED: _Rule.LAST},
}
"""What follows, by pattern and outcome."""


def make_slip(plan: Plan, snapshot: Snapshot, *, start: int = 0, models: Sequence[Sequence[str]] | None = None) -> Slip:
    """The slip of a plan, with everything pinned that it names.

    Args:
        plan: From ``snapshot``.
        snapshot: Resolves bare ids to versions.
        start: Index in the plan of the step to begin with; earlier ones are taken off.
        models: Models that may be called for this request, for each step from ``start`` on; steps without any, and
            those beyond the list, are taken off. All models of all steps if left out.

    Raises:
        CatalogueError: The plan names what the snapshot doesn't have.
        ValueError: No step is left.
    """
    specs = plan.steps[start:]
    wanted = [spec.models for spec in specs] if models is None else models
    steps = tuple(_pinned(spec, names, snapshot) for spec, names in zip(specs, wanted, strict=False) if names)
    if not steps:
        raise ValueError(f"plan {plan.id} has no step that may run")
    return Slip(
        plan_id=plan.id,
        plan_hash=snapshot.plan_hash(plan.id),
        pattern=plan.pattern.value,
        index=0,
        steps=steps,
    )


def _pinned(spec: StepSpec, models: Sequence[str], snapshot: Snapshot) -> Step:
    return Step(
        step_id=spec.id,
        tier=spec.tier,
        models=tuple(snapshot.model(name).ref for name in models),
        prompt=snapshot.prompt(spec.prompt).ref if spec.prompt else "",
        prompt_hash=snapshot.prompt_hash(spec.prompt) if spec.prompt else "",
        parameters=orjson.dumps(dict(spec.parameters), option=orjson.OPT_SORT_KEYS).decode(),
        accept_min_logprob=spec.accept.min_logprob,
        accept_min_agreement=spec.accept.min_agreement,
        timeout_ms=spec.timeout // _MILLISECOND,
    )


def onward(slip: Slip, index: int) -> Slip:
    """The slip with the step at ``index`` as the next one: what was passed over is taken off."""
    done = slip.index + 1
    return replace(slip, index=done, steps=slip.steps[:done] + slip.steps[index:])


def advance(
    slip: Slip,
    outcome: StepOutcome,
    snapshot: Snapshot,
    now_ms: int,
    deadline_ms: int,
    *,
    limits: Limits = NO_LIMITS,
) -> Move:
    """What follows from the outcome of the slip's current step.

    Args:
        slip: As handed out; its choices stay pinned.
        outcome: Of the step at ``slip.index``.
        snapshot: The latest one: its prohibitions hold for what was chosen earlier, too.
        now_ms: Unix milliseconds.
        deadline_ms: Unix milliseconds.
        limits: What else bounds the request.
    """
    if now_ms >= deadline_ms:
        step = slip.steps[slip.index].step_id
        return End(status=Status.EXPIRED, code=DeadlineExceededError.code, reason=f"the deadline passed in step {step}")
    rule = TRANSITIONS[Pattern(slip.pattern)][outcome.state]
    last = slip.index == len(slip.steps) - 1
    if rule is _Rule.CLIMB or (rule is _Rule.NEXT and not last):
        return _go_on(slip, outcome, snapshot, deadline_ms - now_ms, limits)
    if rule in {_Rule.ANSWER, _Rule.NEXT}:
        return End(status=Status.ANSWERED)
    if rule is _Rule.EXHAUST or (rule is _Rule.LAST and last):
        return _exhausted(outcome, snapshot)
    status = Status.REFUSED if rule is _Rule.REFUSE else Status.FAILED
    return End(status=status, code=outcome.code, reason=outcome.reason)


def _go_on(slip: Slip, outcome: StepOutcome, snapshot: Snapshot, left_ms: int, limits: Limits) -> Move:
    """The first later step that may run. In a pipeline each step needs the one before it, so none is passed over."""
    passed_over = []
    for index in range(slip.index + 1, len(slip.steps)):
        barred = barrier(slip.steps[index], snapshot, left_ms, limits)
        if not barred:
            return Run(index)
        passed_over.append(f"step {slip.steps[index].step_id}: {barred}")
        if outcome.state is StepState.ACCEPTED:
            return End(status=Status.FAILED, code=BARRED, reason=f"the plan can't go on: {passed_over[0]}")
    return _exhausted(outcome, snapshot, "; ".join(passed_over))


def _exhausted(outcome: StepOutcome, snapshot: Snapshot, passed_over: str = "") -> End:
    reason = f"{outcome.reason} ({passed_over})" if passed_over else outcome.reason
    if outcome.state is StepState.DOUBTED and snapshot.catalogue.policies.on_exhausted == "release":
        return End(status=Status.ANSWERED, reason=f"released although {reason}")
    return End(status=Status.FAILED, code=outcome.code, reason=reason)


def barrier(step: Step, snapshot: Snapshot, left_ms: int, limits: Limits = NO_LIMITS) -> str:
    """Why a pinned step may not, or can't, run now; empty if it may.

    Args:
        step: Of a slip made under this or an earlier snapshot.
        snapshot: The latest one.
        left_ms: Milliseconds until the deadline.
        limits: What else bounds the request.
    """
    if limits.tiers is not None and step.tier not in limits.tiers:
        return f"the tenant may not use tier {step.tier}"
    if limits.cost_left_micros is not None and limits.cost_left_micros <= 0:
        return "the cost allowance is used up"
    reason = "it has no model"
    for ref in step.models:
        try:
            model = snapshot.model(ref)
        except CatalogueError:
            reason = f"{ref} is not in the catalogue any more (snapshot {snapshot.number})"
            continue
        reason = snapshot.prohibited(model, tier=step.tier, data_class=limits.data_class)
        if not reason:
            typical = model.typical_latency // _MILLISECOND
            if typical <= left_ms:
                return ""
            reason = f"{ref} takes {typical} ms and {left_ms} ms are left"
    return reason
