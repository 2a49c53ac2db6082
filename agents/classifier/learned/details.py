"""Finer features of how a prompt is made: its options, numbers, sentences and small words.

They say how hard a question is rather than what it's about: long options, many quantities, a negated question. All are
computed on the part of a prompt that the n-grams see, too.
"""

import re
from typing import Final

from agents.classifier.features import HEAD, TAIL

_OPTION: Final = re.compile(r"^[ \t]*\(?([A-Ja-j])[).:][ \t]*(.*)$", re.MULTILINE)
_NUMBER: Final = re.compile(r"\d[\d,]*\.?\d*")
_SENTENCE: Final = re.compile(r"[.!?](?:\s|$)")
_SHOUTED: Final = re.compile(r"\b(?:NOT|EXCEPT|LEAST)\b")
_LONG_WORD: Final = 9
_MOST_NUMBERS: Final = 60
_LARGEST: Final = 1e9
"""Larger numbers count as this: a phone number is not a difficulty."""


def _kinds(*words: str) -> dict[bytes, int]:
    return {word.encode(): kind for kind, text in enumerate(words) for word in text.split()}


_SMALL: Final = _kinds(
    "not except least never false incorrect no none neither",
    "half third quarter twice double triple fifth tenth halves thirds quarters",
    "more less fewer than older younger times many much",
    "percent percentage",
    "hour hours minute minutes day days week weeks month months year years second seconds",
    "if when then after before each every per rest remaining total altogether average",
    "first second third next finally another also",
    "why how because cause effect explain",
    "you your yourself",
    "i me my we our",
    "please could can would thanks",
)
_SMALL_WORDS: Final = frozenset(_SMALL)
_SMALL_KINDS: Final = max(_SMALL.values()) + 1

_FLAT: Final = bytes(
    code if chr(code).isalnum() or code >= 128 or code in b"'" else 32 for code in bytes(range(256)).lower()
)
"""Lower case; punctuation becomes a space."""
_SHAPE: Final = bytes(65 if 65 <= code <= 90 else 32 if code in b" \n\t" else 97 for code in range(256))
"""A for a capital, a space for a space, a for the rest: words with a capital are then counted in one go."""

NAMES: Final = (
    "options",
    "option_mean",
    "option_longest",
    "option_shortest",
    "option_spread",
    "options_with_number",
    "options_capital",
    "options_one_number",
    "question_chars",
    "question_words",
    "word_mean",
    "word_longest",
    "long_words",
    "capitals",
    "capital_share",
    "shouted",
    "blanks",
    "bars",
    "quotes",
    "numbers",
    "number_largest",
    "numbers_broken",
    "numbers_different",
    "numbers_large",
    "numbers_small",
    "sentences",
    "words_per_sentence",
    "fractions",
    "percents",
    "commas",
    "brackets",
    "equals",
    "powers",
    "ends_question",
    "ends_colon",
    "different_words",
    "negations",
    "parts",
    "comparisons",
    "percent_words",
    "times",
    "conditions",
    "steps",
    "whys",
    "you",
    "me",
    "courtesy",
)
"""Names of the columns."""


def details(text: str) -> tuple[float, ...]:
    """The features of a prompt, in the order of ``NAMES``.

    Args:
        text: What is asked.
    """
    if len(text) > HEAD + TAIL:
        text = f"{text[:HEAD]}\n{text[-TAIL:]}"
    options = _OPTION.findall(text) if "\n" in text else []
    question = text[: _start_of_options(text)] if len(options) > 1 else text
    return (*_of_options([body for _, body in options]), *_of_question(question))


def _start_of_options(text: str) -> int:
    found = _OPTION.search(text)
    return found.start() if found is not None and found.start() > 0 else len(text)


def _of_options(options: list[str]) -> tuple[float, ...]:
    if not options:
        return (0.0,) * 8
    lengths = [len(option) for option in options]
    mean = sum(lengths) / len(lengths)
    numbers = [len(_NUMBER.findall(option)) for option in options]
    return (
        float(len(options)),
        mean,
        float(max(lengths)),
        float(min(lengths)),
        (sum((length - mean) ** 2 for length in lengths) / len(lengths)) ** 0.5,
        float(sum(map(bool, numbers))),
        float(sum(option[:1].isupper() for option in options)),
        float(
            sum(count == 1 and length < 14 for count, length in zip(numbers, lengths, strict=True))  # a bare number
        ),
    )


def _of_question(question: str) -> tuple[float, ...]:
    raw = question.encode("utf-8", "replace")
    words = raw.translate(_FLAT).split()
    count = max(len(words), 1)
    lengths = list(map(len, words)) or [0]
    different = set(words)
    small = [0] * _SMALL_KINDS
    for word in _SMALL_WORDS.intersection(different):
        small[_SMALL[word]] += words.count(word)
    capitals = raw.translate(_SHAPE).count(b" A")
    numbers = [_value(found) for found in _NUMBER.findall(question)[:_MOST_NUMBERS]]
    sentences = len(_SENTENCE.findall(question))
    stripped = question.rstrip()
    counted = raw.count
    return (
        float(len(question)),
        float(len(words)),
        sum(lengths) / count,
        float(max(lengths)),
        sum([length >= _LONG_WORD for length in lengths]) / count,
        float(capitals),
        capitals / count,
        float(len(_SHOUTED.findall(question))),
        float(counted(b"__")),
        float(counted(b"|")),
        float(counted(b'"')),
        float(len(numbers)),
        max(numbers, default=0.0),
        float(sum([number % 1 != 0 for number in numbers])),
        float(len(set(numbers))),
        float(sum([number >= 100 for number in numbers])),
        float(sum([number <= 10 for number in numbers])),
        float(sentences),
        len(words) / max(sentences, 1),
        float(counted(b"/")),
        float(counted(b"%")),
        float(counted(b",")),
        float(counted(b"(")),
        float(counted(b"=")),
        float(counted(b"^") + counted(b"\\")),
        float(stripped.endswith("?")),
        float(stripped.endswith(":")),
        len(different) / count,
        *map(float, small),
    )


def _value(digits: str) -> float:
    return min(float(digits.replace(",", "").rstrip(".") or 0), _LARGEST)
