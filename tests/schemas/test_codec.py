"""Round trips, strictness, and byte-for-byte agreement with fastavro and Apache's avro."""

import json
from contextlib import suppress
from io import BytesIO
from typing import Any

import avro.io
import avro.schema
import pytest
from fastavro import schemaless_reader, schemaless_writer
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace
from pydantic import BaseModel

from schemas.codec import Codec
from schemas.content_types import AVRO, CONFLUENT, JSON
from schemas.contract import Record, current
from schemas.edges import Feedback, Message, Part, Request, Result
from schemas.enums import FinishReason, Outcome, PartKind, Role, TaskClass
from schemas.errors import InvalidRequestError, UndecodableError
from schemas.flow import Attempt, Decision, Slip, Step
from schemas.wire import SINGLE_OBJECT_BYTES, single_object_header
from tests.schemas.records import RECORDS, any_of, any_record

CODEC = Codec()

ATTEMPT = Attempt(
    operation_key="k",
    number=1,
    claim_owner="w",
    requested_model="m@1",
    provider="p",
    outcome=Outcome.OK,
    started_at_ms=1_763_800_000_000,
    duration_ms=5,
)
SLIP = Slip(
    plan_id="p",
    plan_hash="h",
    pattern="cascade",
    index=0,
    steps=(Step(step_id="a", tier="fast", models=("m@1", "n@1")), Step(step_id="b", tier="slow", models=("o@1",))),
)
REQUEST = Request(messages=(Message(role=Role.USER, parts=(Part(kind=PartKind.TEXT, text="hi"),)),))


def as_dict(value: Any) -> Any:
    """A record as general Avro libraries want it."""
    if isinstance(value, Struct):
        return {name: as_dict(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, BaseModel):
        return {name: as_dict(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, tuple):
        return [as_dict(item) for item in value]
    if isinstance(value, dict):
        return {key: as_dict(item) for key, item in value.items()}
    return str(value) if isinstance(value, str) else value


@given(any_record())
def test_what_was_written_is_read_again(record: Record) -> None:
    assert CODEC.decode(type(record), CODEC.encode(record)) == record


@given(any_record())
def test_bytes_are_those_of_fastavro(record: Record) -> None:
    schema = current(type(record))
    out = BytesIO()
    schemaless_writer(out, schema.parsed, as_dict(record), strict=True)
    assert CODEC.encode(record) == single_object_header(schema.fingerprint) + out.getvalue()
    out.seek(0)
    assert schemaless_reader(out, schema.parsed, None) == as_dict(record)


@settings(max_examples=60)
@given(any_record())
def test_bytes_are_those_of_apache_avro(record: Record) -> None:
    schema = avro.schema.parse(current(type(record)).text)
    out = BytesIO()
    avro.io.DatumWriter(schema).write(as_dict(record), avro.io.BinaryEncoder(out))
    ours = CODEC.encode(record)
    assert ours[SINGLE_OBJECT_BYTES:] == out.getvalue()
    read = avro.io.DatumReader(schema, schema).read(avro.io.BinaryDecoder(BytesIO(ours[SINGLE_OBJECT_BYTES:])))
    assert read == as_dict(record)


@given(any_of(Request) | any_of(Result) | any_of(Feedback))
def test_edge_records_go_through_json(record: Any) -> None:
    data = CODEC.encode_as(record, JSON)
    if not any(isinstance(value, float) and value in {float("inf"), float("-inf")} for value in _floats(record)):
        assert CODEC.decode(type(record), data, "application/json; charset=utf-8") == record


def _floats(value: Any) -> list[Any]:
    if isinstance(value, BaseModel):
        return [found for name in type(value).model_fields for found in _floats(getattr(value, name))]
    return [found for item in value for found in _floats(item)] if isinstance(value, tuple) else [value]


def test_frozen_records_are_themselves_after_reading() -> None:
    read = CODEC.decode(Slip, CODEC.encode(SLIP))
    assert type(read) is Slip
    assert type(read.steps[0]) is Step
    assert hash(read) == hash(SLIP)
    assert replace(read, index=1).steps is read.steps
    with pytest.raises(AttributeError, match="immutable"):
        read.index = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"number": 2**31}, r"Attempt\.number: 2147483648 is too large for an Avro int"),
        ({"duration_ms": -(2**63) - 1}, r"Attempt\.duration_ms: .* is too large for an Avro long"),
        ({"duration_ms": 1.5}, r"Attempt\.duration_ms: float is no whole number"),
        ({"provider": None}, r"Attempt\.provider: "),
        ({"provider": "\ud800"}, r"Attempt\.provider: character 0 is half of a surrogate pair"),
        ({"outcome": "maybe"}, r"Attempt\.outcome: 'maybe' is none of the values"),
        ({"sources": ("a", 1)}, r"Attempt\.sources: "),
        ({"mean_logprob": "low"}, r"Attempt\.mean_logprob: "),
    ],
)
def test_a_field_that_can_not_be_written_is_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        CODEC.encode(replace(ATTEMPT, **change))


def test_plain_text_passes_for_an_enum_member() -> None:
    assert CODEC.encode(replace(ATTEMPT, outcome="ok")) == CODEC.encode(ATTEMPT)


@pytest.mark.parametrize("record", [ATTEMPT, SLIP, REQUEST])
def test_every_cut_and_every_addition_is_refused(record: Record) -> None:
    data = CODEC.encode(record)
    for end in range(len(data)):
        with pytest.raises(UndecodableError, match=r"byte \d+"):
            CODEC.decode(type(record), data[:end])
    for more in (b"\x00", b"\x02", data):
        with pytest.raises(
            UndecodableError, match=f"{len(more)} bytes are left after the record, from byte {len(data)} on"
        ):
            CODEC.decode(type(record), data + more)


def test_the_field_and_byte_where_reading_stopped_are_named() -> None:
    data = CODEC.encode(ATTEMPT)
    start = data.index(b"m@1")
    with pytest.raises(UndecodableError, match=rf"field requested_model: text is not UTF-8 at byte {start + 1}$"):
        CODEC.decode(Attempt, data[: start + 1] + b"\xff" + data[start + 2 :])
    with pytest.raises(
        UndecodableError, match=rf"field requested_model: 3 bytes are announced, 2 are left at byte {start - 1}$"
    ):
        CODEC.decode(Attempt, data[: start + 2])
    whole = CODEC.encode(SLIP)
    inside = whole.index(b"o@1")
    with pytest.raises(UndecodableError, match=rf"field steps: text is not UTF-8 at byte {inside}$"):
        CODEC.decode(Slip, whole[:inside] + b"\xff" + whole[inside + 1 :])


@given(st.sampled_from(RECORDS), st.binary(max_size=300))
def test_random_bytes_after_the_right_header_never_do_more_than_fail(record: type[Any], data: bytes) -> None:
    header = single_object_header(current(record).fingerprint)
    with suppress(UndecodableError, InvalidRequestError):
        CODEC.decode(record, header + data)


@settings(max_examples=300)
@given(any_of(Decision) | any_of(Slip) | any_of(Request), st.data())
def test_one_wrong_byte_never_does_more_than_fail(record: Any, data: st.DataObject) -> None:
    whole = bytearray(CODEC.encode(record))
    place = data.draw(st.integers(SINGLE_OBJECT_BYTES, len(whole) - 1))
    whole[place] = data.draw(st.integers(0, 255))
    try:
        read = CODEC.decode(type(record), bytes(whole))
    except (UndecodableError, InvalidRequestError):
        return
    again = CODEC.encode(read)  # what is read is a record like any other
    assert CODEC.decode(type(record), again) == read or _has_nan(read)


def _has_nan(value: Any) -> bool:
    return "nan" in repr(value)


def test_blocks_that_other_writers_make_are_read() -> None:
    # An array in two blocks, the second with its size before it, as Java's blocking encoder writes.
    data = CODEC.encode(replace(ATTEMPT, sources=("a", "b")))
    assert data.count(b"\x04\x02a\x02b\x00") == 1
    parted = data.replace(b"\x04\x02a\x02b\x00", b"\x02\x02a\x01\x04\x02b\x00")
    assert CODEC.decode(Attempt, parted).sources == ("a", "b")


def test_a_length_beyond_all_memory_costs_nothing() -> None:
    header = single_object_header(current(Attempt).fingerprint)
    with pytest.raises(
        UndecodableError, match=r"field operation_key: 4611686018427387903 bytes are announced, 0 are left"
    ):
        CODEC.decode(Attempt, header + b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f")
    with pytest.raises(UndecodableError, match="field operation_key: a length is -"):
        CODEC.decode(Attempt, header + b"\x01")
    with pytest.raises(UndecodableError, match="a number has more than 64 bits"):
        CODEC.decode(Attempt, header + b"\xff" * 12)


def other_version(record: type[Any], change: Any) -> Any:
    schema = json.loads(current(record).text)
    change(schema)
    return schema


def read_by_way_of(monkeypatch: pytest.MonkeyPatch, record: type[Any], schema: dict[str, Any], datum: Any) -> Any:
    """Bytes of another version of a record, read by a codec that has that version in its package."""
    from schemas import codec as module
    from schemas.contract import known, schema_from

    other = schema_from(json.dumps(schema))
    monkeypatch.setattr(module, "known", lambda: {**known(), other.fingerprint: other})
    out = BytesIO()
    schemaless_writer(out, other.parsed, datum)
    return Codec().decode(record, single_object_header(other.fingerprint) + out.getvalue())


def test_an_unknown_enum_symbol_becomes_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(schema: dict[str, Any]) -> None:
        next(f for f in schema["fields"] if f["name"] == "outcome")["type"]["symbols"].append("teleported")

    datum = {**as_dict(ATTEMPT), "outcome": "teleported"}
    read = read_by_way_of(monkeypatch, Attempt, other_version(Attempt, change), datum)
    assert read == replace(ATTEMPT, outcome=Outcome.UNKNOWN)


def test_newer_and_older_fields_are_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(schema: dict[str, Any]) -> None:
        schema["fields"] = [field for field in schema["fields"] if field["name"] != "finish_reason"]
        schema["fields"].insert(0, {"name": "mood", "type": "string", "default": "good"})

    datum = {**as_dict(ATTEMPT), "mood": "bad"}
    del datum["finish_reason"]
    read = read_by_way_of(monkeypatch, Attempt, other_version(Attempt, change), datum)
    assert read == replace(ATTEMPT, finish_reason=FinishReason.NONE)


def test_an_edge_record_of_another_version_is_validated(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(schema: dict[str, Any]) -> None:
        schema["fields"].append({"name": "mood", "type": "string", "default": "good"})

    schema = other_version(Feedback, change)
    datum = {**as_dict(Feedback(feedback_id="f", request_id="r", given_at_ms=1)), "mood": "", "rating": 3.0}
    with pytest.raises(InvalidRequestError, match=r"rating: must be less than or equal to 1"):
        read_by_way_of(monkeypatch, Feedback, schema, datum)


def test_a_version_that_can_not_become_ours_is_undecodable(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(schema: dict[str, Any]) -> None:
        schema["fields"] = schema["fields"][:1]

    with pytest.raises(UndecodableError, match=r"tierflow\.Attempt, written with another version of its schema"):
        read_by_way_of(monkeypatch, Attempt, other_version(Attempt, change), {"operation_key": "k"})


def test_another_record_is_named() -> None:
    with pytest.raises(
        UndecodableError, match=r"byte 0: the record is a tierflow\.Attempt, wanted is a tierflow\.Slip"
    ):
        CODEC.decode(Slip, CODEC.encode(ATTEMPT))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "byte 0: nothing starts no Avro record"),
        (b"\xc3", "byte 0: c3 starts no Avro record"),
        (b"\xc3\x02abcdefghij", "byte 0: c3 02 starts no Avro record"),
        (b"\xc3\x01abc", "byte 5: the bytes end within the schema's fingerprint"),
        (b"\xc3\x01abcdefgh", "byte 2: no schema has the fingerprint 6162636465666768"),
        (b"\x00\x00\x00\x00\x01", "byte 0: Confluent's wire format, but no schema registry is configured"),
        (b"\x00\x00", "byte 2: the bytes end within the schema id"),
        (b"{}", "byte 0: 7b 7d starts no Avro record"),
    ],
)
def test_a_wrong_start_is_told(data: bytes, said: str) -> None:
    with pytest.raises(UndecodableError, match=said):
        CODEC.decode(Attempt, data)


def test_formats_and_content_types() -> None:
    assert CODEC.content_type == AVRO
    assert CODEC.content_type_for("application/json; charset=utf-8") == JSON
    assert CODEC.content_type_for("application/cloudevents+json") == JSON
    assert CODEC.content_type_for(AVRO) == AVRO
    assert CODEC.content_type_for(CONFLUENT) == AVRO
    assert CODEC.encode_as(ATTEMPT, AVRO) == CODEC.encode(ATTEMPT)
    with pytest.raises(ValueError, match="Attempt has no JSON form"):
        CODEC.encode_as(ATTEMPT, JSON)
    with pytest.raises(ValueError, match="can't be written here"):
        CODEC.encode_as(ATTEMPT, CONFLUENT)
    with pytest.raises(ValueError, match="needs the ids"):
        Codec(format=CONFLUENT)
    with pytest.raises(ValueError, match="format is"):
        Codec(format=JSON)
    with pytest.raises(UndecodableError, match="byte 0: JSON, but a Attempt is Avro"):
        CODEC.decode(Attempt, b"{}", JSON)
    with pytest.raises(UndecodableError, match="content-type: 'text/plain' is not read"):
        CODEC.decode(Attempt, b"{}", "text/plain")
    assert CODEC.decode(Request, CODEC.encode(REQUEST), "") == CODEC.decode(Request, b'{"prompt":"hi"}', "") == REQUEST


def test_all_functions_can_be_made_ahead() -> None:
    codec = Codec()
    codec.prepare()
    assert codec.encode(SLIP) == CODEC.encode(SLIP)
    codec.close()


def test_a_realistic_decision_stays_small() -> None:
    decision = Decision(
        decision_id="d" * 36,
        request_id="r" * 36,
        task_class=TaskClass.MATH,
        class_confidence=0.9,
        confidence=0.8,
        stage="surface",
        classifier_version="surface-1",
        feature_hash="a" * 16,
        seed=1,
        route_id="default",
        plan_id="cascade",
        tier="fast",
        model="m@1",
        candidate_tier=("fast", "balanced", "premium"),
        candidate_model=("a@1", "b@1", "c@1"),
        candidate_quality=(0.4, 0.6, 0.7),
        candidate_cost_micros=(100, 300, 90000),
        candidate_score=(0.4, 0.5, 0.6),
        candidate_propensity=(0.9, 0.05, 0.05),
        candidate_excluded=("", "", ""),
        thresholds={"min": 0.5},
        registry_number=12,
        registry_hash="h" * 64,
        decided_at_ms=1_763_800_000_000,
    )
    assert len(CODEC.encode(decision)) < 420
