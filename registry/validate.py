"""Checks across a catalogue: what is referred to exists, fits together, and can be used."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import Final

from registry.patterns import MAX_TERM_CHARS, compile_rule
from registry.places import Path, Places, name_of, names_only
from registry.problems import Problem, Severity
from registry.validate_models import model_problems, parameter_problems
from registry.versions import by_reference
from schemas.catalogue import LOGPROBS, Catalogue, Model, ModelStatus, Pattern, Plan, ProviderKind, RouteWhen, StepSpec
from schemas.enums import Action, Impact, TaskClass
from schemas.errors import CatalogueError

_NOTHING: Final = timedelta(0)


def validate(
    catalogue: Catalogue,
    places: Places | None = None,
    *,
    retention: timedelta | None = None,
    absent: Mapping[str, Collection[str]] | None = None,
) -> list[Problem]:
    """Finds what shapes alone can't show.

    Args:
        catalogue: What to check.
        places: Where its values are written; problems then have lines.
        retention: How long intake and tier topics keep records; without it, deadlines are not compared with it.
        absent: By section, names of elements that exist but could not be read: referring to them is right.
    """
    named = names_only(catalogue)  # of defaults, too, which are written nowhere
    if places is not None:
        named = replace(places, names=named.names | places.names)
    return _Checks(catalogue, named, retention, absent or {}).run()


class _Checks:
    """One pass over one catalogue."""

    def __init__(
        self,
        catalogue: Catalogue,
        places: Places,
        retention: timedelta | None,
        absent: Mapping[str, Collection[str]],
    ) -> None:
        self._all = catalogue
        self._places = places
        self._retention = retention
        self._absent = absent
        self._problems: list[Problem] = []
        self._models = by_reference(catalogue.models)
        self._prompts = by_reference(catalogue.prompts)
        self._ranks = {tier.id: tier.rank for tier in catalogue.tiers}
        self._plans = {plan.id: plan for plan in catalogue.plans}
        self._tenants = {tenant.id for tenant in catalogue.tenants}

    def run(self) -> list[Problem]:
        self._unique()
        self._tiers()
        for index, model in enumerate(self._all.models):
            self._problems += model_problems(model, ("models", index), self._places)
        self._currency()
        for index, plan in enumerate(self._all.plans):
            self._plan(plan, ("plans", index))
        self._routes()
        self._policies()
        self._tenants_and_intake()
        return self._problems

    def _error(self, path: Path, message: str) -> None:
        self._problems.append(Problem(self._places.label(path), message, self._places.of(path)))

    def _warn(self, path: Path, message: str) -> None:
        label, place = self._places.label(path), self._places.of(path)
        self._problems.append(Problem(label, message, place, Severity.WARNING))

    def _unique(self) -> None:
        """Names within each list; where a name is taken, the first place is told."""
        lists: list[tuple[Path, Sequence[object]]] = [
            ((section,), getattr(self._all, section))
            for section in ("tiers", "models", "prompts", "plans", "routes", "tenants", "intake")
        ]
        lists += [(("policies", "deny"), self._all.policies.deny), (("policies", "rules"), self._all.policies.rules)]
        lists += [(("plans", index, "steps"), plan.steps) for index, plan in enumerate(self._all.plans)]
        for path, elements in lists:
            seen: dict[str, Path] = {}
            for index, element in enumerate(elements):
                name = name_of(element)
                first = seen.setdefault(name, (*path, index))
                if first != (*path, index):
                    at = self._places.of(first)
                    self._error((*path, index), f"{name} is defined already" + (f" at {at}" if at else ""))

    def _tiers(self) -> None:
        if not self._all.tiers and not self._absent.get("tiers"):
            self._error(("tiers",), "must not be empty")
        ranks: dict[int, str] = {}
        used = {step.tier for plan in self._all.plans for step in plan.steps}
        clear = used <= self._ranks.keys() and not self._absent.get("plans")  # else a misspelt one may be meant
        for index, tier in enumerate(self._all.tiers):
            first = ranks.setdefault(tier.rank, tier.id)
            if first != tier.id:
                self._error(("tiers", index, "rank"), f"{tier.rank} is the rank of {first} already")
            if tier.id not in used and clear:
                self._warn(("tiers", index), f"no plan has a step on {tier.id}: its workers would have nothing to do")

    def _currency(self) -> None:
        """Costs are added up and compared, so there can be one currency only."""
        by_currency: dict[str, list[int]] = defaultdict(list)
        for index, model in enumerate(self._all.models):
            by_currency[model.price.currency].append(index)
        if len(by_currency) > 1:
            main = max(by_currency, key=lambda currency: len(by_currency[currency]))
            for currency in by_currency.keys() - {main}:
                for index in by_currency[currency]:
                    at = ("models", index, "price", "currency")
                    self._error(at, f"{currency}, while other models are priced in {main}: use one currency")

    def _known(self, section: str, names: Iterable[str], name: str, path: Path, what: str) -> bool:
        """Whether a name exists; otherwise an error that lists what does."""
        present, absent = set(names), set(self._absent.get(section, ()))
        if name in present or name in absent:
            return name in present
        names = sorted(each for each in present | absent if ("@" in each) == ("@" in name))
        there = f"there are {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}" if names else "there are none"
        self._error(path, f"no {what} {name}; {there}")
        return False

    def _plan(self, plan: Plan, path: Path) -> None:
        usable = False
        for index, step in enumerate(plan.steps):
            at = (*path, "steps", index)
            self._known("tiers", self._ranks, step.tier, (*at, "tier"), "tier")
            found = [self._step_model(name, (*at, "models", n)) for n, name in enumerate(step.models)]
            models = [model for model in found if model is not None]
            if len(models) < len(found) or any(model.status is not ModelStatus.RETIRED for model in models):
                usable = True
            elif len(plan.steps) > 1:
                self._warn((*at, "models"), "every model of this step is retired: the step is always skipped")
            if step.prompt:
                self._known("prompts", self._prompts, step.prompt, (*at, "prompt"), "prompt")
            if step.accept.min_logprob is not None:
                self._log_probabilities(models, (*at, "accept", "min_logprob"))
            if step.timeout <= _NOTHING:
                self._error((*at, "timeout"), "must be above 0")
            self._problems += parameter_problems(step, models, at, self._places)
        if not usable:
            self._error(path, "every model of this plan is retired: retire the plan too, or give it another model")
        self._pattern(plan, path)
        if not self._absent.get("routes") and not any(plan.id in route.plans for route in self._all.routes):
            self._warn(path, "no route leads to this plan")

    def _log_probabilities(self, models: Iterable[Model], path: Path) -> None:
        for model in models:
            if model.kind is not ProviderKind.LLAMA and LOGPROBS not in model.capabilities:
                self._warn(path, f"{model.ref} has no capability {LOGPROBS}: its answers are always doubted")

    def _step_model(self, name: str, path: Path) -> Model | None:
        if not self._known("models", self._models, name, path, "model"):
            return None
        model = self._models[name]
        if model.status is ModelStatus.DRAFT:
            self._error(path, f"{model.ref} is a draft: make it active before a plan uses it")
        elif model.status is ModelStatus.DEPRECATED:
            self._warn(path, f"{model.ref} is deprecated")
        return model

    def _pattern(self, plan: Plan, path: Path) -> None:
        steps: Sequence[StepSpec] = plan.steps
        if plan.pattern is Pattern.ROUTER and len(steps) > 1:
            self._error((*path, "pattern"), f"a router plan has one step, not {len(steps)}; a cascade goes on")
        if plan.pattern is Pattern.ENSEMBLE:
            for index, step in enumerate(steps):
                if len(step.models) < 2 and not _above_one(step.parameters.get("samples")):
                    self._warn((*path, "steps", index), "an ensemble of one: give more models, or parameters.samples")
        if plan.pattern is not Pattern.CASCADE:
            return
        for index, (before, step) in enumerate(pairwise(steps), 1):
            lower, upper = self._ranks.get(before.tier), self._ranks.get(step.tier)
            if lower is not None and upper is not None and upper < lower:
                self._error(
                    (*path, "steps", index, "tier"),
                    f"a cascade climbs, and {step.tier} (rank {upper}) is below {before.tier} (rank {lower})",
                )

    def _routes(self) -> None:
        open_route = ""
        for index, route in enumerate(self._all.routes):
            path: Path = ("routes", index)
            if open_route:
                self._warn(path, f"is never reached: route {open_route} before it has no conditions")
            for n, plan in enumerate(route.plans):
                self._known("plans", self._plans, plan, (*path, "plans", n), "plan")
            self._when(route.when, (*path, "when"))
            if route.when == RouteWhen() and not open_route:
                open_route = route.id
            if len(route.plans) > 1:
                self._quality(route.when.task_classes or (), route.plans, path)
        if not open_route and not self._absent.get("routes"):
            self._warn(("routes",), "no route is without conditions: what matches none of them fails; add a last one")

    def _when(self, when: RouteWhen, path: Path) -> None:
        for tenant in sorted(when.tenants or ()):
            self._known("tenants", self._tenants, tenant, (*path, "tenants"), "tenant")
        for impact in sorted((when.impacts or frozenset()) - set(Impact)):
            self._error((*path, "impacts"), f"{impact!r} is not known; it can be {', '.join(Impact)}")
        for name in ("task_classes", "tenants", "impacts", "data_classes"):
            if getattr(when, name) == frozenset():
                self._warn((*path, name), "is empty, so the route never matches; leave the condition out for 'any'")
        low, high = when.min_prompt_chars, when.max_prompt_chars
        if low is not None and high is not None and low > high:
            self._error((*path, "max_prompt_chars"), f"{high} is below min_prompt_chars ({low})")

    def _quality(self, classes: Iterable[TaskClass], plans: Iterable[str], path: Path) -> None:
        """Candidates are compared by quality: without a number a model is judged by nothing."""
        classes = sorted(classes)
        for name in plans:
            plan = self._plans.get(name)
            model = self._models.get(plan.steps[0].models[0]) if plan else None
            missing = [each for each in classes if model is not None and each not in model.quality]
            if missing and model is not None:
                self._warn(path, f"{model.ref} (plan {name}) has no quality for {', '.join(missing)}")

    def _policies(self) -> None:
        policies = self._all.policies
        for index, deny in enumerate(policies.deny):
            path: Path = ("policies", "deny", index)
            if not deny.terms:
                self._error((*path, "terms"), "must not be empty")
            for n, term in enumerate(deny.terms):
                self._term(term, (*path, "terms", n))
            if not deny.applies_to:
                self._warn((*path, "applies_to"), "is empty, so the list has no effect")
        for index, rule in enumerate(policies.rules):
            path = ("policies", "rules", index)
            try:
                compile_rule(rule)
            except CatalogueError as error:
                self._error((*path, "pattern"), str(error))
            if rule.task_class is None and rule.action is Action.ALLOW:
                self._warn(path, "has no effect: it gives neither a task_class nor an action")
        names = {*self._models, *self._ranks, *self._absent.get("models", ()), *self._absent.get("tiers", ())}
        for name in sorted(policies.kill_switch - names):
            self._warn(("policies", "kill_switch"), f"{name} is no model and no tier here")

    def _term(self, term: str, path: Path) -> None:
        if not term.strip():
            self._error(path, "an empty term would deny everything")
        if len(term) > MAX_TERM_CHARS:
            self._error(path, f"has {len(term)} characters; at most {MAX_TERM_CHARS} are allowed")

    def _tenants_and_intake(self) -> None:
        for index, tenant in enumerate(self._all.tenants):
            for tier in sorted(tenant.tiers or ()):
                self._known("tiers", self._ranks, tier, ("tenants", index, "tiers"), "tier")
            if tenant.max_cost_micros is not None and tenant.max_cost_micros < 0:
                self._error(("tenants", index, "max_cost_micros"), "must not be below 0")
        if not self._all.intake and not self._absent.get("intake"):
            self._error(("intake",), "must not be empty: there would be no topic to read requests from")
        for index, intake in enumerate(self._all.intake):
            path: Path = ("intake", index)
            self._known("tenants", self._tenants, intake.tenant, (*path, "tenant"), "tenant")
            if intake.default_deadline <= _NOTHING:
                self._error((*path, "default_deadline"), "must be above 0")
            if intake.default_deadline > intake.max_deadline:
                self._error((*path, "default_deadline"), f"is above max_deadline ({intake.max_deadline})")
            if self._retention is not None and intake.max_deadline >= self._retention:
                self._error(
                    (*path, "max_deadline"),
                    f"{intake.max_deadline} is not below the topics' retention ({self._retention}): "
                    "a request could be deleted before its time is over",
                )


def _above_one(value: object) -> bool:
    return isinstance(value, int) and value > 1
