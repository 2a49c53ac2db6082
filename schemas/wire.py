"""How a record's Avro bytes are framed, so that a reader knows which schema wrote them.

Two framings are in use, told apart by the first byte:

* Avro single-object encoding (Avro 1.12 specification): ``C3 01``, then the CRC-64-AVRO fingerprint of the schema's
  parsing canonical form, little-endian. The form drops defaults and docs, so equal fingerprints mean equal bytes, not
  equal compatibility.
* Confluent's wire format: ``00``, then the schema's id in a registry, 4 bytes big-endian.
"""

from collections.abc import Mapping

from fastavro.schema import fingerprint as _fingerprint
from fastavro.schema import to_parsing_canonical_form

SINGLE_OBJECT = b"\xc3\x01"
"""Marker and version of the single-object encoding."""
SINGLE_OBJECT_BYTES = 10
"""Length of its header."""
CONFLUENT_MAGIC = b"\x00"
CONFLUENT_BYTES = 5
"""Length of the header of Confluent's wire format."""
MAX_SCHEMA_ID = 2**31 - 1


def fingerprint(schema: Mapping[str, object]) -> bytes:
    """CRC-64-AVRO of a schema's parsing canonical form, 8 bytes, little-endian as on the wire."""
    return bytes.fromhex(_fingerprint(to_parsing_canonical_form(dict(schema)), "CRC-64-AVRO"))


def single_object_header(schema_fingerprint: bytes) -> bytes:
    """The 10 bytes before the record."""
    return SINGLE_OBJECT + schema_fingerprint


def confluent_header(schema_id: int) -> bytes:
    """The 5 bytes before the record.

    Raises:
        ValueError: The id is outside 0 to 2^31 - 1.
    """
    if not 0 <= schema_id <= MAX_SCHEMA_ID:
        raise ValueError(f"schema id {schema_id} does not fit in four bytes")
    return CONFLUENT_MAGIC + schema_id.to_bytes(4, "big")


def schema_id_of(data: bytes) -> int:
    """The id in the header of a record in Confluent's wire format (5 bytes at least)."""
    return int.from_bytes(data[1:5], "big")
