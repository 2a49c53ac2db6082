"""The ``.avsc`` files are the contract: the classes agree with them, and no version breaks another."""

import json
from pathlib import Path
from typing import Any

import pytest
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from avro.schema import parse
from msgspec import Struct
from msgspec.structs import fields
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import schemas
from schemas.avro_read import record_reader
from schemas.avro_write import record_writer
from schemas.contract import FILES, current, history, known, schema_from
from schemas.wire import fingerprint
from tests.schemas.records import RECORDS

AVRO = Path(schemas.__file__).parent / "avro"
NO_DEFAULT = object()


def _class_default(record: type[Any], name: str) -> object:
    if issubclass(record, Struct):
        field = next(field for field in fields(record) if field.name == name)
        return NO_DEFAULT if field.required else field.default
    assert issubclass(record, BaseModel)
    info = record.model_fields[name]
    found = info.get_default(call_default_factory=True)
    return NO_DEFAULT if found is PydanticUndefined else found


def _nested(record: type[Any], schema: dict[str, Any]) -> list[tuple[type[Any], dict[str, Any]]]:
    """The record and every record within it."""
    found = [(record, schema)]
    classes = {
        cls.__name__: cls
        for module in (schemas.edges, schemas.flow)
        for cls in vars(module).values()
        if isinstance(cls, type)
    }

    def look(kind: Any) -> None:
        if isinstance(kind, list):
            for branch in kind:
                look(branch)
        elif isinstance(kind, dict):
            if kind["type"] == "record":
                found.extend(_nested(classes[kind["name"]], kind))
            else:
                look(kind.get("items") or kind.get("values") or (kind["type"] if kind["type"] != "enum" else None))

    for field in schema["fields"]:
        look(field["type"])
    return found


def _enums(schema: Any) -> list[dict[str, Any]]:
    if isinstance(schema, list):
        return [enum for branch in schema for enum in _enums(branch)]
    if not isinstance(schema, dict):
        return []
    if schema["type"] == "enum":
        return [schema]
    inner = [field["type"] for field in schema.get("fields", ())]
    inner += [schema[key] for key in ("items", "values") if key in schema]
    return [enum for branch in inner for enum in _enums(branch)]


@pytest.mark.parametrize("record", RECORDS)
def test_class_and_schema_have_the_same_fields_defaults_and_docs(record: type[Any]) -> None:
    for cls, schema in _nested(record, dict(current(record).source)):
        assert schema["name"] == cls.__name__
        assert schema["doc"]
        names = [field["name"] for field in schema["fields"]]
        # A Struct has what is required first; on the wire the schema's order counts.
        own = sorted(cls.__struct_fields__) if issubclass(cls, Struct) else list(cls.model_fields)
        assert (sorted(names) if issubclass(cls, Struct) else names) == own
        for field in schema["fields"]:
            default = _class_default(cls, field["name"])
            written = field.get("default", NO_DEFAULT)
            if isinstance(default, tuple):
                default = list(default)
            assert written == default, f"{cls.__name__}.{field['name']}"
            assert field["doc"], f"{cls.__name__}.{field['name']} has no doc"


@pytest.mark.parametrize("record", RECORDS)
def test_types_of_class_and_schema_agree(record: type[Any]) -> None:
    # Making the functions compares names, order, enum values and nested records; a mistake is a TypeError.
    record_writer(record, current(record).source)
    record_reader(record, current(record).source)


def test_a_class_that_differs_gets_no_function() -> None:
    schema = json.loads(current(RECORDS[0]).text)
    schema["fields"].pop()
    with pytest.raises(TypeError, match="differ"):
        record_writer(RECORDS[0], schema)
    with pytest.raises(TypeError, match="differ"):
        record_reader(RECORDS[0], schema)


@pytest.mark.parametrize("record", RECORDS)
def test_every_enum_has_a_default_among_its_symbols(record: type[Any]) -> None:
    for enum in _enums(current(record).source):
        assert enum["default"] in enum["symbols"], enum["name"]


def test_every_file_belongs_to_a_record_and_has_a_history() -> None:
    assert {path.stem for path in AVRO.glob("*.avsc")} == set(FILES.values())
    assert {name for name, _, _ in history()} == set(FILES.values())


@pytest.mark.parametrize("path", sorted(AVRO.rglob("*.avsc")), ids=lambda path: path.name)
def test_every_committed_schema_loads_in_both_implementations(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    schema = schema_from(text)
    assert parse(text).fingerprint() == schema.fingerprint == fingerprint(schema.source)
    assert known()[schema.fingerprint].full_name == schema.full_name


@pytest.mark.parametrize("record", RECORDS)
def test_the_current_schema_is_the_newest_of_its_history(record: type[Any]) -> None:
    versions = [(number, schema) for name, number, schema in history() if name == FILES[record]]
    assert [number for number, _ in versions] == list(range(1, len(versions) + 1))
    newest = AVRO / "history" / f"{FILES[record]}.v{len(versions)}.avsc"
    assert current(record).text == versions[-1][1].text, (
        f"{FILES[record]}.avsc has changed: add it to avro/history as the next version and leave {newest.name} as it is"
    )


def incompatible(reader: str, writer: str) -> list[str]:
    """Why a reader can't read what a writer wrote, by Apache's checker."""
    checker: Any = ReaderWriterCompatibilityChecker
    result = checker().get_compatibility(parse(reader), parse(writer))
    return [] if result.compatibility is SchemaCompatibilityType.compatible else list(result.messages)


@pytest.mark.parametrize("record", RECORDS)
def test_all_versions_read_each_other(record: type[Any]) -> None:
    texts = [schema.text for name, _, schema in history() if name == FILES[record]] + [current(record).text]
    for reader in texts:
        for writer in texts:
            assert incompatible(reader, writer) == []


def test_the_checker_finds_what_breaks() -> None:
    schema = json.loads(current(FILES_BY_NAME["slip"]).text)
    schema["fields"].append({"name": "more", "type": "string"})
    assert incompatible(json.dumps(schema), current(FILES_BY_NAME["slip"]).text)
    schema["fields"][-1]["default"] = ""
    assert not incompatible(json.dumps(schema), current(FILES_BY_NAME["slip"]).text)


FILES_BY_NAME = {name: record for record, name in FILES.items()}
