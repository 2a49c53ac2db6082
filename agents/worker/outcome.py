"""Attempts and completions: what is recorded of calls, and how it is added up. Pure."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from msgspec.structs import replace

from agents.worker.core import Choice, Work, bill
from agents.worker.prompting import output_parts
from schemas.catalogue import ProviderKind
from schemas.enums import FinishReason, Outcome
from schemas.errors import FailureClass, ProviderError
from schemas.flow import Attempt, Completion
from schemas.ports import ModelAnswer

NOTHING_CALLED: Final = b""
"""Note of a claim under which no call was made or is about to be."""

_ANSWERED: Final = range(200, 300)  # statuses of what providers charge for
_TIMED_OUT_ABOVE: Final = 500  # statuses from here on come from a gateway behind which the model went on working


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """What came of one sample's calls.

    Attributes:
        attempts: All of them, in order.
        answer: Of the last attempt, if it was good.
        model: Its ``id@version``.
        failure: Why there is no answer.
        error: The same for people.
    """

    attempts: tuple[Attempt, ...]
    answer: ModelAnswer | None = None
    model: str = ""
    failure: str = ""
    error: str = ""

    @property
    def spent(self) -> int:
        """Micro-units billed for the attempts."""
        return sum(attempt.billed_micros for attempt in self.attempts)


def begun(choice: Choice, *, number: int, owner: str, now_ms: int) -> Attempt:
    """A call that is about to be made, as it is to be recorded if nobody ever hears how it ended."""
    model, call = choice.model, choice.call
    return Attempt(
        operation_key=call.operation_key,
        number=number,
        claim_owner=owner,
        requested_model=model.ref,
        provider=model.kind.value if model.kind is ProviderKind.PYTHON else model.endpoint,
        region=model.region,
        outcome=Outcome.UNKNOWN,
        started_at_ms=now_ms,
        duration_ms=0,
        price_version=model.price.version,
        currency=model.price.currency,
        estimated_micros=choice.cost_micros,
        billed_micros=choice.cost_micros,
        temperature=call.temperature,
        seed=call.seed,
    )


def answered(attempt: Attempt, choice: Choice, answer: ModelAnswer, duration_ms: int) -> Attempt:
    """The attempt with its answer. An answer that is none (filtered, empty) makes it a failed one, paid for."""
    failure = flaw(answer)
    return replace(
        attempt,
        responding_model=answer.model,
        provider_request_id=answer.provider_request_id,
        region=answer.region or attempt.region,
        outcome=Outcome.OK if failure is None else Outcome.FAILED,
        failure="" if failure is None else failure.value,
        error="" if failure is None else f"{attempt.provider}: {_FLAWS[failure]}",
        finish_reason=answer.finish_reason,
        duration_ms=duration_ms,
        tokens_in=answer.tokens_in,
        tokens_in_cached=answer.tokens_in_cached,
        tokens_out=answer.tokens_out,
        tokens_reasoning=answer.tokens_reasoning,
        billed_micros=bill(answer, choice.model.price, attempt.estimated_micros),
        cpu_us=answer.cpu_us,
        sources=answer.sources,
        mean_logprob=answer.mean_logprob,
    )


_FLAWS: Final = {
    FailureClass.CONTENT_REFUSAL: "declined to answer",
    FailureClass.BAD_OUTPUT: "answered nothing",
}


def flaw(answer: ModelAnswer) -> FailureClass | None:
    """Why a proper reply is no answer; None if it is one. A truncated answer is left to the guardrail."""
    if answer.finish_reason is FinishReason.CONTENT_FILTER:
        return FailureClass.CONTENT_REFUSAL
    empty = not answer.tool_calls and not answer.text.strip()
    return FailureClass.BAD_OUTPUT if empty and answer.finish_reason is not FinishReason.LENGTH else None


def failed(attempt: Attempt, error: ProviderError, duration_ms: int) -> Attempt:
    """The attempt with its failure.

    A call given up by time may have been answered, and one that was answered with what can't be read was: the reserved
    cost of both stands.
    """
    timed_out, status = error.failure is FailureClass.TIMEOUT, error.status
    answered = error.failure is FailureClass.BAD_OUTPUT and status is not None and status in _ANSWERED
    paid = answered or (timed_out and (status is None or status >= _TIMED_OUT_ABOVE))
    return replace(
        attempt,
        provider_request_id=error.provider_request_id,
        outcome=Outcome.TIMEOUT if timed_out else Outcome.FAILED,
        failure=error.failure.value,
        error=str(error),
        http_status=error.status or 0,
        duration_ms=duration_ms,
        billed_micros=attempt.estimated_micros if paid else 0,
        cpu_us=error.cpu_us,
    )


def capped(outcomes: Outcomes, text: str, most_bytes: int) -> Outcomes:
    """The same, or without its answer if that is more than a record may hold."""
    parts = "" if outcomes.answer is None else output_parts(outcomes.answer.tool_calls)
    # A character is four bytes at most: only long outputs have to be counted.
    if (len(text) + len(parts)) * 4 <= most_bytes or (size := len(text.encode() + parts.encode())) <= most_bytes:
        return outcomes
    return Outcomes(
        attempts=outcomes.attempts,
        failure=FailureClass.BAD_OUTPUT.value,
        error=f"an answer of {size} bytes, at most {most_bytes} go into a record",
    )


def completion(
    work: Work,
    outcomes: Outcomes,
    attempts: Sequence[bytes],
    *,
    now_ms: int,
    checked: int,
    text: str,
) -> Completion:
    """The record of a step, or of one sample of it.

    Args:
        work: The step.
        outcomes: Of all its calls.
        attempts: The same attempts, encoded.
        now_ms: Unix milliseconds.
        checked: Latest snapshot whose prohibitions were checked.
        text: The step's output, made from the answer's text.
    """
    answer, done = outcomes.answer, outcomes.attempts
    last = Outcome.FAILED
    if answer is not None:
        last = Outcome.OK
    elif done and done[-1].outcome is not Outcome.OK:
        last = done[-1].outcome
    output = "" if answer is None else text
    return Completion(
        request_id=work.assignment.request_id,
        assignment=work.raw,
        step_id=work.step.step_id,
        step_index=work.assignment.step_index,
        tier=work.assignment.tier,
        outcome=last,
        failure=outcomes.failure,
        error=outcomes.error,
        attempts=tuple(attempts),
        output_text=output,
        output_parts="[]" if answer is None else output_parts(answer.tool_calls),
        output_sha256=digest(output),
        finish_reason=FinishReason.NONE if answer is None else answer.finish_reason,
        model=outcomes.model,
        mean_logprob=None if answer is None else answer.mean_logprob,
        min_logprob=None if answer is None else answer.min_logprob,
        tokens_in=sum(attempt.tokens_in for attempt in done),
        tokens_out=sum(attempt.tokens_out for attempt in done),
        billed_micros=outcomes.spent,
        cpu_us=sum(attempt.cpu_us for attempt in done),
        completed_at_ms=now_ms,
        registry_checked=checked,
    )


def unwritable(completion: Completion, reason: str) -> Completion:
    """The same without its answer, which the broker does not take: a failed step whose calls stay told."""
    return replace(
        completion,
        outcome=Outcome.FAILED,
        failure=FailureClass.BAD_OUTPUT.value,
        error=f"the answer can't be written: {reason}",
        output_text="",
        output_parts="[]",
        output_dataref=None,
        output_sha256="",
        finish_reason=FinishReason.NONE,
        model="",
        mean_logprob=None,
        min_logprob=None,
        agreement=None,
    )


def digest(output: str) -> str:
    """Hex SHA-256 of an output; empty for none."""
    return hashlib.sha256(output.encode()).hexdigest() if output else ""


def call_of(attempt: Attempt) -> tuple[str, str, int]:
    """Tells one call from all others, whatever is known of its end."""
    return attempt.operation_key, attempt.claim_owner, attempt.started_at_ms


def note_of(attempts: Sequence[Attempt]) -> bytes:
    """What the next owner of a claim should know: the calls made under it, the one about to be made last."""
    return msgspec.json.encode(attempts) if attempts else NOTHING_CALLED


def read_note(note: bytes | None) -> tuple[Attempt, ...]:
    """The calls that a dead owner made; the last one's end is unknown, unless it made none."""
    return msgspec.json.decode(note, type=tuple[Attempt, ...]) if note else ()
