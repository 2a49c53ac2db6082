"""``derive``: from one flow record to the provenance events it proves. Pure.

The events say what the flow itself acted on: nothing is asked for, nothing is looked up. Running it again on the same
record gives the same events with the same ids.
"""

from collections.abc import Sequence
from typing import Any

import orjson
from msgspec import Struct

from schemas.edges import Feedback, Result
from schemas.enums import Action, EventType
from schemas.flow import Assignment, Attempt, Completion, Decision, ProvenanceEvent, Slip
from schemas.ids import derived_id

GUARDRAIL = "guardrail"

CLASSIFICATION = "classification"
BEFORE_THE_STEPS = -1
"""Step index of what was done to choose the plan."""
ENDED_BEFORE_A_STEP = 0
"""``Result.steps`` of a request that ended at intake."""


class Origin(Struct, frozen=True, kw_only=True):
    """Where a flow record came from, as its headers and coordinates say."""

    record_id: str
    """ce_id."""
    request_id: str
    root_id: str
    tenant: str
    data_class: str
    source: str
    """ce_source: /stage/topic/partition of what the emitting stage had read."""
    epoch: int
    sequence: int
    causation_id: str
    delivery_mode: str
    traceparent: str
    time_ms: int
    """ce_time, or the record's timestamp where a producer sent none."""
    topic: str
    """Logical topic."""
    partition: int
    offset: int
    timestamp_ms: int

    @property
    def stage(self) -> str:
        """Stage that emitted the record."""
        return self.source.split("/", 2)[1] if self.source.startswith("/") else ""


class _Builder:
    """Numbers the events of one record."""

    def __init__(self, origin: Origin, recorded_ms: int) -> None:
        self.events: list[ProvenanceEvent] = []
        self._origin = origin
        self._recorded_ms = recorded_ms

    def add(self, event_type: EventType, *, stage: str | None = None, time_ms: int | None = None, **more: Any) -> None:
        origin, part = self._origin, len(self.events)
        self.events.append(
            ProvenanceEvent(
                event_id=derived_id("event", origin.record_id, str(part)),
                event_type=event_type,
                request_id=origin.request_id,
                root_id=origin.root_id,
                tenant=origin.tenant,
                time_ms=origin.time_ms if time_ms is None else time_ms,
                recorded_ms=self._recorded_ms,
                stage=origin.stage if stage is None else stage,
                source=origin.source,
                epoch=origin.epoch,
                sequence=origin.sequence,
                part=part,
                causation_id=origin.causation_id,
                record_id=origin.record_id,
                data_class=origin.data_class,
                delivery_mode=origin.delivery_mode,
                traceparent=origin.traceparent,
                src_topic=origin.topic,
                src_partition=origin.partition,
                src_offset=origin.offset,
                src_timestamp_ms=origin.timestamp_ms,
                **more,
            )
        )


def from_assignment(
    origin: Origin, assignment: Assignment, decision: Decision | None, slip: Slip, recorded_ms: int
) -> list[ProvenanceEvent]:
    """A step was handed out: the first one proves acceptance and decision, a later one the verdict that led to it.

    Args:
        origin: Of the record.
        assignment: Its value.
        decision: Decoded from the assignment; needed for the first step only.
        slip: Decoded from the assignment.
        recorded_ms: Unix milliseconds.
    """
    build = _Builder(origin, recorded_ms)
    step = slip.steps[assignment.step_index]
    common: dict[str, Any] = {
        "plan_id": assignment.plan_id,
        "plan_hash": assignment.plan_hash,
        "task_class": assignment.task_class,
        "registry_number": assignment.registry_chosen,
        "registry_checked": assignment.registry_checked,
    }
    if assignment.step_index == 0 and decision is not None and not assignment.parent_step:
        build.add(
            EventType.REQUEST_ACCEPTED,
            time_ms=assignment.accepted_at_ms,
            detail=_json({"source": assignment.source, "deadline_ms": assignment.deadline_ms}),
        )
        build.add(
            EventType.ROUTE_DECIDED, time_ms=decision.decided_at_ms, **(common | _decision(decision, step.step_id))
        )
        _asked(build, decision, common)
        return build.events
    parent = next((index for index, each in enumerate(slip.steps) if each.step_id == assignment.parent_step), -1)
    build.add(
        EventType.GUARDRAIL_EVALUATED,
        time_ms=assignment.assigned_at_ms,
        step_id=assignment.parent_step,
        step_index=parent,
        status=Action.ESCALATE.value,
        reason=_worst_reason(orjson.loads(assignment.verdicts)),
        detail=_json({"verdicts": orjson.loads(assignment.verdicts)}),
        **common,
    )
    build.add(
        EventType.STEP_ASSIGNED,
        time_ms=assignment.assigned_at_ms,
        step_id=assignment.step_id,
        step_index=assignment.step_index,
        tier=assignment.tier,
        model=step.models[0] if step.models else "",
        prompt=step.prompt,
        reason=f"after {assignment.parent_step}",
        **common,
    )
    return build.events


def _asked(build: _Builder, decision: Decision, common: dict[str, Any]) -> None:
    """Calls that the classifier made to find the class: they are paid for like those of a step."""
    asked = orjson.loads(decision.signals).get("llm") or {}
    for number, call in enumerate(asked.get("calls", ()), 1):
        build.add(
            EventType.MODEL_ATTEMPTED,
            time_ms=call["started_at_ms"],
            step_id=CLASSIFICATION,
            step_index=BEFORE_THE_STEPS,
            model=asked["model"],
            provider=asked.get("provider", ""),
            status=call["outcome"],
            error_code=call.get("failure", ""),
            reason=call["error"],
            operation_key=call["operation_key"],
            attempt=number,
            tokens_in=call["tokens_in"],
            tokens_out=call["tokens_out"],
            estimated_micros=call.get("estimated_micros", 0),
            billed_micros=call["billed_micros"],
            cpu_us=call["cpu_us"],
            duration_ms=call["duration_ms"],
            detail=_json({"heard": asked["heard"], "claim_owner": call.get("claim_owner", "")}),
            **common,
        )


def _decision(decision: Decision, step_id: str) -> dict[str, Any]:
    rows: list[dict[str, Any]] = [
        {
            "plan": plan,
            "tier": tier,
            "model": model,
            "quality": quality,
            "cost_micros": cost,
            "score": score,
            "propensity": propensity,
        }
        | ({"excluded": excluded} if excluded else {})
        for plan, tier, model, quality, cost, score, propensity, excluded in zip(
            decision.candidate_plan or ("",) * len(decision.candidate_tier),
            decision.candidate_tier,
            decision.candidate_model,
            decision.candidate_quality,
            decision.candidate_cost_micros,
            decision.candidate_score,
            decision.candidate_propensity,
            decision.candidate_excluded,
            strict=True,
        )
    ]
    return {
        "step_id": step_id,
        "step_index": 0,
        "route_id": decision.route_id,
        "rule_id": decision.rule_id,
        "tier": decision.tier,
        "model": decision.model,
        "confidence": decision.confidence,
        "propensity": next((float(row["propensity"]) for row in rows if row["plan"] == decision.plan_id), 0.0),
        "classifier_version": decision.classifier_version,
        "experiment": decision.experiment,
        "arm": decision.arm,
        "policy_hash": decision.policy_hash,
        "registry_hash": decision.registry_hash,
        "status": decision.stage,
        "detail": _json(
            {
                "candidates": rows,
                "class_confidence": decision.class_confidence,
                "feature_hash": decision.feature_hash,
                "signals": orjson.loads(decision.signals),
                "thresholds": dict(decision.thresholds),
                "seed": decision.seed,
            }
        ),
    }


def from_completion(
    origin: Origin, completion: Completion, attempts: Sequence[Attempt], recorded_ms: int
) -> list[ProvenanceEvent]:
    """A step came to an end: one event for each call, failed ones too."""
    build = _Builder(origin, recorded_ms)
    for attempt in attempts:
        build.add(
            EventType.MODEL_ATTEMPTED,
            time_ms=attempt.started_at_ms,
            step_id=completion.step_id,
            step_index=completion.step_index,
            tier=completion.tier,
            model=attempt.requested_model,
            responding_model=attempt.responding_model,
            provider=attempt.provider,
            provider_request_id=attempt.provider_request_id,
            region=attempt.region,
            status=attempt.outcome.value,
            error_code=attempt.failure,
            reason=attempt.error,
            operation_key=attempt.operation_key,
            attempt=attempt.number,
            tokens_in=attempt.tokens_in,
            tokens_cached=attempt.tokens_in_cached,
            tokens_out=attempt.tokens_out,
            tokens_reasoning=attempt.tokens_reasoning,
            price_version=attempt.price_version,
            currency=attempt.currency,
            estimated_micros=attempt.estimated_micros,
            billed_micros=attempt.billed_micros,
            cpu_us=attempt.cpu_us,
            duration_ms=attempt.duration_ms,
            content_sha256=completion.output_sha256,
            registry_checked=completion.registry_checked,
            detail=_json(
                {
                    "finish_reason": attempt.finish_reason.value,
                    "claim_owner": attempt.claim_owner,
                    "mean_logprob": attempt.mean_logprob,
                    "temperature": attempt.temperature,
                    "seed": attempt.seed,
                    "cached_from": attempt.cached_from,
                    "http_status": attempt.http_status,
                }
            ),
        )
    return build.events


def from_result(origin: Origin, result: Result, recorded_ms: int) -> list[ProvenanceEvent]:
    """A request ended. One that ended at intake was accepted there, too; what the guardrail ended, it evaluated."""
    build = _Builder(origin, recorded_ms)
    if result.steps == ENDED_BEFORE_A_STEP:
        build.add(EventType.REQUEST_ACCEPTED, time_ms=result.accepted_at_ms, detail=_json({"source": result.source}))
    verdicts = [verdict.model_dump(mode="json") for verdict in result.verdicts]
    common: dict[str, Any] = {
        "plan_id": result.plan_id,
        "route_id": result.route_id,
        "task_class": result.task_class,
        "tier": result.tier,
        "model": result.model,
        "registry_number": result.registry_number,
    }
    if origin.stage == GUARDRAIL:
        build.add(
            EventType.GUARDRAIL_EVALUATED,
            time_ms=result.ended_at_ms,
            step_index=result.steps - 1,
            status=max((verdict.action for verdict in result.verdicts), key=_severity, default=Action.ALLOW).value,
            reason=_worst_reason(verdicts),
            detail=_json({"verdicts": verdicts, "redactions": [item.model_dump() for item in result.redactions]}),
            **common,
        )
    build.add(
        EventType.REQUEST_ENDED,
        time_ms=result.ended_at_ms,
        status=result.status.value,
        error_code=result.error_code,
        reason=result.reason,
        confidence=result.confidence or 0.0,
        attempt=result.attempts,
        tokens_in=result.tokens_in,
        tokens_out=result.tokens_out,
        billed_micros=result.cost_micros,
        currency=result.currency,
        cpu_us=result.cpu_us,
        duration_ms=result.ended_at_ms - result.accepted_at_ms,
        content_sha256=result.output_sha256,
        detail=_json(
            {
                "steps": result.steps,
                "escalations": result.escalations,
                "order_relaxed": result.order_relaxed,
                "duplicate_of": result.duplicate_of,
            }
        ),
        **common,
    )
    return build.events


def from_dead_letter(
    origin: Origin, *, code: str, message: str, disposition: str, place: str, recorded_ms: int
) -> list[ProvenanceEvent]:
    """A record was given up.

    Args:
        origin: Of the dead letter; its stage is the one that gave up.
        code: Stable error code.
        message: What was wrong.
        disposition: poison or exhausted.
        place: Coordinates of the original record.
        recorded_ms: Unix milliseconds.
    """
    build = _Builder(origin, recorded_ms)
    build.add(
        EventType.DEAD_LETTER_PARKED,
        status=disposition,
        error_code=code,
        reason=message,
        detail=_json({"original": place}),
    )
    return build.events


def from_feedback(origin: Origin, feedback: Feedback, recorded_ms: int) -> list[ProvenanceEvent]:
    """Somebody said something about a result."""
    build = _Builder(origin, recorded_ms)
    build.add(
        EventType.FEEDBACK_RECEIVED,
        time_ms=feedback.given_at_ms,
        status="" if feedback.correct is None else ("right" if feedback.correct else "wrong"),
        confidence=feedback.rating or 0.0,
        reason=feedback.reason,
        detail=_json({"kind": feedback.kind, "author": feedback.author, "feedback_id": feedback.feedback_id}),
    )
    return build.events


_SEVERITY = {action: rank for rank, action in enumerate(Action)}


def _severity(action: Action) -> int:
    return _SEVERITY[action]


def _worst_reason(verdicts: Sequence[dict[str, Any]]) -> str:
    """The reason of the most severe verdict, the first of equals."""
    worst = max(verdicts, key=lambda verdict: _SEVERITY.get(verdict["action"], 0), default=None)
    return "" if worst is None else str(worst.get("reason", ""))


def _json(value: dict[str, Any]) -> str:
    """Compact JSON without what does not apply."""
    kept = {key: entry for key, entry in value.items() if entry is not None and entry != ""}
    return orjson.dumps(kept).decode()
