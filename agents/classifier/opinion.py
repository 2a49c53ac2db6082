"""A language model's word on what a request is, and how it is weighed against the trained model's. Pure.

It is asked where the trained model is unsure, several times with the classes in another order each time: a model that
follows the order contradicts itself. What all samples agree on counts as one observation that is right as often as
``RELIABLE`` says, together with what the trained model thought.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from msgspec import structs

from agents.classifier.cues import CLASSES
from agents.classifier.judged import LLM, Judged
from agents.classifier.sample import Sample
from schemas.catalogue import Model
from schemas.enums import Outcome, TaskClass
from schemas.flow import Assignment, Attempt

RELIABLE: Final = 0.8
"""Share of classes that are right where the samples of a language model agree. Set by hand, on the careful side."""
MOST: Final = 0.95
"""A confidence that this stage gives at most."""


class Heard(StrEnum):
    """What came of asking."""

    AGREED = "agreed"
    """All samples named one class."""
    SPLIT = "split"
    """They did not; the request goes on as if nobody had been asked."""
    UNREADABLE = "unreadable"
    """An answer was no name of a class."""
    FAILED = "failed"
    LATE = "late"
    """Time was up."""
    BUSY = "busy"
    """Too many calls were in flight."""
    RESTING = "resting"
    """The model failed a moment ago, and is left alone for a while."""
    BARRED = "barred"
    """Policies, the data class, a limit on cost or the deadline forbid it."""
    UNCLAIMED = "unclaimed"
    """The state store did not answer: a call that can't be booked is not made."""
    UNKNOWN = "unknown"
    """A classifier died, or is at work, while it asked; nobody is asked again."""


_TOLD: Final = (
    "outcome",
    "operation_key",
    "claim_owner",
    "started_at_ms",
    "duration_ms",
    "tokens_in",
    "tokens_out",
    "estimated_micros",
    "billed_micros",
    "cpu_us",
    "failure",
    "error",
)
"""Of a call, beside a decision: decisions travel with each step."""
_WITHOUT: Final = {
    Heard.BUSY: "too many calls were in flight",
    Heard.UNCLAIMED: "the state store did not answer in time",
}
"""Why a call was not made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """What a language model says of one request, or why it says nothing.

    Attributes:
        model: Who was asked, ``id@version``.
        provider: Where.
        heard: What came of it.
        task_class: What it took the request for, if the samples agree.
        confidence: In that, or in what the trained model said where that weighs more.
        calls: All calls that were made, or may have been.
        reason: Why nothing came of it, for people.
    """

    model: str
    provider: str = ""
    heard: Heard
    task_class: TaskClass | None = None
    confidence: float = 0.0
    calls: tuple[Attempt, ...] = ()
    reason: str = ""

    @property
    def micros(self) -> int:
        """What asking cost."""
        return sum(call.billed_micros for call in self.calls)

    def over(self, judged: Judged | None) -> Judged | None:
        """The trained model's word with this one's class; unchanged where there is none."""
        if self.task_class is None:
            return judged
        if judged is None:
            return Judged(
                task_class=self.task_class, confidence=self.confidence, drift=0.0, version=self.model, stage=LLM
            )
        return replace(
            judged,
            task_class=self.task_class,
            confidence=self.confidence,
            version=f"{judged.version} {self.model}",
            stage=LLM,
        )

    def told(self) -> dict[str, object]:
        """For the record beside a decision; calls as the audit agent reads them."""
        said: dict[str, object] = {"model": self.model, "heard": self.heard.value}
        if self.task_class is not None:
            said |= {"task_class": self.task_class.value, "confidence": round(self.confidence, 4)}
        if self.reason:
            said["reason"] = self.reason
        if self.calls:
            said["provider"] = self.provider
            said["calls"] = [{name: getattr(call, name) for name in _TOLD} for call in self.calls]
        return said


def weighed(
    samples: Sequence[TaskClass | None], guess: TaskClass, confidence: float
) -> tuple[Heard, TaskClass | None, float]:
    """One word from all samples and what was thought before.

    Args:
        samples: What each named; None for one that named no class.
        guess: What the trained model, or the surface, took the request for.
        confidence: In that guess.

    Returns:
        What was heard; if it was ``AGREED``, the likeliest class now and the probability that it's right.
    """
    if any(each is None for each in samples):
        return Heard.UNREADABLE, None, 0.0
    ((said, votes),) = Counter(samples).most_common(1)
    if said is None or votes < len(samples):
        return Heard.SPLIT, None, 0.0
    others = len(CLASSES) - 1
    doubt, slip = (1 - confidence) / others, (1 - RELIABLE) / others
    # Each class: how likely it was, times how likely this word is of it. The rest are alike.
    odds = {guess: confidence * slip}
    odds[said] = (confidence if said is guess else doubt) * RELIABLE
    rest = (len(CLASSES) - len(odds)) * doubt * slip
    best = max(odds, key=odds.__getitem__)
    return Heard.AGREED, best, min(odds[best] / (sum(odds.values()) + rest), MOST)


_HEARD: Final = {Outcome.TIMEOUT: Heard.LATE, Outcome.UNKNOWN: Heard.UNKNOWN}
"""What was heard of a call that brought no answer; ``FAILED`` where it isn't here."""


def concluded(model: Model, found: Sequence[Sample | Heard | None], guess: TaskClass, confidence: float) -> Opinion:
    """The opinion that samples amount to.

    Args:
        model: Who was asked.
        found: Each sample, or why it was not asked for; None for one that was not asked for before a crash.
        guess: What was thought before.
        confidence: In that.
    """
    samples = [each for each in found if isinstance(each, Sample)]
    calls = tuple(each.attempt for each in samples)
    bad = next((call for call in calls if call.outcome is not Outcome.OK), None)
    task_class, said, reason = None, 0.0, ""
    if bad is not None:
        heard, reason = _HEARD.get(bad.outcome, Heard.FAILED), bad.error or "how a call ended is not known"
    elif len(samples) < len(found):
        heard = next((each for each in found if isinstance(each, Heard)), Heard.UNKNOWN)
        reason = _WITHOUT.get(heard, "not all samples were asked for before a crash")
    else:
        heard, task_class, said = weighed([each.said for each in samples], guess, confidence)
    return Opinion(
        model=model.ref,
        provider=calls[0].provider if calls else model.endpoint,
        heard=heard,
        task_class=task_class,
        confidence=said,
        calls=calls,
        reason=reason,
    )


def totals(opinion: Opinion) -> dict[str, int]:
    """What asking took, by field of a result."""
    calls = opinion.calls
    return {
        "attempts": len(calls),
        "tokens_in": sum(call.tokens_in for call in calls),
        "tokens_out": sum(call.tokens_out for call in calls),
        "cost_micros": opinion.micros,
        "cpu_us": sum(call.cpu_us for call in calls),
    }


def charged(assignment: Assignment, opinion: Opinion) -> Assignment:
    """A first step with what asking cost: it counts like the calls of a step, and against the request's allowance."""
    left, took = assignment.cost_left_micros, totals(opinion)
    return structs.replace(
        assignment,
        spent_micros=assignment.spent_micros + took["cost_micros"],
        spent_cpu_us=assignment.spent_cpu_us + took["cpu_us"],
        spent_tokens_in=assignment.spent_tokens_in + took["tokens_in"],
        spent_tokens_out=assignment.spent_tokens_out + took["tokens_out"],
        attempts=assignment.attempts + took["attempts"],
        cost_left_micros=None if left is None else max(0, left - opinion.micros),
    )
