"""Header names and what travels in them.

Values are UTF-8 text. Names follow CloudEvents 1.0 (Kafka binding, binary mode) where it has one, W3C Trace Context for
the trace, and ``tierflow.*`` else. The table in ``TABLE`` is the contract; docs and tests are made from it.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum

from msgspec import Struct

from schemas.enums import DataClass
from schemas.errors import InvalidRequestError
from schemas.ids import MAX_ID_CHARS

Header = tuple[str, bytes]
RawHeaders = Sequence[Header]


class Name(StrEnum):
    """Header names."""

    CE_SPECVERSION = "ce_specversion"
    CE_ID = "ce_id"
    CE_SOURCE = "ce_source"
    CE_TYPE = "ce_type"
    CE_TIME = "ce_time"
    CONTENT_TYPE = "content-type"
    REQUEST_ID = "tierflow.request-id"
    TENANT = "tierflow.tenant"
    DEADLINE = "tierflow.deadline"
    PRIORITY = "tierflow.priority"
    DATA_CLASS = "tierflow.data-class"
    ROOT_ID = "tierflow.root-id"
    PARENT_ID = "tierflow.parent-id"
    CAUSATION_ID = "tierflow.causation-id"
    ATTEMPT = "tierflow.attempt"
    DUE = "tierflow.due"
    RETRY_TO = "tierflow.retry-to"
    REPLAY_OF = "tierflow.replay-of"
    SEQUENCE = "tierflow.sequence"
    EPOCH = "tierflow.epoch"
    DELIVERY_MODE = "tierflow.delivery-mode"
    TRACEPARENT = "traceparent"
    TRACESTATE = "tracestate"
    ERROR_CODE = "tierflow.error.code"
    ERROR_MESSAGE = "tierflow.error.message"
    ERROR_STAGE = "tierflow.error.stage"
    ERROR_ATTEMPT = "tierflow.error.attempt"
    ERROR_DISPOSITION = "tierflow.error.disposition"
    ERROR_FIRST_AT = "tierflow.error.first-failed-at"
    ERROR_GROUP = "tierflow.error.group"
    CONNECT_TOPIC = "__connect.errors.topic"
    CONNECT_PARTITION = "__connect.errors.partition"
    CONNECT_OFFSET = "__connect.errors.offset"


TABLE: tuple[tuple[Name, str, str], ...] = (
    (Name.CE_SPECVERSION, "flow", "1.0"),
    (Name.CE_ID, "all", "Id of this record; derived from request, stage and step, so that a repeat has the same."),
    (Name.CE_SOURCE, "flow", "Emitter: /stage/topic/partition. Sequence and epoch count within it."),
    (Name.CE_TYPE, "flow", "tierflow.<record>.v1"),
    (Name.CE_TIME, "flow", "RFC 3339, UTC, milliseconds."),
    (Name.CONTENT_TYPE, "all", "application/json, avro/binary or application/vnd.confluent.avro."),
    (Name.REQUEST_ID, "all", "Chosen by the producer (UUIDv7), else derived from the record's coordinates."),
    (Name.TENANT, "all", "Who asks; the intake topic's tenant where a producer sends none."),
    (Name.DEADLINE, "all", "Unix milliseconds after which no answer is wanted."),
    (Name.PRIORITY, "all", "0 (lowest) to 9."),
    (Name.DATA_CLASS, "all", "public, internal, confidential or restricted."),
    (Name.ROOT_ID, "all", "First request of a family."),
    (Name.PARENT_ID, "all", "Request that led to this one."),
    (Name.CAUSATION_ID, "flow", "ce_id of the record this one follows from."),
    (Name.ATTEMPT, "flow", "Which try of this step, from 1."),
    (Name.DUE, "flow", "Unix milliseconds before which a record of a retry topic is not handed out."),
    (Name.RETRY_TO, "flow", "Logical topic that it is handed out to then."),
    (Name.REPLAY_OF, "all", "Request id whose dead letter was sent again as this request."),
    (Name.SEQUENCE, "flow", "Number of the record within source and epoch, from 1, without gaps."),
    (Name.EPOCH, "flow", "Rises when a source's sequence had to start again."),
    (Name.DELIVERY_MODE, "flow", "exactly_once or at_least_once."),
    (Name.TRACEPARENT, "all", "W3C Trace Context."),
    (Name.TRACESTATE, "all", "W3C Trace Context."),
    (Name.ERROR_CODE, "dead letter", "Stable code."),
    (Name.ERROR_MESSAGE, "dead letter", "What was wrong, with field or byte; no content."),
    (Name.ERROR_STAGE, "dead letter", "Which stage gave up."),
    (Name.ERROR_ATTEMPT, "dead letter", "After how many tries."),
    (Name.ERROR_DISPOSITION, "dead letter", "poison (no try helps) or exhausted (tries were used up)."),
    (Name.ERROR_FIRST_AT, "dead letter", "Unix milliseconds of the first failure."),
    (Name.ERROR_GROUP, "dead letter", "Consumer group."),
    (Name.CONNECT_TOPIC, "dead letter", "Source topic, named as Kafka Connect does."),
    (Name.CONNECT_PARTITION, "dead letter", "Source partition."),
    (Name.CONNECT_OFFSET, "dead letter", "Source offset."),
)
"""Name, where it appears (all: from the producer on; flow: between stages), meaning."""

PROPAGATED = frozenset(
    str(name)
    for name in (
        Name.REQUEST_ID,
        Name.TENANT,
        Name.DEADLINE,
        Name.PRIORITY,
        Name.DATA_CLASS,
        Name.ROOT_ID,
        Name.PARENT_ID,
        Name.REPLAY_OF,
        Name.TRACEPARENT,
        Name.TRACESTATE,
    )
)
"""What a stage hands on unchanged."""

MAX_HEADERS = 100
"""More than this on a producer's record is an attack or a mistake."""

JSON = "application/json"
AVRO = "avro/binary"
CONFLUENT = "application/vnd.confluent.avro"


def value_of(headers: RawHeaders, name: str) -> str | None:
    """The last value under ``name`` as text (the last one wins, as in CloudEvents' binding), or None.

    Raises:
        InvalidRequestError: The bytes are not UTF-8.
    """
    for key, raw in reversed(headers):
        if key == name:
            try:
                return raw.decode()
            except UnicodeDecodeError as error:
                raise InvalidRequestError(name, f"header is not UTF-8 at byte {error.start}") from error
    return None


def propagate(headers: RawHeaders) -> list[Header]:
    """The headers that go on to the next record, as raw pairs."""
    return [pair for pair in headers if pair[0] in PROPAGATED]


# An enum member's value is a property, which costs more than all else that is done with a header.
_REQUEST_ID = Name.REQUEST_ID.value
_TENANT = Name.TENANT.value
_DEADLINE = Name.DEADLINE.value
_PRIORITY = Name.PRIORITY.value
_DATA_CLASS = Name.DATA_CLASS.value
_ROOT_ID = Name.ROOT_ID.value
_PARENT_ID = Name.PARENT_ID.value
_REPLAY_OF = Name.REPLAY_OF.value
_TRACEPARENT = Name.TRACEPARENT.value
_TRACESTATE = Name.TRACESTATE.value


class Context(Struct, frozen=True, kw_only=True):
    """What travels with a request over all hops."""

    request_id: str
    tenant: str
    deadline_ms: int
    """Unix milliseconds."""
    priority: int = 5
    data_class: DataClass = DataClass.INTERNAL
    root_id: str = ""
    parent_id: str = ""
    replay_of: str = ""
    traceparent: str = ""
    tracestate: str = ""

    def headers(self) -> list[Header]:
        """As raw headers, empty ones left out; the root of a request without one is itself."""
        request_id = self.request_id.encode()
        pairs = [
            (_REQUEST_ID, request_id),
            (_TENANT, self.tenant.encode()),
            (_DEADLINE, b"%d" % self.deadline_ms),
            (_PRIORITY, b"%d" % self.priority),
            (_DATA_CLASS, self.data_class.encode()),
            (_ROOT_ID, self.root_id.encode() or request_id),
        ]
        if self.parent_id:
            pairs.append((_PARENT_ID, self.parent_id.encode()))
        if self.replay_of:
            pairs.append((_REPLAY_OF, self.replay_of.encode()))
        if self.traceparent:
            pairs.append((_TRACEPARENT, self.traceparent.encode()))
        if self.tracestate:
            pairs.append((_TRACESTATE, self.tracestate.encode()))
        return pairs


def read_context(headers: RawHeaders) -> Context:
    """Context of a record that one of our stages wrote (complete and trusted, so nothing is checked twice)."""
    found = dict(headers)

    def text(name: Name, default: str = "") -> str:
        raw = found.get(name.value)
        return default if raw is None else raw.decode()

    request_id = text(Name.REQUEST_ID)
    return Context(
        request_id=request_id,
        tenant=text(Name.TENANT),
        deadline_ms=int(found.get(Name.DEADLINE.value, b"0")),
        priority=int(found.get(Name.PRIORITY.value, b"5")),
        data_class=DataClass(text(Name.DATA_CLASS, DataClass.INTERNAL)),
        root_id=text(Name.ROOT_ID, request_id),
        parent_id=text(Name.PARENT_ID),
        replay_of=text(Name.REPLAY_OF),
        traceparent=text(Name.TRACEPARENT),
        tracestate=text(Name.TRACESTATE),
    )


def checked_id(name: str, text: str) -> str:
    """An id from outside, refused when empty, too long or with control characters.

    Raises:
        InvalidRequestError: Names the header and what is wrong.
    """
    if not text:
        raise InvalidRequestError(name, "is empty")
    if len(text) > MAX_ID_CHARS:
        raise InvalidRequestError(name, f"has {len(text)} characters, at most {MAX_ID_CHARS} are taken")
    if not text.isprintable() or " " in text:
        raise InvalidRequestError(name, "has white space or control characters")
    return text


def checked_int(name: str, text: str, low: int, high: int) -> int:
    """A whole number from outside within ``low`` and ``high``.

    Raises:
        InvalidRequestError: Names the header and what is wrong.
    """
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 20:
        raise InvalidRequestError(name, "is not a whole number")
    number = int(text)
    if not low <= number <= high:
        raise InvalidRequestError(name, f"is {number}, must be from {low} to {high}")
    return number


def names(headers: Iterable[Header]) -> set[str]:
    """The header names present."""
    return {key for key, _ in headers}
