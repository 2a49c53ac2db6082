"""Routing against everything to one tier: the same questions, the same models, what came out right and what it cost."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from schemas.errors import InputError
from tierflow.demo.workload import Asked, Score

ROUTED = "routed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer to a question that can be checked.

    Attributes:
        arm: ``routed``, or the tier that everything was sent to.
        question: Id.
        status: How the request ended.
        answer: Its text; empty if there is none.
        model: What answered.
        tokens_in: Prompt tokens of all calls.
        tokens_out: Answer tokens of all calls.
        cost_micros: Price-like cost of all calls.
        cpu_us: CPU microseconds of the models.
    """

    arm: str
    question: str
    status: str
    answer: str
    model: str
    tokens_in: int
    tokens_out: int
    cost_micros: int
    cpu_us: int


@dataclass(frozen=True, slots=True)
class Arm:
    """One line of the comparison, over the questions that all arms have."""

    name: str
    questions: int
    right: int
    cost_micros: int
    cpu_s: float

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.right / self.questions if self.questions else 0.0


def read_recorded(path: Path) -> list[Answer]:
    """Recorded answers; none if there is no file.

    Raises:
        InputError: Names the line that can't be read.
    """
    if not path.is_file():
        return []
    answers = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            try:
                answers.append(Answer(**json.loads(line)))
            except (ValueError, TypeError) as error:
                raise InputError(f"{path}:{number}: no recorded answer: {error}") from error
    return answers


def write_recorded(path: Path, answers: Iterable[Answer]) -> None:
    """Add answers to a file, in place of earlier ones of the same arms."""
    fresh = list(answers)
    arms = {answer.arm for answer in fresh}
    kept = [answer for answer in read_recorded(path) if answer.arm not in arms]
    lines = [json.dumps(asdict(answer), ensure_ascii=False) for answer in (*kept, *fresh)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def compare(asked: Sequence[Asked], answers: Sequence[Answer], score: Score) -> list[Arm]:
    """The arms side by side.

    Args:
        asked: The workload.
        answers: Of this run and recorded ones.
        score: Checks an answer; recorded ones are checked anew, too.
    """
    checks = {each.question: each.check for each in asked if each.question and each.check is not None}
    arms: dict[str, dict[str, Answer]] = {}
    for answer in answers:
        if answer.question in checks:
            arms.setdefault(answer.arm, {})[answer.question] = answer
    if ROUTED not in arms:
        return []
    shared = set.intersection(*(set(found) for found in arms.values()))
    return [
        _arm(name, {question: found[question] for question in shared}, checks, score) for name, found in arms.items()
    ]


def _arm(
    name: str, found: Mapping[str, Answer], checks: Mapping[str, Mapping[str, object] | None], score: Score
) -> Arm:
    right = sum(
        score({"check": checks[question]}, answer.answer) for question, answer in found.items() if answer.answer
    )
    return Arm(
        name,
        len(found),
        right,
        sum(answer.cost_micros for answer in found.values()),
        sum(answer.cpu_us for answer in found.values()) / 1e6,
    )
