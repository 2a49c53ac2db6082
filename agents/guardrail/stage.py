"""The guardrail as a stage: completions in; results, or the assignment of the next step, out."""

import hashlib
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import orjson
from msgspec.structs import replace

from agents.guardrail.checks import json_of
from agents.guardrail.core import Ruling, check, merge, outcome_of
from agents.plan import NO_LIMITS, End, Limits, Run, StepState, advance, onward
from agents.results import end_failed, end_request
from registry.snapshot import Snapshot
from schemas.catalogue import Pattern
from schemas.codec import Codec
from schemas.edges import Request
from schemas.enums import Status
from schemas.errors import FailureClass, TierflowError, UndecodableError
from schemas.flow import Assignment, Completion, Slip
from schemas.headers import Name, propagate, read_context
from schemas.ids import derived_id
from streams.effects import DeadLetter, Disposition, Effects, Emit, View
from streams.records import InRecord
from streams.retry import Due, Schedule
from streams.topics import COMPLETIONS, tier_topic

NAME: Final = "guardrail"
NO_RETRIES: Final = Schedule(delays=(), max_age=timedelta(0))
PASSING: Final = frozenset(
    each.value for each in (FailureClass.RATE_LIMIT, FailureClass.SERVER, FailureClass.TIMEOUT, FailureClass.CONNECTION)
)
"""Failures that pass without anybody's doing: after the tries in place, and other models, a retry topic may help."""
_SLIPS: Final = 1024
"""Slips kept as bytes and as records: those of one plan are equal, and there are few plans."""


class GuardrailStage:
    """Checks what workers bring, and lets it out, hands it on or ends it.

    A step whose providers failed in a way that passes is handed to a retry topic where one may still help, and from
    there, when it is due, to its tier once more.

    Args:
        codec: Reads and writes records.
        retries: When to try again; never if left out.
    """

    def __init__(self, *, codec: Codec, retries: Schedule = NO_RETRIES) -> None:
        self._codec = codec
        self._retries = retries
        self._read_slips: dict[bytes, Slip] = {}
        self._next_slips: dict[tuple[bytes, int], tuple[Slip, bytes]] = {}

    @property
    def name(self) -> str:
        """``guardrail``."""
        return NAME

    @property
    def inputs(self) -> Sequence[str]:
        """Completions, and what waits to be tried again."""
        return (COMPLETIONS, *self._retries.topics)

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
        """Rule on an answer; or hand out again what is due."""
        try:
            if due := _header(record, Name.DUE):
                return self._hand_out(record, _whole(due), view.now_ms)
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
        if move.status is Status.FAILED and completion.failure in PASSING:
            again = self._retries.after(
                _tries(record),
                request_id=completion.request_id,
                step_id=completion.step_id,
                now_ms=view.now_ms,
                accepted_at_ms=assignment.accepted_at_ms,
                deadline_ms=assignment.deadline_ms,
            )
            if again is not None:
                return Effects(outputs=(self._try_again(record, view, completion, assignment, ruling, again),))
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
            _spent(completion, assignment, ruling, view),
            slip=slip_bytes,
            step_id=step.step_id,
            step_index=slip.index,
            tier=step.tier,
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

    def _try_again(
        self,
        record: InRecord,
        view: View[Snapshot],
        completion: Completion,
        assignment: Assignment,
        ruling: Ruling,
        due: Due,
    ) -> Emit:
        """The same step once more, later: its earlier try is its parent, and what that spent is counted."""
        return Emit(
            topic=due.topic,
            key=record.key,
            value=self._codec.encode(_spent(completion, assignment, ruling, view)),
            record="assignment",
            id=derived_id("assignment", assignment.request_id, str(assignment.step_index), f"wait-{due.number}"),
            headers=[
                *propagate(record.headers),
                (Name.ATTEMPT.value, b"%d" % due.number),
                (Name.DUE.value, b"%d" % due.at_ms),
                (Name.RETRY_TO.value, tier_topic(assignment.tier).encode()),
            ],
            causation_id=_record_id(record),
            content_type=self._codec.content_type,
        )

    def _hand_out(self, record: InRecord, due_ms: int, now_ms: int) -> Effects:
        """What waited goes to its tier, as it is; a deadline that passed meanwhile is noticed there."""
        if now_ms < due_ms:
            return Effects(done=False, not_before_ms=due_ms)
        waited = _record_id(record)
        emit = Emit(
            topic=_header(record, Name.RETRY_TO),
            key=record.key,
            value=record.value or b"",
            record="assignment",
            id=derived_id("assignment", waited, "due"),
            headers=[*propagate(record.headers), (Name.ATTEMPT.value, b"%d" % _tries(record))],
            causation_id=waited,
            content_type=_header(record, Name.CONTENT_TYPE),
        )
        return Effects(outputs=(emit,))

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
            if _header(record, Name.DUE):
                assignment = self._codec.decode(Assignment, record.value or b"")
            else:
                completion = self._codec.decode(Completion, record.value or b"")
                assignment = self._codec.decode(Assignment, completion.assignment)
        except TierflowError:
            pass  # the result says what the headers say
        end = end_failed(record, view, self._codec, error, assignment, completion, causation_id=_record_id(record))
        return Effects(outputs=() if end is None else (end,), dead_letters=(letter,))


def _check_index(completion: Completion, assignment: Assignment, slip: Slip) -> None:
    indexes = {completion.step_index, assignment.step_index, slip.index}
    if len(indexes) > 1 or not 0 <= slip.index < len(slip.steps):
        raise UndecodableError(
            f"Completion: step {completion.step_index}, its assignment step {assignment.step_index}, the slip step "
            f"{slip.index} of {len(slip.steps)}"
        )


def _spent(completion: Completion, assignment: Assignment, ruling: Ruling, view: View[Snapshot]) -> Assignment:
    """The assignment after a step that ended without an answer: what was spent so far, and why it came to that."""
    return replace(
        assignment,
        parent_step=assignment.step_id,
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
    return _header(record, Name.CE_ID)


def _header(record: InRecord, name: Name) -> str:
    for key, raw in reversed(record.headers):
        if key == name:
            return raw.decode("utf-8", "replace")
    return ""


def _tries(record: InRecord) -> int:
    """Which try of its step a record belongs to, from 1."""
    return _whole(_header(record, Name.ATTEMPT) or "1")


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise UndecodableError(f"header: {text[:40]!r} is no whole number")
    return int(text)
