"""Request ids: UUIDs of version 7 (RFC 9562), which sort by time."""

import os
import time
import uuid


def uuid7(now_ms: int | None = None) -> str:
    """A new id.

    Args:
        now_ms: Unix milliseconds; the system clock when left out.
    """
    millis = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    random = int.from_bytes(os.urandom(10), "big")
    value = (millis & ((1 << 48) - 1)) << 80 | random
    value = value & ~(0xF << 76) | 7 << 76  # the version
    value = value & ~(0b11 << 62) | 0b10 << 62  # the variant
    return str(uuid.UUID(int=value))
