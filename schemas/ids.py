"""Identifiers: drawn once by producers (UUIDv7), derived by everybody after them.

A derived id is a function of what it names, so a redelivered record gets the same ids again and a reader can tell a
repeat from a second event.
"""

import hashlib
import os
import time
import uuid
from typing import NewType

RequestId = NewType("RequestId", str)
OperationKey = NewType("OperationKey", str)

MAX_ID_CHARS = 128
"""Longest id that is taken from a producer: ids become keys of the state store and header values."""


def uuid7(now_ms: int | None = None) -> str:
    """A new time-ordered UUID (RFC 9562, version 7).

    Args:
        now_ms: Milliseconds since the epoch; the system clock when left out.
    """
    millis = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    value = (millis & 0xFFFF_FFFF_FFFF) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))


def derived_id(*parts: str) -> str:
    """The id of a thing that is named by ``parts`` (RFC 9562, version 8: SHA-256, truncated).

    Parts are length-prefixed, so ``("ab", "c")`` and ``("a", "bc")`` differ.
    """
    pieces: list[bytes] = []
    for part in parts:
        raw = part.encode()
        pieces += (len(raw).to_bytes(4, "big"), raw)
    text = hashlib.sha256(b"".join(pieces)).hexdigest()
    variant = "89ab"[int(text[16], 16) & 3]
    return f"{text[:8]}-{text[8:12]}-8{text[13:16]}-{variant}{text[17:20]}-{text[20:32]}"


def id_from_coordinates(topic: str, partition: int, offset: int) -> RequestId:
    """The request id of a record whose producer gave none: derived, never drawn, so a redelivery gets it again."""
    return RequestId(derived_id("record", topic, str(partition), str(offset)))


def coordinates(topic: str, partition: int, offset: int) -> str:
    """A record's place as text, ``topic/partition/offset``."""
    return f"{topic}/{partition}/{offset}"


def operation_key(request_id: str, step_id: str, prompt_hash: str, parameters_hash: str) -> OperationKey:
    """Names one paid call: the same for every try of it, another as soon as anything that matters differs."""
    return OperationKey(derived_id("operation", request_id, step_id, prompt_hash, parameters_hash))


def chance(request_id: str, purpose: str) -> float:
    """A number in [0, 1) that looks random and can be computed again: decisions repeat.

    Args:
        request_id: What the draw is for.
        purpose: Separates independent draws for one request.
    """
    digest = hashlib.sha256(f"{purpose}\x00{request_id}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / (1 << 56)
