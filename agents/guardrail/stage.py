"""The guardrail as a stage: completions in; results, or the assignment of the next step, out."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import orjson

from agents.guardrail.checks import json_of
from agents.guardrail.core import Ruling, check, merge, outcome_of
from agents.plan import NO_LIMITS, End, Limits, Run, StepState, advance, onward
from agents.results import end_request
from registry.snapshot import Snapshot
from schemas.catalogue import Pattern
from schemas.codec import Codec
from schemas.edges import Request
from schemas.enums import Status
from schemas.errors import TierflowError, UndecodableError
from schemas.flow import Assignment, Completion, Slip
from schemas.headers import Name, propagate, read_context
from schemas.ids import derived_id
from streams.effects import DeadLetter, Disposition, Effects, Emit, View
from streams.records import InRecord
from streams.topics import COMPLETIONS, tier_topic

log = logging.getLogger(__name__)

NAME: Final = "guardrail"
_SLIPS: Final = 1024
"""Slips kept as bytes and as records: those of one plan are equal, and there are few plans."""


class GuardrailStage:
    """Checks what workers bring, and lets it out, hands it on or ends it.

    Args:
        codec: Reads and writes records.
    """

    def __init__(self, *, codec: Codec) -> None:
        self._codec = codec
        self._read_slips: dict[bytes, Slip] = {}
        self._next_slips: dict[tuple[bytes, int], tuple[Slip, bytes]] = {}

    @property
    def name(self) -> str:
        """``guardrail``."""
        return NAME

    @property
    def inputs(self) -> Sequence[str]:
        """Completions."""
        return (COMPLETIONS,)

    @property
    def concurrency(self) -> int:
        """0: it decides at once."""
        return 0

    async def start(self) -> None:
        """Nothing to open."""

    async def stop(self) -> None:
        """Nothing to close."""

    async def prepare(self, records: Sequence[InRecord], view: View[Snapshot]) -> None:
        """Nothing to look up: the completion carries all that is needed."""

    def handle(self, record: InRecord, view: View[Snapshot]) -> Effects:
        """Rule on an answer."""
        try:
            completion = self._codec.decode(Completion, record.value or b"")
            assignment = self._codec.decode(Assignment, completion.assignment)
            slip = self._slip(assignment.slip)
            _check_index(completion, assignment, slip)
        except UndecodableError as error:
            return self.fail(record, view, error)
        request = None
        if assignment.has_output_schema:
            request = self._codec.decode(Request, assignment.request, assignment.request_content_type)
        snapshot = view.rules
        ruling = merge(check(completion, slip.steps[slip.index], request, snapshot), snapshot.catalogue.policies)
        outcome = outcome_of(ruling, completion)
        may_go_on = slip.index < len(slip.steps) - 1 and (
            outcome.state is not StepState.ACCEPTED or slip.pattern == Pattern.PIPELINE.value
        )
        move = advance(
            slip,
            outcome,
            snapshot,
            view.now_ms,
            assignment.deadline_ms,
            limits=_limits(record, completion, assignment, snapshot) if may_go_on else NO_LIMITS,
        )
        if isinstance(move, Run):
            return Effects(outputs=(self._go_on(record, view, completion, assignment, ruling, move.index),))
        return Effects(outputs=(self._end(record, view, completion, assignment, ruling, move),))

    def _slip(self, raw: bytes) -> Slip:
        found = self._read_slips.get(raw)
        if found is None:
            if len(self._read_slips) >= _SLIPS:
                self._read_slips.clear()
            found = self._read_slips[raw] = self._codec.decode(Slip, raw)
        return found

    def _next_slip(self, raw: bytes, index: int) -> tuple[Slip, bytes]:
        found = self._next_slips.get((raw, index))
        if found is None:
            if len(self._next_slips) >= _SLIPS:
                self._next_slips.clear()
            slip = onward(self._slip(raw), index)
            found = self._next_slips[raw, index] = slip, self._codec.encode(slip)
        return found

    def _go_on(
        self,
        record: InRecord,
        view: View[Snapshot],
        completion: Completion,
        assignment: Assignment,
        ruling: Ruling,
        index: int,
    ) -> Emit:
        """The assignment of a later step; it carries what was spent so far and why it came to that."""
        slip, slip_bytes = self._next_slip(assignment.slip, index)
        step = slip.steps[slip.index]
        following = replace(
            assignment,
            slip=slip_bytes,
            step_id=step.step_id,
            step_index=slip.index,
            parent_step=assignment.step_id,
            tier=step.tier,
            assigned_at_ms=view.now_ms,
            cost_left_micros=_cost_left(completion, assignment),
            registry_checked=view.rules.number,
            order_relaxed=True,
            spent_micros=assignment.spent_micros + completion.billed_micros,
            spent_cpu_us=assignment.spent_cpu_us + completion.cpu_us,
            spent_tokens_in=assignment.spent_tokens_in + completion.tokens_in,
            spent_tokens_out=assignment.spent_tokens_out + completion.tokens_out,
            attempts=assignment.attempts + len(completion.attempts),
            verdicts=orjson.dumps([verdict.model_dump(mode="json") for verdict in ruling.verdicts]).decode(),
        )
        return Emit(
            topic=tier_topic(step.tier),
            key=record.key,
            value=self._codec.encode(following),
            record="assignment",
            id=derived_id("assignment", assignment.request_id, str(slip.index)),
            headers=propagate(record.headers),
            causation_id=_record_id(record),
            content_type=self._codec.content_type,
        )

    def _end(
        self,
        record: InRecord,
        view: View[Snapshot],
        completion: Completion,
        assignment: Assignment,
        ruling: Ruling,
        end: End,
    ) -> Emit:
        if end.status is Status.ANSWERED and assignment.has_output_schema:
            completion = _bare_json(completion)
        return end_request(
            headers=record.headers,
            key=record.key,
            status=end.status,
            now_ms=view.now_ms,
            mode=view.mode,
            codec=self._codec,
            source=assignment.source,
            accepted_at_ms=assignment.accepted_at_ms,
            request_content_type=assignment.request_content_type,
            causation_id=_record_id(record),
            error_code=end.code,
            reason=end.reason,
            assignment=assignment,
            completion=completion,
            verdicts=ruling.verdicts,
        )

    def fail(self, record: InRecord, view: View[Snapshot], error: TierflowError) -> Effects:
        """A dead letter, and a ``failed`` result as far as the record can be read. Never raises."""
        poison = isinstance(error, UndecodableError)
        letter = DeadLetter(
            code=error.code,
            message=str(error),
            disposition=Disposition.POISON if poison else Disposition.EXHAUSTED,
        )
        assignment: Assignment | None = None
        completion: Completion | None = None
        try:
            completion = self._codec.decode(Completion, record.value or b"")
            assignment = self._codec.decode(Assignment, completion.assignment)
        except TierflowError:
            pass  # the result says what the headers say
        try:
            end = end_request(
                headers=record.headers,
                key=record.key,
                status=Status.FAILED,
                now_ms=view.now_ms,
                mode=view.mode,
                codec=self._codec,
                source=assignment.source if assignment else "",
                accepted_at_ms=assignment.accepted_at_ms if assignment else 0,
                request_content_type=assignment.request_content_type if assignment else self._codec.content_type,
                causation_id=_record_id(record),
                error_code=error.code,
                reason=str(error),
                assignment=assignment,
                completion=completion,
            )
        except Exception:
            log.exception("no result could be written for %s/%d/%d", record.topic, record.partition, record.offset)
            return Effects(dead_letters=(letter,))
        return Effects(outputs=(end,), dead_letters=(letter,))


def _check_index(completion: Completion, assignment: Assignment, slip: Slip) -> None:
    indexes = {completion.step_index, assignment.step_index, slip.index}
    if len(indexes) > 1 or not 0 <= slip.index < len(slip.steps):
        raise UndecodableError(
            f"Completion: step {completion.step_index}, its assignment step {assignment.step_index}, the slip step "
            f"{slip.index} of {len(slip.steps)}"
        )


def _limits(record: InRecord, completion: Completion, assignment: Assignment, snapshot: Snapshot) -> Limits:
    """What a further step must keep to; an unknown tenant may use nothing."""
    context = read_context(record.headers)
    tenant = snapshot.tenant(context.tenant)
    return Limits(
        data_class=context.data_class,
        tiers=frozenset() if tenant is None else tenant.tiers,
        cost_left_micros=_cost_left(completion, assignment),
    )


def _cost_left(completion: Completion, assignment: Assignment) -> int | None:
    left = assignment.cost_left_micros
    return None if left is None else max(0, left - completion.billed_micros)


def _bare_json(completion: Completion) -> Completion:
    """The answer without the code fence that its schema knows nothing of."""
    text = json_of(completion.output_text)
    if text == completion.output_text or completion.output_dataref is not None:
        return completion
    return replace(completion, output_text=text, output_sha256=hashlib.sha256(text.encode()).hexdigest())


def _record_id(record: InRecord) -> str:
    for name, raw in reversed(record.headers):
        if name == Name.CE_ID.value:
            return raw.decode("utf-8", "replace")
    return ""
