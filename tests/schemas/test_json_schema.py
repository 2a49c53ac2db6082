"""Schemas from outside are compiled without giving them power over us."""

import pytest

from schemas.json_schema import json_schema


def test_a_schema_is_compiled_once() -> None:
    text = '{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}'
    assert json_schema(text) is json_schema(text)
    assert json_schema(text).is_valid({"n": 1})
    assert not json_schema(text).is_valid({"n": "1"})
    assert not json_schema("false").is_valid(1)


def test_references_within_a_schema_are_followed() -> None:
    schema = json_schema('{"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer"}}}')
    assert schema.is_valid(3)
    assert not schema.is_valid("x")


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9/x", "https://example.com/s.json", "file:///etc/passwd"])
def test_references_elsewhere_are_not_fetched(uri: str) -> None:
    with pytest.raises(ValueError, match="is not fetched"):
        json_schema(f'{{"properties": {{"a": {{"$ref": "{uri}"}}}}}}')


def test_a_pattern_can_not_take_exponential_time() -> None:
    schema = json_schema('{"pattern": "^(a+)+$"}')
    assert not schema.is_valid("a" * 100_000 + "b")  # a backtracking engine would not come back from this
    with pytest.raises(ValueError, match="is no JSON Schema"):
        json_schema('{"pattern": "(?=a)b"}')


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not JSON at character 0"),
        ('{"a": NaN}', "is not JSON at character 6"),
        ("[]", "must be a JSON object"),
        ('{"type": "strin"}', "is no JSON Schema"),
        ('{"required": "a"}', "is no JSON Schema"),
        ('{"$ref": "#/$defs/gone"}', "is no JSON Schema"),
        ('{"enum": ["%s"], "type": 5}' % ("x" * 5000), "is no JSON Schema"),
    ],
)
def test_what_is_no_schema_is_told_in_few_words(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        json_schema(text)
    assert len(str(caught.value)) < 300
