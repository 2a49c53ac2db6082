"""A catalogue in which one tier does everything: what routing is compared with."""

from schemas.catalogue import Accept, Catalogue, Pattern, Plan, StepSpec
from schemas.errors import ConfigurationError


def only_tier(catalogue: Catalogue, tier: str) -> Catalogue:
    """The catalogue with all routes leading to one step of ``tier``, without escalation.

    Each route keeps the first step of that tier among its own plans (so code is asked as code is asked there); a route
    without one takes the first of any plan.

    Args:
        catalogue: As shipped.
        tier: Tier id.

    Raises:
        ConfigurationError: No plan has a step with a model on the tier.
    """
    steps = {plan.id: _step(plan, tier, catalogue) for plan in catalogue.plans}
    default = next((step for step in steps.values() if step is not None), None)
    if default is None:
        raise ConfigurationError(f"catalogue {catalogue.name} has no plan with a model on tier {tier!r}")
    routes, plans = [], []
    for route in catalogue.routes:
        step = next((found for plan in route.plans if (found := steps[plan]) is not None), default)
        name = f"only-{tier}-{route.id}"
        plans.append(Plan(id=name, pattern=Pattern.ROUTER, steps=(step,)))
        routes.append(route.model_copy(update={"plans": (name,)}))
    policies = catalogue.policies.model_copy(update={"on_exhausted": "release"})
    return catalogue.model_copy(
        update={
            "name": f"{catalogue.name}-only-{tier}",
            "plans": tuple(plans),
            "routes": tuple(routes),
            "policies": policies,
        }
    )


def _step(plan: Plan, tier: str, catalogue: Catalogue) -> StepSpec | None:
    """The plan's first step on the tier that a general model runs, without a condition on its answer."""
    special = {model.id for model in catalogue.models if model.task_classes is not None}
    for step in plan.steps:
        if step.tier == tier and not {name.split("@")[0] for name in step.models} & special:
            return step.model_copy(update={"accept": Accept()})
    return None
