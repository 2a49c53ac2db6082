"""Records to bytes and back: Avro in two framings, and JSON for what crosses the edge.

Bytes in exactly our current schema take the compiled functions of ``avro_write`` and ``avro_read``. Bytes of another
version of the same record go through fastavro with writer and reader schema (unknown enum symbols become the enum's
default, new fields theirs). Whatever is left over, missing or of another record is an ``UndecodableError`` that names
the byte.
"""

from dataclasses import dataclass
from datetime import timedelta
from io import BytesIO
from typing import Any, TypeVar, cast

from fastavro import schemaless_reader, schemaless_writer
from pydantic import BaseModel, ValidationError

from schemas.avro_careful import Read
from schemas.avro_read import RecordReader, record_reader
from schemas.avro_write import RecordWriter, record_writer
from schemas.cloudevents import is_structured, unwrap
from schemas.confluent import SchemaIds
from schemas.content_types import AVRO_TYPES, JSON, essence, sniff
from schemas.contract import FILES, Record, Schema, current, is_edge, known
from schemas.edges import Request
from schemas.errors import UndecodableError
from schemas.headers import AVRO, CONFLUENT
from schemas.request_json import first_error, record_from_json, request_from_json
from schemas.settings import CodecSettings
from schemas.wire import (
    CONFLUENT_BYTES,
    CONFLUENT_MAGIC,
    SINGLE_OBJECT,
    SINGLE_OBJECT_BYTES,
    confluent_header,
    schema_id_of,
    single_object_header,
)

R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class _Functions:
    """What belongs to a record class."""

    schema: Schema
    writer: RecordWriter
    reader: RecordReader
    is_edge: bool


_made: dict[type[Any], _Functions] = {}


def _functions(record: type[Any]) -> _Functions:
    """The functions of a class, made once."""
    found = _made.get(record)
    if found is None:
        schema = current(record)
        found = _made[record] = _Functions(
            schema, record_writer(record, schema.source), record_reader(record, schema.source), is_edge(record)
        )
    return found


class Codec:
    """Encodes and decodes every record of ``schemas.flow`` and ``schemas.edges``.

    Args:
        format: What ``encode`` writes: ``AVRO`` (single-object encoding) or ``CONFLUENT``. Both are read.
        ids: Ids of a schema registry; needed to write ``CONFLUENT`` and to read it.

    Raises:
        ValueError: Another format, or ``CONFLUENT`` without ids.
    """

    __slots__ = ("_content_type", "_heads", "_ids", "_readers")

    def __init__(self, *, format: str = AVRO, ids: SchemaIds | None = None) -> None:  # noqa: A002 - the usual word
        if format not in AVRO_TYPES:
            raise ValueError(f"format is {AVRO} or {CONFLUENT}, not {format}")
        if format == CONFLUENT and ids is None:
            raise ValueError(f"{CONFLUENT} needs the ids of a schema registry")
        self._content_type = format
        self._ids = ids
        self._heads: dict[type[Any], bytes] = {}
        self._readers: dict[type[Any], dict[bytes, Read]] = {}

    @property
    def content_type(self) -> str:
        """Content type of what ``encode`` writes."""
        return self._content_type

    def prepare(self) -> None:
        """Make all functions and, for ``CONFLUENT``, ask for all ids, so that no record has to wait for them.

        Raises:
            SchemaRegistryError: The registry is away.
            ConfigurationError: It refuses a schema.
        """
        for record in FILES:
            _functions(record)
            self._heads[record] = self._head(record, self._content_type)

    def encode(self, record: Record) -> bytes:
        """Bytes of a record, in ``content_type``.

        Raises:
            ValueError: A field holds what its Avro type can't; names the field.
        """
        kind = type(record)
        head = self._heads.get(kind)
        if head is None:
            head = self._heads[kind] = self._head(kind, self._content_type)
        return _encode(record, head)

    def content_type_for(self, request_content_type: str) -> str:
        """What a result is written in: JSON for a request that came as JSON, else Avro framed as the request was."""
        found = essence(request_content_type)
        if found == JSON or is_structured(found):
            return JSON
        return found if found == AVRO or (found == CONFLUENT and self._ids is not None) else self._content_type

    def encode_as(self, record: Record, content_type: str) -> bytes:
        """Bytes of a record in a content type of the caller's choice, see ``content_type_for``.

        Raises:
            ValueError: The content type is none of ours, or JSON for a record that never leaves our own stages; or a
                field can't be written.
        """
        found = essence(content_type)
        if found == JSON:
            if not isinstance(record, BaseModel):
                raise ValueError(f"{type(record).__name__} has no JSON form")
            return record.model_dump_json().encode()
        return _encode(record, self._head(type(record), found))

    def decode(self, record: type[R], data: bytes, content_type: str = AVRO) -> R:
        """The record in ``data``.

        The two framings of Avro are told apart by their first byte, so either content type of Avro reads both. An empty
        content type is found out from the first bytes. Requests are also read from the friendlier JSON forms (see
        ``request_json``) and from CloudEvents in structured mode.

        Args:
            record: Class wanted.
            data: All bytes of the record.
            content_type: As in the header; parameters are ignored.

        Raises:
            UndecodableError: These bytes are no such record; names the byte, and the field where there is one.
            InvalidRequestError: Readable, but a field of an edge record is wrong; names it.
            SchemaRegistryError: The schema is not known yet and the registry can't say now; try again later.
        """
        if content_type not in AVRO_TYPES and (found := essence(content_type) or sniff(data)) not in AVRO_TYPES:
            return cast("R", _from_json(self, record, data, found))
        ours = _functions(record)
        readers = self._readers.get(record)
        if readers is None:
            readers = self._readers[record] = {single_object_header(ours.schema.fingerprint): ours.reader.read}
        start = SINGLE_OBJECT_BYTES
        read = readers.get(data[:SINGLE_OBJECT_BYTES])
        if read is None:
            if data[:1] == CONFLUENT_MAGIC:
                start = CONFLUENT_BYTES
            read = readers.get(data[:start])
            if read is None:
                read = readers[data[:start]] = self._reader_for(ours, data)
        try:
            value, end = read(data, start)
        except UndecodableError:
            raise
        except Exception as error:
            raise UndecodableError(f"{record.__name__}: {ours.reader.explain(data, start)}") from error
        if end != len(data):
            raise UndecodableError(f"{record.__name__}: {ours.reader.explain(data, start)}")
        return cast("R", _validated(record, value) if ours.is_edge else value)

    def close(self) -> None:
        """Release the connections to the schema registry, if there is one."""
        if self._ids is not None:
            self._ids.close()

    def _head(self, record: type[Any], content_type: str) -> bytes:
        schema = current(record)
        if content_type == AVRO:
            return single_object_header(schema.fingerprint)
        if content_type == CONFLUENT and self._ids is not None:
            return confluent_header(self._ids.id_of(schema))
        raise ValueError(f"{content_type} can't be written here")

    def _reader_for(self, ours: _Functions, data: bytes) -> Read:
        """The function for a header that this codec sees for the first time."""
        wanted = ours.schema
        writer = self._schema_of(data)
        if writer.full_name.rpartition(".")[2] != wanted.full_name.rpartition(".")[2]:
            raise UndecodableError(f"byte 0: the record is a {writer.full_name}, wanted is a {wanted.full_name}")
        if writer.fingerprint == wanted.fingerprint:
            return ours.reader.read
        return _translating(ours, writer)

    def _schema_of(self, data: bytes) -> Schema:
        if data[:1] == CONFLUENT_MAGIC:
            if len(data) < CONFLUENT_BYTES:
                raise UndecodableError(f"byte {len(data)}: the bytes end within the schema id")
            if self._ids is None:
                raise UndecodableError("byte 0: Confluent's wire format, but no schema registry is configured")
            return self._ids.schema_of(schema_id_of(data))
        if data[:2] != SINGLE_OBJECT:
            raise UndecodableError(
                f"byte 0: {data[:2].hex(' ') or 'nothing'} starts no Avro record (C3 01 or, with a registry, 00 does)"
            )
        if len(data) < SINGLE_OBJECT_BYTES:
            raise UndecodableError(f"byte {len(data)}: the bytes end within the schema's fingerprint")
        print_of_it = data[len(SINGLE_OBJECT) : SINGLE_OBJECT_BYTES]
        found = known().get(print_of_it)
        if found is None:
            raise UndecodableError(f"byte 2: no schema has the fingerprint {print_of_it.hex()}")
        return found


def _encode(record: Record, head: bytes) -> bytes:
    writer = _functions(type(record)).writer
    try:
        return writer.write(record, head)
    except Exception as error:
        raise ValueError(writer.explain(record, error)) from error


def _translating(ours: _Functions, writer: Schema) -> Read:
    """Reads another version of a record: fastavro resolves it to our version, whose bytes are then read as usual.

    The bytes are read twice, first by the writer's schema alone: fastavro checks the length of a field that it reads,
    but not of one that it skips. Some five times the work of a record in our own version, for the time of a rolling
    upgrade and for old records.
    """
    reader = ours.schema
    straight = ours.reader.read

    def read(data: bytes, start: int) -> tuple[Any, int]:
        source = BytesIO(data)
        try:
            source.seek(start)
            schemaless_reader(source, writer.parsed, None)
            end = source.tell()
            source.seek(start)
            value = schemaless_reader(source, writer.parsed, reader.parsed)
        except Exception as error:  # fastavro lets many kinds through: EOFError, IndexError, its own
            raise UndecodableError(
                f"{reader.full_name}, written with another version of its schema: {type(error).__name__} at byte "
                f"{source.tell()}"
            ) from error
        if end != len(data):
            left = len(data) - end
            raise UndecodableError(f"{reader.full_name}: {left} bytes are left after the record, from byte {end} on")
        target = BytesIO()
        schemaless_writer(target, reader.parsed, value, strict=True)
        return straight(target.getvalue(), 0)[0], len(data)

    return read


def _validated(record: type[Any], value: object) -> Any:
    """An edge record from what was read.

    Raises:
        InvalidRequestError: Names the first field that is wrong.
    """
    try:
        return record.model_validate(value)
    except ValidationError as error:
        raise first_error(error) from None


def _from_json(codec: Codec, record: type[Any], data: bytes, content_type: str) -> Any:
    if is_structured(content_type):
        event, inner_type, inner = unwrap(data)
        del event
        return codec.decode(record, inner, inner_type)
    if content_type != JSON:
        raise UndecodableError(f"content-type: {content_type!r:.60} is not read, only {JSON}, {AVRO} and {CONFLUENT}")
    if not issubclass(record, BaseModel):
        raise UndecodableError(f"byte 0: JSON, but a {record.__name__} is Avro")
    if issubclass(record, Request):
        return request_from_json(data)
    return record_from_json(record, data)


def open_codec(settings: CodecSettings, *, patience: timedelta = timedelta(0)) -> Codec:
    """The codec that the settings ask for, ready to use: with all ids where there is a schema registry.

    Args:
        settings: URL and credentials of the registry, if there is one.
        patience: See ``SchemaIds``.

    Raises:
        SchemaRegistryError: The registry is away.
        ConfigurationError: It refuses a schema of ours, or the URL is none.
    """
    if not settings.schema_registry_url:
        codec = Codec()
    else:
        user, password = settings.schema_registry_user, settings.schema_registry_password.get_secret_value()
        from schemas.schema_registry import HttpSchemaRegistry  # noqa: PLC0415 - brings an HTTP client that few need

        registry = HttpSchemaRegistry(
            settings.schema_registry_url,
            auth=(user, password) if user else None,
            timeout=settings.schema_registry_timeout,
            may_register=settings.schema_registry_may_register,
        )
        codec = Codec(format=CONFLUENT, ids=SchemaIds(registry, patience=patience))
    try:
        codec.prepare()
    except BaseException:
        codec.close()
        raise
    return codec
