"""Hard limits first, then what a plan is worth. Pure.

A limit never makes a plan worse, it removes it, with a reason that the Decision records. What depends on the kind of
request only is in ``views``; here are the limits of size, time, cost and breakers, looked at for each request.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from msgspec import Struct, field

from agents.classifier.views import CHOOSING, CallView, Exclusion, PlanView, StepView, Why
from agents.signals import Signals
from schemas.catalogue import Pattern

KEEPS_GOOD: Final = {True: 0.85, False: 1.0}
KEEPS_BAD: Final = {True: 0.6, False: 0.9}
"""Share of good and of bad answers that a step's check lets through, with a threshold on confidence and without one
(empty, truncated and schema-breaking answers are caught either way). Set by hand, on the careful side: a cascade must
not look better than it is. To be replaced by what is measured per route."""


class Need(Struct, frozen=True, kw_only=True):
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
    good: Mapping[str, float] = field(default_factory=dict)
    """P(answer is good) as learnt for this very request, by ``id@version``; taken instead of the catalogue's."""

    def quality(self, call: CallView) -> float:
        """Expected quality of a model's answer to this request."""
        learnt = self.good.get(call.ref)
        if learnt is not None:
            return learnt
        return self.confidence * call.quality + (1 - self.confidence) * call.overall


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
        bound = need.tokens_out
        if need.tokens_in + (bound or usual.tokens_out) <= usual.room:
            stages = [
                (
                    need.quality(call),
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
    steps = view.steps if pattern in CHOOSING else view.steps[:1]
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
        mixed = need.quality(call)
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
