"""The one record that ends a request."""

import logging
from collections.abc import Mapping, Sequence
from math import exp, isnan
from types import MappingProxyType
from typing import Any, Final

import orjson

from schemas.codec import Codec
from schemas.delivery import DeliveryMode
from schemas.edges import Result, Verdict
from schemas.enums import Status
from schemas.errors import TierflowError
from schemas.flow import Assignment, Completion
from schemas.headers import Name, RawHeaders, propagate
from schemas.ids import derived_id
from streams.effects import Emit, View
from streams.records import InRecord
from streams.topics import RESULTS

log = logging.getLogger(__name__)

MAX_REASON_CHARS: Final = 500
"""Reasons are for people to read; a longer one repeats itself."""


def receipt_json(*, metadata: dict[str, str], session: str = "", route: str = "", currency: str = "USD") -> str:
    """What the producer gets back with the result, to be carried along by the Assignment."""
    return orjson.dumps({"metadata": metadata, "session": session, "route": route, "currency": currency}).decode()


def end_request(
    *,
    headers: RawHeaders,
    key: bytes | None,
    status: Status,
    now_ms: int,
    mode: DeliveryMode,
    codec: Codec,
    source: str,
    accepted_at_ms: int,
    request_content_type: str,
    causation_id: str,
    error_code: str = "",
    reason: str = "",
    assignment: Assignment | None = None,
    completion: Completion | None = None,
    verdicts: Sequence[Verdict] = (),
    duplicate_of: str = "",
    receipt: str = "{}",
    registry_number: int = 0,
    before: Mapping[str, int] = MappingProxyType({}),
) -> Emit:
    """The Result of a request, ready to be written in the form in which the request came.

    Args:
        headers: Of the record in hand, with the request's context; they go on with the result.
        key: Of the request record.
        status: How it ended.
        now_ms: Unix milliseconds.
        mode: How sure the broker lets us be.
        codec: Writes it.
        source: Coordinates of the request record.
        accepted_at_ms: Unix milliseconds.
        request_content_type: How the request was written; a JSON request gets a JSON result.
        causation_id: ce_id of the record in hand.
        error_code: Stable code, unless answered.
        reason: For people, without content.
        assignment: The step that the request ended in, if it came to one: totals of earlier steps, receipt, plan.
        completion: What that step brought. Its output is given out only if the status is ``ANSWERED``.
        verdicts: Checks on it.
        duplicate_of: Request id whose result stands for this one.
        receipt: For a request that ended at intake; otherwise the assignment's is used.
        registry_number: Snapshot that ruled; of an assignment, the one whose choices are pinned.
        before: Totals of calls that were made though it came to no step, by field of the result.
    """
    request_id = _request_id(headers)
    fields: dict[str, Any] = dict(before)
    if assignment is not None:
        receipt = assignment.receipt
        registry_number = registry_number or assignment.registry_chosen
        fields |= _of_assignment(assignment)
    if completion is not None:
        fields |= _of_completion(completion, assignment, released=status is Status.ANSWERED)
    back = orjson.loads(receipt)
    content_type = codec.content_type_for(request_content_type)
    result = Result(
        request_id=request_id,
        status=status,
        error_code=error_code,
        reason=reason if len(reason) <= MAX_REASON_CHARS else f"{reason[: MAX_REASON_CHARS - 3]}...",
        route_id=back.get("route", ""),
        currency=back.get("currency", "USD"),
        verdicts=tuple(verdicts),
        duplicate_of=duplicate_of,
        delivery_mode=mode,
        registry_number=registry_number,
        accepted_at_ms=accepted_at_ms,
        ended_at_ms=now_ms,
        source=source,
        session=back.get("session", ""),
        metadata=back.get("metadata", {}),
        **fields,
    )
    return Emit(
        topic=RESULTS,
        key=key,
        value=codec.encode_as(result, content_type),
        record="result",
        id=derived_id("result", request_id),
        headers=propagate(headers),
        causation_id=causation_id,
        content_type=content_type,
    )


def _request_id(headers: RawHeaders) -> str:
    for name, raw in headers:
        if name == Name.REQUEST_ID.value:
            return raw.decode()
    raise ValueError(f"no header {Name.REQUEST_ID.value}: only a request with an id can end")


def _of_assignment(assignment: Assignment) -> dict[str, Any]:
    return {
        "task_class": assignment.task_class,
        "plan_id": assignment.plan_id,
        "tier": assignment.tier,
        "steps": assignment.step_index + 1,  # a step that may not run is taken off the slip, so the index counts
        "escalations": assignment.step_index,
        "attempts": assignment.attempts,
        "tokens_in": assignment.spent_tokens_in,
        "tokens_out": assignment.spent_tokens_out,
        "cost_micros": assignment.spent_micros,
        "cpu_us": assignment.spent_cpu_us,
        "order_relaxed": assignment.order_relaxed,
    }


def _of_completion(completion: Completion, assignment: Assignment | None, *, released: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "tier": completion.tier,
        "model": completion.model,
        "finish_reason": completion.finish_reason,
        "attempts": len(completion.attempts) + (assignment.attempts if assignment else 0),
        "tokens_in": completion.tokens_in + (assignment.spent_tokens_in if assignment else 0),
        "tokens_out": completion.tokens_out + (assignment.spent_tokens_out if assignment else 0),
        "cost_micros": completion.billed_micros + (assignment.spent_micros if assignment else 0),
        "cpu_us": completion.cpu_us + (assignment.spent_cpu_us if assignment else 0),
        "confidence": confidence_of(completion),
    }
    if released:
        fields |= {
            "output": completion.output_text if completion.output_dataref is None else None,
            "output_parts": completion.output_parts,
            "output_dataref": completion.output_dataref,
            "output_sha256": completion.output_sha256,
        }
    return fields


def end_failed(
    record: InRecord,
    view: View[Any],
    codec: Codec,
    error: TierflowError,
    assignment: Assignment | None,
    completion: Completion | None = None,
    *,
    causation_id: str,
    content_type: str = "",
) -> Emit | None:
    """The ``failed`` result of a record that can't be handled. Never raises.

    What the record holds may be what can't be handled: then the result says what the headers say.

    Args:
        record: Which.
        view: When, and how commits are made.
        codec: Writes the result.
        error: Why.
        assignment: What was read of it; None for nothing.
        completion: Likewise.
        causation_id: Id of the record.
        content_type: Form of the result; empty for that of the assignment, or without one the codec's.

    Returns:
        None where not even the headers say enough, which is logged.
    """
    for told, brought in ((assignment, completion), (None, None)):
        form = told.request_content_type if told else codec.content_type
        try:
            return end_request(
                headers=record.headers,
                key=record.key,
                status=Status.FAILED,
                now_ms=view.now_ms,
                mode=view.mode,
                codec=codec,
                source=told.source if told else "",
                accepted_at_ms=told.accepted_at_ms if told else 0,
                request_content_type=content_type or form,
                causation_id=causation_id,
                error_code=error.code,
                reason=str(error),
                assignment=told,
                completion=brought,
            )
        except Exception:
            log.exception("no result could be written for %s/%d/%d", record.topic, record.partition, record.offset)
    return None


def confidence_of(completion: Completion) -> float | None:
    """How sure the model was: the share of samples that agree, else the geometric mean of the tokens' probabilities."""
    if completion.agreement is not None:
        return completion.agreement
    mean = completion.mean_logprob
    return None if mean is None or isnan(mean) else exp(min(mean, 0.0))
