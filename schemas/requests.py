"""A producer's record: its request, and the context that travels with it.

Nothing of a producer's record is trusted. Bytes that are no request raise ``UndecodableError``: such a record was never
accepted. A readable request with something wrong in it raises ``InvalidRequestError`` or ``TooLargeError``: it is
accepted and ends as ``refused``, under the id that ``request_id_of`` gives and the context that ``salvaged_context``
gives.
"""

import hashlib
import re
from datetime import timedelta
from functools import lru_cache
from typing import Final

from schemas.catalogue import Intake
from schemas.codec import Codec
from schemas.content_types import essence, sniff
from schemas.edges import Request
from schemas.enums import BudgetClock, DataClass
from schemas.errors import InvalidRequestError, UndecodableError
from schemas.headers import MAX_HEADERS, Context, Name, RawHeaders, checked_id, checked_int
from schemas.ids import MAX_ID_CHARS, id_from_coordinates
from schemas.request_checks import DEFAULT_INLINE_BYTES, check_request

MAX_TRACESTATE: Final = 512
"""Characters of a tracestate that are handed on (W3C Trace Context asks for at least this)."""
_LAST_MILLISECOND: Final = 253_402_300_799_999
"""End of the year 9999; a deadline after it is a mistake of unit (microseconds, say)."""
_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_DEFAULT_CODEC: Final = Codec()


def content_type_of(value: bytes | None, headers: RawHeaders) -> str:
    """Content type of a producer's record, without parameters: from its header, else by its first bytes.

    Raises:
        UndecodableError: There is no value, or no header and bytes that start nothing that is read.
        InvalidRequestError: The header is not UTF-8.
    """
    if value is None:
        raise UndecodableError("byte 0: the record has no value")
    raw = _raw(headers, Name.CONTENT_TYPE)
    return essence(_text(Name.CONTENT_TYPE, raw)) if raw else sniff(value)


def read_request(
    value: bytes | None,
    headers: RawHeaders,
    *,
    codec: Codec = _DEFAULT_CODEC,
    max_inline_bytes: int = DEFAULT_INLINE_BYTES,
) -> Request:
    """Read and check what a producer asks. For a request that is already accepted use ``codec.decode``.

    Args:
        value: The record's bytes.
        headers: Its headers; ``content-type`` decides how the bytes are read.
        codec: Knows the schema registry, if there is one.
        max_inline_bytes: Most inline content.

    Raises:
        UndecodableError: The bytes are no request; names the byte.
        InvalidRequestError: Names the first field that is wrong.
        TooLargeError: Too much inline content; names the largest part.
        SchemaRegistryError: The schema is not known yet; try again later.
    """
    if value is None:
        raise UndecodableError("byte 0: the record has no value")
    request = codec.decode(Request, value, content_type_of(value, headers))
    check_request(request, len(value), max_inline_bytes)
    return request


def request_id_of(headers: RawHeaders, topic: str, partition: int, offset: int) -> str:
    """The request's id: from its header, else (or if that one can't be used) from where the record lies.

    Never raises and reads no value, so that the idempotent receiver can ask before anything is decoded.
    """
    if len(headers) <= MAX_HEADERS:
        raw = _raw(headers, Name.REQUEST_ID)
        if raw:
            try:
                return checked_id(Name.REQUEST_ID, _text(Name.REQUEST_ID, raw))
            except InvalidRequestError:
                pass
    return id_from_coordinates(topic, partition, offset)


def request_context(
    headers: RawHeaders,
    *,
    topic: str,
    partition: int,
    offset: int,
    timestamp_ms: int,
    intake: Intake,
    now_ms: int,
    request: Request,
) -> Context:
    """What travels with a request over all hops, from its headers.

    The deadline is the header's; without one it follows from the request's latency budget, else from the intake topic's
    default. It is never later than the intake topic's maximum after the record's time. A ``traceparent`` that W3C would
    not take is replaced by one that follows from the request id, not sampled, so that a redelivery gets it again.

    Args:
        headers: Of the producer's record.
        topic: Physical topic; with ``partition`` and ``offset`` the record's coordinates.
        partition: Partition.
        offset: Offset.
        timestamp_ms: The record's Kafka timestamp, Unix milliseconds.
        intake: What rules the topic.
        now_ms: Wall clock of the stage, Unix milliseconds.
        request: What was read from the record.

    Raises:
        InvalidRequestError: Names the header that is wrong, or ``headers`` when there are too many.
    """
    if len(headers) > MAX_HEADERS:
        raise InvalidRequestError("headers", f"has {len(headers)} of them, at most {MAX_HEADERS} are taken")
    found = {name: raw for name, raw in headers if raw}
    raw_id = found.get(Name.REQUEST_ID)
    request_id = (
        checked_id(Name.REQUEST_ID, _text(Name.REQUEST_ID, raw_id))
        if raw_id
        else id_from_coordinates(topic, partition, offset)
    )
    base_ms = _base(timestamp_ms, now_ms)
    raw_deadline, raw_priority = found.get(Name.DEADLINE), found.get(Name.PRIORITY)
    if raw_deadline:
        deadline_ms = checked_int(Name.DEADLINE, _text(Name.DEADLINE, raw_deadline), 1, _LAST_MILLISECOND)
    elif request.latency_budget_ms is not None:
        deadline_ms = request.latency_budget_ms + (base_ms if request.budget_clock is BudgetClock.RECORD else now_ms)
    else:
        deadline_ms = base_ms + _ms(intake.default_deadline)
    traceparent = _traceparent(found.get(Name.TRACEPARENT))
    root_id = _id(found, Name.ROOT_ID)
    return Context(
        request_id=request_id,
        tenant=(_id(found, Name.TENANT) if intake.trust_tenant_header else "") or intake.tenant,
        deadline_ms=min(deadline_ms, base_ms + _ms(intake.max_deadline)),
        priority=checked_int(Name.PRIORITY, _text(Name.PRIORITY, raw_priority), 0, 9) if raw_priority else 5,
        data_class=_data_class(found.get(Name.DATA_CLASS)),
        root_id=root_id or request_id,
        parent_id=_id(found, Name.PARENT_ID),
        replay_of=_id(found, Name.REPLAY_OF),
        traceparent=traceparent or derived_traceparent(request_id),
        tracestate=_tracestate(found.get(Name.TRACESTATE)) if traceparent else "",
    )


def salvaged_context(
    headers: RawHeaders,
    *,
    topic: str,
    partition: int,
    offset: int,
    timestamp_ms: int,
    intake: Intake,
    now_ms: int,
) -> Context:
    """A context for a request that is refused because of its headers or content: never raises, trusts only the id."""
    request_id = request_id_of(headers, topic, partition, offset)
    return Context(
        request_id=request_id,
        tenant=intake.tenant,
        deadline_ms=_base(timestamp_ms, now_ms) + _ms(intake.default_deadline),
        root_id=request_id,
        traceparent=derived_traceparent(request_id),
    )


def derived_traceparent(request_id: str) -> str:
    """A W3C trace parent that follows from the request id, with the sampled flag off.

    Trace id and parent id are parts of a SHA-256, so that a sampler that decides by trace id decides fairly and every
    stage alike.
    """
    digest = hashlib.sha256(b"trace\x00" + request_id.encode()).hexdigest()
    return f"00-{digest[:32]}-{digest[32:48]}-00"


def _base(timestamp_ms: int, now_ms: int) -> int:
    """The record's time where it can be one: a producer's clock may run ahead, and -1 means that there is none."""
    return timestamp_ms if 0 < timestamp_ms < now_ms else now_ms


@lru_cache(maxsize=256)
def _ms(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)


def _raw(headers: RawHeaders, name: str) -> bytes | None:
    for key, raw in reversed(headers):
        if key == name and raw:  # an empty value says nothing, here as in request_context
            return raw
    return None


def _text(name: str, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequestError(str(name), f"header is not UTF-8 at byte {error.start}") from error


def _id(found: dict[str, bytes], name: Name) -> str:
    raw = found.get(name)
    if not raw:
        return ""
    if len(raw) > 4 * MAX_ID_CHARS:
        raise InvalidRequestError(name.value, f"has {len(raw)} bytes, at most {MAX_ID_CHARS} characters are taken")
    return checked_id(name.value, _text(name, raw))


def _data_class(raw: bytes | None) -> DataClass:
    if not raw:
        return DataClass.INTERNAL
    try:
        return DataClass(_text(Name.DATA_CLASS, raw))
    except ValueError:
        raise InvalidRequestError(Name.DATA_CLASS.value, f"must be one of {', '.join(DataClass)}") from None


def _traceparent(raw: bytes | None) -> str:
    """The trace parent in version 00 form, empty when W3C Trace Context would not take it."""
    match = _TRACEPARENT.fullmatch(raw.decode("ascii", "replace")) if raw else None
    if match is None:
        return ""
    version, trace_id, parent_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more) or not trace_id.strip("0") or not parent_id.strip("0"):
        return ""
    return f"00-{trace_id}-{parent_id}-{int(flags, 16) & 1:02x}"


def _tracestate(raw: bytes | None) -> str:
    text = raw.decode("ascii", "replace") if raw else ""
    return text if len(text) <= MAX_TRACESTATE and text.isascii() and text.isprintable() else ""
