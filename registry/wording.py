"""What people write and read: durations like ``1h30m``, and pydantic's errors in plain words."""

import difflib
import re
import types
from collections.abc import Iterable
from datetime import timedelta
from typing import Annotated, Final, Union, get_args, get_origin

from pydantic_core import ErrorDetails

from registry.places import Path
from schemas.catalogue import Shape

_UNITS: Final = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
_PARTS: Final = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s*(ms|s|m|h|d|w)\s*")
_ISO: Final = re.compile(r"P(?=[\dT])(?:\d+(?:\.\d+)?[YMWD])*(?:T(?:\d+(?:\.\d+)?[HMS])+)?")
_SUGGESTION: Final = 0.6
"""How alike a known name must be to be suggested for an unknown one (difflib's ratio)."""


def duration_of(value: object) -> object:
    """A duration as people write it; anything but text is left to pydantic.

    Args:
        value: ``30s``, ``1h30m``, ``500ms``, a number of seconds, or ISO 8601 (``PT30S``).

    Raises:
        ValueError: It is none of these; the message says what is.
    """
    if not isinstance(value, str):
        return value
    text = value.strip()
    if _ISO.fullmatch(text):
        return text
    total, end = timedelta(0), 0
    while found := _PARTS.match(text, end):
        try:
            total += float(found[1]) * _UNITS[found[2]]
        except OverflowError:
            raise ValueError(f"{value!r} is longer than any duration") from None
        end = found.end()
    if end == 0 or end != len(text):
        raise ValueError(
            f"{value!r} is no duration: write 30s, 5m, 1h30m, 500ms, a number of seconds or ISO 8601 (PT30S)"
        )
    return total


def is_duration(annotation: object) -> bool:
    """Whether a field holds one duration."""
    return timedelta in _alternatives(annotation)


def shape_in(annotation: object) -> type[Shape] | None:
    """The shape that a field holds: itself, or as the elements of a list."""
    for each in _alternatives(annotation):
        if isinstance(each, type) and issubclass(each, Shape):
            return each
        if get_origin(each) is tuple and (inner := shape_in(get_args(each)[0])):
            return inner
    return None


def _alternatives(annotation: object) -> tuple[object, ...]:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _alternatives(get_args(annotation)[0])
    if origin is Union or isinstance(annotation, types.UnionType):
        return get_args(annotation)
    return (annotation,)


def shape_at(root: type[Shape], path: Iterable[str | int]) -> type[Shape] | None:
    """The shape whose field the last part of a path names."""
    shape: type[Shape] | None = root
    for part in list(path)[:-1]:
        if isinstance(part, str):
            field = shape.model_fields.get(part) if shape else None
            shape = shape_in(field.annotation) if field else None
    return shape


def path_of(error: ErrorDetails) -> Path:
    """Where in the catalogue an error is; a wrong key of a mapping is the entry itself."""
    return tuple(part for part in error["loc"] if part != "[key]")


def in_words(error: ErrorDetails, root: type[Shape]) -> str:
    """One of pydantic's errors as a sentence that says what would be right."""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    path = path_of(error)
    match kind:
        case "missing":
            text = "is missing"
        case "extra_forbidden":
            text = "unknown field" + _suggestion(str(path[-1]), shape_at(root, path))
        case "string_type" if isinstance(value, int | float):
            text = "must be text: put it in quotes"
        case "string_pattern_mismatch":
            text = f"{value!r} is no name: 1 to 64 letters, digits, '.', '_' and '-', first a letter or digit"
        case "enum" | "literal_error":
            text = f"{value!r} is not known; it can be {context.get('expected')}"
        case "tuple_type" | "frozen_set_type" | "list_type":
            text = f"must be a list, not {_kind_of(value)}"
        case "model_type" | "mapping_type" | "dict_type":
            text = f"must be a mapping, not {_kind_of(value)}"
        case "too_short":
            text = "must not be empty"
        case _ if value is None:
            text = "has no value"
        case _:
            text = f"{error['msg'].replace('Input should', 'should')}, not {_shown(value)}"
    return text


def _suggestion(name: str, shape: type[Shape] | None) -> str:
    if shape is None:
        return ""
    close = difflib.get_close_matches(name, shape.model_fields, n=1, cutoff=_SUGGESTION)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(shape.model_fields)}"


def _kind_of(value: object) -> str:
    if isinstance(value, dict):
        return "a mapping"
    return "a list" if isinstance(value, list) else "nothing" if value is None else _shown(value)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
