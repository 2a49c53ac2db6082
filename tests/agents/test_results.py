"""The record that ends a request: written as the request came, with all steps added up."""

from math import exp
from typing import Any

import orjson
import pytest

from agents.results import MAX_REASON_CHARS, end_request, receipt_json
from schemas.edges import Result, Verdict
from schemas.enums import Action, FinishReason, Outcome, Status
from schemas.flow import Assignment, Completion
from schemas.headers import AVRO, JSON, Name
from schemas.ids import derived_id
from streams.effects import Emit
from tests.agents.deciding import CODEC, MODE, NOW_MS, context

RECEIPT = receipt_json(metadata={"ticket": "7"}, session="s-1", route="all", currency="EUR")


def assignment(**more: Any) -> Assignment:
    parts: dict[str, Any] = {
        "request_id": "r-1",
        "request": b"{}",
        "request_content_type": JSON,
        "decision": b"",
        "slip": b"",
        "plan_id": "cascade",
        "plan_hash": "h",
        "step_id": "on-balanced",
        "step_index": 1,
        "tier": "balanced",
        "task_class": "math",
        "has_output_schema": False,
        "accepted_at_ms": NOW_MS - 900,
        "assigned_at_ms": NOW_MS - 500,
        "deadline_ms": NOW_MS + 1000,
        "registry_chosen": 3,
        "registry_checked": 4,
        "order_relaxed": True,
        "spent_micros": 10,
        "spent_cpu_us": 20,
        "spent_tokens_in": 30,
        "spent_tokens_out": 40,
        "attempts": 2,
        "source": "requests/2/7",
        "receipt": RECEIPT,
    }
    return Assignment(**(parts | more))


def completion(**more: Any) -> Completion:
    parts: dict[str, Any] = {
        "request_id": "r-1",
        "assignment": b"",
        "step_id": "on-balanced",
        "step_index": 1,
        "tier": "balanced",
        "outcome": Outcome.OK,
        "attempts": (b"a", b"b", b"c"),
        "output_text": "391",
        "output_sha256": "ab" * 32,
        "finish_reason": FinishReason.STOP,
        "model": "middle@1",
        "mean_logprob": -0.25,
        "tokens_in": 3,
        "tokens_out": 4,
        "billed_micros": 5,
        "cpu_us": 6,
        "completed_at_ms": NOW_MS,
        "registry_checked": 4,
    }
    return Completion(**(parts | more))


def end(**more: Any) -> Emit:
    parts: dict[str, Any] = {
        "headers": [*context(root_id="root").headers(), ("x", b"y"), (Name.CE_ID.value, b"c-9")],
        "key": b"k",
        "status": Status.ANSWERED,
        "now_ms": NOW_MS,
        "mode": MODE,
        "codec": CODEC,
        "source": "requests/2/7",
        "accepted_at_ms": NOW_MS - 900,
        "request_content_type": JSON,
        "causation_id": "c-9",
    }
    return end_request(**(parts | more))


def read(emit: Emit) -> Result:
    return CODEC.decode(Result, emit.value, emit.content_type)


def test_all_steps_are_added_up():
    emit = end(assignment=assignment(), completion=completion())
    result = read(emit)
    assert (result.cost_micros, result.cpu_us, result.tokens_in, result.tokens_out) == (15, 26, 33, 44)
    assert (result.attempts, result.steps, result.escalations) == (5, 2, 1)
    assert (result.tier, result.model, result.plan_id, result.task_class) == ("balanced", "middle@1", "cascade", "math")
    assert (result.route_id, result.currency, result.session, result.metadata) == ("all", "EUR", "s-1", {"ticket": "7"})
    assert result.output == "391"
    assert result.order_relaxed
    assert result.registry_number == 3
    assert result.confidence == pytest.approx(exp(-0.25))


def test_the_record_around_it():
    emit = end()
    assert (emit.topic, emit.key, emit.record, emit.causation_id) == ("results", b"k", "result", "c-9")
    assert emit.id == derived_id("result", "r-1")
    names = [name for name, _ in emit.headers]
    assert Name.REQUEST_ID.value in names
    assert (Name.ROOT_ID.value, b"root") in emit.headers
    assert "x" not in names
    assert Name.CE_ID.value not in names


def test_json_in_json_out_and_avro_in_avro_out():
    as_json = end(assignment=assignment(), completion=completion(), request_content_type=JSON)
    assert as_json.content_type == JSON
    body = orjson.loads(as_json.value)
    assert body["status"] == "answered"
    assert body["output"] == "391"
    assert body["metadata"] == {"ticket": "7"}
    assert set(body) == set(Result.model_fields)
    as_avro = end(assignment=assignment(), completion=completion(), request_content_type=AVRO)
    assert as_avro.content_type == AVRO
    assert read(as_avro) == read(as_json)


@pytest.mark.parametrize("status", [Status.REFUSED, Status.FAILED, Status.EXPIRED])
def test_an_answer_that_was_not_accepted_is_not_given_out(status: Status):
    emit = end(
        status=status,
        error_code="guardrail.low-confidence",
        reason="too unsure",
        assignment=assignment(),
        completion=completion(),
        verdicts=[Verdict(check="logprob/1", action=Action.ESCALATE, score=-1.5)],
    )
    result = read(emit)
    assert b"391" not in emit.value
    assert (result.output, result.output_sha256) == (None, "")
    assert result.cost_micros == 15
    assert result.verdicts[0].score == -1.5
    assert (result.error_code, result.reason) == ("guardrail.low-confidence", "too unsure")


def test_an_answer_under_a_reference():
    result = read(end(assignment=assignment(), completion=completion(output_text="", output_dataref="blob:1")))
    assert (result.output, result.output_dataref) == (None, "blob:1")


def test_a_request_that_ended_at_intake():
    result = read(end(status=Status.DUPLICATE, duplicate_of="r-0", receipt=RECEIPT, registry_number=8))
    assert (result.status, result.duplicate_of, result.steps, result.registry_number) == ("duplicate", "r-0", 0, 8)
    assert result.session == "s-1"
    assert result.confidence is None


def test_a_step_that_never_ran_counts_as_handed_out():
    result = read(end(status=Status.EXPIRED, assignment=assignment()))
    assert (result.steps, result.attempts, result.cost_micros) == (2, 2, 10)


def test_agreement_goes_before_log_probability():
    assert read(end(assignment=assignment(), completion=completion(agreement=0.6))).confidence == 0.6


@pytest.mark.parametrize(
    ("logprob", "confidence"), [(1000.0, 1.0), (0.0, 1.0), (float("-inf"), 0.0), (float("nan"), None)]
)
def test_no_log_probability_keeps_a_request_from_ending(logprob: float, confidence: float | None):
    assert read(end(assignment=assignment(), completion=completion(mean_logprob=logprob))).confidence == confidence


def test_a_long_reason_is_cut():
    assert len(read(end(status=Status.FAILED, reason="x" * 9_000)).reason) == MAX_REASON_CHARS


def test_without_a_request_id_nothing_can_end():
    with pytest.raises(ValueError, match="request-id"):
        end(headers=[("x", b"y")])
