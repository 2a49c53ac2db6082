"""What changed between snapshots, what is told of files, and other models behind the same ids."""

from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from registry.adjust import with_model_names
from registry.check import check_files
from registry.diff import diff
from registry.snapshot import Snapshot
from schemas.catalogue import Catalogue
from schemas.errors import CatalogueError
from tests.registry.catalogues import PRICE, catalogue, model, plain


def changes(before: Catalogue, after: Catalogue) -> list[str]:
    return [str(each) for each in diff(Snapshot.from_catalogue(before), Snapshot.from_catalogue(after))]


def test_the_same_content_has_no_difference() -> None:
    assert changes(catalogue(), catalogue()) == []


def test_differences_are_named_by_what_they_are_of() -> None:
    routes = [{"id": "m", "plans": ["climb"], "when": {"task_classes": ["math"]}}, *plain()["routes"]]
    before = catalogue(routes=routes)
    after = catalogue(
        routes=[routes[1]],
        models=[model("small", price=PRICE | {"version": "2"}), model("large"), model("third")],
        prompts=[],
        policies={"kill_switch": ["small"]},
        plans=[plain()["plans"][0] | {"steps": [plain()["plans"][0]["steps"][1]]}],
    )
    found = changes(before, after)
    assert [each.split(":")[0] for each in found] == [
        "models[small@1].price.version",
        "models[third@1]",
        "plans[climb].steps[first]",
        "policies.kill_switch",
        "prompts[brief@1]",
        "routes[m]",
    ]
    assert 'models[small@1].price.version: "1" -> "2"' in found
    assert 'policies.kill_switch: [] -> ["small"]' in found
    assert found[1].startswith("models[third@1]: - -> {")
    assert found[5].endswith(" -> -")


def test_the_order_of_routes_is_content() -> None:
    routes = [{"id": "a", "plans": ["climb"], "when": {"task_classes": ["math"]}}, {"id": "b", "plans": ["climb"]}]
    assert changes(catalogue(routes=routes), catalogue(routes=routes[::-1])) == ["routes (order): a, b -> b, a"]


def test_a_sound_file_is_summed_up_with_its_hash(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(plain(models=[model("small"), model("large"), model("old", status="retired")])))
    report = check_files([file], retention=timedelta(days=7))
    assert report.ok
    assert report.errors == report.warnings == ()
    expected = Snapshot.from_catalogue(Catalogue.model_validate(yaml.safe_load(file.read_text()))).hash
    assert report.hash == expected
    assert report.summary == (
        "test: tiers fast < premium; models 2 active, 1 retired; "
        f"1 prompt, 1 plan, 1 route, 1 tenant, 1 intake topic; content {expected[:12]}"
    )
    assert report.files == (file,)


def test_errors_and_warnings_are_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(plain(policies={"kill_switch": ["nobody"], "deny": [{"id": "d", "terms": []}]})))
    report = check_files([file])
    assert not report.ok
    assert [each.field for each in report.errors] == ["policies.deny[d].terms"]
    assert [each.field for each in report.warnings] == ["policies.kill_switch"]
    assert report.summary == report.hash == ""


def test_deadlines_are_checked_against_the_retention_given(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(plain()))
    assert check_files([file], retention=timedelta(days=2)).ok
    assert [each.field for each in check_files([file], retention=timedelta(hours=24)).errors] == [
        "intake[requests].max_deadline"
    ]


def test_other_models_can_stand_behind_the_ids() -> None:
    renamed = with_model_names(catalogue(), {"small": "qwen3:1.7b/instruct"})
    assert (renamed.models[0].name, renamed.models[0].ref) == ("qwen3:1.7b/instruct", "small@named-qwen3-1.7b-instruct")
    assert renamed.models[1] == catalogue().models[1]
    snapshot = Snapshot.from_catalogue(renamed)
    assert snapshot.model(snapshot.plan("climb").steps[0].models[0]).name == "qwen3:1.7b/instruct"
    assert snapshot.hash != Snapshot.from_catalogue(catalogue()).hash


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"smal": "x"}, "no model smal in catalogue test; it has large, small"),
        ({"small": " "}, "no name given for model small"),
    ],
)
def test_a_wrong_id_is_told(names: dict[str, str], message: str) -> None:
    with pytest.raises(CatalogueError, match=message):
        with_model_names(catalogue(), names)


def test_a_pinned_version_is_not_replaced_behind_its_back() -> None:
    plan = plain()["plans"][0]
    plan["steps"][0]["models"] = ["small@1"]
    with pytest.raises(CatalogueError, match="a plan pins small@1"):
        with_model_names(catalogue(plans=[plan]), {"small": "other"})
