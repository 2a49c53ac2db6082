"""Plans as replay sees them: which model each step asks, for what price, and what the whole is worth. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from agents.classifier.filters import expected
from agents.classifier.learning.outcomes import Decided, Option, Planned, Stage
from agents.classifier.prompt import Asked
from agents.classifier.views import stages_from
from registry.snapshot import Snapshot
from schemas.catalogue import Pattern
from schemas.errors import CatalogueError

_NONE: Final[tuple[Option, ...]] = ()


def models_of(plans: Sequence[str], snapshot: Snapshot) -> set[str]:
    """Models that plans may come to after the first one, ``id@version``; of plans that are gone, none."""
    found: set[str] = set()
    for name in plans:
        try:
            plan = snapshot.plan(name)
        except CatalogueError:
            continue
        if plan.pattern is Pattern.CASCADE:
            found.update(snapshot.model(step.models[0]).ref for step in plan.steps)
    return found


def with_options(decided: Decided, asked: Asked, snapshot: Snapshot) -> Decided:
    """A decision with the steps of its candidates, as the catalogue has them now.

    Without them, if a plan is gone or was changed: then plans are told apart by their first model only.
    """
    options = []
    for planned in decided.plans:
        stages = _stages(planned, decided, asked, snapshot)
        if not stages:
            return replace(decided, options=_NONE)
        options.append(Option(planned.plan, stages))
    return replace(decided, options=tuple(options))


def _stages(planned: Planned, decided: Decided, asked: Asked, snapshot: Snapshot) -> tuple[Stage, ...]:
    try:
        plan = snapshot.plan(planned.plan)
    except CatalogueError:
        return ()
    if plan.pattern is not Pattern.CASCADE:
        return (Stage(planned.model, planned.cost, checked=False),)
    bound = asked.request.sampling.max_tokens if asked.request.sampling else None
    return tuple(
        Stage(
            call.ref,
            decided.cost_weight * call.cost(asked.tokens, min(bound or call.tokens_out, call.model.max_output_tokens)),
            checked,
        )
        for call, checked in stages_from(plan, snapshot, decided.task_class, planned.model)
    )


def preferred(options: Sequence[Option], good: Mapping[str, float]) -> str:
    """The plan with the best quality less weighed cost, as decisions compare them; of equal ones the cheaper.

    Args:
        options: At least one.
        good: P(answer is good) of each model.
    """
    best, most = "", (float("-inf"), 0.0)
    for option in options:
        quality, cost = expected([(good[stage.model], stage.cost, stage.checked) for stage in option.stages])
        if not best or (quality - cost, -cost) > most:
            best, most = option.plan, (quality - cost, -cost)
    return best
