"""JSON Schema from outside (draft 2020-12), compiled so that it can harm nobody.

A schema that a producer sends is a small program. Three of its powers are taken away: a reference to another document
is not fetched, a regular expression runs in linear time, and what would take it long is not validated.
"""

from functools import lru_cache
from typing import NoReturn

import jsonschema_rs
import orjson

from schemas.schema_work import affordable

_MOST_TOLD = 20_000
"""Applications of a subschema among which the one that fails is looked for: each that fails is told with a copy of what
it was applied to, which takes some 60 us."""
_LONGEST = 200
"""Characters of a reason; jsonschema-rs quotes what it found."""


@lru_cache(maxsize=512)
def json_schema(text: str) -> jsonschema_rs.Draft202012Validator:
    """The validator of a schema given as JSON text. Cached: producers send the same few schemas again and again.

    Raises:
        ValueError: The text is not JSON, or not a schema; says what is wrong.
    """
    try:
        schema = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"is not JSON at character {error.pos}: {error.msg}") from error
    if not isinstance(schema, dict | bool):
        raise ValueError("must be a JSON object")  # noqa: TRY004 - the text is wrong, not the caller's type
    try:
        return jsonschema_rs.Draft202012Validator(
            schema, retriever=_refuse, pattern_options=jsonschema_rs.RegexOptions()
        )
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"is no JSON Schema: {reason[:_LONGEST]}") from error


def problem(text: str, value: object, size: int) -> str:
    """What a value breaks of a schema, by the schema's own names; empty if it breaks nothing.

    Args:
        text: The schema.
        value: As read from JSON.
        size: Characters of that JSON.
    """
    if not affordable(text, value, size):
        return "can't be checked: the schema makes too much work of it"
    if json_schema(text).is_valid(value):
        return ""
    name = ""
    if affordable(text, value, size, _MOST_TOLD):
        try:
            json_schema(text).validate(value)
        except jsonschema_rs.ValidationError as error:
            name = "/".join(map(str, error.schema_path))
    return f"breaks {name or 'the schema'}"


def _refuse(uri: str) -> NoReturn:
    raise ValueError(f"{uri[:_LONGEST]} is not fetched; put what it refers to under $defs")
