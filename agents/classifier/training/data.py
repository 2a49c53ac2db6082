"""The labelled data that the project carries, read and checked."""

import gzip
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from agents.classifier.cues import CLASSES
from agents.classifier.training.words import FILE as WORDS_FILE
from agents.classifier.training.words import Meanings, read_meanings
from schemas.enums import TaskClass
from schemas.errors import InputError

OWN: Final = "own"
"""Source of the prompts written for this project."""
LABELLED: Final = "labels"
"""Source of labelled prompts of one's own traffic: few, so they must not drown in those of the project."""
OURS: Final = frozenset({OWN, LABELLED})
"""Sources in the style of production: they weigh more, are laid out in several ways and never left out."""
FOLDS: Final = 5

DOMAINS: Final = ("mathematics", "computing", "science", "health", "humanities", "social", "business_law", "other")
_DOMAIN_OF_LETTER: Final = dict(zip("mcshuobx", DOMAINS, strict=True))
_OWN_LINE: Final = re.compile(r"([mcshuobx])(!?)\|(.+)")

_CLASS_NAMES: Final = frozenset(each.value for each in CLASSES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A prompt, with the labels that its source gives it; empty or None where it gives none."""

    source: str
    text: str
    fold: int
    label: TaskClass | None = None
    domain: str = ""
    subject: str = ""
    intent: str = ""
    personal: bool | None = None
    weak: float | None = None
    """Quality of a weak model's answer."""
    strong: float | None = None
    """Quality of a strong model's answer."""
    scores: Mapping[str, float] | None = None
    """Quality of each model's answer, by the model's name."""
    counts: float = 1.0
    """How much of a prompt this row is for the class; see ``variants``."""
    variant: bool = False
    """Whether it's another prompt in another layout: trained on, never scored."""


def rows_of(path: Path, *, comments: bool = False) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Line numbers and objects of a JSON-lines file, packed (``.gz``) or not.

    Args:
        path: The file.
        comments: Whether lines that begin with ``#`` are passed over.

    Raises:
        InputError: The file isn't there, or a line is no JSON object; names the line.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip() or (comments and line.startswith("#")):
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise InputError(f"{path}:{number}: is no JSON object")
                yield number, row
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file") from error
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: can't be read as JSON lines: {error}") from error


def read_prompts(path: Path) -> list[Prompt]:
    """Prompts of a labelled file, of any of the shapes that ``docs/classifier.md`` describes.

    Raises:
        InputError: A line lacks its prompt, or holds a label that isn't one; names line and field.
    """
    return [_prompt(row, f"{path}:{number}", number) for number, row in rows_of(path)]


def _prompt(row: Mapping[str, Any], where: str, number: int) -> Prompt:
    text = row.get("prompt")
    if not isinstance(text, str):
        raise InputError(f"{where}: field prompt must be a text")
    label = row.get("label") or row.get("class")
    if label is not None and label not in _CLASS_NAMES:
        raise InputError(f"{where}: label {label!r} is none of {', '.join(sorted(_CLASS_NAMES))}")
    scores = row.get("scores")
    if scores is not None and not isinstance(scores, dict):
        raise InputError(f"{where}: field scores must map models to numbers")
    source = str(row.get("source", ""))
    return Prompt(
        source=source,
        text=text,
        fold=_whole(row.get("fold", number % FOLDS), "fold", where),
        label=TaskClass(label) if label else None,
        domain=str(row.get("domain") or ""),
        subject=str(row.get("subject") or ""),
        intent=_intent(row, source),
        personal=bool(row["personal"]) if "personal" in row else None,
        weak=_number(row.get("weak"), "weak", where),
        strong=_number(row.get("strong"), "strong", where),
        scores={str(model): _number(score, "scores", where) or 0.0 for model, score in scores.items()}
        if scores
        else None,
    )


def _number(value: object, field: str, where: str) -> float | None:
    if value is None:
        return None
    if not isinstance(value, (int, float)):
        raise InputError(f"{where}: field {field} must be a number, is {value!r}")
    return float(value)


def _whole(value: object, field: str, where: str) -> int:
    if not isinstance(value, int):
        raise InputError(f"{where}: field {field} must be a whole number, is {value!r}")
    return value


def read_own(folder: Path) -> list[Prompt]:
    """The prompts written for this project: one file per class, one prompt a line.

    A line is a letter for the domain, ``!`` if the prompt holds personal data, ``|``, and the prompt; backslash and n
    stand for a line break.

    Raises:
        InputError: A line has another form; names it.
    """
    prompts = []
    for path in sorted(folder.glob("*.txt")):
        if path.stem not in _CLASS_NAMES:
            raise InputError(f"{path}: no task class is called {path.stem}")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            found = _OWN_LINE.fullmatch(line)
            if found is None:
                raise InputError(f"{path}:{number}: must be 'letter|prompt', letter one of mcshuobx")
            letter, mark, text = found.groups()
            prompts.append(
                Prompt(
                    source=OWN,
                    text=text.replace("\\n", "\n"),
                    fold=number % FOLDS,
                    label=TaskClass(path.stem),
                    domain=_DOMAIN_OF_LETTER[letter],
                    personal=mark == "!",
                )
            )
    if not prompts:
        raise InputError(f"{folder}: holds no prompts")
    return prompts


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """All that the model is trained on."""

    classes: Sequence[Prompt]
    """With a task class; those of our own last."""
    pairs: Sequence[Prompt]
    multi: Sequence[Prompt]
    personal: Sequence[Prompt]
    meanings: Meanings | None = None
    """Vectors of words; without them a word that no prompt holds says nothing."""


def read_labels(path: Path) -> list[Prompt]:
    """Labelled prompts of one's own traffic: all of a class together count about as much as those of this project.

    Raises:
        InputError: A line has no label, or is wrong; names it.
    """
    prompts = read_prompts(path)
    for number, prompt in enumerate(prompts, 1):
        if prompt.label is None:
            raise InputError(f"{path}: prompt {number} has no label")
    return [replace(prompt, source=LABELLED) for prompt in prompts]


def read_corpus(folder: Path, labels: Sequence[Path] = ()) -> Corpus:
    """The data of a folder laid out as ``data/routing``.

    Args:
        folder: The folder.
        labels: Files of labelled prompts of one's own traffic.

    Raises:
        InputError: A file is missing or wrong; names it.
    """
    more = [prompt for path in labels for prompt in read_labels(path)]
    return Corpus(
        classes=[*read_prompts(folder / "classes.jsonl.gz"), *read_own(folder / "own"), *more],
        pairs=read_prompts(folder / "pairs.jsonl.gz"),
        multi=read_prompts(folder / "multi.jsonl.gz"),
        personal=read_prompts(folder / "personal.jsonl.gz"),
        meanings=read_meanings(folder / WORDS_FILE),
    )


def _intent(row: Mapping[str, Any], source: str) -> str:
    """The kind of customer request, in bitext's categories; those of banking77 by a word in their name."""
    if source == "bitext":
        return str(row.get("category") or "").lower()
    if source != "banking77":
        return ""
    name = str(row.get("intent") or "").lower()
    return next((kind for word, kind in _BANKING if word in name), "account")


_BANKING: Final = (
    ("top_up", "top_up"),
    ("topping", "top_up"),
    ("refund", "refund"),
    ("charge", "fee"),
    ("fee", "fee"),
    ("exchange", "exchange"),
    ("cash", "cash"),
    ("atm", "cash"),
    ("transfer", "transfer"),
    ("beneficiary", "transfer"),
    ("identity", "identity"),
    ("verify", "identity"),
    ("pin", "card"),
    ("passcode", "account"),
    ("card", "card"),
    ("payment", "payment"),
    ("pay", "payment"),
)
"""Word in the name of a banking77 intent -> kind; the first that fits counts."""
