"""What each head should say of each prompt, and how much each prompt counts for it."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from agents.classifier.cues import CLASSES
from agents.classifier.learned.forest import Floats
from agents.classifier.training.data import DOMAINS, OURS, OWN, Corpus, Prompt
from agents.classifier.training.ridge import Targets

OWN_COUNTS: Final = 25.0
"""How many times as much as others a prompt of our own counts: they are the only ones in the style of production."""
EVENNESS: Final = 0.75
"""Power of a cell's size by which its prompts count less: with 1 all cells are worth the same, however large."""

CLASS_RIDGE, OTHER_RIDGE, SUBJECT_RIDGE, GAIN_RIDGE = 2.0, 1.0, 0.5, 10.0
"""Pull of the heads towards 0. The gain of a single question is mostly chance, so its head is pulled hardest."""

WORDS_ONLY: Final = ("subject", "gain")
"""Heads that see n-grams only: form is left to the trees, and vectors of words made them worse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """All prompts of a corpus in one order, and the heads."""

    prompts: Sequence[Prompt]
    heads: dict[str, tuple[str, ...]]
    """Labels of each head, in the order of the outputs."""
    class_rows: int
    """Rows with a task class; they come first."""
    pair_rows: int
    """Rows after those with a weak and a strong score."""


def labels_of(corpus: Corpus) -> Labels:
    """Line up the prompts and name the heads."""
    prompts = [*corpus.classes, *corpus.pairs, *corpus.personal]
    sources = sorted({_look_of(prompt) for prompt in corpus.classes} | {OWN, "gsm8k"})
    heads = {
        "class": tuple(each.value for each in CLASSES),
        "source": tuple(sources),
        "domain": DOMAINS,
        "intent": tuple(sorted({prompt.intent for prompt in corpus.classes if prompt.intent})),
        "sensitive": ("personal",),
        "subject": tuple(sorted({prompt.subject for prompt in corpus.pairs if _has_subject(prompt)})),
        "gain": ("gain",),
    }
    return Labels(prompts=prompts, heads=heads, class_rows=len(corpus.classes), pair_rows=len(corpus.pairs))


def columns_of(
    heads: dict[str, tuple[str, ...]], wanted: Sequence[str]
) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """Numbers of the outputs of some heads."""
    first = 0
    columns: list[int] = []
    for name, labels in heads.items():
        if name in wanted:
            columns += range(first, first + len(labels))
        first += len(labels)
    return np.array(columns, np.int64)


def targets_of(labels: Labels) -> Targets:
    """Values and weights of all heads for all prompts."""
    prompts, heads = labels.prompts, labels.heads
    outputs = sum(map(len, heads.values()))
    values, weights = np.zeros((2, len(prompts), outputs), np.float32)
    ridge, form = np.full(outputs, OTHER_RIDGE, np.float32), np.ones(outputs, np.float32)

    def one_of(name: str, of_rows: Sequence[str], counts: Floats) -> None:
        columns = columns_of(heads, (name,))
        place = dict(zip(heads[name], columns, strict=True))
        for row, label in enumerate(of_rows):
            if label:
                weights[row, columns] = counts[row]
                values[row, place[label]] = 1.0

    labelled = [prompt.label.value if prompt.label else "" for prompt in prompts]
    one_of("class", labelled, class_weights(prompts))
    # MMLU's questions with pair labels need not stand here: enough of them are among the class rows.
    sources = [_look_of(prompt) if prompt.label or prompt.source == "gsm8k" else "" for prompt in prompts]
    one_of("source", sources, np.array([prompt.counts for prompt in prompts], np.float32))
    domains = [prompt.domain for prompt in prompts]
    one_of("domain", domains, balanced([(prompt.source, prompt.domain) for prompt in prompts]))
    intents = [prompt.intent for prompt in prompts]
    one_of("intent", intents, balanced([(prompt.source, prompt.intent) for prompt in prompts]))
    subjects = [prompt.subject if _has_subject(prompt) else "" for prompt in prompts]
    one_of("subject", subjects, np.ones(len(prompts), np.float32))
    (sensitive,) = columns_of(heads, ("sensitive",))
    (gain,) = columns_of(heads, ("gain",))
    for row, prompt in enumerate(prompts):
        if prompt.personal is not None:
            values[row, sensitive], weights[row, sensitive] = prompt.personal, 1.0
        if _has_subject(prompt) and prompt.weak is not None and prompt.strong is not None:
            values[row, gain], weights[row, gain] = prompt.strong - prompt.weak, 1.0
    ridge[columns_of(heads, ("class",))] = CLASS_RIDGE
    ridge[columns_of(heads, ("subject",))] = SUBJECT_RIDGE
    ridge[gain] = GAIN_RIDGE
    form[columns_of(heads, WORDS_ONLY)] = 0.0
    return Targets(values=values, weights=weights, ridge=ridge, form=form)


def _look_of(prompt: Prompt) -> str:
    """The source whose prompts it looks like. GSM8K's two parts are one: apart, each was known but half as well."""
    if prompt.source in OURS:
        return OWN
    return "gsm8k" if prompt.source == "gsm8k_train" else prompt.source


def _has_subject(prompt: Prompt) -> bool:
    """Whether it's one of MMLU's questions with pair labels: those have a subject, and enough of them an outcome."""
    return prompt.source == "mmlu" and prompt.strong is not None


def balanced(cells: Sequence[tuple[str, str]]) -> Floats:
    """Weights by which a cell counts with the root of its size; mean 1."""
    sizes = Counter(cells)
    weights = np.array([sizes[cell] ** -0.5 for cell in cells], np.float32)
    found: Floats = weights / weights.mean()
    return found


def class_weights(prompts: Sequence[Prompt]) -> Floats:
    """Weights of the class head: cells of source and class count less than their size, all classes alike."""
    found = np.zeros(len(prompts), np.float32)
    rows = [row for row, prompt in enumerate(prompts) if prompt.label]
    cells = [(prompts[row].source, str(prompts[row].label)) for row in rows]
    sizes = Counter(cell for row, cell in zip(rows, cells, strict=True) if not prompts[row].variant)
    raw = np.array([sizes[cell] ** -EVENNESS for cell in cells], np.float32)
    raw *= np.array([prompts[row].counts for row in rows], np.float32)
    raw *= np.array([OWN_COUNTS if prompts[row].source in OURS else 1.0 for row in rows], np.float32)
    totals: defaultdict[str, float] = defaultdict(float)
    for row, weight in zip(rows, raw, strict=True):
        totals[str(prompts[row].label)] += float(weight)
    for row, weight in zip(rows, raw, strict=True):
        found[row] = weight / totals[str(prompts[row].label)]
    found *= len(rows) / found.sum()
    return found
