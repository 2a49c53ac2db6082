"""An OpenAI-compatible API: what is sent, what is read, and the table of failures."""

from datetime import timedelta

import orjson
import pytest
from pydantic import SecretStr

from agents.worker.providers.http import Endpoint
from agents.worker.providers.http import Reply as HttpReply
from agents.worker.providers.openai import OpenAIProvider, encode, read, retry_after
from schemas.enums import FinishReason
from schemas.errors import FailureClass, ProviderError
from schemas.ports import ChatMessage, ModelCall
from schemas.settings import EndpointSettings
from tests.doubles.model_server import ModelServer, Reply, Trick, error

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
TOOL_CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}


def a_call(**changes) -> ModelCall:
    plain = {
        "model": "m",
        "messages": (ChatMessage(role="user", content="Hi, my number is 4711"),),
        "timeout": timedelta(seconds=5),
        "operation_key": "op-1",
    }
    return ModelCall(**{**plain, **changes})


@pytest.fixture
async def server():
    async with ModelServer() as server:
        yield server


@pytest.fixture
async def provider(server):
    provider = OpenAIProvider(
        Endpoint("here", EndpointSettings(base_url=server.base_url, api_key=SecretStr("sk-secret")))
    )
    yield provider
    await provider.close()


def test_a_plain_call_sends_nothing_that_was_not_asked_for():
    assert orjson.loads(encode(a_call())) == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi, my number is 4711"}],
    }


def test_everything_that_can_be_asked_for_is_sent():
    call = a_call(
        messages=(
            ChatMessage(role="system", content="Be brief."),
            ChatMessage(role="user", content=[{"type": "text", "text": "Look"}], name="ann"),
            ChatMessage(role="assistant", content="", tool_calls=(TOOL_CALL,)),
            ChatMessage(role="tool", content="rain", tool_call_id="c1"),
        ),
        max_tokens=7,
        temperature=0.0,
        top_p=0.5,
        seed=0,
        stop=("END",),
        tools=(TOOL,),
        output_schema={"type": "object"},
        logprobs=True,
        extra={"reasoning_effort": "low", "stream": True, "model": "other", "n": 5},
    )
    assert orjson.loads(encode(call)) == {
        "model": "m",
        "reasoning_effort": "low",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Look"}], "name": "ann"},
            {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]},
            {"role": "tool", "content": "rain", "tool_call_id": "c1"},
        ],
        "max_tokens": 7,
        "temperature": 0.0,
        "top_p": 0.5,
        "seed": 0,
        "stop": ["END"],
        "tools": [TOOL],
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}},
        "logprobs": True,
    }


def test_the_name_of_the_token_limit_is_the_catalogue_s():
    body = orjson.loads(encode(a_call(max_tokens=9, extra={"max_tokens_field": "max_completion_tokens"})))
    assert body["max_completion_tokens"] == 9
    assert not {"max_tokens", "max_tokens_field"} & body.keys()


def test_a_catalogue_field_that_is_no_json_is_a_bad_request():
    with pytest.raises(ProviderError) as caught:
        encode(a_call(extra={"when": object()}))
    assert caught.value.failure is FailureClass.BAD_REQUEST


async def test_reads_text_usage_logprobs_and_ids(server, provider):
    usage = {
        "prompt_tokens": 11,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    server.play(
        Reply(
            text="Oslo",
            usage=usage,
            logprobs=(-0.5, -0.1, -0.3),
            headers={"x-ms-region": "norway"},
            changes={"model": "m-2026-01", "citations": ["https://a.example"]},
        )
    )
    answer = await provider.complete(a_call(logprobs=True))
    assert (answer.text, answer.finish_reason, answer.model) == ("Oslo", FinishReason.STOP, "m-2026-01")
    assert (answer.tokens_in, answer.tokens_in_cached, answer.tokens_out, answer.tokens_reasoning) == (11, 4, 5, 2)
    assert answer.mean_logprob == pytest.approx(-0.3)
    assert answer.min_logprob == -0.5
    assert (answer.provider_request_id, answer.region, answer.sources) == ("req-1", "norway", ("https://a.example",))
    assert server.by_key == {"op-1": 1}


@pytest.mark.parametrize("logprob", [1000, "NaN", "-Infinity"])
async def test_a_log_probability_that_is_none_is_not_told(server, provider, logprob):
    server.play(Reply(logprobs=(-0.5, logprob)))
    answer = await provider.complete(a_call(logprobs=True))
    assert (answer.text, answer.mean_logprob, answer.min_logprob) == ("Answer: 42", None, None)


def test_what_no_record_can_hold_is_cut():
    body = {
        "id": "i" * 10_000,
        "model": "m" * 10_000,
        "choices": [{"message": {"content": "42"}}],
        "usage": {"prompt_tokens": 2**63, "completion_tokens": 3},
        "citations": ["c" * 10_000] * 1_000,
    }
    answer = read(HttpReply(200, {"x-ms-region": "norw\udce5y"}, orjson.dumps(body)), "here")
    assert (answer.text, answer.tokens_in, answer.tokens_out, answer.region) == ("42", 0, 3, "norw?y")
    assert len(answer.model) == len(answer.provider_request_id) == len(answer.sources[0]) == 2_000
    assert len(answer.sources) == 100
    with pytest.raises(ProviderError) as caught:
        read(HttpReply(500, {"x-request-id": "r\udcff"}, b""), "here")
    assert caught.value.provider_request_id == "r?"


async def test_reads_tool_calls(server, provider):
    server.play(Reply(tool_calls=(TOOL_CALL,), finish="tool_calls"))
    answer = await provider.complete(a_call(tools=(TOOL,)))
    assert (answer.text, answer.tool_calls, answer.finish_reason) == ("", (TOOL_CALL,), FinishReason.TOOL_CALLS)
    plain = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
    server.play(Reply(tool_calls=(plain,), finish="tool_calls"))
    assert (await provider.complete(a_call(tools=(TOOL,)))).tool_calls == (TOOL_CALL,)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("stop", FinishReason.STOP),
        ("eos", FinishReason.STOP),
        ("length", FinishReason.LENGTH),
        ("tool_calls", FinishReason.TOOL_CALLS),
        ("content_filter", FinishReason.CONTENT_FILTER),
        ("galaxy", FinishReason.OTHER),
    ],
)
async def test_finish_reasons(server, provider, said, meant):
    server.play(Reply(finish=said))
    assert (await provider.complete(a_call())).finish_reason is meant


async def test_no_finish_reason_no_usage_and_content_in_parts_are_read_too(server, provider):
    parts = [{"type": "text", "text": "a"}, {"type": "refusal_note"}, {"type": "text", "text": "b"}]
    server.play(
        Reply(changes={"usage": None, "choices": [{"message": {"content": parts}}]}),
        Reply(changes={"choices": [{"message": {"content": None, "refusal": "I can't."}, "finish_reason": "stop"}]}),
    )
    answer = await provider.complete(a_call())
    assert (answer.text, answer.tokens_in, answer.finish_reason) == ("ab", 0, FinishReason.NONE)
    refused = await provider.complete(a_call())
    assert (refused.text, refused.finish_reason) == ("I can't.", FinishReason.CONTENT_FILTER)


FAILURES = [
    (error(400), FailureClass.BAD_REQUEST),
    (error(404, "model_not_found"), FailureClass.BAD_REQUEST),
    (error(422), FailureClass.BAD_REQUEST),
    (error(401, "invalid_api_key"), FailureClass.AUTH),
    (error(402), FailureClass.AUTH),
    (error(403), FailureClass.AUTH),
    (error(408), FailureClass.TIMEOUT),
    (error(504), FailureClass.TIMEOUT),
    (error(409), FailureClass.SERVER),
    (error(429), FailureClass.RATE_LIMIT),
    (error(500), FailureClass.SERVER),
    (error(503, "overloaded_error"), FailureClass.SERVER),
    (error(529), FailureClass.SERVER),
    (error(400, "context_length_exceeded"), FailureClass.CONTEXT_OVERFLOW),
    (error(413), FailureClass.CONTEXT_OVERFLOW),
    (error(400, "content_filter"), FailureClass.CONTENT_REFUSAL),
    (error(403, "content_policy_violation"), FailureClass.CONTENT_REFUSAL),
    (error(302), FailureClass.BAD_REQUEST),
    # vLLM: in words, and not below "error"
    (
        Reply(
            status=400,
            body=b'{"object":"error","message":"This model\'s maximum context length is 4096 tokens.","code":400}',
        ),
        FailureClass.CONTEXT_OVERFLOW,
    ),
    # llama.cpp: by type, with a number for a code
    (
        Reply(
            status=400,
            body=b'{"error":{"code":400,"message":"too long","type":"exceed_context_size_error","n_ctx":512}}',
        ),
        FailureClass.CONTEXT_OVERFLOW,
    ),
    # an aggregator: the upstream's status under 200
    (Reply(body=b'{"error":{"code":429,"message":"upstream is busy"}}'), FailureClass.RATE_LIMIT),
    (Reply(status=502, body=b"<html>Bad gateway</html>"), FailureClass.SERVER),
    (Reply(status=400, body=b'{"error":"plain words"}'), FailureClass.BAD_REQUEST),
    (Reply(status=500, trick=Trick.EMPTY), FailureClass.SERVER),
    # success by status only
    (Reply(trick=Trick.EMPTY), FailureClass.BAD_OUTPUT),
    (Reply(body=b"not json"), FailureClass.BAD_OUTPUT),
    (Reply(body=b"[]"), FailureClass.BAD_OUTPUT),
    (Reply(body=b'"text"'), FailureClass.BAD_OUTPUT),
    (Reply(body=b"null"), FailureClass.BAD_OUTPUT),
    (Reply(changes={"choices": None}), FailureClass.BAD_OUTPUT),
    (Reply(changes={"choices": []}), FailureClass.BAD_OUTPUT),
    (Reply(changes={"choices": [{}]}), FailureClass.BAD_OUTPUT),
    (Reply(changes={"choices": [{"message": "text"}]}), FailureClass.BAD_OUTPUT),
    (Reply(changes={"choices": [{"message": {"content": 7}}]}), FailureClass.BAD_OUTPUT),
    (Reply(changes={"choices": [{"message": {"tool_calls": [{"id": "c1"}]}}]}), FailureClass.BAD_OUTPUT),
    (
        Reply(changes={"choices": [{"message": {"content": "a"}, "logprobs": {"content": [{"token": "a"}]}}]}),
        FailureClass.BAD_OUTPUT,
    ),
    (
        Reply(
            body=b'{"choices":[{"message":{"tool_calls":[{"function":{"name":"f","arguments":%s}}]}}]}'
            % (b"[" * 300 + b"]" * 300)
        ),
        FailureClass.BAD_OUTPUT,
    ),
    (Reply(changes={"usage": [1]}), FailureClass.BAD_OUTPUT),
]


@pytest.mark.parametrize(("reply", "expected"), FAILURES, ids=lambda value: str(value)[:60])
async def test_every_failure_has_its_class_and_tells_no_secret(server, provider, reply, expected):
    server.play(reply)
    with pytest.raises(ProviderError) as caught:
        await provider.complete(a_call(logprobs=True))
    assert caught.value.failure is expected
    assert caught.value.provider_request_id == "req-1"
    assert caught.value.status == reply.status
    assert "here" in str(caught.value)
    assert server.calls == 1


async def test_what_the_provider_says_is_not_repeated(server, provider):
    said = {"error": {"message": "4711 with key sk-secret", "code": "bad key sk-secret", "param": "messages[0]"}}
    server.play(Reply(status=400, body=orjson.dumps(said)))
    with pytest.raises(ProviderError) as caught:
        await provider.complete(a_call())
    assert str(caught.value) == "here: status 400 param=messages[0]"


async def test_the_wait_asked_for_is_handed_on(server, provider):
    server.play(error(429, retry_after="7"))
    with pytest.raises(ProviderError) as caught:
        await provider.complete(a_call())
    assert caught.value.retry_after_s == 7


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:10 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 10),
        ({"retry-after": "Wed, 21 Oct 2026 07:27:00 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:10 GMT"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
    ],
)
def test_retry_after(headers, seconds):
    assert retry_after(headers) == seconds


def test_the_body_is_no_part_of_what_a_reply_shows():
    assert "4711" not in repr(HttpReply(200, {}, b"4711"))
