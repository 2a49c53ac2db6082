"""The contract: every record, its class and its ``.avsc`` file, with all versions that were ever released.

``avro/<name>.avsc`` is what we write. ``avro/history/<name>.v<n>.avsc`` are the released versions, the current one
included; records of any of them can be read offline. Within the package a schema is known by its fingerprint.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final, TypeAlias, cast

from fastavro.schema import parse_schema

from schemas.edges import Edge, Feedback, Request, Result
from schemas.flow import Assignment, Attempt, Completion, Decision, ProvenanceEvent, Slip
from schemas.wire import fingerprint

FlowRecord: TypeAlias = Assignment | Attempt | Completion | Decision | ProvenanceEvent | Slip
EdgeRecord: TypeAlias = Request | Result | Feedback
Record: TypeAlias = FlowRecord | EdgeRecord

FILES: Final[Mapping[type[Record], str]] = {
    Request: "request",
    Assignment: "assignment",
    Decision: "decision",
    Slip: "slip",
    Completion: "completion",
    Attempt: "attempt",
    Result: "result",
    ProvenanceEvent: "provenance_event",
    Feedback: "feedback",
}
"""Class of each record and the name of its ``.avsc`` file."""

_VERSION = re.compile(r"^(?P<name>[a-z_]+)\.v(?P<number>[1-9][0-9]*)\.avsc$")


@dataclass(frozen=True, slots=True)
class Schema:
    """One version of a record's schema.

    Attributes:
        full_name: Avro full name, such as ``tierflow.Assignment``.
        text: The schema as JSON text, without white space, with docs and defaults: what a registry is given.
        source: The schema as parsed JSON, named types written out where they stand.
        parsed: The same as fastavro wants it.
        fingerprint: Eight bytes, as on the wire.
    """

    full_name: str
    text: str
    source: Mapping[str, Any]
    parsed: dict[str, Any]
    fingerprint: bytes


def schema_from(text: str) -> Schema:
    """Read a record schema.

    Raises:
        ValueError: The text is no Avro schema of a record.
    """
    source = json.loads(text)
    if not isinstance(source, dict) or source.get("type") != "record":
        raise ValueError("the schema is not of a record")
    try:
        parsed = cast("dict[str, Any]", parse_schema(source))
        print_of_it = fingerprint(source)
    except Exception as error:  # fastavro raises its own, KeyError and TypeError for the same mistake
        raise ValueError(f"the schema can't be read: {type(error).__name__}: {error}") from error
    compact = json.dumps(source, ensure_ascii=False, separators=(",", ":"))
    return Schema(str(parsed["name"]), compact, source, parsed, print_of_it)


_current: dict[type[Any], Schema] = {}


def current(record: type[Any]) -> Schema:
    """The schema that we write for a record class; read once."""
    found = _current.get(record)
    if found is None:
        text = (files("schemas") / "avro" / f"{FILES[record]}.avsc").read_text(encoding="utf-8")
        found = _current[record] = schema_from(text)
    return found


def history() -> Iterator[tuple[str, int, Schema]]:
    """File name, version and schema of everything ever released, oldest first."""
    found = []
    for entry in (files("schemas") / "avro" / "history").iterdir():
        match = _VERSION.match(entry.name)
        if match is None:
            raise ValueError(f"avro/history/{entry.name} is not named <record>.v<number>.avsc")
        found.append((match["name"], int(match["number"]), schema_from(entry.read_text(encoding="utf-8"))))
    return iter(sorted(found, key=lambda item: item[:2]))


@cache
def known() -> Mapping[bytes, Schema]:
    """All schemas in the package by fingerprint: what can be read without asking a registry."""
    schemas = {schema.fingerprint: schema for _, _, schema in history()}
    schemas.update((current(record).fingerprint, current(record)) for record in FILES)
    return schemas


def is_edge(record: type[Any]) -> bool:
    """Whether the class is a pydantic model of the edge, which validates what it is given."""
    return issubclass(record, Edge)
