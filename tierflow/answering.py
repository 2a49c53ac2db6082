"""Asking models labelled questions directly, and keeping what came of it: resumable, one line an answer."""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from agents.classifier.training.data import rows_of
from agents.worker.providers import Providers
from schemas.catalogue import Catalogue, Model, ProviderKind
from schemas.errors import InputError, ProviderError
from schemas.ports import ChatMessage, ModelCall
from tierflow.environment import callable_models

SYSTEM: Final = "Answer briefly."
TIMEOUT: Final = timedelta(minutes=2)
MOST_TOKENS: Final = 256
"""Where a question names no budget of its own."""
KEPT_CHARS: Final = 400
"""Of an answer: enough to see what went wrong."""

Score = Callable[[Mapping[str, Any], str], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question whose answer a program checks."""

    row: Mapping[str, Any]

    @property
    def id(self) -> str:
        """Stable name."""
        return str(self.row["id"])


def read_questions(path: Path) -> list[Question]:
    """The questions of a file.

    Raises:
        InputError: A line lacks ``id``, ``prompt`` or ``check``, or an id occurs twice.
    """
    found: dict[str, Question] = {}
    for number, row in rows_of(path):
        for field, kind in (("id", str), ("prompt", str), ("check", dict)):
            if not isinstance(row.get(field), kind):
                raise InputError(f"{path}:{number}: field {field} must be a {kind.__name__}")
        question = Question(row=row)
        if question.id in found:
            raise InputError(f"{path}:{number}: id {question.id} occurs twice")
        found[question.id] = question
    return list(found.values())


def general_models(catalogue: Catalogue, wanted: Sequence[str] = ()) -> list[Model]:
    """The models that answer anything; those named only, if any are.

    Raises:
        InputError: The catalogue has none of a name.
    """
    models = [
        model
        for model in callable_models(catalogue)
        if model.kind is not ProviderKind.PYTHON and model.task_classes is None
    ]
    unknown = set(wanted) - {name for model in models for name in (model.id, model.ref)}
    if unknown:
        raise InputError(f"catalogue {catalogue.name} has no general model {', '.join(sorted(unknown))}")
    return [model for model in models if not wanted or {model.id, model.ref} & set(wanted)]


def answered(path: Path) -> set[tuple[str, str]]:
    """Ids and models of answers that are in a file already; a last line that was cut off doesn't count."""
    if not path.is_file():
        return set()
    raw = path.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    if len(whole) < len(raw):  # ended in the middle of a line: it's asked again
        path.write_bytes(whole)
    return {(str(row.get("id")), str(row.get("model"))) for _, row in rows_of(path)}


async def ask_all(
    questions: Iterable[Question],
    models: Sequence[Model],
    providers: Providers,
    score: Score,
    out: Path,
    tell: Callable[[str], None],
) -> int:
    """Ask every model every question that has no answer yet, one at a time, so that CPU time is that of one answer.

    Returns:
        How many answers were added. A question that a provider fails on is left for the next run.
    """
    done = answered(out)
    todo = [(model, question) for model in models for question in questions if (question.id, model.ref) not in done]
    added = 0
    with out.open("a", encoding="utf-8") as file:
        for number, (model, question) in enumerate(todo, 1):
            try:
                row = await _ask(model, question, providers, score)
            except ProviderError as error:
                tell(f"{question.id}, {model.ref}: {error}; left for the next run")
                continue
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            added += 1
            if number % 20 == 0 or number == len(todo):
                tell(f"{number} of {len(todo)} answers")
    return added


async def _ask(model: Model, question: Question, providers: Providers, score: Score) -> dict[str, Any]:
    row = question.row
    call = ModelCall(
        model=model.name,
        messages=(ChatMessage(role="system", content=SYSTEM), ChatMessage(role="user", content=row["prompt"])),
        timeout=TIMEOUT,
        operation_key=f"eval-{question.id}-{model.ref}",
        max_tokens=int(row.get("max_tokens", MOST_TOKENS)),
        temperature=0.0,
    )
    start = time.monotonic()
    answer = await providers.of(model).complete(call)
    return {
        "id": question.id,
        "source": row.get("source", ""),
        "class": row.get("class", ""),
        "prompt": row["prompt"],
        "model": model.ref,
        "correct": score(row, answer.text),
        "prompt_tokens": answer.tokens_in,
        "completion_tokens": answer.tokens_out,
        "finish": answer.finish_reason.value,
        "wall_s": round(time.monotonic() - start, 4),
        "cpu_s": round(answer.cpu_us / 1e6, 4),
        "answer": answer.text[:KEPT_CHARS],
    }
