"""What the demonstration sends, and whether an answer is right."""

import importlib.util
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from schemas.errors import ConfigurationError
from tierflow.requests_file import RequestLine, read_requests

OVERSIZED_CHARS: Final = 300_000
"""Above the inline cap of 256 KiB. Made here, because nobody wants such a line in a file."""

Score = Callable[[Mapping[str, Any], str], int]
"""1 if an answer is right, from a row with ``check`` and the answer's text."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A line of the workload.

    Attributes:
        line: As published.
        label: Class that the data names, or what is special about it.
        question: Id of a question whose answer can be checked; empty if it can't.
        check: How.
        source: Data set.
    """

    line: RequestLine
    label: str
    question: str
    check: Mapping[str, Any] | None
    source: str


def load_workload(path: Path, *, sample: int | None = None, seed: int = 0) -> list[Asked]:
    """The requests of a file, and one that is too large.

    Args:
        path: JSON lines as ``tierflow.requests_file`` reads them; ``_note`` holds class, question and check.
        sample: Ordinary requests to draw, spread over the classes; special ones are always sent. None takes all.
        seed: Of the draw.

    Raises:
        ConfigurationError: There is no such file.
        InputError: Names the line that is wrong.
    """
    if not path.is_file():
        raise ConfigurationError(f"no file {path}: run this in a checkout of the project, or name one with --requests")
    everything = [_asked(line) for line in read_requests(path)]
    if sample is not None:
        everything = _drawn(everything, sample, seed)
    everything.append(
        Asked(
            RequestLine(value={"prompt": "Summarise this: " + "many words " * (OVERSIZED_CHARS // 11)}),
            "oversized",
            "",
            None,
            "",
        )
    )
    return everything


def load_score(path: Path) -> Score:
    """The program that checks answers, from the folder of the requests.

    Raises:
        ConfigurationError: It isn't there.
    """
    spec = importlib.util.spec_from_file_location("tierflow_check", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigurationError(f"no checker {path}: it belongs beside the requests")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    score: Score = module.score
    return score


def _asked(line: RequestLine) -> Asked:
    note = line.note if isinstance(line.note, dict) else {}
    return Asked(
        line,
        str(note.get("class") or note.get("case") or "other"),
        str(note.get("question", "")),
        note.get("check"),
        str(note.get("source", "")),
    )


def _drawn(everything: Sequence[Asked], sample: int, seed: int) -> list[Asked]:
    by_class: dict[str, list[Asked]] = defaultdict(list)
    for each in everything:
        if each.source:
            by_class[each.label].append(each)
    draw = random.Random(seed)
    for rows in by_class.values():
        draw.shuffle(rows)
    kept: list[Asked] = []
    while len(kept) < sample and any(by_class.values()):
        for label in sorted(by_class):
            if by_class[label] and len(kept) < sample:
                kept.append(by_class[label].pop())
    chosen = {each.line.number for each in kept}
    return [each for each in everything if not each.source or each.line.number in chosen]
