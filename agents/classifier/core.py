"""``decide``: from a request to the plan that answers it, with all that led there. Pure."""

import hashlib
from collections.abc import Sequence
from typing import ClassVar, Final, NamedTuple

from agents.classifier.cues import PHRASES, WORDS
from agents.classifier.experience import Experience, Lesson
from agents.classifier.features import CONFIDENCE, Features, extract, surface_class
from agents.classifier.filters import Candidate, Need, weigh
from agents.classifier.judged import MODEL, Judged, trust_in
from agents.classifier.opinion import Opinion
from agents.classifier.prompt import Asked
from agents.classifier.views import PlanView, Why, views
from agents.signals import Signals
from registry.snapshot import Snapshot
from schemas.catalogue import Plan, Route, Rule
from schemas.enums import Status, TaskClass
from schemas.errors import DeniedError, RoutingError
from schemas.flow import Decision
from schemas.headers import Context
from schemas.ids import chance, derived_id

VERSION: Final = f"surface-1+{hashlib.sha256(repr((WORDS, PHRASES, CONFIDENCE)).encode()).hexdigest()[:8]}"
"""Of the surface classifier, with a checksum of its tables."""

_SEED_STEPS: Final = 1 << 53
"""The draw is recorded as a whole number of these: exact in a double."""


class ClassGuess(NamedTuple):
    """What a request was taken for.

    Attributes:
        task_class: The class.
        confidence: Calibrated probability that it's right; 1 where somebody said so.
        stage: Who said so: hint, rule, surface, model.
        version: Of that stage.
        rule_id: Rule that settled it, empty if none did.
    """

    task_class: TaskClass
    confidence: float
    stage: str
    version: str
    rule_id: str = ""


class Choice(NamedTuple):
    """A decision and what is needed to act on it."""

    decision: Decision
    plan: Plan
    start: int
    """Step of the plan to begin with."""
    models: tuple[tuple[str, ...], ...]
    """Models that may be called, for each step from ``start`` on."""
    cost_limit: int | None
    """Most micro-units for all calls."""


class NoRouteError(RoutingError):
    """No candidate is left.

    Attributes:
        status: How the request ends.
    """

    status: ClassVar[Status] = Status.FAILED


class NotPermittedError(NoRouteError):
    """Policies, rights or the data class removed every candidate."""

    code = "routing.not-permitted"
    status = Status.REFUSED


class CostImpossibleError(NoRouteError):
    """Every candidate that is permitted costs more than is allowed."""

    code = "routing.cost-limit"
    status = Status.REFUSED


class DeadlineImpossibleError(NoRouteError):
    """The deadline isn't over, but no permitted candidate can meet it."""

    code = "deadline.impossible"
    status = Status.REFUSED


_POLICY: Final = frozenset({Why.PROHIBITED, Why.RIGHTS, Why.DATA_CLASS})
_ENDS: Final[tuple[tuple[frozenset[Why], type[NoRouteError]], ...]] = (
    (_POLICY, NotPermittedError),
    (_POLICY | {Why.COST}, CostImpossibleError),
    (_POLICY | {Why.COST, Why.DEADLINE}, DeadlineImpossibleError),
    (frozenset(Why), NoRouteError),
)
"""The first line that has all reasons found says how the request ends."""


def classify(
    asked: Asked,
    features: Features,
    snapshot: Snapshot,
    matched: Sequence[Rule] | None = None,
    judged: Judged | None = None,
) -> ClassGuess:
    """What kind of work a request is: the producer's own word, else a rule's, the trained model's, or the surface's.

    Args:
        asked: The request.
        features: Of its text.
        snapshot: Holds the rules.
        matched: Rules that match its text, if that was found out already.
        judged: What the trained model says; None where it was not asked or did not answer in time.
    """
    hint = asked.request.task_hint
    if hint is not None:
        return ClassGuess(TaskClass(hint), 1.0, "hint", VERSION)
    for rule in matching(asked, snapshot) if matched is None else matched:
        if rule.task_class is not None:
            return ClassGuess(rule.task_class, 1.0, "rule", VERSION, rule.id)
    if judged is not None and features.words:
        return ClassGuess(judged.task_class, judged.confidence, judged.stage, judged.version)
    task_class, confidence = surface_class(features)
    return ClassGuess(task_class, confidence, "surface", VERSION)


def matching(asked: Asked, snapshot: Snapshot) -> tuple[Rule, ...]:
    """The rules that a request's text matches, in their order."""
    return tuple(each.rule for each in snapshot.rules if each.matches(asked.text)) if snapshot.rules else ()


def decide(
    asked: Asked,
    snapshot: Snapshot,
    signals: Signals,
    now_ms: int,
    *,
    context: Context,
    matched: Sequence[Rule] | None = None,
    exploration: float = 0.0,
    exploration_cap: int | None = None,
    judged: Judged | None = None,
    experience: Experience | None = None,
    opinion: Opinion | None = None,
) -> Choice:
    """Choose a plan.

    Args:
        asked: The request, looked through.
        snapshot: What rules.
        signals: What is known of the world; recorded.
        now_ms: Unix milliseconds.
        context: Of the request; its deadline is not over.
        matched: Rules that match the text, if that was found out already.
        exploration: Share of requests that take any permitted candidate, each as likely; drawn from the request id.
        exploration_cap: Micro-units that trying a candidate may cost more than the best one; None for no cap.
        judged: What the trained model says of the text; None where it was not asked or did not answer in time.
        experience: What was learnt from outcomes; None where that doesn't count.
        opinion: What a language model says of it; None where none was asked.

    Raises:
        DeniedError: The tenant is not known.
        NoRouteError: No candidate is left; lists what excluded each, and says how the request ends.
    """
    tenant = snapshot.tenant(context.tenant)
    if tenant is None:
        raise DeniedError(f"tenant {context.tenant} is not known (snapshot {snapshot.number})")
    features = extract(asked.text)
    acting = judged if judged is not None and judged.applied else None
    if opinion is not None:
        acting = opinion.over(acting)
    guess = classify(asked, features, snapshot, matched, acting)
    route, guess = route_of(asked, context, guess, snapshot, experience)
    trust = trust_in(acting, guess.confidence) if acting is not None and guess.stage == acting.stage else 1.0
    cost_limit = _least(asked.request.cost_limit_micros, tenant.max_cost_micros)
    plans = views(
        route,
        snapshot,
        tenant=tenant,
        data_class=context.data_class,
        capabilities=asked.capabilities,
        task_class=guess.task_class,
    )
    lesson = _lesson(experience, plans, guess, judged, context) if experience is not None else None
    need = Need(
        tokens_in=asked.tokens,
        tokens_out=asked.request.sampling.max_tokens if asked.request.sampling else None,
        left_ms=context.deadline_ms - now_ms,
        cost_limit=_least(cost_limit, signals.budget_left_micros),
        confidence=guess.confidence,
        good=acting.good if acting is not None else {},
        lesson=lesson,
    )
    cost_weight = route.cost_weight * trust
    weighed = [weigh(view, need, signals) for view in plans]
    field = _compare(weighed, route, cost_weight, context.request_id, exploration, exploration_cap)
    chosen = field.candidates[field.taken]
    plan_ids, tiers, models, qualities, costs = zip(
        *[(each.view.plan.id, each.tier, each.model, each.quality, round(each.cost)) for each in field.candidates],
        strict=True,
    )
    decision = Decision(
        decision_id=derived_id("decision", context.request_id, snapshot.hash),
        request_id=context.request_id,
        task_class=guess.task_class,
        class_confidence=guess.confidence,
        confidence=chosen.quality,
        stage=guess.stage,
        classifier_version=_version(guess, experience),
        feature_hash=features.hash(),
        seed=field.seed,
        route_id=route.id,
        rule_id=guess.rule_id,
        plan_id=chosen.view.plan.id,
        tier=chosen.tier,
        model=chosen.model,
        candidate_plan=plan_ids,
        candidate_tier=tiers,
        candidate_model=models,
        candidate_quality=qualities,
        candidate_cost_micros=costs,
        candidate_score=field.scores,
        candidate_propensity=field.propensities,
        candidate_excluded=tuple([_told(each) if each.exclusions else "" for each in field.candidates]),
        thresholds={
            "cost_weight": cost_weight,
            "trust": trust,
            "exploration": exploration,
            "tokens_in": float(need.tokens_in),
            "left_ms": float(need.left_ms),
        },
        signals=signals.to_json(
            judged.told() if judged is not None else None,
            lesson.told() if lesson is not None and experience is not None and experience.version else None,
            opinion.told() if opinion is not None else None,
        ),
        policy_hash=snapshot.policy_hash,
        registry_number=snapshot.number,
        registry_hash=snapshot.hash,
        decided_at_ms=now_ms,
    )
    return Choice(
        decision=decision, plan=chosen.view.plan, start=chosen.start, models=chosen.models, cost_limit=cost_limit
    )


class _Field(NamedTuple):
    """The candidates, compared."""

    candidates: list[Candidate]
    scores: tuple[float, ...]
    propensities: tuple[float, ...]
    taken: int
    seed: int
    """The draw, in units of 2^-53; 0 if nothing was drawn."""


def _compare(
    candidates: list[Candidate],
    route: Route,
    cost_weight: float,
    request_id: str,
    exploration: float,
    cap: int | None,
) -> _Field:
    """Score what is left, and take the best or, as a draw from the request id says, any that isn't too dear to try."""
    left = [index for index, candidate in enumerate(candidates) if not candidate.exclusions]
    if not left:
        raise _no_route(route, candidates)
    scores = [0.0] * len(candidates)
    propensities = [0.0] * len(candidates)
    best = left[0]
    for index in left:
        candidate = candidates[index]
        scores[index] = candidate.quality - cost_weight * candidate.cost / 1000
        # Equal scores: the cheaper one, then the one that the route names first.
        if (scores[index], -candidate.cost) > (scores[best], -candidates[best].cost):
            best = index
    tried = left if cap is None else [each for each in left if candidates[each].cost <= candidates[best].cost + cap]
    for index in tried:
        propensities[index] = exploration / len(tried)
    propensities[best] += 1 - exploration
    taken, seed = best, 0
    if exploration > 0:
        draw = chance(request_id, "exploration")
        seed = int(draw * _SEED_STEPS)
        if draw < exploration:
            taken = tried[min(int(draw / exploration * len(tried)), len(tried) - 1)]
    return _Field(candidates, tuple(scores), tuple(propensities), taken, seed)


def route_of(
    asked: Asked, context: Context, guess: ClassGuess, snapshot: Snapshot, experience: Experience | None = None
) -> tuple[Route, ClassGuess]:
    """The route that takes a request, and the guess with its confidence as it turned out on that route.

    Raises:
        NoRouteError: None does.
    """
    corrects = experience is not None and guess.stage == MODEL
    for route in snapshot.catalogue.routes:
        when = route.when
        if (
            (when.task_classes is None or guess.task_class in when.task_classes)
            and (when.tenants is None or context.tenant in when.tenants)
            and (when.impacts is None or asked.request.impact.value in when.impacts)
            and (when.data_classes is None or context.data_class in when.data_classes)
            and (when.max_prompt_chars is None or asked.chars <= when.max_prompt_chars)
            and (when.min_prompt_chars is None or asked.chars >= when.min_prompt_chars)
        ):
            confidence = guess.confidence
            if corrects and experience is not None:
                confidence = experience.confidence(route.id, confidence)
            if when.min_confidence is None or confidence >= when.min_confidence:
                return route, guess if confidence == guess.confidence else guess._replace(confidence=confidence)
    raise NoRouteError(f"no route takes a request of class {guess.task_class.value} (snapshot {snapshot.number})")


def _lesson(
    experience: Experience, plans: Sequence[PlanView], guess: ClassGuess, judged: Judged | None, context: Context
) -> Lesson:
    domain, heads, number = ("", {}, 0) if judged is None else (judged.domain, judged.heads, judged.heads_number)
    return experience.lesson(plans, guess.task_class, domain, context.tenant, heads, number)


def _version(guess: ClassGuess, experience: Experience | None) -> str:
    if experience is None or not experience.version or not experience.applied:
        return guess.version
    return f"{guess.version} {experience.version}"


def _no_route(route: Route, candidates: Sequence[Candidate]) -> NoRouteError:
    whys = {exclusion.why for candidate in candidates for exclusion in candidate.exclusions}
    whys = whys - {Why.TASK_CLASS} or whys  # a specialist for other work says nothing of what became of this one
    kind = next(kind for reasons, kind in _ENDS if whys <= reasons)
    told = "; ".join(f"{candidate.view.plan.id}: {_told(candidate)}" for candidate in candidates)
    return kind(f"route {route.id} has no candidate left: {told}")


def _told(candidate: Candidate) -> str:
    return ", ".join(dict.fromkeys(map(str, candidate.exclusions)))


def _least(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else min(one, other)
