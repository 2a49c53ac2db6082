"""Records that cross the edge: what producers write and consumers read, validated.

Limits of a single field stand here; what takes two fields to see is in ``schemas.request_checks``.
"""

from collections.abc import Mapping
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field

from schemas.delivery import DeliveryMode
from schemas.enums import (
    Action,
    BudgetClock,
    Delivery,
    FinishReason,
    IdempotencyScope,
    Impact,
    PartKind,
    Role,
    Status,
)

T = TypeVar("T")
Several = Annotated[tuple[T, ...], FailFast()]
"""A list of which the first wrong item is told: a million wrong ones must not make a million errors."""

Long = Annotated[int, Field(ge=-(2**63), lt=2**63)]
"""What an Avro long holds."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Edge(BaseModel):
    """Base of the edge records: immutable, unknown fields refused, bytes as base64 in JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", val_json_bytes="base64", ser_json_bytes="base64")


class Part(Edge):
    """One part of a message: inline text or bytes, or a reference to the blob store with its hash."""

    kind: PartKind
    """What the part holds."""
    text: str | None = None
    """Inline text; for a tool result its text."""
    data: bytes | None = None
    """Inline bytes of an image, audio or document (base64 in JSON)."""
    dataref: str | None = None
    """Where the content lies when it is not inline (CloudEvents dataref)."""
    sha256: Sha256 | None = None
    """Lower-case hex SHA-256 of the content; required with dataref."""
    media_type: str | None = None
    """IANA media type of data or dataref."""
    tool_call_id: str | None = None
    """Joins a tool call and its result."""
    name: str | None = None
    """Tool name of a call, file name of a document."""
    arguments: str | None = None
    """Arguments of a tool call as JSON text."""


class Message(Edge):
    """One turn of the conversation."""

    role: Role
    """Who speaks."""
    parts: Several[Part]
    """Content, in order."""
    name: str | None = None
    """Name of the speaker, where several share a role."""


class Tool(Edge):
    """A function that the model may ask to be called."""

    name: str
    """Name of the function."""
    description: str = ""
    """What it does, for the model."""
    parameters: str = "{}"
    """JSON Schema of its arguments, as JSON text."""


class Sampling(Edge):
    """How the model is asked to draw its answer; null leaves the route's own setting."""

    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    """0 to 2."""
    top_p: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    """0 to 1."""
    max_tokens: int | None = Field(default=None, gt=0, lt=2**31)
    """Most tokens of the answer."""
    seed: Long | None = None
    """Seed for models that take one."""
    stop: Several[str] = ()
    """Texts that end the answer."""


class Request(Edge):
    """What a producer asks. Ids, tenant, deadline, priority and data class travel in headers."""

    messages: Annotated[Several[Message], Field(min_length=1)]
    """The conversation; the last user message is what is asked."""
    tools: Several[Tool] = ()
    """Tool definitions."""
    sampling: Sampling | None = None
    """Sampling parameters."""
    output_schema: str | None = None
    """JSON Schema (draft 2020-12) that the answer must satisfy, as JSON text."""
    task_hint: str | None = None
    """Task class that the producer knows it to be; unknown words are refused."""
    required_capabilities: Several[str] = ()
    """Capabilities a model must have, such as json, tools, vision."""
    impact: Impact = Impact.NORMAL
    """What a wrong answer would do."""
    latency_budget_ms: Long | None = Field(default=None, gt=0)
    """Milliseconds until the answer is worthless; an explicit deadline header wins."""
    budget_clock: BudgetClock = BudgetClock.RECORD
    """Which clock the latency budget starts from."""
    cost_limit_micros: Long | None = Field(default=None, ge=0)
    """Most micro-units of cost_currency that all calls for this request may cost."""
    cost_currency: str = Field(default="USD", pattern=r"^[A-Z]{3}$")
    """ISO 4217 code of cost_limit_micros."""
    delivery: Delivery = Delivery.FINAL
    """Final answer only, or a stream of pieces."""
    idempotency_key: str | None = None
    """A second request under the same key ends as a duplicate of the first."""
    idempotency_scope: IdempotencyScope = IdempotencyScope.TENANT
    """Within what the key is unique."""
    cancel_of: str | None = None
    """Request id that this record asks to cancel."""
    session: str | None = None
    """Conversation id; the record key where order within it matters."""
    subject: str | None = None
    """Pseudonym of the person concerned, for erasure."""
    content_key_id: str | None = None
    """Id of the data key under which content is encrypted."""
    metadata: Mapping[str, str] = Field(default_factory=dict)
    """The producer's own words; returned with the result, never interpreted."""


class Verdict(Edge):
    """What one check said."""

    check: str
    """Which check, with version."""
    action: Action
    """What it asks for."""
    reason: str = ""
    """Why, without content."""
    score: float | None = None
    """The check's measure, if it has one."""
    rule_id: str = ""
    """Policy rule."""


class Redaction(Edge):
    """How many spans of a type were taken out."""

    type: str
    """Type of what was found."""
    count: int
    """How many."""


class Result(Edge):
    """How a request ended. Exactly one is visible per accepted request."""

    request_id: str
    """Which request."""
    status: Status
    """How it ended."""
    error_code: str = ""
    """Stable code when not answered."""
    reason: str = ""
    """For people, without content."""
    output: str | None = None
    """The answer's text."""
    output_parts: str = "[]"
    """Other parts (tool calls) as a JSON array."""
    output_dataref: str | None = None
    """Where the output lies when above the inline cap."""
    output_sha256: str = ""
    """Hex SHA-256 of the output."""
    finish_reason: FinishReason = FinishReason.NONE
    """Why the model stopped."""
    task_class: str = ""
    """Task class decided, empty if it did not come to that."""
    route_id: str = ""
    """Route."""
    plan_id: str = ""
    """Plan."""
    tier: str = ""
    """Tier that answered or failed last."""
    model: str = ""
    """model@version that answered."""
    steps: int = 0
    """Steps run."""
    escalations: int = 0
    """Steps after the first."""
    attempts: int = 0
    """Calls made."""
    tokens_in: int = 0
    """Prompt tokens of all calls."""
    tokens_out: int = 0
    """Answer tokens of all calls."""
    cost_micros: int = 0
    """Billed for all calls."""
    currency: str = "USD"
    """ISO 4217."""
    cpu_us: int = 0
    """CPU microseconds of local models."""
    confidence: float | None = None
    """Confidence in the answer where a check measures it."""
    verdicts: tuple[Verdict, ...] = ()
    """Checks on the last step."""
    redactions: tuple[Redaction, ...] = ()
    """What was taken out."""
    order_relaxed: bool = False
    """Whether order within the key was given up on the way."""
    duplicate_of: str = ""
    """Request id whose result stands for this one."""
    delivery_mode: DeliveryMode
    """How sure the broker let us be."""
    registry_number: int = 0
    """Snapshot that ruled; 0 if none was asked."""
    accepted_at_ms: int
    """Unix milliseconds."""
    ended_at_ms: int
    """Unix milliseconds."""
    source: str
    """Coordinates of the request record."""
    session: str = ""
    """As in the request."""
    metadata: Mapping[str, str] = Field(default_factory=dict)
    """As in the request."""


class Feedback(Edge):
    """What somebody says of a result, so that routing can learn."""

    feedback_id: str
    """Given by the producer or derived from the record's coordinates."""
    request_id: str
    """Which request."""
    rating: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    """0 (bad) to 1 (good)."""
    correct: bool | None = None
    """Right or wrong, where that can be said."""
    preferred_output: str | None = None
    """What would have been right."""
    reason: str = ""
    """Why."""
    author: str = ""
    """Pseudonym of who says it."""
    kind: str = "human"
    """human, program, judge."""
    given_at_ms: int = Field(ge=-(2**63), lt=2**63)
    """Unix milliseconds."""
    metadata: Mapping[str, str] = Field(default_factory=dict)
    """Free words."""
