"""Confluent's wire format with a registry: against confluent-kafka's own serializer, and through every failure."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient, record_subject_name_strategy
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from msgspec.structs import replace
from pydantic import SecretStr

from schemas.codec import Codec, open_codec
from schemas.confluent import SchemaIds
from schemas.content_types import AVRO, CONFLUENT
from schemas.contract import FILES, Record, current
from schemas.edges import Request
from schemas.enums import Outcome
from schemas.errors import ConfigurationError, SchemaRegistryError, StateStoreError, UndecodableError
from schemas.fakes import FakeClock, MemoryRegistry
from schemas.flow import Attempt, Slip
from schemas.schema_registry import HttpSchemaRegistry
from schemas.settings import CodecSettings
from schemas.wire import confluent_header
from tests.schemas.registry_server import RegistryServer
from tests.schemas.test_codec import ATTEMPT, REQUEST, SLIP, as_dict

WAIT = timedelta(seconds=5)
CONTEXT = SerializationContext("completions", MessageField.VALUE)


@pytest.fixture(scope="module")
def server() -> Iterator[RegistryServer]:
    with RegistryServer().running() as running:
        yield running


@pytest.fixture
def codec(server: RegistryServer) -> Iterator[Codec]:
    made = open_codec(CodecSettings(schema_registry_url=server.url), patience=WAIT)
    yield made
    made.close()


def serializer(server: RegistryServer, text: str) -> Any:
    client = SchemaRegistryClient({"url": server.url})
    return AvroSerializer(
        client, text, conf={"subject.name.strategy": record_subject_name_strategy, "auto.register.schemas": True}
    )


@pytest.mark.parametrize("record", [ATTEMPT, SLIP, REQUEST])
def test_confluents_deserializer_reads_what_we_write(server: RegistryServer, codec: Codec, record: Record) -> None:
    read = AvroDeserializer(SchemaRegistryClient({"url": server.url}))(codec.encode(record), CONTEXT)
    assert read == as_dict(record)


@pytest.mark.parametrize("record", [ATTEMPT, SLIP, REQUEST])
def test_we_read_what_confluents_serializer_writes(server: RegistryServer, codec: Codec, record: Record) -> None:
    data = serializer(server, current(type(record)).text)(as_dict(record), CONTEXT)
    assert data == codec.encode(record)
    assert codec.decode(type(record), data, CONFLUENT) == record


def test_a_schema_of_somebody_else_is_fetched_and_resolved(server: RegistryServer, codec: Codec) -> None:
    schema = json.loads(current(Attempt).text)
    next(field for field in schema["fields"] if field["name"] == "outcome")["type"]["symbols"].append("teleported")
    schema["fields"].append({"name": "mood", "type": "string", "default": ""})
    datum = {**as_dict(ATTEMPT), "outcome": "teleported", "mood": "good"}
    data = serializer(server, json.dumps(schema))(datum, CONTEXT)
    assert codec.decode(Attempt, data) == replace(ATTEMPT, outcome=Outcome.UNKNOWN)
    with pytest.raises(UndecodableError, match="left after the record"):
        codec.decode(Attempt, data + b"\x00")
    for end in range(5, len(data)):
        with pytest.raises(UndecodableError, match=r"another version of its schema: \w+ at byte \d+"):
            codec.decode(Attempt, data[:end])


def test_an_equal_schema_under_another_id_takes_the_straight_way(server: RegistryServer, codec: Codec) -> None:
    other = json.loads(current(Attempt).text)
    other["doc"] = "the same, described otherwise"
    schema_id = server.add(json.dumps(other))
    data = confluent_header(schema_id) + codec.encode(ATTEMPT)[5:]
    assert codec.decode(Attempt, data) == ATTEMPT


def test_every_record_is_registered_once_under_its_full_name(server: RegistryServer, codec: Codec) -> None:
    assert codec.content_type == CONFLUENT
    wanted = {current(record).full_name for record in FILES}
    assert wanted <= set(server.subjects)
    before = len(server.schemas)
    open_codec(CodecSettings(schema_registry_url=server.url)).close()
    assert len(server.schemas) == before


def test_without_a_registry_the_single_object_encoding_is_written() -> None:
    codec = open_codec(CodecSettings())
    assert codec.content_type == AVRO
    assert codec.decode(Slip, codec.encode(SLIP), "Avro/Binary; v=1") == SLIP
    codec.close()


def test_a_codec_with_a_registry_reads_and_answers_in_both_framings(codec: Codec) -> None:
    single = Codec().encode(REQUEST)
    assert codec.decode(Request, single) == codec.decode(Request, codec.encode(REQUEST), AVRO) == REQUEST
    assert codec.content_type_for(AVRO) == AVRO
    assert codec.content_type_for(CONFLUENT) == codec.content_type_for("") == CONFLUENT
    assert codec.encode_as(REQUEST, AVRO) == single
    assert codec.encode_as(REQUEST, CONFLUENT) == codec.encode(REQUEST)


def test_credentials_are_sent(server: RegistryServer) -> None:
    settings = CodecSettings(
        schema_registry_url=server.url, schema_registry_user="u", schema_registry_password=SecretStr("p")
    )
    open_codec(settings).close()
    assert server.seen[-1][2] == "Basic dTpw"


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"text": "message M {}", "schemaType": "PROTOBUF"}, "is PROTOBUF, only Avro is read"),
        ({"text": '"string"'}, "the schema is not of a record"),
        ({"text": '{"type":"record","name":"X","fields":[{"name":"a","type":"nonsense"}]}'}, "can't be read"),
        ({"text": '{"type":"record","name":"X","fields":[]}', "references": [{"name": "y"}]}, "refers to other"),
        ({"text": '{"type":"record","name":"Slip","fields":[]}'}, "the record is a Slip, wanted is a tierflow.Attempt"),
    ],
)
def test_what_the_registry_has_but_can_not_be_read(
    server: RegistryServer, codec: Codec, entry: dict[str, Any], said: str
) -> None:
    schema_id = server.add(entry.pop("text"), **entry)
    for _ in range(2):
        with pytest.raises(UndecodableError, match=said):
            codec.decode(Attempt, confluent_header(schema_id) + b"\x00")


def test_an_unknown_id_is_undecodable_and_asked_for_once_a_minute() -> None:
    clock, registry = FakeClock(), MemoryRegistry()
    with SchemaIds(registry, patience=WAIT, monotonic=clock.monotonic) as ids:
        codec = Codec(format=CONFLUENT, ids=ids)
        codec.prepare()
        for _ in range(3):
            with pytest.raises(UndecodableError, match="byte 1: the schema registry has no schema id 77"):
                codec.decode(Attempt, confluent_header(77) + b"\x00")
        assert registry.asked == [77]
        clock.advance(timedelta(seconds=61))
        with pytest.raises(UndecodableError):
            codec.decode(Attempt, confluent_header(77) + b"\x00")
        assert registry.asked == [77, 77]


def test_a_registry_that_is_away_stops_only_what_it_alone_knows() -> None:
    registry = MemoryRegistry(["x"])
    with SchemaIds(registry, patience=WAIT) as ids:
        codec = Codec(format=CONFLUENT, ids=ids)
        codec.prepare()
        registry.failing = True
        assert codec.decode(Slip, codec.encode(SLIP)) == SLIP
        foreign = confluent_header(99) + b"\x00"
        with pytest.raises(SchemaRegistryError) as caught:
            codec.decode(Attempt, foreign)
        assert caught.value.retryable
        assert isinstance(caught.value, StateStoreError)  # a stage waits for it as for the state store
        registry.failing = False
        with pytest.raises(UndecodableError):
            codec.decode(Attempt, foreign)


def test_without_patience_the_first_sight_of_an_id_is_told_to_wait() -> None:
    registry = MemoryRegistry()
    with SchemaIds(MemoryRegistry()) as ids:
        schema_id = registry.register("x", current(Attempt).text)
        ids._registry = registry
        codec = Codec(ids=ids)
        data = confluent_header(schema_id) + Codec().encode(ATTEMPT)[10:]
        for _ in range(1000):
            try:
                assert codec.decode(Attempt, data) == ATTEMPT
                break
            except SchemaRegistryError:
                ids._asked[schema_id].exception(timeout=5)  # what the stage's pause waits for
        assert registry.asked == [schema_id]


def test_a_registry_that_is_away_at_start_is_retryable() -> None:
    with pytest.raises(SchemaRegistryError, match="does not answer: ConnectError"):
        open_codec(CodecSettings(schema_registry_url="http://127.0.0.1:9"))


def test_a_registry_that_fails_is_retryable_and_one_that_refuses_is_not(server: RegistryServer) -> None:
    server.fail_with = 503
    try:
        with pytest.raises(SchemaRegistryError, match="answers 503"):
            open_codec(CodecSettings(schema_registry_url=server.url))
        server.fail_with = 409
        with pytest.raises(ConfigurationError, match=r"refuses tierflow\.Request: 409 told to fail"):
            open_codec(CodecSettings(schema_registry_url=server.url))
    finally:
        server.fail_with = 0


def test_lookup_only_names_what_is_missing() -> None:
    with RegistryServer().running() as empty:
        settings = CodecSettings(schema_registry_url=empty.url, schema_registry_may_register=False)
        with pytest.raises(ConfigurationError, match=r"no schema of ours under subject tierflow\.Request"):
            open_codec(settings)
        assert not empty.schemas


def test_answers_that_are_no_answers() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text="<html>" if request.method == "GET" else "{}")

    registry = HttpSchemaRegistry("http://registry.test", transport=httpx.MockTransport(answer))
    with pytest.raises(SchemaRegistryError, match="does not answer: JSONDecodeError"):
        registry.schema(1)
    with pytest.raises(SchemaRegistryError, match="has no id"):
        registry.register("s", "{}")
    registry.close()
    with pytest.raises(ConfigurationError, match="no http or https URL"):
        HttpSchemaRegistry("registry:8081")


def test_a_schema_id_has_four_bytes() -> None:
    assert confluent_header(2**31 - 1) == b"\x00\x7f\xff\xff\xff"
    with pytest.raises(ValueError, match="does not fit"):
        confluent_header(2**31)
