"""Records that no honest producer writes. Each is refused in bounded time, with the byte or field that is wrong."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import Codec
from schemas.edges import Feedback, Result
from schemas.errors import InputError, InvalidRequestError, UndecodableError
from schemas.headers import Header
from schemas.requests import read_request
from tests.schemas.test_codec import ATTEMPT, REQUEST, SLIP

AS_JSON: list[Header] = [("content-type", b"application/json")]
CODEC = Codec()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b"", "byte 0: not JSON"),
        (b"   ", "byte 0: not JSON"),
        (b"hello", "byte 0: not JSON"),
        (b"[]", "byte 0: a JSON object is wanted, this is a list"),
        (b'"text"', "byte 0: a JSON object is wanted, this is text"),
        (b"5", "byte 0: a JSON object is wanted, this is a number"),
        (b"null", "byte 0: a JSON object is wanted, this is null"),
        (b'{"prompt":"hi"', "byte 14: not JSON"),
        (b'{"prompt":"hi"}{}', "byte 15: not JSON: unexpected content after document"),
        (b'{"prompt":"hi"}\x00', "byte 15: not JSON"),
        ('{"präzise":x}'.encode(), "byte 12: not JSON"),
        (b'{"prompt":"h\xffi"}', "byte 12: not UTF-8"),
        (b'\xef\xbb\xbf{"prompt":"hi"}', "byte 0: not JSON: UTF-8 byte order mark"),
        (b'{"prompt":"\\ud800"}', "byte 1[0-9]: not JSON"),
        (b'{"prompt":"\\udc00\\ud800"}', "byte 1[0-9]: not JSON"),
        (b'{"prompt":"hi","sampling":{"temperature":NaN}}', "byte 41: not JSON"),
        (b'{"prompt":"hi","sampling":{"temperature":-Infinity}}', r"byte 4\d: not JSON"),
        (b'{"prompt":"hi",}', "byte 14: not JSON: trailing comma"),
        (b"{'prompt':'hi'}", "byte 1: not JSON"),
        (b"[" * 100_000, r"byte 102\d: not JSON: depth limit"),
        (b'{"messages":' * 100_000, "not JSON: depth limit"),
        (b'{"prompt":"\x01"}', "byte 11: not JSON"),
    ],
)
def test_json_that_is_none_names_the_byte(value: bytes, said: str) -> None:
    with pytest.raises(UndecodableError, match=said):
        read_request(value, AS_JSON)


DEEP = '{"a":' * 300 + "1" + "}" * 300


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (f'{{"prompt":"hi","output_schema":{DEEP}}}', "output_schema"),
        (f'{{"prompt":"hi","tools":[{{"name":"t","parameters":{DEEP}}}]}}', "parameters"),
        (f'{{"prompt":"hi","tools":[{{"name":"t","description":{DEEP}}}]}}', "record"),
        (f'{{"prompt":"hi","sampling":{DEEP}}}', "record"),
        (f'{{"messages":[{{"role":"user","parts":[{{"kind":"text","text":{DEEP}}}]}}]}}', "record"),
    ],
)
def test_json_that_is_nested_more_deeply_than_can_be_written_is_refused(value: str, field: str) -> None:
    with pytest.raises(InvalidRequestError, match="nested too deeply") as caught:
        read_request(value.encode(), AS_JSON)
    assert caught.value.field == field
    event = f'{{"specversion":"1.0","id":"1","source":"x","type":"t","data":{value}}}'.encode()
    with pytest.raises(InvalidRequestError, match="data: is nested too deeply"):
        read_request(event, [("content-type", b"application/cloudevents+json")])


def test_exact_json_with_poison_names_the_byte_too() -> None:
    exact = json.dumps(REQUEST.model_dump(mode="json"))
    for value, byte in (
        (exact.replace('"text": "hi"', '"text": "\\ud800"'), exact.index('"hi"')),
        (exact[:-1], len(exact) - 1),
        (exact + "x", len(exact)),
    ):
        with pytest.raises(UndecodableError, match=r"byte \d+: not JSON") as caught:
            read_request(value.encode(), AS_JSON)
        assert abs(int(str(caught.value).split()[1].rstrip(":")) - byte) < 10


@pytest.mark.parametrize(
    ("value", "headers", "said"),
    [
        (None, [], "byte 0: the record has no value"),
        (None, AS_JSON, "byte 0: the record has no value"),
        (b"", [], "byte 0: the record is empty"),
        (b"\n", [], "byte 0: the record is empty"),
        (b"hello", [], "byte 0: 68 starts neither JSON nor Avro"),
        (b"\xff\xfe", [], "byte 0: ff starts neither"),
        (b"\xc3\x02", [], "byte 0: c3 starts neither"),
        (b"\x00\x00\x00\x00\x07\x00", [], "byte 0: Confluent's wire format, but no schema registry"),
        (b"{}", [("content-type", b"text/plain")], "content-type: 'text/plain' is not read"),
        (b"{}", [("content-type", b"x" * 100_000)], "content-type: 'x"),
        (b'{"prompt":"hi"}', [("content-type", b"avro/binary")], "byte 0: 7b 22 starts no Avro record"),
        (CODEC.encode(ATTEMPT), [], r"byte 0: the record is a tierflow\.Attempt, wanted is a tierflow\.Request"),
        (CODEC.encode(SLIP), [("content-type", b"avro/binary")], r"the record is a tierflow\.Slip"),
        (CODEC.encode(REQUEST) + b"\x00", [], "1 bytes are left after the record"),
        (CODEC.encode(REQUEST)[:-1], [], r"field metadata: the bytes end at byte \d+"),
        (b"[]", [("content-type", b"application/cloudevents-batch+json")], "a JSON object is wanted, this is a list"),
    ],
)
def test_a_record_that_is_no_request(value: bytes | None, headers: list[Header], said: str) -> None:
    with pytest.raises(UndecodableError, match=said) as caught:
        read_request(value, headers)
    assert len(str(caught.value)) < 300


def test_a_content_type_that_is_not_utf8_names_its_header() -> None:
    with pytest.raises(InvalidRequestError, match=r"^content-type: header is not UTF-8 at byte 1"):
        read_request(b"{}", [("content-type", b"a\xff")])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"prompt":"hi","sampling":{"seed":%s}}' % (b"9" * 30), r"sampling\.seed: must be"),
        (b'{"prompt":"hi","sampling":{"seed":%s}}' % (b"9" * 5000), r"sampling\.seed|not JSON"),
        (b'{"prompt":"hi","sampling":{"temperature":1e999}}', r"temperature|not JSON"),
        (b'{"prompt":"hi","cost_limit_micros":1e40}', "cost_limit_micros: must be a valid integer"),
        (b'{"messages":[%s]}' % b",".join([b"1"] * 300_000), r"messages\.0: must be an object"),
        (
            b'{"messages":[{"role":"user","parts":[%s]}]}' % b",".join([b"{}"] * 300_000),
            r"messages\.0\.parts\.0\.kind: is missing",
        ),
        (b'{"prompt":"a",%s}' % b",".join(b'"k%d":1' % n for n in range(100_000)), "k0: is not a field here"),
        (
            b'{"prompt":"a","metadata":{%s}}' % b",".join(b'"k%d":1' % n for n in range(100_000)),
            r"metadata\.k0: must be text",
        ),
        (
            b'{"prompt":"a","required_capabilities":[%s]}' % b",".join([b"1"] * 300_000),
            r"required_capabilities\.0: must be",
        ),
        (b'{"messages":[%s]}' % b",".join([b'{"role":"user","content":"a"}'] * 3000), "messages: has 3000 of them"),
    ],
    ids=lambda value: value[:40].decode() if isinstance(value, bytes) else None,
)
def test_floods_name_their_first_wrong_field(body: bytes, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        read_request(body, AS_JSON)
    assert len(str(caught.value)) < 800


def test_a_flood_in_other_records_is_counted_not_listed() -> None:
    data = json.dumps({f"k{n}": 1 for n in range(2000)}).encode()
    for record in (Result, Feedback):
        with pytest.raises(InvalidRequestError, match=r"^record: \d+ fields are wrong"):
            CODEC.decode(record, data, "application/json")


@given(st.binary(max_size=200), st.sampled_from([[], AS_JSON, [("content-type", b"avro/binary")]]))
def test_random_bytes_are_refused_as_input(value: bytes, headers: list[Header]) -> None:
    with pytest.raises(InputError):
        read_request(value, headers)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_NAMES = st.sampled_from([*type(REQUEST).model_fields, "prompt", "x"])
_PART = st.dictionaries(
    st.sampled_from(["kind", "type", "text", "image_url", "data", "sha256", "dataref"]),
    _JSON | st.just("text"),
    max_size=4,
)
_MESSAGE = st.dictionaries(
    st.sampled_from(["role", "parts", "content", "name"]),
    _JSON | st.just("user") | st.lists(_PART, max_size=2),
    max_size=4,
)


@given(st.dictionaries(_NAMES, _JSON | st.lists(_MESSAGE, max_size=3), max_size=5))
def test_any_json_object_is_a_request_or_refused(body: dict[str, Any]) -> None:
    try:
        request = read_request(json.dumps(body).encode(), AS_JSON)
    except InputError as error:
        said = str(error)
    else:
        said = ""
        assert CODEC.decode(type(request), CODEC.encode(request)) == request
    assert len(said) < 1000
