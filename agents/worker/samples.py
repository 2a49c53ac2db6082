"""One step, several calls: majority vote over samples, final answers, and programs that a model wrote. Pure."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from agents.worker.local.arithmetic import text_of, value_in

MARKER: Final = "Answer:"
"""What prompts ask a model to write before its final answer."""

_CHOICE = re.compile(r"^(?:option|choice)?\s*\(?([a-h])(?:[).:]|\)?$)", re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")
_LONGEST_NUMBER: Final = 1_000
"""Characters; a longer one is compared as text (Python refuses to read some thousand digits)."""
_DECORATION = re.compile(r"[*_`$\\]|^\s*#+|^[\"']+|[\"'.!]+$")


@dataclass(frozen=True, slots=True)
class Vote:
    """Which sample stands for all.

    Attributes:
        index: Of the first sample that gave the answer most samples gave.
        agreement: Share of all samples, failed ones included, that gave this answer.
    """

    index: int
    agreement: float


def final_answer(text: str, marker: str = MARKER) -> str:
    """What follows the last marker, up to the end of its line; the last line with anything in it without a marker."""
    at = _behind(text, marker)
    if at is not None:
        lines = [line for line in text[at:].strip().splitlines() if line.strip()]
        return lines[0].strip() if lines else ""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


def marked_answer(text: str, marker: str = MARKER) -> str:
    """What follows the last marker; the whole text where there is no marker, or nothing behind it."""
    return (final_answer(text, marker) if _behind(text, marker) is not None else "") or text


def _behind(text: str, marker: str) -> int | None:
    """Where the last marker ends, in whatever case it is written; lower case can be longer than the text itself."""
    *_, last = (None, *re.finditer(re.escape(marker), text, re.IGNORECASE))
    return last.end() if last is not None else None


def normalised(text: str, marker: str = MARKER) -> str:
    """The final answer in a form in which equal answers are equal: a letter, a number, or words."""
    answer = _DECORATION.sub("", _DECORATION.sub("", final_answer(text, marker))).strip()
    if choice := _CHOICE.match(answer):
        return choice[1].upper()
    numbers = _NUMBER.findall(answer)
    if len(numbers) == 1 and len(numbers[0]) <= _LONGEST_NUMBER:
        return str(Fraction(numbers[0].replace(",", "")))
    return " ".join(re.findall(r"\w+", answer.casefold()))


def vote(texts: Sequence[str | None], marker: str = MARKER) -> Vote | None:
    """Majority over the samples' final answers; None if no sample has one.

    Args:
        texts: Answer of each sample, None where it failed. Among equally frequent answers the earliest one wins.
        marker: Stands before final answers.
    """
    ballots = [None if text is None else normalised(text, marker) or None for text in texts]
    counts = Counter(ballot for ballot in ballots if ballot is not None)
    if not counts:
        return None
    winner = max(counts, key=lambda ballot: (counts[ballot], -ballots.index(ballot)))
    return Vote(ballots.index(winner), counts[winner] / len(ballots))


def computed(text: str, question: str) -> str | None:
    """The value of the program that a model answered with, in the form in which the question wants it.

    Args:
        text: The model's answer.
        question: Text of the last user turn.

    Returns:
        None if the answer holds nothing that can be computed: it stands as it is.
    """
    value = value_in(text)
    if value is None:
        return None
    return f"{MARKER} {text_of(value)}" if MARKER.lower() in question.lower() else text_of(value)
