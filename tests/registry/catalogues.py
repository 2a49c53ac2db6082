"""Small catalogues for tests."""

from typing import Any

from schemas.catalogue import Catalogue

PRICE = {"version": "1", "input_micros_per_million": 1_000_000, "output_micros_per_million": 2_000_000}


def model(name: str, version: str = "1", /, **more: Any) -> dict[str, Any]:
    return {"id": name, "version": version, "kind": "openai", "name": name, "price": PRICE} | more


def plain(**sections: Any) -> dict[str, Any]:
    """Two tiers, two models, a cascade over both; sections given replace these."""
    return {
        "name": "test",
        "tiers": [{"id": "fast", "rank": 1}, {"id": "premium", "rank": 2}],
        "models": [model("small"), model("large")],
        "prompts": [{"id": "brief", "version": "1", "system": "Answer briefly."}],
        "plans": [
            {
                "id": "climb",
                "pattern": "cascade",
                "steps": [
                    {"id": "first", "tier": "fast", "models": ["small"], "prompt": "brief"},
                    {"id": "second", "tier": "premium", "models": ["large"]},
                ],
            }
        ],
        "routes": [{"id": "all", "plans": ["climb"]}],
    } | sections


def catalogue(**sections: Any) -> Catalogue:
    return Catalogue.model_validate(plain(**sections))


def named(name: str) -> Catalogue:
    """A catalogue that differs from others in its name."""
    return catalogue(name=name)
