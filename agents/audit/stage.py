"""The audit agent's stage: reads every flow topic, writes provenance events. It never ends a request."""

from collections.abc import Callable, Sequence
from datetime import datetime

from agents.audit import core
from registry.snapshot import Snapshot
from schemas.codec import Codec
from schemas.edges import Feedback, Result
from schemas.errors import TierflowError
from schemas.flow import Assignment, Attempt, Completion, Decision, ProvenanceEvent, Slip
from schemas.headers import AVRO, Header, Name
from schemas.ids import coordinates, derived_id
from streams.effects import DeadLetter, Effects, Emit, View
from streams.records import InRecord
from streams.topics import COMPLETIONS, DEAD_LETTERS, FEEDBACK, PROVENANCE, RESULTS, STAGES, TIER_PREFIX, Names

NAME = "audit"


class AuditStage:
    """Turns flow records into provenance events.

    Args:
        codec: Reads flow records, writes events.
        names: To tell topics apart.
        tiers: Tier ids whose topics are read.
    """

    def __init__(self, codec: Codec, names: Names, tiers: Sequence[str]) -> None:
        self._codec = codec
        self._names = names
        self._tiers = tuple(tiers)

    @property
    def name(self) -> str:
        """``audit``."""
        return NAME

    @property
    def inputs(self) -> Sequence[str]:
        """All flow topics behind intake, and the other stages' dead letters."""
        tiers = [TIER_PREFIX + tier for tier in self._tiers]
        letters = [DEAD_LETTERS + stage for stage in STAGES if stage != NAME]
        return (*tiers, COMPLETIONS, RESULTS, FEEDBACK, *letters)

    @property
    def concurrency(self) -> int:
        """Synchronous."""
        return 0

    async def start(self) -> None:
        """Nothing to open."""

    async def stop(self) -> None:
        """Nothing to close."""

    async def prepare(self, records: Sequence[InRecord], view: View[Snapshot]) -> None:
        """Nothing to look up."""

    def handle(self, record: InRecord, view: View[Snapshot]) -> Effects:
        """The events that one flow record proves."""
        found = dict(record.headers)
        origin = _origin(record, found, self._names.logical(record.topic))
        events = self._derive(origin, record, found)(view.now_ms)
        request_key = origin.request_id.encode() or record.key
        headers: list[Header] = [(Name.REQUEST_ID.value, found.get(Name.REQUEST_ID.value, b""))]
        headers += [(name, found[name]) for name in (Name.TENANT.value, Name.TRACEPARENT.value) if name in found]
        encode = self._codec.encode
        content_type = self._codec.content_type
        return Effects(
            [
                Emit(
                    PROVENANCE,
                    request_key,
                    encode(event),
                    "provenance_event",
                    event.event_id,
                    headers,
                    causation_id=origin.record_id,
                    content_type=content_type,
                )
                for event in events
            ]
        )

    def _derive(
        self, origin: core.Origin, record: InRecord, found: dict[str, bytes]
    ) -> Callable[[int], list[ProvenanceEvent]]:
        decode, topic = self._codec.decode, origin.topic
        content_type = found.get(Name.CONTENT_TYPE.value, AVRO.encode()).decode()
        value = record.value or b""
        if topic.startswith(TIER_PREFIX):
            assignment = decode(Assignment, value, content_type)
            slip = decode(Slip, assignment.slip)
            decision = decode(Decision, assignment.decision) if assignment.step_index == 0 else None
            return lambda now_ms: core.from_assignment(origin, assignment, decision, slip, now_ms)
        if topic == COMPLETIONS:
            completion = decode(Completion, value, content_type)
            attempts = [decode(Attempt, each) for each in completion.attempts]
            return lambda now_ms: core.from_completion(origin, completion, attempts, now_ms)
        if topic == RESULTS:
            result = decode(Result, value, content_type)
            return lambda now_ms: core.from_result(origin, result, now_ms)
        if topic == FEEDBACK:
            feedback = decode(Feedback, value, content_type)
            return lambda now_ms: core.from_feedback(origin, feedback, now_ms)
        return lambda now_ms: core.from_dead_letter(
            origin,
            code=_text(found, Name.ERROR_CODE),
            message=_text(found, Name.ERROR_MESSAGE),
            disposition=_text(found, Name.ERROR_DISPOSITION),
            place=_original_place(found),
            recorded_ms=now_ms,
        )

    def fail(self, record: InRecord, view: View[Snapshot], error: TierflowError) -> Effects:
        """A flow record that can't be read is parked; the story shows the gap, nothing is made up."""
        del record, view
        return Effects(dead_letters=(DeadLetter(error.code, str(error)),))


def _text(found: dict[str, bytes], name: Name) -> str:
    return found.get(name.value, b"").decode(errors="replace")


def _origin(record: InRecord, found: dict[str, bytes], topic: str) -> core.Origin:
    place = coordinates(record.topic, record.partition, record.offset)
    source = _text(found, Name.CE_SOURCE)
    record_id = _text(found, Name.CE_ID)
    if topic.startswith(DEAD_LETTERS):
        # The original's headers are kept in a dead letter; who parked it is named by the topic.
        source = f"/{topic.removeprefix(DEAD_LETTERS)}/{_text(found, Name.CONNECT_TOPIC)}/{record.partition}"
        record_id = derived_id("dead-letter", _original_place(found))
    return core.Origin(
        record_id=record_id or derived_id("record", place),
        request_id=_text(found, Name.REQUEST_ID),
        root_id=_text(found, Name.ROOT_ID),
        tenant=_text(found, Name.TENANT),
        data_class=_text(found, Name.DATA_CLASS),
        source=source,
        epoch=_number(found, Name.EPOCH),
        sequence=_number(found, Name.SEQUENCE),
        causation_id=_text(found, Name.CAUSATION_ID),
        delivery_mode=_text(found, Name.DELIVERY_MODE),
        traceparent=_text(found, Name.TRACEPARENT),
        time_ms=_time_ms(found, record.timestamp_ms),
        topic=topic,
        partition=record.partition,
        offset=record.offset,
        timestamp_ms=record.timestamp_ms,
    )


def _number(found: dict[str, bytes], name: Name) -> int:
    raw = found.get(name.value, b"0")
    return int(raw) if raw.isdigit() else 0


def _time_ms(found: dict[str, bytes], fallback: int) -> int:
    raw = found.get(Name.CE_TIME.value)
    if raw is None:
        return fallback
    try:
        return round(datetime.fromisoformat(raw.decode()).timestamp() * 1000)
    except ValueError:
        return fallback


def _original_place(found: dict[str, bytes]) -> str:
    return "/".join(_text(found, name) for name in (Name.CONNECT_TOPIC, Name.CONNECT_PARTITION, Name.CONNECT_OFFSET))
