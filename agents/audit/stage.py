"""The audit agent's stage: reads every flow topic, writes provenance events. It never ends a request."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

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

# Read of every record, and looking a member's value up costs more than looking into the headers does.
_REQUEST_ID: Final = Name.REQUEST_ID.value
_ROOT_ID: Final = Name.ROOT_ID.value
_TENANT: Final = Name.TENANT.value
_DATA_CLASS: Final = Name.DATA_CLASS.value
_DELIVERY_MODE: Final = Name.DELIVERY_MODE.value
_TRACEPARENT: Final = Name.TRACEPARENT.value
_CAUSATION_ID: Final = Name.CAUSATION_ID.value
_SOURCE: Final = Name.CE_SOURCE.value
_ID: Final = Name.CE_ID.value
_TIME: Final = Name.CE_TIME.value
_EPOCH: Final = Name.EPOCH.value
_SEQUENCE: Final = Name.SEQUENCE.value
_CONTENT_TYPE: Final = Name.CONTENT_TYPE.value
_MOST_DIGITS: Final = 18
"""What an Avro long holds in any case; a producer's record that was given up may have any header."""


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
        headers: list[Header] = [(_REQUEST_ID, found.get(_REQUEST_ID, b""))]
        headers += [(name, found[name]) for name in (_TENANT, _TRACEPARENT) if name in found]
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
        content_type = _text(found, _CONTENT_TYPE) or AVRO
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
            code=_text(found, Name.ERROR_CODE.value),
            message=_text(found, Name.ERROR_MESSAGE.value),
            disposition=_text(found, Name.ERROR_DISPOSITION.value),
            place=_original_place(found),
            recorded_ms=now_ms,
        )

    def fail(self, record: InRecord, view: View[Snapshot], error: TierflowError) -> Effects:
        """A flow record that can't be read is parked; the story shows the gap, nothing is made up."""
        del record, view
        return Effects(dead_letters=(DeadLetter(error.code, str(error)),))


def _text(found: dict[str, bytes], name: str) -> str:
    raw = found.get(name)
    return raw.decode(errors="replace") if raw else ""


def _origin(record: InRecord, found: dict[str, bytes], topic: str) -> core.Origin:
    source = _text(found, _SOURCE)
    record_id = _text(found, _ID)
    if topic.startswith(DEAD_LETTERS):
        # The original's headers are kept in a dead letter; who parked it is named by the topic.
        source = f"/{topic.removeprefix(DEAD_LETTERS)}/{_text(found, Name.CONNECT_TOPIC.value)}/{record.partition}"
        record_id = derived_id("dead-letter", _original_place(found))
    epoch, sequence = _number(found, _EPOCH), _number(found, _SEQUENCE)
    if topic == FEEDBACK:
        # Anybody's word, under an id of their own choice: it must not take the place of what the flow says.
        source, epoch, sequence = "", 0, 0
        record_id = record_id and derived_id("feedback", record_id)
    return core.Origin(
        record_id=record_id or derived_id("record", coordinates(record.topic, record.partition, record.offset)),
        request_id=_text(found, _REQUEST_ID),
        root_id=_text(found, _ROOT_ID),
        tenant=_text(found, _TENANT),
        data_class=_text(found, _DATA_CLASS),
        source=source,
        epoch=epoch,
        sequence=sequence,
        causation_id=_text(found, _CAUSATION_ID),
        delivery_mode=_text(found, _DELIVERY_MODE),
        traceparent=_text(found, _TRACEPARENT),
        time_ms=_time_ms(found, record.timestamp_ms),
        topic=topic,
        partition=record.partition,
        offset=record.offset,
        timestamp_ms=record.timestamp_ms,
    )


def _number(found: dict[str, bytes], name: str) -> int:
    raw = found.get(name, b"0")
    return int(raw) if raw.isdigit() and len(raw) <= _MOST_DIGITS else 0


def _time_ms(found: dict[str, bytes], fallback: int) -> int:
    raw = found.get(_TIME)
    if raw is None:
        return fallback
    try:
        return round(datetime.fromisoformat(raw.decode()).timestamp() * 1000)
    except ValueError:
        return fallback


def _original_place(found: dict[str, bytes]) -> str:
    names = (Name.CONNECT_TOPIC, Name.CONNECT_PARTITION, Name.CONNECT_OFFSET)
    return "/".join(_text(found, name.value) for name in names)
