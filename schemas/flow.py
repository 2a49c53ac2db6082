"""Records between our own stages: frozen classes, one for one with the ``.avsc`` files (a test holds both together).

No validation happens here on purpose: these records are written by our stages only, and what comes from outside is
checked at the edge (``schemas.edges``).
"""

from collections.abc import Mapping

from msgspec import Struct

from schemas.enums import EventType, FinishReason, Outcome, TaskClass


class Decision(Struct, frozen=True):
    """Why a request went where it went. Candidates are columns: row i of each array is candidate i."""

    decision_id: str
    """Derived from the request id and the snapshot."""
    request_id: str
    """Which request."""
    task_class: TaskClass
    """What the request was taken for."""
    class_confidence: float
    """Calibrated probability of task_class, 0 to 1."""
    confidence: float
    """Confidence in the chosen candidate, 0 to 1."""
    stage: str
    """Which stage settled the class: hint, rule, surface, model."""
    classifier_version: str
    """Version (and weights checksum) of the classifier."""
    feature_hash: str
    """SHA-256 of the feature vector, first 16 hex digits."""
    seed: int
    """The draw that exploration and arms used, derived from the request id."""
    route_id: str
    """Route that matched."""
    plan_id: str
    """Plan chosen."""
    tier: str
    """Tier of the first step."""
    model: str
    """model@version of the first step."""
    candidate_tier: tuple[str, ...]
    """Tier of each candidate's first step."""
    candidate_model: tuple[str, ...]
    """model@version of each candidate's first step."""
    candidate_quality: tuple[float, ...]
    """Expected quality, 0 to 1."""
    candidate_cost_micros: tuple[int, ...]
    """Expected cost."""
    candidate_score: tuple[float, ...]
    """What candidates were compared by; higher wins."""
    candidate_propensity: tuple[float, ...]
    """Probability with which this candidate could have been chosen; sums to 1 over those not excluded."""
    candidate_excluded: tuple[str, ...]
    """Why a hard limit removed it; empty if it did not."""
    thresholds: Mapping[str, float]
    """Thresholds in force."""
    registry_number: int
    """Snapshot number that ruled."""
    registry_hash: str
    """Its content hash."""
    decided_at_ms: int
    """Unix milliseconds."""
    rule_id: str = ""
    """Rule that matched, empty if none."""
    candidate_plan: tuple[str, ...] = ()
    """Plan of each candidate."""
    signals: str = "{}"
    """Signals seen (breakers, load, budgets, latency), as JSON text."""
    experiment: str = ""
    """Experiment id, empty if none."""
    arm: str = ""
    """Arm of the experiment."""
    policy_hash: str = ""
    """Hash of the policies in force."""


class Step(Struct, frozen=True):
    """One step of a plan."""

    step_id: str
    """Name of the step, unique within the plan."""
    tier: str
    """Tier topic that runs it."""
    models: tuple[str, ...]
    """model@version, first choice first, then fallbacks."""
    prompt: str = ""
    """prompt@version of the template, empty for the request's own messages."""
    prompt_hash: str = ""
    """Hash of the template."""
    parameters: str = "{}"
    """Settings of the executor, as JSON text (samples, vote, effort, max_tokens)."""
    accept_min_logprob: float | None = None
    """Mean token log-probability below which the answer is not accepted."""
    accept_min_agreement: float | None = None
    """Share of samples that must agree, 0 to 1."""
    timeout_ms: int = 60000
    """Longest time for one call."""


class Slip(Struct, frozen=True):
    """The routing slip: the plan travels with the request, so that a step is a message."""

    plan_id: str
    """Plan."""
    plan_hash: str
    """Hash of its steps."""
    pattern: str
    """router, cascade, pipeline, ensemble or specialist."""
    index: int
    """Step to run now, from 0."""
    steps: tuple[Step, ...]
    """All steps, done ones included."""


class Assignment(Struct, frozen=True):
    """A step handed to a tier. The request's own bytes, decision and slip are opaque here."""

    request_id: str
    """Which request."""
    request: bytes
    """The request record's value, as received."""
    request_content_type: str
    """Its content type."""
    decision: bytes
    """A Decision record, encoded."""
    slip: bytes
    """A Slip record, encoded."""
    plan_id: str
    """Plan."""
    plan_hash: str
    """Hash of its steps."""
    step_id: str
    """Step to run."""
    step_index: int
    """Its index, from 0."""
    tier: str
    """Tier."""
    task_class: str
    """Task class decided."""
    has_output_schema: bool
    """Whether the request carries an output schema."""
    accepted_at_ms: int
    """When the request was accepted, Unix milliseconds."""
    assigned_at_ms: int
    """When this step was handed out."""
    deadline_ms: int
    """Unix milliseconds; the same as in the header."""
    registry_chosen: int
    """Snapshot whose choices are pinned."""
    registry_checked: int
    """Latest snapshot whose prohibitions were checked."""
    source: str
    """Coordinates of the request record, topic/partition/offset."""
    parent_step: str = ""
    """Step whose outcome led here, empty for the first."""
    cost_left_micros: int | None = None
    """Cost allowance left for all steps to come, null if unlimited."""
    reservations: tuple[str, ...] = ()
    """Budget reservation ids held for this step."""
    order_relaxed: bool = False
    """Whether order within the key no longer holds."""
    spent_micros: int = 0
    """Billed so far."""
    spent_cpu_us: int = 0
    """CPU microseconds of local models so far."""
    spent_tokens_in: int = 0
    """Prompt tokens so far."""
    spent_tokens_out: int = 0
    """Answer tokens so far."""
    attempts: int = 0
    """Calls so far."""
    verdicts: str = "[]"
    """Verdicts on the parent step that led here, as a JSON array."""
    receipt: str = "{}"
    """What the producer needs back with the result (metadata, session, idempotency), as JSON text."""


class Attempt(Struct, frozen=True):
    """One try to call a model, whatever became of it."""

    operation_key: str
    """Names the paid call; the same for each try of it."""
    number: int
    """From 1, within the step."""
    claim_owner: str
    """Worker that held the claim."""
    requested_model: str
    """model@version asked for."""
    provider: str
    """Provider id."""
    outcome: Outcome
    """How it ended."""
    started_at_ms: int
    """Unix milliseconds."""
    duration_ms: int
    """Milliseconds."""
    responding_model: str = ""
    """What the provider says answered."""
    provider_request_id: str = ""
    """The provider's own id of the call."""
    region: str = ""
    """Where it ran, if known."""
    failure: str = ""
    """Failure class, empty when ok."""
    error: str = ""
    """What went wrong, without content and secrets."""
    http_status: int = 0
    """0 if none."""
    finish_reason: FinishReason = FinishReason.NONE
    """Why the model stopped."""
    tokens_in: int = 0
    """Prompt tokens."""
    tokens_in_cached: int = 0
    """Of these, from the provider's cache."""
    tokens_out: int = 0
    """Answer tokens."""
    tokens_reasoning: int = 0
    """Of these, reasoning."""
    price_version: str = ""
    """Price table used."""
    currency: str = "USD"
    """ISO 4217."""
    estimated_micros: int = 0
    """Reserved or estimated before the call."""
    billed_micros: int = 0
    """From actual usage; for an unknown outcome the reserved cost."""
    cpu_us: int = 0
    """CPU microseconds of a local model."""
    cached_from: str = ""
    """Operation key or coordinates that the answer was reused from."""
    sources: tuple[str, ...] = ()
    """Sources the provider cites."""
    mean_logprob: float | None = None
    """Mean token log-probability."""
    temperature: float | None = None
    """As sent."""
    seed: int | None = None
    """As sent."""


class Completion(Struct, frozen=True):
    """What came of a step, with each attempt, failed ones too."""

    request_id: str
    """Which request."""
    assignment: bytes
    """The Assignment record's value, as received."""
    step_id: str
    """Step."""
    step_index: int
    """From 0."""
    tier: str
    """Tier."""
    outcome: Outcome
    """Of the step."""
    attempts: tuple[bytes, ...]
    """Attempt records, encoded, in order."""
    completed_at_ms: int
    """Unix milliseconds."""
    registry_checked: int
    """Latest snapshot whose prohibitions were checked."""
    failure: str = ""
    """Failure class, empty when ok."""
    error: str = ""
    """For people."""
    output_text: str = ""
    """The answer's text."""
    output_parts: str = "[]"
    """Parts other than text (tool calls), as a JSON array."""
    output_dataref: str | None = None
    """Where the output lies when above the inline cap."""
    output_sha256: str = ""
    """Hex SHA-256 of the output."""
    finish_reason: FinishReason = FinishReason.NONE
    """Of the accepted attempt."""
    model: str = ""
    """model@version that answered."""
    mean_logprob: float | None = None
    """Mean token log-probability of the answer."""
    min_logprob: float | None = None
    """Least of a token."""
    agreement: float | None = None
    """Share of samples that agree with the answer."""
    tokens_in: int = 0
    """Of all attempts."""
    tokens_out: int = 0
    """Of all attempts."""
    billed_micros: int = 0
    """Of all attempts."""
    cpu_us: int = 0
    """Of all attempts."""


class ProvenanceEvent(Struct, frozen=True):
    """One fact of a request's story: flat columns, a row in an archive. Empty text and 0 mean not applicable."""

    event_id: str
    """Derived: the same when a stage runs again."""
    event_type: EventType
    """What happened."""
    request_id: str
    """Which request; empty for a record that was never one."""
    time_ms: int
    """When it happened, Unix milliseconds."""
    recorded_ms: int
    """When the audit agent recorded it."""
    stage: str
    """Stage that did it."""
    source: str
    """Emitter of the flow record: stage/topic/partition."""
    epoch: int
    """Of the source; rises when its sequence starts again."""
    sequence: int
    """Of the flow record within source and epoch."""
    record_id: str
    """Id of the flow record this is about."""
    src_topic: str
    """Where the flow record lies."""
    src_partition: int
    """Partition."""
    src_offset: int
    """Offset."""
    src_timestamp_ms: int
    """The broker record's timestamp."""
    root_id: str = ""
    """Root of a family of requests."""
    tenant: str = ""
    """Tenant."""
    part: int = 0
    """Index of this event among those of its flow record."""
    causation_id: str = ""
    """Id of the flow record that caused the one this is about."""
    step_id: str = ""
    """Step."""
    step_index: int = -1
    """-1 if none."""
    plan_id: str = ""
    """Plan."""
    plan_hash: str = ""
    """Hash of the plan."""
    route_id: str = ""
    """Route."""
    rule_id: str = ""
    """Rule."""
    task_class: str = ""
    """Task class."""
    tier: str = ""
    """Tier."""
    model: str = ""
    """model@version (asked for)."""
    responding_model: str = ""
    """What answered."""
    provider: str = ""
    """Provider."""
    provider_request_id: str = ""
    """Its id of the call."""
    region: str = ""
    """Where it ran."""
    prompt: str = ""
    """prompt@version."""
    status: str = ""
    """Outcome, verdict or result status."""
    error_code: str = ""
    """Stable code or failure class."""
    reason: str = ""
    """For people."""
    confidence: float = 0.0
    """Of the class, the choice or the answer."""
    propensity: float = 0.0
    """Of the chosen candidate."""
    classifier_version: str = ""
    """Version."""
    experiment: str = ""
    """Experiment."""
    arm: str = ""
    """Arm."""
    policy_hash: str = ""
    """Policies in force."""
    registry_number: int = 0
    """Snapshot that chose."""
    registry_hash: str = ""
    """Its hash."""
    registry_checked: int = 0
    """Snapshot whose prohibitions were checked."""
    operation_key: str = ""
    """Paid call."""
    attempt: int = 0
    """Number of the try."""
    tokens_in: int = 0
    """Prompt tokens."""
    tokens_cached: int = 0
    """Of these cached."""
    tokens_out: int = 0
    """Answer tokens."""
    tokens_reasoning: int = 0
    """Of these reasoning."""
    price_version: str = ""
    """Price table."""
    currency: str = ""
    """ISO 4217."""
    estimated_micros: int = 0
    """Estimated."""
    billed_micros: int = 0
    """Billed."""
    cpu_us: int = 0
    """CPU microseconds."""
    duration_ms: int = 0
    """Of what happened."""
    data_class: str = ""
    """Sensitivity."""
    content_sha256: str = ""
    """Hash of the content this is about."""
    delivery_mode: str = ""
    """How sure the broker let us be."""
    detail: str = "{}"
    """What only this kind of event has, as JSON text."""
    traceparent: str = ""
    """W3C trace context."""
