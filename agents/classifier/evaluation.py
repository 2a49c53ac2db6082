"""Scores of a trained model on any labelled prompts, beside the simple routers that it has to beat. Pure.

A router score orders questions by how much they need the strong model. Beside it stand: chance, always the weak, always
the strong model, a fixed mix (chance at the same share), prompt length, the class alone, and the oracle.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from agents.classifier.cues import CLASSES
from agents.classifier.learned.model import PRIOR_GAIN, Judgement
from agents.classifier.metrics import (
    Numbers,
    calibration_error,
    class_scores,
    cost_at,
    quality_curve,
    routing,
)
from agents.classifier.training.data import Prompt

SHARES: Final = (0.95, 0.98)
"""Of premium quality, whose cost is told."""
POINTS: Final = 101
"""Of a curve of quality against cost."""
PAIR_PRICES: Final = (0.24, 24.7)
"""USD per million tokens of the weak and the strong model of RouteLLM's labels, as its paper averages them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """Questions with the quality of a weak and a strong model, and what each costs.

    Attributes:
        name: Of the data, for people.
        judged: What the model says.
        texts: The prompts.
        weak: Quality of the weak model's answers. Shape (questions,).
        strong: Quality of the strong model's answers. Shape (questions,).
        prices: Of the weak and the strong model, per million tokens.
        scores: The router's scores; the judgements' gain if None.
    """

    name: str
    judged: Sequence[Judgement]
    texts: Sequence[str]
    weak: Numbers
    strong: Numbers
    prices: tuple[float, float] = PAIR_PRICES
    scores: Numbers | None = None


def routers(contest: Contest) -> Mapping[str, Numbers]:
    """Scores of all routers that are compared."""
    prior = np.array([PRIOR_GAIN[each] for each in CLASSES])
    learned = np.array([each.gain for each in contest.judged]) if contest.scores is None else contest.scores
    return {
        "learned": learned,
        "class only": np.array([each.classes for each in contest.judged]) @ prior,
        "length": np.array([float(len(text)) for text in contest.texts]),
        "random": np.array([_chance(text) for text in contest.texts]),
        "oracle": contest.strong - contest.weak,
    }


def _chance(text: str) -> float:
    """A number that has nothing to do with a prompt, but is the same each time."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:6], "big") / 2**48


def routing_scores(contest: Contest) -> dict[str, Any]:
    """APGR, CPT50, CPT80 and cost at shares of premium quality, of each router; and the curves."""
    tokens = np.array([max(len(text), 4) / 4 for text in contest.texts])  # four characters a token, for all alike
    weak_price, strong_price = contest.prices
    premium = float(contest.strong.mean())
    found: dict[str, Any] = {
        "name": contest.name,
        "questions": len(contest.texts),
        "quality": {
            "always weak": round(float(contest.weak.mean()), 4),
            "always strong": round(premium, 4),
            "oracle": round(float(np.maximum(contest.weak, contest.strong).mean()), 4),
        },
        "routers": {},
        "curves": {},
    }
    for name, scores in routers(contest).items():
        curve = quality_curve(scores, contest.weak, contest.strong, POINTS)
        costs = _costs(scores, tokens, weak_price, strong_price)
        entry: dict[str, Any] = {}
        if premium > contest.weak.mean():
            measured = routing(scores, contest.weak, contest.strong)
            entry = {key: round(value, 4) for key, value in measured._asdict().items()}
        for share in SHARES:
            cost = cost_at(share, costs, curve, premium)
            entry[f"cost_at_{share * 100:.0f}"] = None if cost is None else round(cost, 4)
        found["routers"][name] = entry
        found["curves"][name] = {
            "cost": [round(float(each), 4) for each in costs],
            "quality": [round(float(each), 4) for each in curve],
        }
    # A mix that looks at nothing lies on the straight line between the two models.
    line = np.linspace(float(contest.weak.mean()), premium, POINTS)
    cheap = weak_price / strong_price
    costs = np.linspace(cheap, 1.0, POINTS)
    found["routers"]["fixed mix"] = {
        f"cost_at_{share * 100:.0f}": _round(cost_at(share, costs, line, premium)) for share in SHARES
    }
    return found


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _costs(scores: Numbers, tokens: Numbers, weak_price: float, strong_price: float) -> Numbers:
    """Cost at each point of a curve, as a share of what the strong model alone costs."""
    order = np.argsort(-scores, kind="stable")
    dear = np.concatenate(([0.0], np.cumsum(tokens[order])))
    calls = np.linspace(0, 1, POINTS) * len(tokens)
    of_strong = np.interp(calls, np.arange(len(tokens) + 1), dear)
    found: Numbers = (of_strong * strong_price + (tokens.sum() - of_strong) * weak_price) / (
        tokens.sum() * strong_price
    )
    return found


def class_report(prompts: Sequence[Prompt], judged: Sequence[Judgement]) -> dict[str, Any]:
    """Accuracy, macro-F1, F1 of each class and calibration on prompts that have a class."""
    pairs = [(prompt, each) for prompt, each in zip(prompts, judged, strict=True) if prompt.label]
    truth = [str(prompt.label) for prompt, _ in pairs]
    guesses = [each.task_class.value for _, each in pairs]
    right = np.array([one == other for one, other in zip(truth, guesses, strict=True)], float)
    confidence = np.array([each.confidence for _, each in pairs])
    scores = class_scores(truth, guesses)
    sources = sorted({prompt.source for prompt, _ in pairs})
    named = np.array([prompt.source for prompt, _ in pairs])
    return {
        "prompts": len(pairs),
        "accuracy": round(float(right.mean()), 4),
        "macro_f1": round(sum(each.f1 for each in scores) / len(scores), 4),
        "ece": round(calibration_error(confidence, right), 4),
        "classes": {
            each.label: {
                "prompts": each.prompts,
                "precision": round(each.precision, 4),
                "recall": round(each.recall, 4),
                "f1": round(each.f1, 4),
            }
            for each in scores
        },
        "by_source": {source: round(float(right[named == source].mean()), 4) for source in sources},
        "bands": {
            name: {"share": round(float(inside.mean()), 4), "accuracy": round(float(right[inside].mean()), 4)}
            for name, test in _BANDS.items()
            if (inside := test(confidence)).any()
        },
    }


_BANDS: Final[Mapping[str, Callable[[Numbers], Any]]] = {
    "0.9 and more": lambda said: said >= 0.9,
    "0.7 to 0.9": lambda said: (said >= 0.7) & (said < 0.9),
    "below 0.7": lambda said: said < 0.7,
}
