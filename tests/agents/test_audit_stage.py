"""The audit agent on real bytes: what others may write can't take the place of what the flow says."""

import orjson
import pytest

from agents.audit.stage import AuditStage
from schemas.enums import EventType
from schemas.flow import ProvenanceEvent
from schemas.headers import JSON, Name, RawHeaders
from streams.records import InRecord
from streams.topics import Names
from tests.agents.deciding import CODEC, view
from tests.agents.test_results import assignment, completion, end


def told(topic: str, value: bytes, headers: RawHeaders) -> list[ProvenanceEvent]:
    record = InRecord(topic, 0, 7, 1_000, 0, b"r-1", value, tuple(headers))
    effects = AuditStage(CODEC, Names(), ["fast"]).handle(record, view())
    return [CODEC.decode(ProvenanceEvent, emit.value) for emit in effects.outputs]


def test_feedback_under_a_result_s_id_hides_nothing_of_it():
    result = end(assignment=assignment(), completion=completion())
    stamped = ((Name.CE_ID.value, result.id.encode()), (Name.CE_SOURCE.value, b"/guardrail/completions/0"))
    ended = told("results", result.value, (*result.headers, *stamped, (Name.CONTENT_TYPE.value, JSON.encode())))
    assert [event.event_type for event in ended] == [EventType.GUARDRAIL_EVALUATED, EventType.REQUEST_ENDED]
    word = orjson.dumps({"feedback_id": "f", "request_id": "r-1", "rating": 1.0, "given_at_ms": 1})
    ours = ((Name.CONTENT_TYPE.value, JSON.encode()), (Name.SEQUENCE.value, b"3"), (Name.EPOCH.value, b"1"))
    (heard,) = told("feedback", word, (*stamped, *ours))
    assert heard.event_type is EventType.FEEDBACK_RECEIVED
    assert heard.event_id not in {event.event_id for event in ended}
    assert (heard.stage, heard.source, heard.epoch, heard.sequence) == ("", "", 0, 0)
    assert told("feedback", word, (*stamped, *ours))[0].event_id == heard.event_id


@pytest.mark.parametrize("number", [b"9" * 19, b"9" * 5_000, b"-1", b"x", "٣".encode()])
def test_a_poison_record_s_headers_do_not_hide_that_it_was_parked(number: bytes):
    (parked,) = told("dead-letters.classifier", b"", ((Name.SEQUENCE.value, number), (Name.EPOCH.value, number)))
    assert (parked.event_type, parked.sequence, parked.epoch) == (EventType.DEAD_LETTER_PARKED, 0, 0)
