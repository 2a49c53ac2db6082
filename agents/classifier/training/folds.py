"""Honest scores: each prompt is judged by a fit that saw neither it nor, for the class, its source."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agents.classifier.cues import CLASSES
from agents.classifier.learned.forest import Floats
from agents.classifier.learned.model import SHARPNESS_OF_SUBJECTS, gate_of, mixed_views, prior_gains, softmax
from agents.classifier.learned.sureness import Confidence, Evidence
from agents.classifier.metrics import Numbers, calibration_error, class_scores, routing
from agents.classifier.training.data import FOLDS, Prompt
from agents.classifier.training.fit import (
    GROWTHS,
    SOURCE_GROUPS,
    THREADS,
    HeldOut,
    Prepared,
    fit_confidence,
    fit_expert,
    only,
    subject_gains,
)
from agents.classifier.training.ridge import solve
from agents.classifier.training.targets import columns_of

CHAT_STYLE: Final = ("biggen", "self_instruct_seed")
"""Public sources whose prompts read like those of people and were labelled by hand."""
MISPARSED: Final = "high_school_mathematics"
"""Subject whose answers of the strong model were not parsed: marked wrong on 97 % of the questions."""
FEW: Final = 1500
"""Labels of the second measurement of MMLU."""


def class_report(found: HeldOut, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Class accuracy and calibration on held-out prompts.

    The calibration that a source's prompts are measured with was fitted without that part of the sources.
    """
    said = np.zeros(len(found.rows))
    for number in range(SOURCE_GROUPS):
        inside = found.group == number
        confidence = fit_confidence(found, ~inside)
        said[inside] = confidence.of(_rows(found, inside))[0].max(axis=1)
    halves = np.array(
        [row % 2 == 0 for row in found.rows]
    )  # of seen sources: fitted on one half, measured on the other
    for half in (True, False):
        inside = found.seen & (halves == half)
        confidence = fit_confidence(found, ~inside)
        said[inside] = confidence.of(_rows(found, inside))[0].max(axis=1)
    truth = [str(prompts[row].label) for row in found.rows]
    guesses = [CLASSES[best].value for best in found.evidence.scores.argmax(axis=1)]
    names = np.array([prompts[row].source for row in found.rows])
    unseen = ~found.seen
    of_source = {
        str(name): round(float(found.right[unseen & (names == name)].mean()), 4) for name in np.unique(names[unseen])
    }
    chat = unseen & np.isin(names, CHAT_STYLE)
    weights = np.array([1 / (names[unseen] == name).sum() for name in names[unseen]])
    return {
        "seen": {
            "prompts": int(found.seen.sum()),
            "accuracy": _mean(found.right[found.seen]),
            "ece": _rounded(calibration_error(said[found.seen], found.right[found.seen].astype(float))),
        },
        "unseen": {
            "prompts": int(unseen.sum()),
            "accuracy": _mean(found.right[unseen]),
            "mean_of_sources": _rounded(float((weights * found.right[unseen]).sum() / weights.sum())),
            "ece": _rounded(calibration_error(said[unseen], found.right[unseen].astype(float))),
            "macro_f1": _rounded(_macro(np.array(truth)[unseen], np.array(guesses)[unseen])),
            "chat_style_accuracy": _mean(found.right[chat]),
            "by_source": of_source,
        },
    }


def _rows(found: HeldOut, inside: NDArray[np.bool_]) -> Any:
    return type(found.evidence)(*(part[inside] for part in found.evidence))


def _macro(truth: NDArray[np.str_], guesses: NDArray[np.str_]) -> float:
    scores = class_scores(truth.tolist(), guesses.tolist())
    return sum(score.f1 for score in scores) / len(scores)


def _mean(values: Floats) -> float:
    return _rounded(float(values.mean())) if len(values) else 0.0


def _rounded(value: float) -> float:
    return round(value, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairScores:
    """Out-of-fold router scores of the questions with a weak and a strong score."""

    prompts: Sequence[Prompt]
    learnt: Numbers
    few: Numbers
    """As learnt from ``FEW`` labels; NaN for other sources than MMLU."""


def pair_scores(
    prepared: Prepared, confidence: Confidence, seed: int, tell: Callable[[str], None] = lambda _: None
) -> PairScores:
    """Score each question as the model would, all of it fitted on the other folds.

    That is words, subjects, trees, and the classes and sources by which it's told how far to trust those.

    Args:
        prepared: The corpus.
        confidence: Calibration of the class; it has seen no outcome.
        seed: Of all chance.
        tell: Told what is being done.
    """
    labels, made = prepared.labels, prepared.made
    first = labels.class_rows
    prompts = labels.prompts[first : first + labels.pair_rows]
    source = np.array([prompt.source for prompt in prompts])
    fold = np.array([prompt.fold for prompt in prompts])
    targets = only(prepared.targets, columns_of(labels.heads, ("subject", "gain")))
    told = only(prepared.targets, columns_of(labels.heads, ("class", "source")))
    of_rows = np.array([prompt.fold for prompt in labels.prompts])
    told_rows = told.weights.any(axis=1)
    gains = np.array([(prompt.strong or 0.0) - (prompt.weak or 0.0) for prompt in prompts], np.float32)
    learnt, few = np.zeros(len(prompts)), np.full(len(prompts), np.nan)

    def prior_and_gates(number: int) -> tuple[Floats, Mapping[str, Floats]]:
        rows = np.arange(first, first + len(prompts))
        scores = solve(made, told, np.flatnonzero(told_rows & (of_rows != number))).scores(made, rows)
        sources = scores[:, len(CLASSES) :]
        unknown = np.zeros(len(rows), np.float32)  # next to nothing of benchmarks like these
        classes, _ = confidence.of(Evidence(scores[:, : len(CLASSES)], sources.max(axis=1), unknown))
        gates = {name: gate_of(sources[:, labels.heads["source"].index(name)]) for name in GROWTHS}
        return classes @ prior_gains(), gates

    def gated(learnt: Floats, train: NDArray[np.int64], test: NDArray[np.int64], prior: Floats, gate: Floats) -> Floats:
        level = prior[train].mean() - gains[train].mean()
        found: Floats = gate[test] * (learnt + level) + (1 - gate[test]) * prior[test]
        return found

    def words(train: NDArray[np.int64], test: NDArray[np.int64]) -> tuple[Floats, Floats]:
        scores = solve(made, targets, train + first).scores(made, test + first)
        of_subject = subject_gains([prompts[row] for row in train], labels.heads["subject"])
        return scores[:, -1], softmax(SHARPNESS_OF_SUBJECTS * scores[:, :-1]) @ of_subject

    def form(name: str, train: NDArray[np.int64], test: NDArray[np.int64]) -> Floats:
        forest = fit_expert(made.inputs.dense[train + first], [prompts[row] for row in train], GROWTHS[name], seed)
        found: Floats = forest.predict(made.inputs.dense[test + first])[:, 0]
        return found

    def mmlu(train: NDArray[np.int64], test: NDArray[np.int64]) -> Floats:
        return mixed_views(form("mmlu", train, test), *words(train, test))

    random = np.random.default_rng(seed)
    for number in range(FOLDS):
        tell(f"fold {number + 1} of {FOLDS}")
        prior, gates = prior_and_gates(number)
        test = np.flatnonzero((source == "mmlu") & (fold == number))
        train = np.flatnonzero((source == "mmlu") & (fold != number))
        some = np.sort(random.choice(train, min(FEW, len(train)), replace=False))
        with ThreadPoolExecutor(THREADS) as threads:
            all_, part = threads.submit(mmlu, train, test), threads.submit(mmlu, some, test)
            learnt[test] = gated(all_.result(), train, test, prior, gates["mmlu"])
            few[test] = gated(part.result(), some, test, prior, gates["mmlu"])
        test = np.flatnonzero((source == "gsm8k") & (fold == number))
        train = np.flatnonzero((source == "gsm8k") & (fold != number))
        learnt[test] = gated(form("gsm8k", train, test), train, test, prior, gates["gsm8k"])
    return PairScores(prompts=prompts, learnt=learnt, few=few)


def routing_report(found: PairScores) -> dict[str, Any]:
    """APGR, CPT50 and CPT80 of out-of-fold scores, beside simple routers."""
    prompts = found.prompts
    source = np.array([prompt.source for prompt in prompts])
    sound = np.array([prompt.subject != MISPARSED for prompt in prompts])
    length = np.array([float(len(prompt.text)) for prompt in prompts])
    mmlu, gsm8k = source == "mmlu", source == "gsm8k"
    return {
        "mmlu": _routed(found.learnt, prompts, mmlu),
        "mmlu_without_misparsed_subject": _routed(found.learnt, prompts, mmlu & sound),
        f"mmlu_{FEW}_labels": _routed(found.few, prompts, mmlu),
        "mmlu_by_length": _routed(length, prompts, mmlu),
        "gsm8k": _routed(found.learnt, prompts, gsm8k),
        "gsm8k_by_length": _routed(length, prompts, gsm8k),
    }


def _routed(scores: Numbers, prompts: Sequence[Prompt], inside: NDArray[np.bool_]) -> Mapping[str, float]:
    rows = np.flatnonzero(inside).tolist()
    weak = np.array([prompts[row].weak or 0.0 for row in rows])
    strong = np.array([prompts[row].strong or 0.0 for row in rows])
    measured = routing(scores[rows], weak, strong)
    return {name: round(value, 4) for name, value in measured._asdict().items()}
