"""What the classifier tells itself, since no flow record does: repeated request ids, and calls that led to no step."""

from typing import Any, Final

import orjson

from agents.audit.core import BEFORE_THE_STEPS, CLASSIFICATION
from agents.classifier.intake import Arrival, record_id
from agents.classifier.opinion import Opinion
from registry.snapshot import Snapshot
from schemas.codec import Codec
from schemas.enums import EventType, Status
from schemas.flow import ProvenanceEvent
from schemas.headers import Context
from schemas.ids import derived_id, id_from_coordinates
from streams.effects import Emit, View
from streams.records import InRecord
from streams.topics import PROVENANCE, Names

STAGE: Final = "classifier"


def duplicate_event(
    record: InRecord, arrival: Arrival, context: Context, view: View[Snapshot], names: Names, codec: Codec
) -> Emit:
    """The provenance event of a request id that was seen before at other coordinates: no result, but not forgotten."""
    return _event(
        record,
        context,
        view,
        names,
        codec,
        EventType.REQUEST_DUPLICATE,
        status=Status.DUPLICATE.value,
        reason=f"the request id was seen before, at {arrival.admission.of}",
        detail=orjson.dumps({"first": arrival.admission.of, "ce_id": record_id(record)}).decode(),
    )


def call_events(
    record: InRecord, opinion: Opinion, context: Context, view: View[Snapshot], names: Names, codec: Codec
) -> list[Emit]:
    """The provenance events of calls to find the class of a request that ended at intake: no decision tells them."""
    return [
        _event(
            record,
            context,
            view,
            names,
            codec,
            EventType.MODEL_ATTEMPTED,
            part=number,
            time_ms=call.started_at_ms,
            step_id=CLASSIFICATION,
            step_index=BEFORE_THE_STEPS,
            model=opinion.model,
            provider=opinion.provider,
            status=call.outcome.value,
            reason=call.error,
            operation_key=call.operation_key,
            attempt=number,
            tokens_in=call.tokens_in,
            tokens_out=call.tokens_out,
            billed_micros=call.billed_micros,
            cpu_us=call.cpu_us,
            duration_ms=call.duration_ms,
            detail=orjson.dumps({"heard": opinion.heard.value}).decode(),
        )
        for number, call in enumerate(opinion.calls, 1)
    ]


def _event(
    record: InRecord,
    context: Context,
    view: View[Snapshot],
    names: Names,
    codec: Codec,
    event_type: EventType,
    *,
    part: int = 0,
    time_ms: int = 0,
    **more: Any,
) -> Emit:
    """An event of ours.

    It is named by the record's coordinates: a producer that sends a record twice gives both copies the same ce_id.
    """
    place = id_from_coordinates(record.topic, record.partition, record.offset)
    event = ProvenanceEvent(
        event_id=derived_id("event", place, str(part)),
        event_type=event_type,
        request_id=context.request_id,
        root_id=context.root_id,
        tenant=context.tenant,
        time_ms=time_ms or (record.timestamp_ms if record.timestamp_ms > 0 else view.now_ms),
        recorded_ms=view.now_ms,
        stage=STAGE,
        source="",
        epoch=0,
        sequence=0,
        part=part,
        record_id=place,
        registry_number=view.rules.number,
        data_class=context.data_class.value,
        delivery_mode=view.mode.value,
        traceparent=context.traceparent,
        src_topic=names.logical(record.topic),
        src_partition=record.partition,
        src_offset=record.offset,
        src_timestamp_ms=record.timestamp_ms,
        **more,
    )
    return Emit(
        topic=PROVENANCE,
        key=context.request_id.encode(),
        value=codec.encode(event),
        record="provenance_event",
        id=event.event_id,
        headers=context.headers(),
        causation_id=record_id(record) or context.request_id,
        content_type=codec.content_type,
    )
