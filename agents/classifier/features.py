"""Surface features of a prompt in one cheap pass, and what they say about its task class.

All features are whole numbers, so that their hash is the same on every machine. Words are looked for in the first and
last characters only: long prompts carry their instruction there, and the cost stays bounded.
"""

import hashlib
import re
import struct
from bisect import bisect_right
from itertools import pairwise
from math import inf
from typing import Final, NamedTuple

from agents.classifier.cues import (
    CHAT,
    CLASSES,
    CODE,
    EXTRACT,
    KNOWN,
    MATH,
    PAIRS,
    PHRASES,
    QA,
    REASONING,
    SUPPORT,
    WORDS,
)
from schemas.enums import TaskClass

HEAD: Final = 1000
TAIL: Final = 500
"""Characters looked at from the start and the end of a longer prompt."""
OPENING: Final = 14
"""Words at the start whose cues count twice: there stands what is wanted."""

_FLAT: Final = bytes(
    code if chr(code).isalnum() or code >= 128 or code in b"+'-" else 32 for code in bytes(range(256)).lower()
)
"""Lower case; punctuation becomes a space; bytes of other scripts stay."""
_DIGITS: Final = b"0123456789"
_OPERATORS: Final = b"+*/=^<>"
_CODE_MARKS: Final = b"{}[];_`#"
_UPPER: Final = bytes(range(65, 91))
_HIGH: Final = bytes(range(128, 256))

_MONEY: Final = b"$%"
_NUMBERS: Final = bytes(code if code in _DIGITS or code in b".," else 32 for code in range(256))

# The patterns below run only where a cheap look says that they may find something.
_CHOICES = re.compile(rb"[\s(]([A-Ea-e])[).:]\s?(?=\S)")
_LABELS = re.compile(rb"^[A-Z][\w ]{1,24}:", re.MULTILINE)
_ITEMS = re.compile(rb"^[ \t]*(?:[-*]|\d{1,2}[.)])[ \t]", re.MULTILINE)
_FORMULA = re.compile(rb"\\[a-z]+|[a-z)]\^|\b[xyzn\d)] ?[-+=*/^] ?[\dxyzn(]\b|\d[xyn]\b")
_CODE_SIGNS: Final = (
    *(b"def |import |return |class |void |const |public |assert |print(".split(b"|")),
    *(b"()|==|->|=>|;\n|</|SELECT |):".split(b"|")),
)


class Features(NamedTuple):
    """The feature vector; a named tuple because one is made per request."""

    chars: int
    bytes: int
    words: int
    mean_word_tenths: int
    first_word: int
    """0 other, 1 question word, 2 instruction, 3 first person, 4 auxiliary verb (a yes-no question)."""
    ends_with_question: int
    starts_lower: int
    questions: int
    exclamations: int
    quotes: int
    lines: int
    paragraphs: int
    fences: int
    links: int
    brackets: int
    digits: int
    numbers: int
    operators: int
    code_marks: int
    code_patterns: int
    formulas: int
    money: int
    choices: int
    labels: int
    items: int
    upper: int
    high_bytes: int
    """Bytes beyond ASCII: another language or special signs."""
    math: int
    code: int
    writing: int
    qa: int
    reasoning: int
    extract: int
    support: int
    chat: int

    def hash(self) -> str:
        """SHA-256 of the vector, first 16 hex digits."""
        return hashlib.sha256(_PACK(*self)).hexdigest()[:16]


_PACK = struct.Struct(f"<{len(Features._fields)}i").pack
_LIMIT: Final = 2**31 - 1

_OPENERS: Final = {
    1: "who what when where which why how whose whom",
    2: """write create generate implement explain summarize classify find give make describe compute calculate solve
        list translate extract identify select tell read answer choose convert complete rewrite design develop""",
    3: "i my i'm i've we our",
    4: "is are was were do does did can could will would should has have am",
}
_FIRST: Final = {word.encode(): kind for kind, text in _OPENERS.items() for word in text.split()}


def _count(raw: bytes, kind: bytes) -> int:
    """How many bytes of ``raw`` are in ``kind``; deleting them is the fastest way to count."""
    return len(raw) - len(raw.translate(None, kind))


def extract(text: str) -> Features:
    """The features of a prompt.

    Args:
        text: What is asked: the text of the last user message.
    """
    chars = len(text)
    raw = text.encode("utf-8", "replace")
    size = len(raw)
    if chars > HEAD + TAIL:
        raw = f"{text[:HEAD]}\n{text[-TAIL:]}".encode("utf-8", "replace")
    flat = raw.translate(_FLAT)
    words = flat.split()
    count = len(words)
    points = [0] * len(CLASSES)
    for word in KNOWN.intersection(words):
        for column, value in WORDS[word]:
            points[column] += value
    for word in KNOWN.intersection(words[:OPENING]):
        for column, value in WORDS[word]:
            points[column] += value
    pairs = PAIRS.intersection(pairwise(words))
    if pairs:
        spaced = b" %s " % b" ".join(words)
        for pair in pairs:
            for phrase, column, value in PHRASES[pair]:
                if not phrase or phrase in spaced:
                    points[column] += value
    number_of, lines, brackets = raw.count, raw.count(b"\n"), raw.count(b"(")
    digits, operators, code_marks = _count(raw, _DIGITS), _count(raw, _OPERATORS), _count(raw, _CODE_MARKS)
    letters = len(flat) - flat.count(b" ")
    return Features(
        min(chars, _LIMIT),
        min(size, _LIMIT),
        count,
        letters * 10 // count if count else 0,
        _FIRST.get(words[0], 0) if words else 0,
        int(text.rstrip().endswith("?")),
        int(text[:1].islower()),
        number_of(b"?"),
        number_of(b"!"),
        number_of(b'"'),
        lines,
        number_of(b"\n\n") if lines else 0,
        number_of(b"```"),
        number_of(b"://"),
        brackets,
        digits,
        len(raw.translate(_NUMBERS).split()) if digits else 0,
        operators,
        code_marks,
        sum(raw.count(sign) for sign in _CODE_SIGNS) if brackets or code_marks else 0,
        len(_FORMULA.findall(raw)) if operators or b"\\" in raw else 0,
        _count(raw, _MONEY),
        len(set(_CHOICES.findall(raw))) if b"B)" in raw or b"B." in raw or b"b)" in raw or b"B:" in raw else 0,
        len(_LABELS.findall(raw)) if lines else 0,
        len(_ITEMS.findall(raw)) if lines else 0,
        _count(raw, _UPPER),
        _count(raw, _HIGH),
        *points,
    )


def _structure(f: Features, score: list[float]) -> None:
    """Points for what the words don't say: numbers, code, length, form of the question."""
    if f.numbers >= 2:
        score[MATH] += (6 if f.numbers * 5 >= f.words else 2) + min(f.formulas, 4) * 1.5 + (2 if f.money else 0)
    elif f.formulas:
        score[MATH] += min(f.formulas, 3) * 1.5
    score[CODE] += min(f.code_patterns, 5) * 1.5 + min(f.fences, 2) * 3 + (2 if f.code_marks >= 6 else 0)
    if f.choices >= 3:
        score[QA] += 4
        score[REASONING] += 3
        score[MATH] += 2
        score[EXTRACT] -= 5
        score[SUPPORT] -= 4
        score[CHAT] -= 6
    if f.chars > 500:
        score[EXTRACT] += 3
        score[SUPPORT] -= 6
        score[CHAT] -= 8
    if f.labels:
        score[EXTRACT] += min(f.labels, 3)
    if f.words <= 25 and not f.lines:
        score[EXTRACT] -= 3
        score[SUPPORT] += 2
        score[CHAT] += 2
        if f.first_word == 1:
            score[QA] += 3
        if f.first_word == 3:
            score[SUPPORT] += 3
        if f.numbers == 0:
            score[MATH] -= 2


def margin_class(features: Features) -> tuple[TaskClass, float]:
    """The class with most points, and by how many it leads."""
    score = [float(points) for points in features[-len(CLASSES) :]]
    _structure(features, score)
    best = max(score)
    column = score.index(best)
    score[column] = -inf
    return CLASSES[column], best - max(score)


CONFIDENCE: Final = (
    (0.0, 0.35),
    (1.0, 0.52),
    (2.0, 0.53),
    (3.0, 0.68),
    (4.0, 0.75),
    (6.0, 0.85),
    (8.0, 0.90),
    (10.0, 0.93),
    (13.0, 0.95),
)
"""Lead in points -> share of guesses that were right on sources that the table was not fitted on."""
_LEADS: Final = tuple(lead for lead, _ in CONFIDENCE)


def surface_class(features: Features) -> tuple[TaskClass, float]:
    """The class that surface features speak for, and how often such a guess is right.

    Without any word there is nothing to judge by: ``OTHER`` with confidence 0.
    """
    if not features.words:
        return TaskClass.OTHER, 0.0
    task_class, lead = margin_class(features)
    return task_class, CONFIDENCE[bisect_right(_LEADS, lead) - 1][1]
