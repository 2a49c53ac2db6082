"""Training: from the corpus to a model, calibration included.

What a head is calibrated on, it was not trained on: whole sources are left out in turn, and a fifth of the prompts of
known sources. Nothing here looks at a random split.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agents.classifier.cues import CLASSES
from agents.classifier.learned.boosting import Growth, bagged, grow
from agents.classifier.learned.forest import Floats, Forest
from agents.classifier.learned.inputs import look
from agents.classifier.learned.linear import strange
from agents.classifier.learned.model import Model, Outcomes, prior_gains
from agents.classifier.learned.ngrams import BUCKETS
from agents.classifier.learned.sureness import Confidence, Evidence, fit_logistic
from agents.classifier.training.data import OURS, Corpus, Prompt
from agents.classifier.training.ridge import Design, Fit, Targets, design, known, solve
from agents.classifier.training.targets import Labels, columns_of, labels_of, targets_of
from agents.classifier.training.variants import with_variants

Indices = NDArray[np.int64]

SOURCE_GROUPS: Final = 6
"""Parts that sources are left out in: each fit still has every class."""
SEEN_FOLDS: Final = (0,)
"""Folds of known sources that stand for prompts like those of training."""
SEEN_SHARE: Final = 0.3
"""Weight of prompts of known sources in the calibration."""
SHARPNESS: Final = 6.0
"""Of the shares among the classes that are not the likeliest; the likeliest one's is calibrated."""
SUBJECT_DAMPING: Final = 15.0
"""Questions of average gain that each subject is thought to have besides its own."""

MMLU_GROWTH: Final = Growth(trees=150, depth=4)
GSM8K_GROWTH: Final = Growth(trees=100, depth=2)
"""Shallow trees for few questions: 660 against 8,450."""
BAGS: Final = 4
"""Forests whose mean an expert is: gains of single questions are mostly chance."""
MULTI_GROWTH: Final = Growth(trees=120, depth=4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A corpus, looked at once."""

    corpus: Corpus
    labels: Labels
    made: Design
    targets: Targets


def prepare(corpus: Corpus) -> Prepared:
    """Look at all prompts and line up their labels."""
    public = [prompt for prompt in corpus.classes if prompt.source not in OURS]
    own = with_variants([prompt for prompt in corpus.classes if prompt.source in OURS])
    labels = labels_of(replace(corpus, classes=[*public, *own]))
    variants = np.array([prompt.variant for prompt in labels.prompts])
    made = design(look([prompt.text for prompt in labels.prompts]), corpus.meanings, variants)
    return Prepared(corpus=corpus, labels=labels, made=made, targets=targets_of(labels))


def only(targets: Targets, columns: Indices) -> Targets:
    """Some of the outputs."""
    return Targets(
        values=targets.values[:, columns],
        weights=targets.weights[:, columns],
        ridge=targets.ridge[columns],
        form=targets.form[columns],
    )


def source_groups(prompts: Sequence[Prompt], count: int = SOURCE_GROUPS) -> Indices:
    """The part that each prompt's source is left out with; those of our own are in none (-1).

    Sources are dealt out by class, so that those of one class lie in different parts.
    """
    first_class = {prompt.source: str(prompt.label) for prompt in reversed(prompts)}
    order = sorted((label, source) for source, label in first_class.items() if source not in OURS)
    part = {source: place % count for place, (_, source) in enumerate(order)}
    return np.array([part.get(prompt.source, -1) for prompt in prompts])


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """What the class and source heads say of prompts that they were not trained on."""

    rows: Indices
    """Of the prompts."""
    evidence: Evidence
    right: Floats
    """1 where the likeliest class is the label."""
    seen: NDArray[np.bool_]
    """Whether other prompts of the same source were trained on."""
    group: Indices
    """Of left-out sources; -1 for prompts of seen ones."""


SOLVED_TOGETHER: Final = (("class", "source", "intent", "sensitive"), ("domain", "subject", "gain"))
"""Heads that share their prompts."""
THREADS: Final = 2


def _solve_part(prepared: Prepared, names: Sequence[str]) -> tuple[Indices, Fit]:
    """Fit some heads on the prompts that have a label for any of them."""
    columns = columns_of(prepared.labels.heads, names)
    targets = only(prepared.targets, columns)
    return columns, solve(prepared.made, targets, np.flatnonzero(targets.weights.any(axis=1)))


def joined(parts: Sequence[tuple[Indices, Fit]]) -> Fit:
    """Heads fitted apart, in the order of their outputs."""
    order = np.argsort(np.concatenate([columns for columns, _ in parts]))
    fits = [fit for _, fit in parts]
    return Fit(
        of_grams=np.concatenate([fit.of_grams for fit in fits], axis=1)[:, order],
        of_dense=np.concatenate([fit.of_dense for fit in fits], axis=1)[:, order],
        bias=np.concatenate([fit.bias for fit in fits])[order],
    )


def held_out(prepared: Prepared, threads: Executor) -> HeldOut:
    """Leave sources out in turn, and folds of known sources."""
    labels, made = prepared.labels, prepared.made
    prompts = labels.prompts[: labels.class_rows]
    targets = only(prepared.targets, columns_of(labels.heads, ("class", "source")))
    group = source_groups(prompts)
    fold = np.array([prompt.fold for prompt in prompts])
    variant = np.array([prompt.variant for prompt in prompts])
    truth = np.array([CLASSES.index(prompt.label) for prompt in prompts if prompt.label])
    outs = [(np.flatnonzero(group == number), False, number) for number in range(SOURCE_GROUPS)]
    outs += [(np.flatnonzero(fold == number), True, -1) for number in SEEN_FOLDS]
    scored = threads.map(lambda out: _scores_without(out[0], labels, made, targets), outs)
    parts = [
        (out[~variant[out]], found[~variant[out]], seen, number)
        for (out, seen, number), found in zip(outs, scored, strict=True)
    ]
    rows = np.concatenate([out for out, _, _, _ in parts])
    scores = np.concatenate([found for _, found, _, _ in parts])
    classes = scores[:, : len(CLASSES)]
    return HeldOut(
        rows=rows,
        evidence=Evidence(
            classes,
            scores[:, len(CLASSES) :].max(axis=1),
            np.concatenate([_unknown(made, out[~variant[out]], variant) for out, _, _, _ in parts]),
        ),
        right=(classes.argmax(axis=1) == truth[rows]).astype(np.float32),
        seen=np.concatenate([np.full(len(out), seen) for out, _, seen, _ in parts]),
        group=np.concatenate([np.full(len(out), number) for out, _, _, number in parts]),
    )


def _unknown(made: Design, out: Indices, variant: NDArray[np.bool_]) -> Floats:
    """Share of words of left-out rows that would not be known without them."""
    without = np.ones(len(made.dense), bool)
    without[out] = False
    without[: len(variant)] &= ~variant
    rest = made.inputs.take(np.flatnonzero(without)).grams
    count = known(np.bincount(rest.buckets, minlength=BUCKETS), made.lift[:-1])
    return strange(made.inputs.take(out).grams, count)


def _scores_without(out: Indices, labels: Labels, made: Design, targets: Targets) -> Floats:
    """Scores of left-out class rows by a fit on the others."""
    kept = np.setdiff1d(np.arange(labels.class_rows), out)
    return solve(made, targets, kept).scores(made, out)


def fit_confidence(found: HeldOut, rows: NDArray[np.bool_] | None = None) -> Confidence:
    """Calibrate the class on held-out prompts, those of unseen sources with most of the weight.

    Too little confidence in what is familiar costs money; too much in what is not costs answers.
    """
    chosen = np.ones(len(found.rows), bool) if rows is None else rows
    weights = np.where(
        found.seen, SEEN_SHARE / (chosen & found.seen).sum(), (1 - SEEN_SHARE) / (chosen & ~found.seen).sum()
    )
    columns = found.evidence.columns()
    beta = fit_logistic(columns[chosen], found.right[chosen], weights[chosen].astype(np.float32))
    return Confidence(beta, SHARPNESS)


def subject_gains(pairs: Sequence[Prompt], subjects: Sequence[str]) -> Floats:
    """Mean gain of each subject, pulled towards that of all."""
    place = {subject: number for number, subject in enumerate(subjects)}
    rows = [
        (place[pair.subject], pair.strong - pair.weak)
        for pair in pairs
        if pair.strong is not None and pair.weak is not None and pair.subject in place
    ]
    at, gain = np.array([at for at, _ in rows], int), np.array([gain for _, gain in rows])
    sums, counts = np.bincount(at, gain, len(place)), np.bincount(at, minlength=len(place))
    found: Floats = ((sums + SUBJECT_DAMPING * gain.mean()) / (counts + SUBJECT_DAMPING)).astype(np.float32)
    return found


def fit_expert(dense: Floats, pairs: Sequence[Prompt], growth: Growth, seed: int) -> Forest:
    """Trees from the form of a question to what the strong model adds.

    Args:
        dense: Of the pairs. Shape (rows, columns).
        pairs: With both scores.
        growth: How trees are grown.
        seed: Of their samples.
    """
    gains = np.array([(pair.strong or 0.0) - (pair.weak or 0.0) for pair in pairs], np.float32)
    return bagged(dense, gains[:, None], growth, seed=seed, bags=BAGS)


def fit_outcomes(columns: Floats, scores: Floats, models: Sequence[str], growth: Growth, seed: int) -> Outcomes:
    """Trees from a prompt to the share of good answers of each model."""
    return Outcomes(models=tuple(models), forest=grow(columns, scores, growth, seed=seed))


GROWTHS: Final = {"mmlu": MMLU_GROWTH, "gsm8k": GSM8K_GROWTH}


def train(
    corpus: Corpus, *, version: str, seed: int, tell: Callable[[str], None] = lambda _: None
) -> tuple[Model, Prepared, HeldOut]:
    """Train a model on a corpus.

    Args:
        corpus: The labelled data.
        version: Name of the version; its checksum comes with the file.
        seed: Of all chance; the same seed and corpus give the same weights.
        tell: Told what is being done.
    """
    tell("looking at the prompts")
    prepared = prepare(corpus)
    labels, made = prepared.labels, prepared.made
    tell("linear heads, and once more with sources left out in turn")
    with ThreadPoolExecutor(THREADS) as threads:
        parts = [threads.submit(_solve_part, prepared, names) for names in SOLVED_TOGETHER]
        found = held_out(prepared, threads)
        fit = joined([part.result() for part in parts])
    linear = fit.pack(made)
    confidence = fit_confidence(found)
    tell("trees")
    first = labels.class_rows
    experts = {}
    for name, growth in GROWTHS.items():
        rows = [row for row in range(first, first + labels.pair_rows) if labels.prompts[row].source == name]
        experts[name] = fit_expert(made.inputs.dense[rows], [labels.prompts[row] for row in rows], growth, seed)
    model = Model(
        version=version,
        linear=linear,
        heads=labels.heads,
        confidence=confidence,
        sensitive=_sensitive(prepared, fit.scores(made, np.arange(len(labels.prompts)))),
        subject_gain=subject_gains(corpus.pairs, labels.heads["subject"]),
        experts=experts,
        levels=dict.fromkeys(experts, 0.0),
        outcomes={},
    )
    tell("levels, and the models of others")
    model = replace(model, levels=_levels(model, corpus))
    model = with_multi(model, corpus, seed)
    return model, prepared, found


def _levels(model: Model, corpus: Corpus) -> dict[str, float]:
    """By how much the prior of the classes lies above what was learnt, on average, for each source with an expert."""
    found = {}
    for name in model.experts:
        pairs = [pair for pair in corpus.pairs if pair.source == name]
        classes = model.view(look([pair.text for pair in pairs])).classes
        gains = np.array([(pair.strong or 0.0) - (pair.weak or 0.0) for pair in pairs])
        found[name] = round(float((classes @ prior_gains()).mean() - gains.mean()), 4)
    return found


def with_multi(model: Model, corpus: Corpus, seed: int) -> Model:
    """The model with what is known of the open models of ``multi``."""
    models = sorted({name for prompt in corpus.multi for name in prompt.scores or {}})
    view = model.view(look([prompt.text for prompt in corpus.multi]))
    scores = np.array(
        [[(prompt.scores or {}).get(name, 0.0) for name in models] for prompt in corpus.multi], np.float32
    )
    outcomes = fit_outcomes(view.columns, scores, models, MULTI_GROWTH, seed)
    return replace(model, outcomes={**model.outcomes, "multi": outcomes})


def _sensitive(prepared: Prepared, scores: Floats) -> tuple[float, float]:
    """Slope and offset of the probability of personal data."""
    (column,) = columns_of(prepared.labels.heads, ("sensitive",))
    known = prepared.targets.weights[:, column] > 0
    columns = np.stack((np.ones(known.sum(), np.float32), scores[known, column]), axis=1)
    offset, slope = fit_logistic(columns, prepared.targets.values[known, column], np.ones(int(known.sum()), np.float32))
    return float(slope), float(offset)
