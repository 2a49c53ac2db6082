"""JSON Schema from outside (draft 2020-12), compiled so that it can harm nobody.

A schema that a producer sends is a small program. Two of its powers are taken away: a reference to another document is
not fetched, and a regular expression runs in linear time.
"""

from functools import lru_cache
from typing import NoReturn

import jsonschema_rs
import orjson

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


def _refuse(uri: str) -> NoReturn:
    raise ValueError(f"{uri[:_LONGEST]} is not fetched; put what it refers to under $defs")
