"""Content types that are read, and what bytes look like when nobody said."""

from typing import Final

from schemas.errors import UndecodableError
from schemas.headers import AVRO, CONFLUENT, JSON
from schemas.wire import CONFLUENT_MAGIC, SINGLE_OBJECT

AVRO_TYPES: Final = frozenset({AVRO, CONFLUENT})

_JSON_STARTS: Final = frozenset(b'{["')
_JSON_SPACE: Final = b" \t\r\n"


def essence(content_type: str) -> str:
    """Type and subtype in lower case, without parameters."""
    if content_type in {JSON, AVRO, CONFLUENT}:
        return content_type
    return content_type.partition(";")[0].strip().lower()


def sniff(data: bytes) -> str:
    """Content type by the first bytes.

    Raises:
        UndecodableError: They start nothing that is read.
    """
    if data[:2] == SINGLE_OBJECT:
        return AVRO
    if data[:1] == CONFLUENT_MAGIC:
        return CONFLUENT
    text = data.lstrip(_JSON_SPACE)
    if text[:1] and text[0] in _JSON_STARTS:
        return JSON
    if not text:
        raise UndecodableError("byte 0: the record is empty")
    raise UndecodableError(f"byte {len(data) - len(text)}: {text[:1].hex()} starts neither JSON nor Avro")


__all__ = ["AVRO", "AVRO_TYPES", "CONFLUENT", "JSON", "essence", "sniff"]
