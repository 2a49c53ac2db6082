"""The catalogues that come with Tierflow: sound, and what their comments promise of them."""

import re
from datetime import timedelta
from pathlib import Path

import pytest

from registry.adjust import with_model_names
from registry.check import check_files
from registry.load import SHIPPED, load_catalogue, shipped
from registry.snapshot import Snapshot
from schemas.catalogue import Pattern, ProviderKind
from schemas.enums import DataClass, TaskClass
from schemas.settings import TopicSettings, WorkerSettings


@pytest.mark.parametrize("name", shipped())
def test_shipped_catalogues_are_sound_without_a_warning(name: str) -> None:
    report = check_files([name], retention=TopicSettings().retention)
    assert report.errors == report.warnings == ()
    assert report.summary


@pytest.mark.parametrize("name", shipped())
def test_all_have_the_same_tiers_so_that_topics_stay_when_the_catalogue_changes(name: str) -> None:
    snapshot = Snapshot.from_catalogue(load_catalogue(name))
    assert [each.id for each in snapshot.tiers] == ["fast", "balanced", "premium"]
    assert snapshot.intake("requests") is not None
    assert snapshot.tenant("default") is not None


@pytest.mark.parametrize("name", shipped())
def test_each_has_a_cascade_through_all_tiers(name: str) -> None:
    catalogue = load_catalogue(name)
    climbs = [[step.tier for step in plan.steps] for plan in catalogue.plans if plan.pattern is Pattern.CASCADE]
    assert ["fast", "balanced", "premium"] in climbs


@pytest.mark.parametrize("name", shipped())
def test_the_example_deny_list_works(name: str) -> None:
    (deny,) = Snapshot.from_catalogue(load_catalogue(name)).deny_patterns
    assert deny.find("Summarise the Moonquill Dossier.")
    assert not deny.find("Write a poem about a moon and a quill.")


@pytest.mark.parametrize("name", ["local", "small"])
def test_the_rule_for_sums_takes_sums_only(name: str) -> None:
    (rule,) = Snapshot.from_catalogue(load_catalogue(name)).rules
    for text in (
        "What is 40 - 36? Answer with the number only.",
        "what is 6 times 9?",
        "What is 50% of 80? Answer with the number only.",
        "Calculate: (3 + 4) * 2",
        "How much is 1,200 divided by 7",
    ):
        assert rule.matches(text), text
    for text in (
        "What is 2 Timothy about?",
        "What is the sum of the angles of a triangle?",
        "Tom had 23 pencils and gave away 15. How many are left?",
        "Calculate the trajectory of a ball.",
    ):
        assert not rule.matches(text), text


@pytest.mark.parametrize("name", ["local", "small"])
def test_local_models_may_see_everything_and_cost_nothing_but_tokens(name: str) -> None:
    for model in load_catalogue(name).models:
        assert model.data_classes == frozenset(DataClass)
        assert model.kind in {ProviderKind.LLAMA, ProviderKind.PYTHON}
        # The worker finds a local server under the name of its weights.
        assert model.kind is not ProviderKind.LLAMA or model.endpoint == model.name


def test_local_prices_are_parameters() -> None:
    for model in load_catalogue("local").models:
        if model.kind is ProviderKind.LLAMA:
            billions = re.search(r"(\d\.\d)b$", model.name)
            assert billions is not None
            assert model.price.input_micros_per_million == float(billions[1]) * 1_000_000
            assert model.price.output_micros_per_million == model.price.input_micros_per_million


def test_local_quality_covers_what_was_measured() -> None:
    measured = {TaskClass(name) for name in ("code", "extract", "math", "qa", "reasoning", "support")}
    for model in load_catalogue("local").models:
        if model.kind is ProviderKind.LLAMA:
            assert set(model.quality) == measured


def test_the_stand_in_says_that_it_is_one() -> None:
    assert "stand-in" in load_catalogue("small").name
    assert (SHIPPED / "small.yaml").read_text().startswith("# STAND-IN.")


def test_remote_models_share_one_endpoint_whose_address_is_not_in_the_catalogue() -> None:
    catalogue = load_catalogue("cloud")
    assert {model.endpoint for model in catalogue.models} == {"cloud"}
    assert {model.data_classes for model in catalogue.models} == {frozenset({DataClass.PUBLIC, DataClass.INTERNAL})}
    assert "cloud" not in WorkerSettings().endpoints
    renamed = with_model_names(catalogue, {"small": "llama3.2:1b", "medium": "llama3.2:3b", "large": "qwen3:8b"})
    assert [model.name for model in renamed.models] == ["llama3.2:1b", "llama3.2:3b", "qwen3:8b"]
    assert not check_files(["cloud"]).errors
    assert Snapshot.from_catalogue(renamed).model("large").name == "qwen3:8b"


def test_prices_rise_with_the_tier() -> None:
    small, medium, large = (each.price for each in load_catalogue("cloud").models)
    assert small.input_micros_per_million < medium.input_micros_per_million < large.input_micros_per_million
    assert small.output_micros_per_million < medium.output_micros_per_million < large.output_micros_per_million


@pytest.mark.parametrize("name", shipped())
def test_no_step_takes_longer_than_a_request_may(name: str) -> None:
    catalogue = load_catalogue(name)
    longest = max(step.timeout for plan in catalogue.plans for step in plan.steps)
    assert longest < min(intake.default_deadline for intake in catalogue.intake)
    assert longest <= timedelta(minutes=3)


def test_the_example_of_the_documentation_is_sound(tmp_path: Path) -> None:
    text = (SHIPPED.parent.parent / "docs" / "catalogue.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "example.yaml").write_text(example, encoding="utf-8")
    report = check_files([tmp_path], retention=TopicSettings().retention)
    assert report.errors == report.warnings == ()


def test_local_mathematics_is_computed_where_it_can_be() -> None:
    catalogue = load_catalogue("local")
    plans = {plan.id: plan for plan in catalogue.plans}
    sums, problems = (next(r for r in catalogue.routes if r.id == name) for name in ("sums", "word-problems"))
    assert sums.when.max_prompt_chars is not None
    assert problems.when.min_prompt_chars is not None
    assert sums.when.max_prompt_chars < problems.when.min_prompt_chars
    assert plans[sums.plans[0]].steps[0].models == ("arithmetic",)
    assert all(step.parameters["program"] for step in plans[problems.plans[0]].steps)
