"""How much work a JSON Schema makes of a value, told before it is done. Pure.

A few references make a small schema apply one subschema to one value millions of times, and a value that is nested does
so again on each of its levels. How often is counted here without doing it: what one subschema makes of one part of the
value is counted once, however often it is applied. The count is an upper bound: it takes no branch for decided.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final
from urllib.parse import unquote

import orjson

MOST_WORK: Final = 4_000_000
"""Applications of a subschema that are taken; some 0.15 us each."""
_MOST_PAIRS: Final = 200_000
"""Different subschemas on different parts of a value that are counted; some 1 us each."""
_ELSEWHERE: Final = 1_000
"""For a reference to a schema that comes with the validator."""

_REFERENCES: Final = ("$ref", "$dynamicRef")
_ONE: Final = ("not", "if", "then", "else")
_SEVERAL: Final = ("allOf", "anyOf", "oneOf")
_BY_NAME: Final = ("dependentSchemas", "dependencies")
_EACH_VALUE: Final = ("additionalProperties", "unevaluatedProperties")
_EACH_ITEM: Final = ("items", "contains", "unevaluatedItems")
_LEAF: Final = object()
"""Stands for all values without parts: they make the same work."""


class _TooMuchError(Exception):
    """No need to count on."""


def affordable(text: str, value: object, size: int, most: int = MOST_WORK) -> bool:
    """Whether a value can be validated in a moment.

    Args:
        text: A schema that ``schemas.json_schema.json_schema`` takes.
        value: As read from JSON.
        size: Characters of that JSON.
        most: Applications of a subschema.
    """
    schema = _read(text)
    if not schema.refers and schema.size * size <= most:  # each subschema meets each part of the value once at most
        return True
    try:
        return _Count(schema).of(schema.root, value) <= most
    except (_TooMuchError, RecursionError, TypeError, AttributeError):  # the latter: a reference to what is no schema
        return False


class _Schema:
    """A schema and what its references can name."""

    def __init__(self, text: str) -> None:
        self.root: Any = orjson.loads(text)
        self.size = 1
        self.refers = False
        self._named: list[Mapping[str, Any]] = []
        self._anchors: dict[str, list[Any]] = {}
        self._walk(self.root)

    def _walk(self, node: object) -> None:
        if isinstance(node, dict):
            self.size += 1 + len(node)
            self.refers = self.refers or not node.keys().isdisjoint(_REFERENCES)
            if isinstance(node.get("$id"), str):
                self._named.append(node)
            for name in ("$anchor", "$dynamicAnchor"):
                if isinstance(node.get(name), str):
                    self._anchors.setdefault(node[name], []).append(node)
        elif isinstance(node, list):
            self.size += len(node)
        for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            self._walk(inner)

    def targets(self, reference: str) -> list[Any]:
        """What a reference may mean; several where parts of the schema have names (``$id``) of their own."""
        place, _, fragment = reference.partition("#")
        if place:
            file = place.rpartition("/")[2]
            roots = [node for node in self._named if node["$id"].rstrip("#").rpartition("/")[2] == file]
        else:
            roots = [self.root, *(node for node in self._named if node is not self.root)]
        if not fragment:
            return roots
        if not fragment.startswith("/"):
            return self._anchors.get(fragment, [])
        return [found for root in roots for found in _pointed(root, fragment)]


def _pointed(node: Any, pointer: str) -> Iterator[Any]:
    """What a JSON pointer names, if there is anything."""
    for step in unquote(pointer).split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(node, list) and key.isdecimal() and int(key) < len(node):
            node = node[int(key)]
        elif isinstance(node, dict) and key in node:
            node = node[key]
        else:
            return
    yield node


_read = lru_cache(maxsize=512)(_Schema)


class _Count:
    """Counts for one value.

    Args:
        schema: The whole schema.
    """

    def __init__(self, schema: _Schema) -> None:
        self._schema = schema
        self._known: dict[tuple[int, int], int | None] = {}

    def of(self, schema: Any, value: object) -> int:
        """Applications of subschemas that follow from one."""
        if not isinstance(schema, dict):
            return 1
        if not isinstance(value, dict | list):
            value = _LEAF
        pair = id(schema), id(value)
        if pair in self._known:
            known = self._known[pair]
            if known is None:  # a schema that applies itself to the same value
                raise _TooMuchError
            return known
        if len(self._known) >= _MOST_PAIRS:
            raise _TooMuchError
        self._known[pair] = None
        count = 1
        for each, part, times in _applied(schema, value):
            count += times * self.of(each, part)
        for name in _REFERENCES:
            if name in schema:
                most = _ELSEWHERE
                for number, target in enumerate(self._schema.targets(schema[name])):
                    found = self.of(target, value)
                    most = max(most, found) if number else found
                count += most
        self._known[pair] = count
        return count


def _applied(schema: Mapping[str, Any], value: object) -> Iterator[tuple[Any, object, int]]:
    """Subschemas with what they are applied to, and how often."""
    for name in _ONE:
        if name in schema:
            yield schema[name], value, 1
    for name in _SEVERAL:
        for each in schema.get(name, ()):
            yield each, value, 1
    for name in _BY_NAME:
        for each in schema.get(name, {}).values():
            yield each, value, 1
    if isinstance(value, dict):
        yield from _in_object(schema, value)
    elif isinstance(value, list):
        yield from _in_array(schema, value)


def _in_array(schema: Mapping[str, Any], value: Sequence[object]) -> Iterator[tuple[Any, object, int]]:
    for each, part in zip(schema.get("prefixItems", ()), value, strict=False):
        yield each, part, 1
    for name in _EACH_ITEM:
        if name in schema:
            yield from _each(schema[name], value)


def _in_object(schema: Mapping[str, Any], value: Mapping[str, Any]) -> Iterator[tuple[Any, object, int]]:
    for key, each in schema.get("properties", {}).items():
        if key in value:
            yield each, value[key], 1
    for each in schema.get("patternProperties", {}).values():
        yield from _each(each, value.values())
    for name in _EACH_VALUE:
        if name in schema:
            yield from _each(schema[name], value.values())
    if "propertyNames" in schema:
        yield schema["propertyNames"], _LEAF, len(value)


def _each(schema: Any, parts: Collection[object]) -> Iterator[tuple[Any, object, int]]:
    inner = [part for part in parts if isinstance(part, dict | list)]
    for part in inner:
        yield schema, part, 1
    if leaves := len(parts) - len(inner):
        yield schema, _LEAF, leaves
