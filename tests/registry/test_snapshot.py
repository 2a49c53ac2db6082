"""Snapshots: hashes, lookups, prohibitions, bytes."""

import dataclasses
import json
import random
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from registry.canonical import canonical, digest
from registry.errors import SnapshotFormatError
from registry.load import load_catalogue
from registry.snapshot import Snapshot
from schemas.catalogue import Catalogue
from schemas.enums import DataClass
from schemas.errors import CatalogueError
from schemas.money import Money
from tests.registry.catalogues import PRICE, catalogue, model, plain


def shuffled(value: Any, chance: random.Random) -> Any:
    """The same content with the keys of every mapping in another order."""
    if isinstance(value, dict):
        keys = list(value)
        chance.shuffle(keys)
        return {key: shuffled(value[key], chance) for key in keys}
    return [shuffled(each, chance) for each in value] if isinstance(value, list) else value


MANY = {"capabilities": ["text", "json", "tools"], "quality": {"math": 0.5, "code": 1}, "typical_latency": "PT1.5S"}


@given(st.integers(), st.booleans())
def test_the_hash_does_not_depend_on_how_a_catalogue_is_written(seed: int, flow: bool) -> None:
    written = plain(
        models=[
            model(
                "small",
                capabilities=["text", "json", "tools"],
                quality={"math": 0.5, "code": 1},
                typical_latency="PT1.5S",
            ),
            model("large"),
        ],
        policies={"kill_switch": ["b", "a", "c"]},
    )
    text = yaml.safe_dump(shuffled(written, random.Random(seed)), default_flow_style=flow, sort_keys=False)
    again = Catalogue.model_validate(yaml.safe_load(text))
    assert Snapshot.from_catalogue(again).hash == Snapshot.from_catalogue(Catalogue.model_validate(written)).hash


def test_the_hash_is_of_the_content_only() -> None:
    one = Snapshot.from_catalogue(catalogue(), number=1, author="a", published_ms=1)
    two = Snapshot.from_catalogue(catalogue(), number=2, author="b", published_ms=2)
    assert one.hash == two.hash
    assert one.hash != Snapshot.from_catalogue(catalogue(name="other")).hash


def test_a_hash_stays_what_it_was() -> None:
    """Hashes are in records and operation keys: if this fails, canonical form changed, and old ones mean nothing."""
    assert Snapshot.from_catalogue(catalogue()).hash == HASH


HASH = "a846aa8cbd2fc905f1226a16a4c16eff529b1d739e38db3a2fe2b1fd33a8c866"


def test_the_policy_hash_is_of_policies_and_tenants() -> None:
    one = Snapshot.from_catalogue(catalogue())
    assert one.policy_hash == Snapshot.from_catalogue(catalogue(name="other")).policy_hash
    assert one.policy_hash != Snapshot.from_catalogue(catalogue(policies={"max_prompt_chars": 5})).policy_hash
    assert one.policy_hash != Snapshot.from_catalogue(catalogue(tenants=[{"id": "default", "tiers": []}])).policy_hash


def test_an_unsound_catalogue_makes_no_snapshot() -> None:
    with pytest.raises(CatalogueError, match=r"routes\[all\]\.plans\[0\]: no plan nope; there are climb"):
        Snapshot.from_catalogue(catalogue(routes=[{"id": "all", "plans": ["nope"]}]))


VERSIONS = [
    model("m", "1.9"),
    model("m", "1.10"),
    model("m", "2", status="deprecated"),
    model("m", "3", status="draft"),
    model("old", "1", status="retired"),
    model("old", "2", status="deprecated"),
    model("dated", "2025-04-14"),
    model("dated", "2024-11-20"),
]


@pytest.mark.parametrize(
    ("name", "ref"),
    [
        ("m", "m@1.10"),
        ("m@1.9", "m@1.9"),
        ("m@3", "m@3"),
        ("old", "old@2"),
        ("old@1", "old@1"),
        ("dated", "dated@2025-04-14"),
    ],
)
def test_a_bare_id_is_the_newest_active_version(name: str, ref: str) -> None:
    snapshot = Snapshot.from_catalogue(catalogue(models=[*plain()["models"], *VERSIONS]))
    assert snapshot.model(name).ref == ref
    assert snapshot.resolve(name) is snapshot.model(name)


def test_lookups() -> None:
    snapshot = Snapshot.from_catalogue(
        catalogue(tiers=[{"id": "premium", "rank": 9}, {"id": "fast", "rank": 1}]), number=4
    )
    assert [each.id for each in snapshot.tiers] == ["fast", "premium"]
    assert snapshot.tier("fast").rank == 1
    assert snapshot.plan("climb").steps[1].tier == "premium"
    assert snapshot.prompt("brief").ref == snapshot.prompt("brief@1").ref == "brief@1"
    assert snapshot.tenant("default") is not None
    assert snapshot.tenant("nobody") is None
    assert snapshot.intake("requests") is not None
    assert snapshot.intake("results") is None
    with pytest.raises(CatalogueError, match=r"snapshot 4 has no model 'nope'; it has large, large@1, small, small@1"):
        snapshot.model("nope")
    with pytest.raises(CatalogueError, match="no plan 'nope'"):
        snapshot.plan_hash("nope")


def test_hashes_of_parts_change_with_the_part_alone() -> None:
    one = Snapshot.from_catalogue(catalogue())
    two = Snapshot.from_catalogue(catalogue(prompts=[{"id": "brief", "version": "1", "system": "Be brief."}]))
    assert one.plan_hash("climb") == two.plan_hash("climb")
    assert one.prompt_hash("brief") != two.prompt_hash("brief")
    assert one.prompt_hash("brief") == one.prompt_hash("brief@1")


def test_prohibitions_of_the_latest_snapshot_hold_for_earlier_choices() -> None:
    earlier = Snapshot.from_catalogue(catalogue())
    small, large = earlier.model("small"), earlier.model("large")
    assert earlier.prohibited(small) == ""
    models = [model("small", "2"), model("large", data_classes=["public"])]
    latest = Snapshot.from_catalogue(
        catalogue(models=[*models, model("third", status="retired")], policies={"kill_switch": ["premium"]}), number=2
    )
    assert latest.prohibited(small) == "small@1 is not in the catalogue any more (snapshot 2)"
    assert latest.prohibited(large) == ""
    assert latest.prohibited(large, tier="premium") == "kill switch on premium"
    assert latest.prohibited(large, data_class=DataClass.INTERNAL) == "large@1 may not be shown internal content"
    assert latest.prohibited(large, tier="fast", data_class=DataClass.PUBLIC) == ""
    assert latest.prohibited(latest.model("third")) == "third@1 is retired"


@pytest.mark.parametrize(
    ("switch", "reason"), [("small", "kill switch on small"), ("small@1", "kill switch on small@1")]
)
def test_a_kill_switch_names_models_with_or_without_version(switch: str, reason: str) -> None:
    snapshot = Snapshot.from_catalogue(catalogue(policies={"kill_switch": [switch]}))
    assert snapshot.prohibited(snapshot.model("small")) == f"kill switch on {switch}"
    assert snapshot.prohibited(snapshot.model("large")) == ""


def test_costs_follow_the_price_list() -> None:
    price = PRICE | {"cached_input_micros_per_million": 100_000}
    snapshot = Snapshot.from_catalogue(catalogue(models=[model("small", price=price), model("large")]))
    assert snapshot.cost("small", tokens_in=100, tokens_out=10, tokens_cached=50) == Money(50 + 5 + 20)
    assert snapshot.cost(snapshot.model("large"), tokens_in=100, tokens_out=10, tokens_cached=50) == Money(120)
    assert snapshot.price("small").output_micros_per_million == 2_000_000


def test_bytes_come_back_as_the_same_snapshot() -> None:
    snapshot = Snapshot.from_catalogue(
        load_catalogue("local"), number=7, author="zo\u00eb", approver="bo", published_ms=123
    )
    again = Snapshot.from_bytes(snapshot.to_bytes())
    assert again.catalogue == snapshot.catalogue
    for name in ("number", "hash", "policy_hash", "author", "approver", "published_ms", "content", "tiers"):
        assert getattr(again, name) == getattr(snapshot, name)
    assert again.to_bytes() == snapshot.to_bytes()
    assert again.deny_patterns[0].find("the project moonquill papers") == "project moonquill"


def test_a_snapshot_is_immutable() -> None:
    snapshot = Snapshot.from_catalogue(catalogue())
    with pytest.raises(dataclasses.FrozenInstanceError):
        snapshot.number = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hash": "0" * 64}, "states hash 000000000000 but its content has"),
        ({"number": 0}, "number 0 is below 1"),
        ({"number": True}, "field number is of the wrong type"),
        ({"author": None}, "field author is missing"),
        ({"format": 2}, "has format 2, and this program knows 1: update it"),
        ({"content": []}, "field content is of the wrong type"),
    ],
)
def test_changed_bytes_are_refused(change: dict[str, Any], message: str) -> None:
    raw = json.loads(Snapshot.from_catalogue(catalogue()).to_bytes()) | change
    with pytest.raises(SnapshotFormatError, match=message):
        Snapshot.from_bytes(json.dumps(raw).encode())


def test_changed_content_is_refused_even_where_it_would_be_valid() -> None:
    value = Snapshot.from_catalogue(catalogue()).to_bytes()
    with pytest.raises(SnapshotFormatError, match="it was changed"):
        Snapshot.from_bytes(value.replace(b'"name":"test"', b'"name":"evil"'))


@pytest.mark.parametrize("value", [b"", b"\xff", b"[]", b"null", b"{", b"[" * 100_000])
def test_other_bytes_are_refused(value: bytes) -> None:
    with pytest.raises(SnapshotFormatError, match="no snapshot"):
        Snapshot.from_bytes(value)


def test_content_that_this_program_does_not_understand_is_refused_by_name() -> None:
    raw = json.loads(Snapshot.from_catalogue(catalogue()).to_bytes())
    raw["content"]["surprise"] = 1
    raw["hash"] = digest(canonical(raw["content"]))
    with pytest.raises(SnapshotFormatError, match=r"snapshot 1 can't be used by this program(.|\n)*surprise"):
        Snapshot.from_bytes(json.dumps(raw).encode())
