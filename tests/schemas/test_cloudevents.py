"""CloudEvents both ways: headers in binary mode, whole events in structured mode."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.cloudevents import CloudEvent, event_of, is_structured, rfc3339, unwrap
from schemas.codec import Codec
from schemas.content_types import JSON
from schemas.edges import Request
from schemas.errors import InvalidRequestError, UndecodableError
from schemas.requests import content_type_of, read_request
from tests.schemas.test_requests import ASKED

EVENT = {"specversion": "1.0", "id": "e1", "source": "/app", "type": "ask"}
STRUCTURED = [("content-type", b"application/cloudevents+json; charset=UTF-8")]
_WORD = st.text(min_size=1, max_size=10)
_OTHER = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=10)


def structured(**more: Any) -> bytes:
    return json.dumps({**EVENT, **more}).encode()


@given(
    st.builds(
        CloudEvent,
        id=_WORD,
        source=_WORD,
        type=_WORD,
        time=_WORD | st.just(""),
        subject=_WORD | st.just(""),
        content_type=_WORD | st.just(""),
        extensions=st.dictionaries(
            _OTHER.filter(
                lambda name: (
                    name
                    not in {"id", "source", "type", "time", "subject", "specversion", "datacontenttype", "dataschema"}
                )
            ),
            _WORD,
            max_size=3,
        ),
    )
)
def test_attributes_survive_binary_mode(event: CloudEvent) -> None:
    assert event_of([("other", b"\xff"), *event.headers()]) == event


def test_a_record_without_a_version_is_no_event() -> None:
    assert event_of([("ce_id", b"1")]) is None


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ([("ce_specversion", b"0.3")], r"^ce_specversion: only 1\.0 is read"),
        ([("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_type", b"t")], "^ce_source: is missing"),
        ([("ce_specversion", b"1.0"), ("ce_id", b"")], "^ce_id: is missing"),
        ([("ce_specversion", b"\xff")], "^ce_specversion: header is not UTF-8"),
    ],
)
def test_a_broken_event_names_the_attribute(headers: list[tuple[str, bytes]], said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        event_of(headers)


def test_a_request_in_structured_mode_in_all_ways_to_carry_data() -> None:
    exact = ASKED.model_dump(mode="json")
    avro = base64.b64encode(Codec().encode(ASKED)).decode()
    for value in (
        structured(data={"prompt": "hi"}),
        structured(data=exact, datacontenttype="application/json"),
        structured(data_base64=base64.b64encode(b'{"prompt":"hi"}').decode(), time="2026-01-01T00:00:00Z", mine=True),
        structured(data_base64=avro, datacontenttype="avro/binary"),
    ):
        assert read_request(value, STRUCTURED) == ASKED
        # A later stage reads it again from what it was handed: the bytes as they came, and their content type.
        assert Codec().decode(Request, value, content_type_of(value, STRUCTURED)) == ASKED


def test_the_attributes_come_with_the_data() -> None:
    event, content_type, data = unwrap(structured(data=[1], subject="s", n=5, flag=False, gone=None))
    assert event == CloudEvent(id="e1", source="/app", type="ask", subject="s", extensions={"n": "5", "flag": "false"})
    assert (content_type, data) == (JSON, b"[1]")


@pytest.mark.parametrize(
    ("value", "error", "said"),
    [
        (b"{", UndecodableError, "byte 1: not JSON"),
        (b"[]", UndecodableError, "a JSON object is wanted"),
        (structured(), InvalidRequestError, "^data: is missing"),
        (structured(data={}, data_base64=""), InvalidRequestError, "^data_base64: can't stand beside data"),
        (structured(data_base64="%%"), UndecodableError, "^data_base64: not base64"),
        (structured(data_base64=5), UndecodableError, "^data_base64: not base64"),
        (structured(data="hi"), UndecodableError, "a JSON object is wanted, this is text"),
        (structured(data={"prompt": 1}), InvalidRequestError, "^prompt: must be text"),
        (structured(data={}, specversion="2.0"), InvalidRequestError, "^specversion: only"),
        (structured(data={}, id=""), InvalidRequestError, "^id: is missing"),
        (structured(data={}, mine=[1]), InvalidRequestError, "^mine: an attribute is text"),
        (structured(data={}, datacontenttype="text/xml"), UndecodableError, "content-type: 'text/xml' is not read"),
        (
            structured(data={}, datacontenttype="application/cloudevents+json"),
            InvalidRequestError,
            "an event within an event",
        ),
    ],
)
def test_a_broken_structured_event_is_told(value: bytes, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        read_request(value, STRUCTURED)


def test_what_announces_structured_mode() -> None:
    assert is_structured("application/cloudevents+json")
    assert is_structured("Application/CloudEvents-batch+json")
    assert not is_structured("application/json")


def test_time_is_utc_with_milliseconds() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(1_763_800_000_001) == "2025-11-22T08:26:40.001Z"
