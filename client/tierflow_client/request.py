"""Making the record of a request out of what a caller says."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, TypedDict, Unpack

from tierflow_client import headers
from tierflow_client.errors import InvalidRequestError
from tierflow_client.headers import Header
from tierflow_client.ids import uuid7

Message = Mapping[str, Any]
"""A turn: ``{"role": "user", "content": "..."}``, content also as a list of OpenAI-style parts; or Tierflow's own
``{"role": ..., "parts": [...]}``."""

DataClass = Literal["public", "internal", "confidential", "restricted"]
Impact = Literal["low", "normal", "high", "critical"]
IdempotencyScope = Literal["tenant", "session", "global"]


@dataclass(frozen=True, slots=True)
class Record:
    """What is published.

    Attributes:
        request_id: Id of the request.
        key: Decides the partition, and so what stays in order.
        value: JSON.
        headers: Names and values.
        lifetime: How long an answer is wanted; None leaves that to Tierflow's rules.
    """

    request_id: str
    key: bytes
    value: bytes
    headers: tuple[Header, ...]
    lifetime: timedelta | None


class RequestOptions(TypedDict, total=False):
    """What can be said of a request. All may be left out."""

    messages: Sequence[Message]
    """The conversation, in place of a prompt."""
    request_id: str
    """Id of your own, to be able to send the same request again; a new UUID (version 7) if left out."""
    tenant: str
    """Who asks."""
    deadline: timedelta | datetime
    """How long the request may live, or when it is over; else the intake topic's rules say it."""
    priority: int
    """0 (lowest) to 9."""
    data_class: DataClass
    """How sensitive the content is; decides which models may see it."""
    session: str
    """Conversation; the record's key, so that its requests stay in order."""
    key: str
    """The record's key, in place of session or request id."""
    task_hint: str
    """Task class, where it is known: math, code, writing, qa, reasoning, extract, support, chat."""
    required_capabilities: Sequence[str]
    """What a model must be able to do, such as json, tools, vision."""
    impact: Impact
    """What a wrong answer would do."""
    latency_budget: timedelta
    """After this the answer is worthless; a deadline says the same and wins."""
    cost_limit_micros: int
    """Most millionths of a currency unit that all calls may cost."""
    tools: Sequence[Mapping[str, Any]]
    """Functions that the model may ask to be called, OpenAI-style."""
    output_schema: Mapping[str, Any]
    """JSON Schema that the answer must satisfy."""
    temperature: float
    """0 to 2; this and the next ones leave the route's own setting where they are left out."""
    top_p: float
    """0 to 1."""
    max_tokens: int
    """Most tokens of the answer."""
    seed: int
    """For models that take one."""
    stop: Sequence[str]
    """Texts that end the answer."""
    idempotency_key: str
    """A second request under the same key ends as a duplicate of the first."""
    idempotency_scope: IdempotencyScope
    """Within what the key is unique; the tenant if left out."""
    subject: str
    """Pseudonym of the person concerned, for erasure."""
    metadata: Mapping[str, str]
    """Your own words; they come back with the result."""
    parent_id: str
    """Request that led to this one."""
    root_id: str
    """First request of the family."""
    traceparent: str
    """W3C trace context."""
    tracestate: str
    """W3C trace context."""


_IN_VALUE: Final = (
    "required_capabilities",
    "impact",
    "cost_limit_micros",
    "task_hint",
    "idempotency_key",
    "idempotency_scope",
    "session",
    "subject",
)
_SAMPLING: Final = ("temperature", "top_p", "max_tokens", "seed", "stop")
_IN_HEADERS: Final = {
    headers.TENANT: "tenant",
    headers.DATA_CLASS: "data_class",
    headers.ROOT_ID: "root_id",
    headers.PARENT_ID: "parent_id",
    headers.TRACEPARENT: "traceparent",
    headers.TRACESTATE: "tracestate",
}


def make_record(prompt: str | None = None, **request: Unpack[RequestOptions]) -> Record:
    """The record of a request.

    Raises:
        InvalidRequestError: An argument makes no request; names it.
    """
    given: dict[str, Any] = {name: value for name, value in request.items() if value is not None}
    if unknown := sorted(given.keys() - RequestOptions.__annotations__.keys()):
        raise InvalidRequestError(f"{unknown[0]} is not known; there are {', '.join(RequestOptions.__annotations__)}")
    value = _asked(prompt, given.get("messages"))
    value |= {name: _listed(given[name]) for name in _IN_VALUE if name in given}
    if sampling := {name: _listed(given[name]) for name in _SAMPLING if name in given}:
        value["sampling"] = sampling
    if "tools" in given:
        value["tools"] = [dict(tool) for tool in given["tools"]]
    for name in ("output_schema", "metadata"):
        if name in given:
            value[name] = dict(given[name])
    if "latency_budget" in given:
        value["latency_budget_ms"] = _ms(given["latency_budget"], "latency_budget")
    request_id = _checked_id(given["request_id"]) if "request_id" in given else uuid7()
    now_ms = time.time_ns() // 1_000_000
    deadline_ms = _deadline_ms(given.get("deadline"), now_ms)
    key = str(given.get("key") or given.get("session") or request_id)
    return Record(
        request_id=request_id,
        key=_bytes("key", key),
        value=_json(value),
        headers=_headers(given, request_id, deadline_ms),
        lifetime=None if deadline_ms is None else timedelta(milliseconds=deadline_ms - now_ms),
    )


def _headers(given: Mapping[str, Any], request_id: str, deadline_ms: int | None) -> tuple[Header, ...]:
    priority = given.get("priority")
    if priority is not None and priority not in range(10):
        raise InvalidRequestError(f"priority is {priority}, must be from 0 (lowest) to 9")
    texts = {headers.CONTENT_TYPE: headers.JSON, headers.REQUEST_ID: request_id}
    texts |= {name: str(given.get(argument, "")) for name, argument in _IN_HEADERS.items()}
    if deadline_ms is not None:
        texts[headers.DEADLINE] = str(deadline_ms)
    if priority is not None:
        texts[headers.PRIORITY] = str(priority)
    return tuple((name, _bytes(name, text)) for name, text in texts.items() if text)


def _bytes(name: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(f"{name} can't be written as UTF-8: {error}") from error


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _asked(prompt: str | None, messages: Sequence[Message] | None) -> dict[str, Any]:
    if (prompt is None) == (messages is None):
        raise InvalidRequestError("give a prompt or messages, and not both")
    if messages is None:
        return {"prompt": prompt}
    if not messages:
        raise InvalidRequestError("messages is empty")
    return {"messages": [dict(message) for message in messages]}


def _checked_id(text: str) -> str:
    if not text or len(text) > headers.MAX_ID_CHARS or not text.isprintable() or " " in text:
        raise InvalidRequestError(
            f"request_id must be 1 to {headers.MAX_ID_CHARS} printable characters without spaces, not {text[:40]!r}"
        )
    return text


def _deadline_ms(deadline: timedelta | datetime | None, now_ms: int) -> int | None:
    if deadline is None:
        return None
    if isinstance(deadline, timedelta):
        return now_ms + _ms(deadline, "deadline")
    if deadline.tzinfo is None:
        raise InvalidRequestError("deadline is a time without a zone: give datetime.now(UTC) + ..., or a timedelta")
    return int(deadline.astimezone(UTC).timestamp() * 1000)


def _ms(span: timedelta, name: str) -> int:
    if span <= timedelta(0):
        raise InvalidRequestError(f"{name} must be above zero")
    return span // timedelta(milliseconds=1)


def _json(value: dict[str, Any]) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError) as error:  # UnicodeEncodeError (a lone surrogate) is a ValueError
        raise InvalidRequestError(f"the request can't be written as JSON: {error}") from error
