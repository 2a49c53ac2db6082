"""What a schema makes of a value is known before it is done, and too much of it is not done."""

import json
import time
from typing import Any

import pytest

from schemas.json_schema import json_schema, problem
from schemas.schema_work import affordable


def twice(name: str) -> dict[str, Any]:
    return {"allOf": [{"$ref": name}, {"$ref": name}]}


def doubling(levels: int, leaf: Any) -> dict[str, Any]:
    """A schema that applies a leaf 2 to the power of ``levels`` times."""
    return {
        "$ref": f"#/$defs/{levels}",
        "$defs": {"0": leaf} | {str(n + 1): twice(f"#/$defs/{n}") for n in range(levels)},
    }


def nested(levels: int, name: str = "c") -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {name: value}
    return value


NODE = {"$ref": "#node", "$defs": {"n": {"$anchor": "node", "properties": {"c": twice("#node")}}}}
NAMED = {
    "$ref": "https://a.example/n.json",
    "$defs": {"n": {"$id": "https://a.example/n.json", "properties": {"c": twice("#")}}},
}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (doubling(60, {"type": "integer"}), 1),
        (NODE, nested(60)),
        (NAMED, nested(60)),
        ({"properties": {"c": {"allOf": [{"$ref": "#"}, {"not": {"$ref": "#"}}]}}}, nested(60)),
        ({"items": {"allOf": [{"type": "integer"}] * 5_000}}, [1] * 20_000),
        ({"$ref": "#"}, 1),
        ({"$defs": {"a": twice("#/$defs/b"), "b": twice("#/$defs/a")}, "$ref": "#/$defs/a"}, 1),
        ({"properties": {"c": {"$ref": "#"}}}, nested(900)),
    ],
    ids=lambda value: str(value)[:40],
)
def test_too_much_work_is_known_at_once(schema: Any, value: Any) -> None:
    text, size = json.dumps(schema), len(json.dumps(value))
    json_schema(text)
    started = time.process_time()
    assert not affordable(text, value, size)
    assert problem(text, value, size) == "can't be checked: the schema makes too much work of it"
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "object", "properties": {"children": {"items": {"$ref": "#"}}}}, nested(100, "children")),
        ({"properties": {"children": {"items": {"$ref": "#"}}}}, {"children": [{"children": [{}] * 30}] * 30}),
        (doubling(8, {"type": "integer"}), 1),
        ({"items": {"type": "integer"}}, [1] * 60_000),
        ({"$ref": "https://json-schema.org/draft/2020-12/schema"}, {"type": "object"}),
        ({"prefixItems": [{"type": "integer"}], "items": False}, [1]),
        ({"propertyNames": {"maxLength": 3}, "patternProperties": {"a": {"$ref": "#"}}}, {"a": {"ab": {}}}),
        ({"dependentSchemas": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"required": ["b"]}}}, {"a": 1, "b": 2}),
        (True, nested(10)),
    ],
    ids=lambda value: str(value)[:40],
)
def test_ordinary_work_is_done(schema: Any, value: Any) -> None:
    assert problem(json.dumps(schema), value, len(json.dumps(value))) == ""


def test_one_problem_among_many_is_told_without_the_others() -> None:
    text = json.dumps({"items": {"type": "string"}})
    started = time.process_time()
    assert problem(text, [1] * 100, 300) == "breaks items/type"
    assert problem(text, [1] * 60_000, 180_000) == "breaks the schema"
    both = json.dumps({"anyOf": [{"items": {"type": "string"}}, {"items": {"type": "null"}}]})
    assert problem(both, [1] * 60_000, 180_000) == "breaks the schema"
    assert time.process_time() - started < 3
