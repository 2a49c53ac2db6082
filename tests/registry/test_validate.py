"""Checks across a catalogue: one fault each, and what is said of it."""

from datetime import timedelta
from typing import Any

import pytest

from registry.validate import validate
from tests.registry.catalogues import PRICE, catalogue, model, plain


def step(name: str = "a", tier: str = "fast", *models: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "tier": tier, "models": list(models) or ["small"]} | more


def plan(*steps: dict[str, Any], pattern: str = "cascade", name: str = "climb") -> dict[str, Any]:
    return {"id": name, "pattern": pattern, "steps": list(steps)}


def said(**sections: Any) -> tuple[list[str], list[str]]:
    """Errors and warnings."""
    found = validate(catalogue(**sections), retention=timedelta(days=7))
    return [str(each) for each in found if each.is_error], [str(each) for each in found if not each.is_error]


BOTH = (step("a", "fast", "small"), step("b", "premium", "large"))


def test_the_plain_catalogue_is_sound() -> None:
    assert said() == ([], [])


@pytest.mark.parametrize(
    ("sections", "error"),
    [
        ({"tiers": []}, "tiers: must not be empty"),
        (
            {"tiers": [{"id": "fast", "rank": 1}, {"id": "premium", "rank": 2}, {"id": "fast", "rank": 3}]},
            "tiers[fast]: fast is defined already",
        ),
        ({"models": [model("small"), model("large"), model("small")]}, "models[small@1]: small@1 is defined already"),
        (
            {"tenants": [{"id": "default"}, {"id": "default"}]},
            "tenants[default]: default is defined already",
        ),
        (
            {"intake": [{"topic": "requests", "tenant": "acme"}]},
            "intake[requests].tenant: no tenant acme; there are default",
        ),
        (
            {"intake": [{"topic": "requests"}, {"topic": "requests"}]},
            "intake[requests]: requests is defined already",
        ),
        ({"intake": []}, "intake: must not be empty: there would be no topic to read requests from"),
        (
            {"intake": [{"topic": "requests", "default_deadline": "PT2H", "max_deadline": "PT1H"}]},
            "intake[requests].default_deadline: is above max_deadline (1:00:00)",
        ),
        (
            {"intake": [{"topic": "requests", "max_deadline": "P7D"}]},
            "intake[requests].max_deadline: 7 days, 0:00:00 is not below the topics' retention (7 days, 0:00:00)",
        ),
        (
            {"tenants": [{"id": "default", "tiers": ["fst"]}]},
            "tenants[default].tiers: no tier fst; there are fast, premium",
        ),
        (
            {"plans": [plan(step(models=["small@2"]), BOTH[1])]},
            "plans[climb].steps[a].models[0]: no model small@2; there are large@1, small@1",
        ),
        (
            {"plans": [plan(step(prompt="breif"), BOTH[1])]},
            "plans[climb].steps[a].prompt: no prompt breif; there are brief",
        ),
        (
            {"plans": [plan(step(timeout=0), BOTH[1])]},
            "plans[climb].steps[a].timeout: must be above 0",
        ),
        (
            {"plans": [plan(BOTH[1], BOTH[0])]},
            "plans[climb].steps[a].tier: a cascade climbs, and fast (rank 1) is below premium (rank 2)",
        ),
        (
            {"plans": [plan(*BOTH, pattern="router")]},
            "plans[climb].pattern: a router plan has one step, not 2; a cascade goes on",
        ),
        (
            {"models": [model("small", status="draft"), model("large")]},
            "plans[climb].steps[first].models[0]: small@1 is a draft: make it active before a plan uses it",
        ),
        (
            {"models": [model("small", status="retired"), model("large", status="retired")]},
            "plans[climb]: every model of this plan is retired: retire the plan too, or give it another model",
        ),
        (
            {"models": [model("small"), model("large"), model("third", price=PRICE | {"currency": "EUR"})]},
            "models[third@1].price.currency: EUR, while other models are priced in USD: use one currency",
        ),
        (
            {"models": [model("small", kind="python", name="os.system"), model("large")]},
            "models[small@1].name: 'os.system' is no executor's name",
        ),
        (
            {"models": [model("small", defaults={"extra": {"api-key": "x"}}), model("large")]},
            "models[small@1].defaults.extra.api-key: looks like a secret, and catalogues are published",
        ),
        (
            {"models": [model("small", context_tokens=10, max_output_tokens=11), model("large")]},
            "models[small@1].max_output_tokens: 11 is above context_tokens (10)",
        ),
        (
            {"plans": [plan(step(parameters={"vote": "most"}), BOTH[1])]},
            "plans[climb].steps[a].parameters.vote: must be answer, the only kind of vote there is, not 'most'",
        ),
        (
            {"plans": [plan(step(parameters={"samples": True}), BOTH[1])]},
            "plans[climb].steps[a].parameters.samples: must be a whole number from 1 to 32, not True",
        ),
        (
            {"routes": [{"id": "all", "plans": ["climb"], "when": {"tenants": ["acme"], "impacts": ["hgh"]}}]},
            "routes[all].when.impacts: 'hgh' is not known; it can be low, normal, high, critical",
        ),
        (
            {"routes": [{"id": "all", "plans": ["climb"], "when": {"min_prompt_chars": 9, "max_prompt_chars": 8}}]},
            "routes[all].when.max_prompt_chars: 8 is below min_prompt_chars (9)",
        ),
        ({"policies": {"deny": [{"id": "d", "terms": []}]}}, "policies.deny[d].terms: must not be empty"),
        (
            {"policies": {"deny": [{"id": "d", "terms": ["x", " "]}]}},
            "policies.deny[d].terms[1]: an empty term would deny everything",
        ),
        (
            {"policies": {"deny": [{"id": "d", "terms": ["x" * 101]}]}},
            "policies.deny[d].terms[0]: has 101 characters; at most 100 are allowed",
        ),
        (
            {"policies": {"rules": [{"id": "r", "pattern": "a|", "task_class": "math"}]}},
            "policies.rules[r].pattern: matches the empty text, and so every text",
        ),
        (
            {"policies": {"rules": [{"id": "r", "pattern": "(", "task_class": "math"}]}},
            "policies.rules[r].pattern: is no regular expression: missing ), unterminated subpattern at position 0",
        ),
        (
            {"policies": {"rules": [{"id": "r", "pattern": "a" * 501, "task_class": "math"}]}},
            "policies.rules[r].pattern: has 501 characters; at most 500 are allowed",
        ),
    ],
)
def test_errors(sections: dict[str, Any], error: str) -> None:
    assert [each for each in said(**sections)[0] if each.startswith(error)]


@pytest.mark.parametrize(
    ("sections", "warning"),
    [
        (
            {"routes": [{"id": "m", "plans": ["climb"], "when": {"task_classes": ["math"]}}]},
            "routes: no route is without conditions: what matches none of them fails; add a last one",
        ),
        (
            {"routes": [{"id": "all", "plans": ["climb"]}, {"id": "m", "plans": ["climb"]}]},
            "routes[m]: is never reached: route all before it has no conditions",
        ),
        (
            {"plans": [plan(*BOTH), plan(*BOTH, name="other")]},
            "plans[other]: no route leads to this plan",
        ),
        (
            {"tiers": [{"id": "fast", "rank": 1}, {"id": "premium", "rank": 2}, {"id": "huge", "rank": 3}]},
            "tiers[huge]: no plan has a step on huge: its workers would have nothing to do",
        ),
        (
            {"policies": {"kill_switch": ["small", "large@1", "premium", "smal"]}},
            "policies.kill_switch: smal is no model and no tier here",
        ),
        (
            {"models": [model("small", status="deprecated"), model("large")]},
            "plans[climb].steps[first].models[0]: small@1 is deprecated",
        ),
        (
            {"models": [model("small", status="retired"), model("large")]},
            "plans[climb].steps[first].models: every model of this step is retired: the step is always skipped",
        ),
        (
            {
                "plans": [plan(*BOTH), plan(BOTH[1], name="other")],
                "routes": [{"id": "all", "plans": ["climb", "other"], "when": {"task_classes": ["math"]}}],
            },
            "routes[all]: small@1 (plan climb) has no quality for math",
        ),
        (
            {"plans": [plan(step(), pattern="ensemble"), plan(BOTH[1], name="b")]},
            "plans[climb].steps[a]: an ensemble of one: give more models, or parameters.samples",
        ),
        (
            {"plans": [plan(step(parameters={"tokens": 3}), BOTH[1])]},
            "plans[climb].steps[a].parameters.tokens: is no parameter that workers know (effort, final_answer, ",
        ),
        (
            {"plans": [plan(step(accept={"min_agreement": 0.5}), BOTH[1])]},
            "plans[climb].steps[a].accept.min_agreement: one sample of one model always agrees with itself",
        ),
        (
            {"plans": [plan(step(parameters={"samples": 3, "temperature": 0}), BOTH[1])]},
            "plans[climb].steps[a].parameters.temperature: at 0 all 3 samples are the same",
        ),
        (
            {"plans": [plan(step(accept={"min_logprob": -0.5}), BOTH[1])]},
            "plans[climb].steps[a].accept.min_logprob: small@1 has no capability logprobs: its answers are always",
        ),
        (
            {"policies": {"rules": [{"id": "r", "pattern": "x"}]}},
            "policies.rules[r]: has no effect: it gives neither a task_class nor an action",
        ),
        (
            {"routes": [{"id": "all", "plans": ["climb"], "when": {"task_classes": []}}]},
            "routes[all].when.task_classes: is empty, so the route never matches; leave the condition out for 'any'",
        ),
    ],
)
def test_warnings_do_not_stop_a_catalogue(sections: dict[str, Any], warning: str) -> None:
    errors, warnings = said(**sections)
    assert [each for each in warnings if each.startswith(warning)]
    assert errors == []


def test_a_kill_switch_may_hit_everything_in_an_emergency() -> None:
    assert said(policies={"kill_switch": ["small", "large", "fast", "premium"]}) == ([], [])


def test_a_candidate_without_rivals_needs_no_quality() -> None:
    assert said(routes=[plain()["routes"][0], {"id": "never", "plans": ["climb"]}])[0] == []
    errors, warnings = said(routes=[{"id": "m", "plans": ["climb"], "when": {"task_classes": ["math"]}}])
    assert not errors
    assert not any("quality" in each for each in warnings)
