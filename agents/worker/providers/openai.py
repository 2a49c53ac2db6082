"""Any OpenAI-compatible ``/chat/completions``: a ModelCall in, a ModelAnswer out, one table for what goes wrong."""

import re
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from math import isfinite
from types import MappingProxyType
from typing import Any, Final

import orjson

from agents.worker.providers.http import Endpoint, Reply
from schemas.enums import FinishReason
from schemas.errors import FailureClass, ProviderError
from schemas.ports import ChatMessage, ModelAnswer, ModelCall

PATH: Final = "/chat/completions"

MAX_TOKENS_FIELD: Final = "max_tokens_field"
"""Catalogue default that names the body field of the token limit: newer hosted models want max_completion_tokens."""

_OURS: Final = frozenset({"model", "messages", "stream", "stream_options", "n", MAX_TOKENS_FIELD})
"""Body fields that a catalogue can't set: one answer, in one piece, of the model that was asked for."""

_BY_CODE: Final[Mapping[str, FailureClass]] = MappingProxyType(
    {
        "context_length_exceeded": FailureClass.CONTEXT_OVERFLOW,
        "exceed_context_size_error": FailureClass.CONTEXT_OVERFLOW,
        "content_filter": FailureClass.CONTENT_REFUSAL,
        "content_policy_violation": FailureClass.CONTENT_REFUSAL,
        "invalid_api_key": FailureClass.AUTH,
        "authentication_error": FailureClass.AUTH,
        "permission_error": FailureClass.AUTH,
        "rate_limit_exceeded": FailureClass.RATE_LIMIT,
        "rate_limit_error": FailureClass.RATE_LIMIT,
        "overloaded_error": FailureClass.SERVER,
        "unavailable_error": FailureClass.SERVER,
        "server_error": FailureClass.SERVER,
        "model_not_found": FailureClass.BAD_REQUEST,
    }
)
"""``code`` or ``type`` of an error body; wins over the status."""

_BY_STATUS: Final[Mapping[int, FailureClass]] = MappingProxyType(
    {
        401: FailureClass.AUTH,
        402: FailureClass.AUTH,  # no money in the account: as with a wrong key, somebody has to act
        403: FailureClass.AUTH,
        408: FailureClass.TIMEOUT,
        409: FailureClass.SERVER,  # the same idempotency key is being worked on
        413: FailureClass.CONTEXT_OVERFLOW,
        425: FailureClass.SERVER,
        429: FailureClass.RATE_LIMIT,
        504: FailureClass.TIMEOUT,
        524: FailureClass.TIMEOUT,
    }
)
"""Other 4xx are BAD_REQUEST, other 5xx SERVER, a redirect BAD_REQUEST."""

_LONGEST: Final = 2_000
"""Characters of an id, a name or a source that a provider gives."""
_MOST_SOURCES: Final = 100
_MOST_TOKENS: Final = 10**9
"""Of one call: a higher count is none."""

_ROUNDING: Final = 1e-3
"""What a log-probability may be above 0, the most it can be: servers compute with few digits."""

_OVERFLOW: Final = re.compile(
    r"(?:maximum|available) context|context (?:length|size|window)|prompt is too long|too many tokens", re.IGNORECASE
)
"""Servers that name no code (vLLM, older llama.cpp) say it in words."""

_FINISH: Final[Mapping[str | None, FinishReason]] = MappingProxyType(
    {
        "stop": FinishReason.STOP,
        "eos": FinishReason.STOP,
        "end_turn": FinishReason.STOP,
        "length": FinishReason.LENGTH,
        "max_tokens": FinishReason.LENGTH,
        "tool_calls": FinishReason.TOOL_CALLS,
        "function_call": FinishReason.TOOL_CALLS,
        "content_filter": FinishReason.CONTENT_FILTER,
        None: FinishReason.NONE,
    }
)


class OpenAIProvider:
    """Calls one endpoint.

    Args:
        endpoint: Where, with which key.
        fields: Body fields that this kind of server needs beside the call's own.
    """

    def __init__(self, endpoint: Endpoint, fields: Mapping[str, object] = MappingProxyType({})) -> None:
        self._endpoint = endpoint
        self._fields = fields

    async def complete(self, call: ModelCall) -> ModelAnswer:
        """Make the call, once.

        Raises:
            ProviderError: With its class; the message names endpoint, status and error code, never content or keys.
        """
        body = encode(call, self._fields)
        reply = await self._endpoint.post(PATH, body, operation_key=call.operation_key, within=call.timeout)
        return read(reply, self._endpoint.name)

    async def close(self) -> None:
        """Close the endpoint's connections."""
        await self._endpoint.close()


def encode(call: ModelCall, fields: Mapping[str, object] = MappingProxyType({})) -> bytes:
    """The request body.

    Raises:
        ProviderError: BAD_REQUEST; a field of the catalogue is no JSON.
    """
    body: dict[str, object] = {key: value for key, value in call.extra.items() if key not in _OURS}
    body["model"] = call.model
    body["messages"] = [_message(message) for message in call.messages]
    if call.max_tokens is not None:
        body[str(call.extra.get(MAX_TOKENS_FIELD, "max_tokens"))] = call.max_tokens
    drawn = {"temperature": call.temperature, "top_p": call.top_p, "seed": call.seed}
    body |= {key: value for key, value in drawn.items() if value is not None}
    if call.stop:
        body["stop"] = call.stop
    if call.tools:
        body["tools"] = call.tools
    if call.output_schema is not None:
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": call.output_schema},
        }
    if call.logprobs:
        body["logprobs"] = True
    body |= fields
    try:
        return orjson.dumps(body, default=dict)
    except (TypeError, ValueError) as error:
        raise ProviderError(FailureClass.BAD_REQUEST, f"call can't be written as JSON: {error}") from None


def _message(message: ChatMessage) -> dict[str, object]:
    made: dict[str, object] = {"role": message.role, "content": message.content}
    if message.name:
        made["name"] = message.name
    if message.tool_calls:
        made["tool_calls"] = message.tool_calls
        made["content"] = message.content or None
    if message.tool_call_id:
        made["tool_call_id"] = message.tool_call_id
    return made


def read(reply: Reply, endpoint: str) -> ModelAnswer:
    """The answer in a reply.

    Raises:
        ProviderError: The reply is an error, or no completion.
    """
    try:
        body = orjson.loads(reply.body)
    except orjson.JSONDecodeError:
        body = None
    if not 200 <= reply.status < 300 or (isinstance(body, dict) and body.get("error")):
        raise _failure(reply, body, endpoint)
    request_id = _short(reply.headers.get("x-request-id", ""))
    try:
        choice = body["choices"][0]
        message = choice["message"]
        text, refused = _text(message)
        calls = _tool_calls(message)
        finish = _FINISH.get(choice.get("finish_reason"), FinishReason.OTHER)
        mean, least = _logprobs(choice.get("logprobs"))
        usage = body.get("usage") or {}
        return ModelAnswer(
            text=text,
            finish_reason=FinishReason.CONTENT_FILTER if refused else finish,
            model=_short(str(body.get("model") or "")),
            tool_calls=calls,
            tokens_in=_count(usage, "prompt_tokens"),
            tokens_in_cached=_count(usage.get("prompt_tokens_details"), "cached_tokens"),
            tokens_out=_count(usage, "completion_tokens"),
            tokens_reasoning=_count(usage.get("completion_tokens_details"), "reasoning_tokens"),
            mean_logprob=mean,
            min_logprob=least,
            provider_request_id=request_id or _short(str(body.get("id") or "")),
            region=_short(reply.headers.get("x-ms-region", "")),
            sources=_sources(body),
        )
    except (TypeError, KeyError, IndexError, AttributeError, ValueError) as error:
        what = "is empty" if not reply.body else "is no JSON" if body is None else f"lacks or garbles a field ({error})"
        raise ProviderError(
            FailureClass.BAD_OUTPUT,
            f"{endpoint}: answer {what}",
            provider_request_id=request_id,
            status=reply.status,
        ) from None


def _text(message: Mapping[str, Any]) -> tuple[str, bool]:
    """The text, and whether the model declined."""
    if refusal := message.get("refusal"):
        return str(refusal), True
    match message.get("content"):
        case str() as text:
            return text, False
        case None:
            return "", False
        case list() as parts:
            return "".join(part["text"] for part in parts if part["type"] == "text"), False
        case _:
            raise ValueError("message.content")


def _tool_calls(message: Mapping[str, Any]) -> tuple[Mapping[str, object], ...]:
    calls = message.get("tool_calls") or ()
    for call in calls:
        function = call["function"]
        if not isinstance(function["name"], str):
            raise ValueError("tool_calls")  # noqa: TRY004 - a wrong answer, not a wrong argument
        if not isinstance(function.get("arguments"), str | None):  # some servers give the arguments as they are
            function["arguments"] = orjson.dumps(function["arguments"]).decode()
    return tuple(calls)


def _logprobs(found: Mapping[str, Any] | None) -> tuple[float | None, float | None]:
    """Mean and least token log-probability; none where a number can't be one."""
    tokens: Sequence[Mapping[str, Any]] = (found or {}).get("content") or ()
    if not tokens:
        return None, None
    values = [float(token["logprob"]) for token in tokens]
    if not all(isfinite(value) and value <= _ROUNDING for value in values):
        return None, None
    return sum(values) / len(values), min(values)


def _count(usage: Mapping[str, Any] | None, name: str) -> int:
    value = (usage or {}).get(name)
    return value if isinstance(value, int) and 0 < value <= _MOST_TOKENS else 0


def _sources(body: Mapping[str, Any]) -> tuple[str, ...]:
    found = body.get("citations")
    return tuple(_short(str(source)) for source in found[:_MOST_SOURCES]) if isinstance(found, list) else ()


def _short(text: str) -> str:
    """What a provider says beside its answer, as a record holds it: short, and Unicode also where a header is not."""
    return text[:_LONGEST].encode("utf-8", "replace").decode()


def _failure(reply: Reply, body: object, endpoint: str) -> ProviderError:
    """An error reply as an error of ours."""
    found = body.get("error", body) if isinstance(body, dict) else None
    names: list[str] = []
    words = found if isinstance(found, str) else ""
    status = reply.status
    if isinstance(found, dict):
        words = str(found.get("message") or "")
        names = [str(found[key]) for key in ("code", "type") if found.get(key)]
        if 200 <= status < 300 and isinstance(found.get("code"), int):
            status = found["code"]  # some aggregators send the upstream's status in a body under 200
    failure = next((_BY_CODE[name] for name in names if name in _BY_CODE), None)
    if failure is None and status in {400, 413, 422} and _OVERFLOW.search(words):
        failure = FailureClass.CONTEXT_OVERFLOW
    # The provider's sentence may repeat the prompt or a key: only what looks like an identifier is shown.
    shown = [name for name in names if re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]{0,63}", name)]
    param = found.get("param") if isinstance(found, dict) else None
    if isinstance(param, str) and re.fullmatch(r"[A-Za-z0-9_.\[\]-]{1,64}", param):
        shown.append(f"param={param}")
    return ProviderError(
        failure or class_of(status),
        " ".join([f"{endpoint}: status {reply.status}", *shown]),
        retry_after_s=retry_after(reply.headers),
        provider_request_id=_short(reply.headers.get("x-request-id", "")),
        status=reply.status,
    )


def class_of(status: int) -> FailureClass:
    """What a status that is no success means."""
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if 500 <= status < 600:
        return FailureClass.SERVER
    if 300 <= status < 500:
        return FailureClass.BAD_REQUEST
    return FailureClass.UNKNOWN


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the provider asks to wait (RFC 9110 10.2.3), or None.

    A date is compared with the reply's own ``Date``, so that no clock has to agree with another.
    """
    millis, text = headers.get("retry-after-ms", ""), headers.get("retry-after", "")
    if millis.isdigit():
        return int(millis) / 1000
    if re.fullmatch(r"\d+(?:\.\d+)?", text):
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - parsedate_to_datetime(headers["date"])).total_seconds())
    except (ValueError, KeyError, TypeError):
        return None
