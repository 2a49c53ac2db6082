"""W3C Trace Context in record headers, without a tracing library: most records are not traced, and should not pay.

``traceparent`` is ``00-<trace id, 32 hex>-<span id, 16 hex>-<flags, 2 hex>``; the lowest flag says "sampled".
Source: W3C Trace Context, level 2.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from schemas.headers import Header, Name

_NAME: Final = Name.TRACEPARENT.value
_LENGTH: Final = 55
_ODD: Final = frozenset(b"13579bdf")
_FORM: Final = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")


class Parent(NamedTuple):
    """The span that a record was sent from.

    Attributes:
        trace_id: 128 bits.
        span_id: 64 bits.
        flags: 8 bits.
    """

    trace_id: int
    span_id: int
    flags: int


def sampled_parent(headers: Sequence[Header]) -> Parent | None:
    """The parent of a record whose trace is kept; None for all others, quickly.

    A ``traceparent`` that is not well formed counts as none.
    """
    for name, raw in headers:
        if name == _NAME:
            if len(raw) < _LENGTH or raw[_LENGTH - 1] not in _ODD:
                return None
            match = _FORM.fullmatch(raw)
            if match is None:
                return None
            trace_id, span_id, flags = (int(part, 16) for part in match.groups())
            return Parent(trace_id, span_id, flags)
    return None


def root_traceparent(request_id: str, ratio: float) -> str:
    """The ``traceparent`` of a request that brings none: derived, so that a redelivery gets the same.

    Args:
        request_id: What is traced.
        ratio: Share of traces to keep, 0 to 1; decided by the trace id.
    """
    digest = hashlib.sha256(b"trace\x00" + request_id.encode()).digest()
    # An id of all zeros is invalid; of a hash, nobody will ever see one.
    kept = int.from_bytes(digest[8:16], "big") < int(ratio * (1 << 64))
    return f"00-{digest[:16].hex()}-{digest[16:24].hex()}-0{int(kept)}"


def replaced(headers: Sequence[Header], traceparent: str) -> list[Header]:
    """The headers with another ``traceparent``."""
    others = [pair for pair in headers if pair[0] != _NAME]
    others.append((_NAME, traceparent.encode()))
    return others
