"""A request id that was seen before at other coordinates: no result, but not forgotten either."""

from typing import Final

import orjson

from agents.classifier.intake import Arrival, record_id
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
    """The provenance event of a repeated record.

    It is named by the record's coordinates: a producer that sends a record twice gives both copies the same ce_id.
    """
    place = id_from_coordinates(record.topic, record.partition, record.offset)
    topic = names.logical(record.topic)
    event = ProvenanceEvent(
        event_id=derived_id("event", place, "0"),
        event_type=EventType.REQUEST_DUPLICATE,
        request_id=context.request_id,
        root_id=context.root_id,
        tenant=context.tenant,
        time_ms=record.timestamp_ms if record.timestamp_ms > 0 else view.now_ms,
        recorded_ms=view.now_ms,
        stage=STAGE,
        source="",
        epoch=0,
        sequence=0,
        record_id=place,
        status=Status.DUPLICATE.value,
        reason=f"the request id was seen before, at {arrival.admission.of}",
        registry_number=view.rules.number,
        data_class=context.data_class.value,
        delivery_mode=view.mode.value,
        detail=orjson.dumps({"first": arrival.admission.of, "ce_id": record_id(record)}).decode(),
        traceparent=context.traceparent,
        src_topic=topic,
        src_partition=record.partition,
        src_offset=record.offset,
        src_timestamp_ms=record.timestamp_ms,
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
