"""Provenance that the classifier writes itself: what no record that it hands on could tell."""

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


class Teller:
    """Writes events about a record in hand.

    Args:
        names: To tell topics apart.
        codec: Writes records.
    """

    def __init__(self, names: Names, codec: Codec) -> None:
        self._names = names
        self._codec = codec

    def duplicate(self, record: InRecord, arrival: Arrival, context: Context, view: View[Snapshot]) -> Emit:
        """A request id that was seen before at other coordinates: no result, but not forgotten either.

        The event is named by the record's coordinates: a producer that sends a record twice gives both copies the same
        ce_id.
        """
        place = id_from_coordinates(record.topic, record.partition, record.offset)
        return self._emit(
            record,
            context,
            view,
            event_id=derived_id("event", place, "0"),
            event_type=EventType.REQUEST_DUPLICATE,
            record_id=place,
            time_ms=record.timestamp_ms if record.timestamp_ms > 0 else view.now_ms,
            status=Status.DUPLICATE.value,
            reason=f"the request id was seen before, at {arrival.admission.of}",
            detail=orjson.dumps({"first": arrival.admission.of, "ce_id": record_id(record)}).decode(),
        )

    def calls(self, record: InRecord, opinion: Opinion, context: Context, view: View[Snapshot]) -> tuple[Emit, ...]:
        """Paid calls of a request that ends here: there is no decision beside which they could stand."""
        place = id_from_coordinates(record.topic, record.partition, record.offset)
        return tuple(
            self._emit(
                record,
                context,
                view,
                event_id=derived_id("event", CLASSIFICATION, context.request_id, call.operation_key),
                event_type=EventType.MODEL_ATTEMPTED,
                record_id=place,
                part=number,
                time_ms=call.started_at_ms,
                step_id=CLASSIFICATION,
                step_index=BEFORE_THE_STEPS,
                model=opinion.model,
                responding_model=call.responding_model,
                provider=call.provider,
                provider_request_id=call.provider_request_id,
                region=call.region,
                status=call.outcome.value,
                error_code=call.failure,
                reason=call.error,
                operation_key=call.operation_key,
                attempt=number,
                tokens_in=call.tokens_in,
                tokens_cached=call.tokens_in_cached,
                tokens_out=call.tokens_out,
                tokens_reasoning=call.tokens_reasoning,
                price_version=call.price_version,
                currency=call.currency,
                estimated_micros=call.estimated_micros,
                billed_micros=call.billed_micros,
                cpu_us=call.cpu_us,
                duration_ms=call.duration_ms,
                detail=orjson.dumps({"heard": opinion.heard.value, "claim_owner": call.claim_owner}).decode(),
            )
            for number, call in enumerate(opinion.calls, 1)
        )

    def _emit(self, record: InRecord, context: Context, view: View[Snapshot], **fields: Any) -> Emit:
        event = ProvenanceEvent(
            request_id=context.request_id,
            root_id=context.root_id,
            tenant=context.tenant,
            recorded_ms=view.now_ms,
            stage=STAGE,
            source="",
            epoch=0,
            sequence=0,
            registry_number=view.rules.number,
            data_class=context.data_class.value,
            delivery_mode=view.mode.value,
            traceparent=context.traceparent,
            src_topic=self._names.logical(record.topic),
            src_partition=record.partition,
            src_offset=record.offset,
            src_timestamp_ms=record.timestamp_ms,
            **fields,
        )
        return Emit(
            topic=PROVENANCE,
            key=context.request_id.encode(),
            value=self._codec.encode(event),
            record="provenance_event",
            id=event.event_id,
            headers=context.headers(),
            causation_id=record_id(record) or context.request_id,
            content_type=self._codec.content_type,
        )
