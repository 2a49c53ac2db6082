"""Closed vocabularies of the records.

Each value is an Avro symbol (letters, digits, underscore). Each ``.avsc`` enum names a default, so that an old reader
survives a new symbol.
"""

from enum import StrEnum


class Status(StrEnum):
    """How a request ended. ``DUPLICATE`` answers a second request id under a known idempotency key."""

    ANSWERED = "answered"
    REFUSED = "refused"
    FAILED = "failed"
    EXPIRED = "expired"
    DUPLICATE = "duplicate"
    UNKNOWN = "unknown"


class TaskClass(StrEnum):
    """What kind of work a prompt asks for."""

    MATH = "math"
    CODE = "code"
    WRITING = "writing"
    QA = "qa"
    REASONING = "reasoning"
    EXTRACT = "extract"
    SUPPORT = "support"
    CHAT = "chat"
    OTHER = "other"


class DataClass(StrEnum):
    """How sensitive the content is, in rising order; decides which models may see it."""

    PUBLIC = "public"
    INTERNAL = "internal"
    CONFIDENTIAL = "confidential"
    RESTRICTED = "restricted"


class Impact(StrEnum):
    """What a wrong answer would do, in rising order."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    CRITICAL = "critical"


class Role(StrEnum):
    """Who speaks in a message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"
    OTHER = "other"


class PartKind(StrEnum):
    """What a part of a message holds."""

    TEXT = "text"
    IMAGE = "image"
    AUDIO = "audio"
    DOCUMENT = "document"
    TOOL_CALL = "tool_call"
    TOOL_RESULT = "tool_result"
    OTHER = "other"


class Delivery(StrEnum):
    """Whether the producer wants the final answer only, or pieces as they come."""

    FINAL = "final"
    STREAM = "stream"


class BudgetClock(StrEnum):
    """Which clock a latency budget starts from.

    ``RECORD`` is the record's Kafka timestamp, whoever wrote it (producer or broker, as the topic is set);
    ``INTAKE`` is the classifier's clock when it first saw the request.
    """

    RECORD = "record"
    INTAKE = "intake"


class IdempotencyScope(StrEnum):
    """Within what an idempotency key is unique."""

    TENANT = "tenant"
    SESSION = "session"
    GLOBAL = "global"


class Outcome(StrEnum):
    """How one attempt to call a model ended. ``UNKNOWN``: claimed by a worker that died, answered or not."""

    OK = "ok"
    FAILED = "failed"
    TIMEOUT = "timeout"
    UNKNOWN = "unknown"
    CACHED = "cached"


class FinishReason(StrEnum):
    """Why a model stopped."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"
    NONE = "none"
    OTHER = "other"


class Action(StrEnum):
    """What a check or a policy asks for, in rising order of severity."""

    ALLOW = "allow"
    OBSERVE = "observe"
    REDACT = "redact"
    ESCALATE = "escalate"
    REVIEW = "review"
    REFUSE = "refuse"


class EventType(StrEnum):
    """Kinds of provenance events."""

    REQUEST_ACCEPTED = "request_accepted"
    REQUEST_DUPLICATE = "request_duplicate"
    ROUTE_DECIDED = "route_decided"
    STEP_ASSIGNED = "step_assigned"
    MODEL_ATTEMPTED = "model_attempted"
    GUARDRAIL_EVALUATED = "guardrail_evaluated"
    REQUEST_ENDED = "request_ended"
    DEAD_LETTER_PARKED = "dead_letter_parked"
    FEEDBACK_RECEIVED = "feedback_received"
    UNKNOWN = "unknown"
