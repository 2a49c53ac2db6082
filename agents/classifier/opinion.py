"""A language model's word on what a request is, and how it is weighed against the trained model's. Pure.

It is asked where the trained model is unsure, several times with the classes in another order each time: a model that
follows the order contradicts itself. What all samples agree on counts as one observation that is right as often as
``RELIABLE`` says, together with what the trained model thought.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, NamedTuple

from msgspec import structs

from agents.classifier.cues import CLASSES
from agents.classifier.judged import LLM, Judged
from schemas.enums import Outcome, TaskClass
from schemas.flow import Assignment

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


class Call(NamedTuple):
    """One call, as the request's story tells it.

    Attributes:
        outcome: How it ended.
        operation_key: Names it.
        started_at_ms: Unix milliseconds.
        duration_ms: Milliseconds.
        tokens_in: Prompt tokens.
        tokens_out: Answer tokens.
        billed_micros: What it cost; what was expected of it where it timed out.
        cpu_us: CPU microseconds of a local model.
        error: What went wrong, without content.
    """

    outcome: Outcome
    operation_key: str
    started_at_ms: int
    duration_ms: int
    tokens_in: int = 0
    tokens_out: int = 0
    billed_micros: int = 0
    cpu_us: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """What a language model says of one request, or why it says nothing.

    Attributes:
        model: Who was asked, ``id@version``.
        provider: Where.
        heard: What came of it.
        task_class: What it took the request for, if the samples agree.
        confidence: In that, or in what the trained model said where that weighs more.
        calls: All calls that were made.
        reason: Why nothing came of it, for people.
    """

    model: str
    provider: str = ""
    heard: Heard
    task_class: TaskClass | None = None
    confidence: float = 0.0
    calls: tuple[Call, ...] = ()
    reason: str = ""

    @property
    def micros(self) -> int:
        """What asking cost."""
        return sum(call.billed_micros for call in self.calls)

    @property
    def spent(self) -> dict[str, int]:
        """What all calls add up to, by the names of a result's fields."""
        return {
            "attempts": len(self.calls),
            "tokens_in": sum(call.tokens_in for call in self.calls),
            "tokens_out": sum(call.tokens_out for call in self.calls),
            "cost_micros": self.micros,
            "cpu_us": sum(call.cpu_us for call in self.calls),
        }

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
            said["calls"] = [call._asdict() for call in self.calls]
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


def charged(assignment: Assignment, opinion: Opinion) -> Assignment:
    """A first step with what asking cost: it counts like the calls of a step, and against the request's allowance."""
    left = assignment.cost_left_micros
    return structs.replace(
        assignment,
        spent_micros=assignment.spent_micros + opinion.micros,
        spent_cpu_us=assignment.spent_cpu_us + sum(call.cpu_us for call in opinion.calls),
        spent_tokens_in=assignment.spent_tokens_in + sum(call.tokens_in for call in opinion.calls),
        spent_tokens_out=assignment.spent_tokens_out + sum(call.tokens_out for call in opinion.calls),
        attempts=assignment.attempts + len(opinion.calls),
        cost_left_micros=None if left is None else max(0, left - opinion.micros),
    )
