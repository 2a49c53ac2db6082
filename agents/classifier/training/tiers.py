"""P(answer is good) of one's own models, learnt from their checked answers; and what routing by it is worth.

Scores are out of fold: a question is routed by heads that saw neither it nor another question of its fold. Left-out
sources tell what to expect of other questions.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agents.classifier.learned.boosting import Growth, bagged
from agents.classifier.learned.forest import Floats
from agents.classifier.learned.inputs import look
from agents.classifier.learned.model import Model, Outcomes
from agents.classifier.metrics import Numbers
from agents.classifier.training.data import FOLDS, rows_of
from schemas.errors import InputError

SET: Final = "tiers"
"""Name of the set of models in the weights file."""
GROWTH: Final = Growth(trees=60, depth=2, rate=0.1)
BAGS: Final = 4
SEED: Final = 7
SHARES: Final = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Of the dearest model's price-like cost, at which accuracy is told."""
WEIGHTS: Final = np.linspace(0, 2, 81)
"""Quality that the whole cost of the dearest model is worth: each gives a point of quality against cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """Questions that all models answered.

    Attributes:
        prompts: The questions.
        classes: Their class, as the data says.
        sources: Where they are from.
        models: By price-like cost, cheapest first.
        right: 1 if an answer is right. Shape (questions, models).
        tokens: Of prompt and answer. Shape (questions, models).
        cpu_s: Shape (questions, models).
        cut: Whether an answer ran into its token limit. Shape (questions, models).
    """

    prompts: Sequence[str]
    classes: Sequence[str]
    sources: Sequence[str]
    models: tuple[str, ...]
    right: Numbers
    tokens: Numbers
    cpu_s: Numbers
    cut: NDArray[np.bool_]


_FIELDS: Final = ("id", "model", "correct", "prompt_tokens", "completion_tokens")


def read_ids(path: Path) -> frozenset[str]:
    """Ids of questions: ``id``, or ``_note.question`` as in the requests of the demonstration.

    Raises:
        InputError: The file can't be read.
    """
    notes = [(row.get("id"), row.get("_note")) for _, row in rows_of(path, comments=True)]
    found = [name or (note.get("question") if isinstance(note, dict) else None) for name, note in notes]
    return frozenset(str(name) for name in found if name)


def read_answered(
    outcomes: Path, questions: Path | None = None, models: Sequence[str] = (), leave_out: Collection[str] = ()
) -> Answered:
    """Outcomes of several models on the same questions.

    Args:
        outcomes: JSON lines with ``id``, ``model``, ``correct``, tokens, ``finish``, and ``prompt`` if no questions are
            given.
        questions: JSON lines with ``id``, ``prompt``, ``class``, ``source``.
        models: Those that count; all if empty.
        leave_out: Ids of questions that are not to be learnt from.

    Raises:
        InputError: A line lacks a field, or no question was answered by all models.
    """
    known = {str(row.get("id")): row for _, row in rows_of(questions)} if questions is not None else {}
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for number, row in rows_of(outcomes):
        missing = [field for field in _FIELDS if field not in row]
        if missing:
            raise InputError(f"{outcomes}:{number}: field {missing[0]} is missing")
        if not models or row["model"] in models:
            found.setdefault(str(row["id"]), {})[str(row["model"])] = row
    names = sorted({model for answers in found.values() for model in answers})
    whole = {key: each for key, each in found.items() if len(each) == len(names) and key not in leave_out}
    texts = {key: (known.get(key) or next(iter(answers.values()))).get("prompt") for key, answers in whole.items()}
    keys = sorted(key for key in whole if isinstance(texts[key], str))
    if not keys or len(names) < 2:
        raise InputError(f"{outcomes}: no question with a prompt was answered by two models or more")

    def table(value: Any) -> Numbers:
        return np.array([[float(value(whole[key][name])) for name in names] for key in keys])

    def text(key: str, field: str) -> str:
        return str((known.get(key) or whole[key][names[0]]).get(field, ""))

    return Answered(
        prompts=[str(texts[key]) for key in keys],
        classes=[text(key, "class") for key in keys],
        sources=[text(key, "source") for key in keys],
        models=tuple(names),
        right=table(lambda row: row["correct"]),
        tokens=table(lambda row: row["prompt_tokens"] + row["completion_tokens"]),
        cpu_s=table(lambda row: row.get("cpu_s", 0.0)),
        cut=table(lambda row: row.get("finish") == "length").astype(bool),
    )


def with_tiers(model: Model, answered: Answered) -> Model:
    """The model with P(good) of these models added."""
    columns = model.view(look(answered.prompts)).columns
    forest = bagged(columns, answered.right.astype(np.float32), GROWTH, seed=SEED, bags=BAGS)
    return replace(model, outcomes={**model.outcomes, SET: Outcomes(models=answered.models, forest=forest)})


def out_of_fold(columns: Floats, answered: Answered, groups: NDArray[np.int64]) -> Numbers:
    """P(good) of each question and model by heads that did not see the question's group."""
    said = np.zeros(answered.right.shape)
    for group in np.unique(groups):
        out = groups == group
        forest = bagged(columns[~out], answered.right[~out].astype(np.float32), GROWTH, seed=SEED, bags=BAGS)
        said[out] = forest.predict(columns[out])
    return said


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Accuracy and cost of one way of routing; costs are shares of the dearest model's."""

    accuracy: float
    cost: float
    cpu: float


def tiers_report(
    model: Model, answered: Answered, sizes: Mapping[str, float], solved: NDArray[np.bool_]
) -> dict[str, Any]:
    """Accuracy and cost of all ways of routing.

    Args:
        model: Without heads of these models.
        answered: Their answers.
        sizes: Parameters of each model, in any unit: a token costs as much as the model is large.
        solved: Questions that the exact solver answers. Shape (questions,).

    Raises:
        InputError: The size of a model is not known.
    """
    unknown = [name for name in answered.models if name not in sizes]
    if unknown:
        raise InputError(f"the size of {', '.join(unknown)} is not known")
    cost = answered.tokens * np.array([sizes[name] for name in answered.models])
    dearest = int(cost.sum(axis=0).argmax())
    rows = np.arange(len(answered.prompts))

    def point(chosen: NDArray[np.int64], *, checked: bool = False) -> Point:
        right, price, cpu = answered.right[rows, chosen], cost[rows, chosen], answered.cpu_s[rows, chosen]
        if checked:  # an answer that ran into its limit goes up; a sum costs nothing and is right
            up = answered.cut[rows, chosen] & (chosen != dearest)
            right = np.where(up, answered.right[:, dearest], right)
            price = price + np.where(up, cost[:, dearest], 0.0)
            cpu = cpu + np.where(up, answered.cpu_s[:, dearest], 0.0)
            right, price, cpu = np.where(solved, 1.0, right), np.where(solved, 0.0, price), np.where(solved, 0.0, cpu)
        total, of_cpu = cost[:, dearest].sum(), max(answered.cpu_s[:, dearest].sum(), 1e-9)
        return Point(accuracy=float(right.mean()), cost=float(price.sum() / total), cpu=float(cpu.sum() / of_cpu))

    typical = cost.mean(axis=0) / cost[:, dearest].mean()

    def curve(said: Numbers, *, checked: bool = False) -> list[Point]:
        return [point((said - weight * typical).argmax(axis=1), checked=checked) for weight in WEIGHTS]

    view = model.view(look(answered.prompts))
    fold = np.arange(len(rows)) % FOLDS  # ids are shuffled in the data, and templates are spread over all folds
    places = {name: number for number, name in enumerate(sorted(set(answered.sources)))}
    source = np.array([places[name] for name in answered.sources])
    learned = out_of_fold(view.columns, answered, fold)
    curves = {
        "class only": curve(out_of_fold(view.classes, answered, fold)),
        "learned": curve(learned),
        "learned, with checks and solver": curve(learned, checked=True),
        "learned, sources left out": curve(out_of_fold(view.columns, answered, source)),
    }
    best = (answered.right - 1e-6 * cost / cost.max()).argmax(axis=1)
    always = {name: point(np.full(len(rows), number)) for number, name in enumerate(answered.models)}
    return {
        "questions": len(rows),
        "always": {name: _told(each) for name, each in always.items()},
        "oracle": _told(point(best)),
        "accuracy_at_cost": {
            "fixed mix": {f"{share:g}": _mixed(list(always.values()), share) for share in SHARES},
            **{name: {f"{share:g}": _within(points, share) for share in SHARES} for name, points in curves.items()},
        },
    }


def _told(point: Point) -> dict[str, float]:
    return {"accuracy": round(point.accuracy, 4), "cost": round(point.cost, 4), "cpu": round(point.cpu, 4)}


def _within(points: Sequence[Point], share: float) -> float | None:
    """Accuracy of the dearest point within a cost: of points chosen by cost alone, so that no luck is picked."""
    inside = [point for point in points if point.cost <= share]
    return round(max(inside, key=lambda point: point.cost).accuracy, 4) if inside else None


def _mixed(always: Sequence[Point], share: float) -> float | None:
    """Accuracy of the best mix of two models that looks at nothing."""
    found = []
    for one in always:
        for other in always:
            if one.cost <= share < other.cost:
                part = (share - one.cost) / (other.cost - one.cost)
                found.append(one.accuracy + part * (other.accuracy - one.accuracy))
    found += [each.accuracy for each in always if each.cost <= share]
    return round(max(found), 4) if found else None
