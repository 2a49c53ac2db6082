"""What becomes of an answer: checks give verdicts, ``merge`` makes one ruling of them, the plan moves on. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from agents.guardrail.checks import CHECKS, DOUBTS, FORM, OUTCOME, Subject, outcome
from agents.plan import StepOutcome, StepState
from registry.snapshot import Snapshot
from schemas.catalogue import Policies
from schemas.edges import Redaction, Request, Verdict
from schemas.enums import Action
from schemas.errors import DeniedError, ProviderError
from schemas.flow import Completion, Step

SEVERITY: Final = {action: rank for rank, action in enumerate(Action)}
"""The order in which the actions are declared."""
_LET_THROUGH: Final = frozenset({Action.ALLOW, Action.OBSERVE})
_CANT_DO: Final = frozenset({Action.REDACT, Action.REVIEW})
"""Actions that nobody can take yet. They end as refused: an answer that somebody should have looked at or changed must
not go out as it is."""

LOW_CONFIDENCE: Final = "guardrail.low-confidence"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """What all checks together ask for."""

    action: Action
    verdicts: tuple[Verdict, ...]
    """The most severe first; the order in which they came in doesn't matter."""
    redactions: tuple[Redaction, ...] = ()


def check(completion: Completion, step: Step, request: Request | None, snapshot: Snapshot) -> list[Verdict]:
    """Look at what a step brought.

    Args:
        completion: Of the step.
        step: As pinned in the slip: its thresholds hold.
        request: Needed only if it asks for an output schema.
        snapshot: The latest one: its policies hold.
    """
    subject = Subject(
        completion=completion,
        step=step,
        output_schema=request.output_schema if request else None,
        snapshot=snapshot,
    )
    failed = outcome(subject)
    if failed is not None:
        return [failed]
    return [verdict for each in CHECKS if (verdict := each(subject)) is not None]


def merge(verdicts: Iterable[Verdict], policies: Policies) -> Ruling:
    """One ruling from all verdicts: the most severe action wins.

    Args:
        verdicts: In any order.
        policies: Say what follows from an answer that is not in order.
    """
    ordered = sorted((_by_policy(verdict, policies) for verdict in verdicts), key=_order)
    return Ruling(action=ordered[0].action if ordered else Action.ALLOW, verdicts=tuple(ordered))


def _by_policy(verdict: Verdict, policies: Policies) -> Verdict:
    action = policies.on_invalid_output
    if verdict.check in FORM and verdict.action is Action.ESCALATE and action is not Action.ESCALATE:
        return verdict.model_copy(update={"action": action})
    return verdict


def _order(verdict: Verdict) -> tuple[int, bool, str, str, str, bool, float]:
    """The most severe first; of equal ones, what is wrong before what is doubted, then by name."""
    return (
        -SEVERITY[verdict.action],
        verdict.check in DOUBTS,
        verdict.check,
        verdict.rule_id,
        verdict.reason,
        verdict.score is not None,
        verdict.score or 0.0,
    )


def outcome_of(ruling: Ruling, completion: Completion) -> StepOutcome:
    """How the step ended, as the plan wants to know it."""
    if ruling.action in _LET_THROUGH:
        return StepOutcome(state=StepState.ACCEPTED)
    worst = ruling.verdicts[0]
    if ruling.action is Action.REFUSE:
        return StepOutcome(state=StepState.REFUSED, code=DeniedError.code, reason=_told(worst))
    if ruling.action in _CANT_DO:
        reason = f"{_told(worst)}; policies ask to {ruling.action.value}, which can't be done yet"
        return StepOutcome(state=StepState.REFUSED, code=DeniedError.code, reason=reason)
    if worst.check == OUTCOME:
        code = f"{ProviderError.code}.{(completion.failure or completion.outcome.value).replace('_', '-')}"
        return StepOutcome(state=StepState.FAILED, code=code, reason=worst.reason)
    if worst.check in DOUBTS:
        return StepOutcome(state=StepState.DOUBTED, code=LOW_CONFIDENCE, reason=_told(worst))
    return StepOutcome(state=StepState.INVALID, code=f"guardrail.{_name(worst)}", reason=_told(worst))


def _name(verdict: Verdict) -> str:
    return verdict.check.partition("/")[0].replace("_", "-")


def _told(verdict: Verdict) -> str:
    return f"{_name(verdict)}: {verdict.reason}" if verdict.reason else _name(verdict)
