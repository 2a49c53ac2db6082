"""Reading what producers write: every accepted form, and the words for every refused one."""

import base64
import hashlib
import json
from typing import Any

import pytest

from schemas.codec import Codec
from schemas.content_types import AVRO, JSON
from schemas.edges import Message, Part, Request, Tool
from schemas.enums import Impact, PartKind, Role
from schemas.errors import InvalidRequestError, TooLargeError
from schemas.headers import Header
from schemas.request_checks import DEFAULT_INLINE_BYTES, RECORD_FACTOR
from schemas.requests import content_type_of, read_request

AS_JSON: list[Header] = [("content-type", b"application/json")]
SHA = hashlib.sha256(b"x").hexdigest()
PIXEL = base64.b64encode(b"\x89PNG").decode()


def read(body: Any, **more: Any) -> Request:
    return read_request(json.dumps(body).encode(), AS_JSON, **more)


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "parts": list(parts)}]}


TEXT = {"kind": "text", "text": "hi"}
ASKED = Request(messages=(Message(role=Role.USER, parts=(Part(kind=PartKind.TEXT, text="hi"),)),))


@pytest.mark.parametrize(
    "body",
    [
        user(TEXT),
        {"prompt": "hi"},
        {"messages": [{"role": "user", "content": "hi"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]},
        {"messages": [{"role": "user", "content": [TEXT]}]},
    ],
)
def test_all_ways_to_ask_the_same(body: Any) -> None:
    assert read(body) == ASKED


def test_exact_json_and_avro_with_and_without_header() -> None:
    codec = Codec()
    for value in (json.dumps(user(TEXT)).encode(), b" \n" + json.dumps(user(TEXT)).encode()):
        assert read_request(value, []) == read_request(value, AS_JSON) == ASKED
    avro = codec.encode(ASKED)
    assert read_request(avro, []) == read_request(avro, [("content-type", b"avro/binary")]) == ASKED
    assert content_type_of(avro, []) == AVRO
    assert content_type_of(b"{}", [("content-type", b"Application/JSON; charset=utf-8")]) == JSON
    assert content_type_of(b"{}", [("content-type", b"")]) == JSON


def test_openai_parts_become_ours() -> None:
    content = [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}", "detail": "auto"}},
        {"type": "image_url", "image_url": {"url": "https://example.com/cat.png", "sha256": SHA}},
        {"type": "input_audio", "input_audio": {"data": PIXEL, "format": "wav"}},
        {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{PIXEL}", "filename": "a.pdf"}},
    ]
    parts = read({"messages": [{"role": "user", "content": content}]}).messages[0].parts
    assert [part.kind.value for part in parts] == ["text", "image", "image", "audio", "document"]
    assert parts[1].data == b"\x89PNG"
    assert parts[1].media_type == "image/png"
    assert (parts[2].dataref, parts[2].sha256, parts[2].data) == ("https://example.com/cat.png", SHA, None)
    assert (parts[3].data, parts[3].media_type) == (b"\x89PNG", "audio/wav")
    assert (parts[4].name, parts[4].media_type) == ("a.pdf", "application/pdf")


def test_json_values_may_stand_for_json_text() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    call = {"kind": "tool_call", "name": "f", "tool_call_id": "c1", "arguments": {"x": 1}}
    body = {
        "messages": [{"role": "assistant", "parts": [call]}, {"role": "user", "content": "and?"}],
        "output_schema": schema,
        "tools": [
            {"name": "f", "parameters": schema},
            {"type": "function", "function": {"name": "g", "description": "d", "parameters": {}}},
        ],
    }
    request = read(body)
    assert json.loads(request.output_schema or "") == schema
    assert json.loads(request.tools[0].parameters) == schema
    assert request.tools[1] == Tool(name="g", description="d", parameters="{}")
    assert json.loads(request.messages[0].parts[0].arguments or "") == {"x": 1}
    as_text = read({**body, "output_schema": json.dumps(schema)})
    assert json.loads(as_text.output_schema or "") == schema


def test_everything_that_a_request_can_say() -> None:
    request = read(
        {
            "prompt": "hi",
            "sampling": {"temperature": 0, "top_p": 1, "max_tokens": 5, "seed": -1, "stop": ["\n"]},
            "task_hint": "math",
            "required_capabilities": ["json"],
            "impact": "critical",
            "latency_budget_ms": 1000,
            "budget_clock": "intake",
            "cost_limit_micros": 0,
            "cost_currency": "EUR",
            "delivery": "stream",
            "idempotency_key": "k",
            "idempotency_scope": "session",
            "session": "s",
            "metadata": {"a": "b"},
        }
    )
    assert request.impact is Impact.CRITICAL
    assert request.sampling is not None
    assert request.sampling.temperature == 0
    assert request.metadata == {"a": "b"}


WRONG: list[tuple[Any, str, str]] = [
    ({}, "messages", "is missing"),
    ({"messages": []}, "messages", "at least 1 item"),
    ({"messages": "hi"}, "messages", "must be a valid array"),
    ({"messages": [{"role": "user", "parts": []}]}, "messages.0.parts", "is empty"),
    ({"messages": [{"role": "user"}]}, "messages.0.parts", "is missing"),
    ({"messages": [{"role": "system", "content": "be good"}]}, "messages", "no message of role user"),
    ({"messages": [{"role": "boss", "content": "hi"}]}, "messages.0.role", "must be 'system', 'user'"),
    ({"messages": [{"role": "other", "content": "hi"}]}, "messages.0.role", "a role that is not known here"),
    ({"messages": [{"role": "user", "content": "hi", "parts": []}]}, "messages.0.content", "can't stand beside parts"),
    ({"messages": [{"role": "user", "content": None}]}, "messages.0.content", "this is null"),
    ({"messages": [{"role": "user", "content": ["hi"]}]}, "messages.0.content.0", "must be an object, this is text"),
    (
        {"messages": [{"role": "user", "content": [{"type": "video"}]}]},
        "messages.0.content.0.type",
        "must be one of text",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]},
        "messages.0.content.0.text",
        "must be text, this is a number",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "x": 1}]}]},
        "messages.0.content.0.x",
        "not a field here",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
        "messages.0.content.0",
        "image_url, an object",
    ),
    (
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x", "detail": "high"}}]}
            ]
        },
        "messages.0.content.0.image_url.detail",
        "only auto",
    ),
    (
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png,abc"}}]}
            ]
        },
        "messages.0.content.0.image_url.url",
        "a data URL must be of the form",
    ),
    (
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,!!"}}]}
            ]
        },
        "messages.0.content.0.image_url",
        "should be valid base64",
    ),
    ({"prompt": ""}, "prompt", "is empty"),
    ({"prompt": " \n"}, "prompt", "is empty"),
    ({"messages": [{"role": "user", "content": " "}]}, "messages.0.content", "is empty"),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]},
        "messages.0.content.0.text",
        "is empty",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x"}}]}]},
        "messages.0.content.0.image_url.sha256",
        "is missing",
    ),
    ({"prompt": 5}, "prompt", "must be text, this is a number"),
    ({"prompt": "a", "messages": []}, "prompt", "can't stand beside messages"),
    ({"prompt": "a", "temperature": 1}, "temperature", "not a field here; known are"),
    ({"prompt": "a", "task_hnt": "math"}, "task_hnt", "did you mean task_hint?"),
    ({**user(TEXT), "x" * 500: 1}, "x" * 200, "not a field here"),
    ({"prompt": "a", "sampling": {"temperature": 2.5}}, "sampling.temperature", "less than or equal to 2"),
    ({"prompt": "a", "sampling": {"top_p": -0.1}}, "sampling.top_p", "greater than or equal to 0"),
    ({"prompt": "a", "sampling": {"max_tokens": 0}}, "sampling.max_tokens", "greater than 0"),
    ({"prompt": "a", "sampling": {"max_tokens": "5"}}, "sampling.max_tokens", "must be a valid integer"),
    ({"prompt": "a", "sampling": {"max_tokens": True}}, "sampling.max_tokens", "must be a valid integer"),
    ({"prompt": "a", "sampling": {"max_tokens": 2**31}}, "sampling.max_tokens", "less than 2147483648"),
    ({"prompt": "a", "sampling": {"seed": 2**63}}, "sampling.seed", "less than 9223372036854775808"),
    ({"prompt": "a", "latency_budget_ms": 0}, "latency_budget_ms", "greater than 0"),
    ({"prompt": "a", "cost_limit_micros": -1}, "cost_limit_micros", "greater than or equal to 0"),
    ({"prompt": "a", "cost_currency": "usd"}, "cost_currency", "ISO 4217"),
    ({"prompt": "a", "task_hint": "poetry"}, "task_hint", "must be one of math, code, writing"),
    ({"prompt": "a", "output_schema": "{"}, "output_schema", "is not JSON at character 1"),
    ({"prompt": "a", "output_schema": "[]"}, "output_schema", "must be a JSON object"),
    ({"prompt": "a", "output_schema": {"type": "strin"}}, "output_schema", "is no JSON Schema"),
    ({"prompt": "a", "output_schema": {"$ref": "http://127.0.0.1:9/x"}}, "output_schema", "is not fetched"),
    ({"prompt": "a", "output_schema": {"$ref": "file:///etc/passwd"}}, "output_schema", "is not fetched"),
    ({"prompt": "a", "tools": [{"name": ""}]}, "tools.0.name", "is empty"),
    ({"prompt": "a", "tools": [{"name": "f", "parameters": {"type": 3}}]}, "tools.0.parameters", "is no JSON Schema"),
    ({"prompt": "a", "tools": [{"type": "function", "function": {}, "x": 1}]}, "tools.0.x", "beside function"),
    ({"prompt": "a", "tools": [{"nam": "f"}]}, "tools.0.nam", "did you mean name?"),
    ({"prompt": "a", "tools": [3]}, "tools.0", "must be an object"),
    ({"prompt": "a", "metadata": {"k": 1}}, "metadata.k", "must be text, this is a number"),
    ({"prompt": "a", "idempotency_key": "a b"}, "idempotency_key", "white space"),
    ({"prompt": "a", "session": ""}, "session", "is empty"),
    ({"prompt": "a", "subject": "x" * 129}, "subject", "has 129 characters"),
    (user({"kind": "hologram"}), "messages.0.parts.0.kind", "must be 'text', 'image'"),
    (user({"kind": "other"}), "messages.0.parts.0.kind", "a kind that is not known here"),
    (user({"kind": "text"}), "messages.0.parts.0.text", "is empty"),
    (user(TEXT, {"kind": "image"}), "messages.0.parts.1.data", "image needs data, or dataref"),
    (user({"kind": "document"}), "messages.0.parts.0.data", "document needs data, text"),
    (user({"kind": "image", "dataref": "blob:1"}), "messages.0.parts.0.sha256", "is missing; content under dataref"),
    (user({"kind": "image", "dataref": ""}), "messages.0.parts.0.dataref", "is empty"),
    (user({"kind": "text", "text": "a", "dataref": "b", "sha256": SHA}), "messages.0.parts.0.dataref", "beside inline"),
    (user({"kind": "image", "dataref": "b", "sha256": SHA.upper()}), "messages.0.parts.0.sha256", "64 lower-case hex"),
    (user({"kind": "image", "data": PIXEL, "media_type": "png"}), "messages.0.parts.0.media_type", "image/png"),
    (user({"kind": "tool_call", "tool_call_id": "c"}), "messages.0.parts.0.name", "which tool"),
    (user({"kind": "tool_call", "name": "f"}), "messages.0.parts.0.tool_call_id", "joins"),
    (
        user({"kind": "tool_call", "name": "f", "arguments": "{"}),
        "messages.0.parts.0.arguments",
        "not JSON at character 1",
    ),
    (
        user({"kind": "tool_call", "name": "f", "arguments": "[]"}),
        "messages.0.parts.0.arguments",
        "must be a JSON object",
    ),
    (user({"kind": "tool_result", "text": "x"}), "messages.0.parts.0.tool_call_id", "joins"),
]


@pytest.mark.parametrize(
    ("body", "field", "reason"), WRONG, ids=lambda value: None if isinstance(value, dict) else value[:40]
)
def test_the_first_wrong_field_is_named(body: Any, field: str, reason: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read(body)
    assert caught.value.field == field
    assert reason in caught.value.reason
    assert len(str(caught.value)) < 900


def test_content_is_not_repeated_in_errors() -> None:
    secret = "correct horse battery staple " * 20
    for body in (
        {"messages": secret},
        {"prompt": "a", "impact": secret},
        {"prompt": "a", "sampling": {"temperature": secret}},
        {"messages": [{"role": secret, "content": secret}]},
        {"prompt": "a", "task_hint": secret},
        {"prompt": "a", "output_schema": secret},
    ):
        with pytest.raises(InvalidRequestError) as caught:
            read(body)
        assert "horse" not in str(caught.value)


def test_avro_requests_are_held_to_the_same_rules() -> None:
    codec = Codec()
    for request, field in (
        (ASKED.model_copy(update={"cost_currency": "usd"}), "cost_currency"),
        (ASKED.model_copy(update={"task_hint": "poetry"}), "task_hint"),
        (ASKED.model_copy(update={"messages": ()}), "messages"),
    ):
        with pytest.raises(InvalidRequestError) as caught:
            read_request(codec.encode(request), [])
        assert caught.value.field == field


def test_content_above_the_cap_names_the_part_and_its_size() -> None:
    cap = DEFAULT_INLINE_BYTES
    assert read(user({"kind": "text", "text": "x" * cap})).messages[0].parts[0].text
    with pytest.raises(
        TooLargeError, match=rf"messages\.0\.parts\.1: holds {cap} bytes; inline content is {cap + 2} bytes"
    ):
        read(user(TEXT, {"kind": "text", "text": "x" * cap}))
    halves = user(*({"kind": "text", "text": "ä" * (cap // 4 + 1)} for _ in range(2)))
    with pytest.raises(TooLargeError, match=rf"inline content is {cap + 4} bytes together, at most {cap} are taken"):
        read(halves)
    with pytest.raises(TooLargeError, match=r"metadata: holds"):
        read({"prompt": "a", "metadata": {"k": "x" * cap}})
    with pytest.raises(TooLargeError, match=r"messages\.0\.parts\.0: holds 2 bytes"):
        read({"prompt": "hi"}, max_inline_bytes=1)


def test_a_record_may_not_be_all_padding() -> None:
    value = json.dumps({"prompt": "hi"}).encode() + b" " * (RECORD_FACTOR * 1000)
    assert read_request(value, AS_JSON, max_inline_bytes=2000).messages
    with pytest.raises(TooLargeError, match=r"record: has \d+ bytes, at most 4000 are taken"):
        read_request(value, AS_JSON, max_inline_bytes=1000)


def test_of_a_key_that_stands_twice_the_last_counts_in_every_form() -> None:
    exact = b'{"session":"a","messages":[{"role":"user","parts":[{"kind":"text","text":"hi"}]}],"session":"b"}'
    friendly = b'{"session":"a","prompt":"no","session":"b","prompt":"hi"}'
    assert read_request(exact, AS_JSON) == read_request(friendly, AS_JSON) == ASKED.model_copy(update={"session": "b"})
