"""``tierflow eval router``: the classifier as it is, on labelled prompts."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.table import Table

from agents.classifier.evaluation import PAIR_PRICES, Contest, class_report, routing_scores
from agents.classifier.learned.model import Judgement, Model
from agents.classifier.learned.store import load, shipped_path
from agents.classifier.training.data import Prompt, read_prompts
from schemas.errors import InputError
from tierflow.console import Console
from tierflow.curves import draw

PRICES: Final[Mapping[str, float]] = {
    "codegemma-7b": 0.2,
    "gemma-2-9b-it": 0.1,
    "llama-3.1-8b-instruct": 0.2,
    "llama3-chatqa-1.5-8b": 0.2,
    "mistral-7b-instruct-v0.3": 0.2,
    "qwen2.5-7b-instruct": 0.2,
    "llama-3.1-nemotron-51b-instruct": 0.9,
    "llama-3.3-nemotron-super-49b-v1": 0.9,
    "llama3-chatqa-1.5-70b": 0.9,
}
"""USD per million tokens of the open models of the routing data, as its source lists them."""
LOOKED_AT: Final = 2000
"""Prompts whose time is taken, at most."""


def router(
    console: Console,
    data: Sequence[Path],
    *,
    report: Path | None,
    plot: Path | None,
    weights: Path | None,
    prices: Path | None,
) -> None:
    """Score the classifier on labelled prompts.

    Raises:
        InputError: A file can't be read, or holds no labelled prompt.
    """
    model = load(weights or shipped_path())
    found: dict[str, Any] = {"classifier_version": model.version, "files": [str(path) for path in data]}
    prompts = [prompt for path in data for prompt in read_prompts(path)]
    judged = model.judge([prompt.text for prompt in prompts], outcomes=tuple(model.outcomes))
    if any(prompt.label for prompt in prompts):
        found["classes"] = class_report(prompts, judged)
    contests = [*_pairs(prompts, judged), *_many(prompts, judged, _price_list(prices))]
    found["routing"] = [routing_scores(contest) for contest in contests]
    if "classes" not in found and not contests:
        raise InputError(f"{data[0]}: no line has a label, weak and strong, or scores")
    found["speed"] = speed(model, [prompt.text for prompt in prompts])
    if report is not None:
        report.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if plot is not None:
        plot.write_text(draw([(each["name"], each["curves"]) for each in found["routing"]]), encoding="utf-8")
    _show(console, found)


def _pairs(prompts: Sequence[Prompt], judged: Sequence[Judgement]) -> list[Contest]:
    """A contest for each source whose prompts have a weak and a strong score."""
    rows = [
        (prompt, each)
        for prompt, each in zip(prompts, judged, strict=True)
        if prompt.weak is not None and prompt.strong is not None
    ]
    contests = []
    for source in sorted({prompt.source for prompt, _ in rows}):
        part = [(prompt, each) for prompt, each in rows if prompt.source == source]
        contests.append(
            Contest(
                name=source or "pairs",
                judged=[each for _, each in part],
                texts=[prompt.text for prompt, _ in part],
                weak=np.array([prompt.weak or 0.0 for prompt, _ in part]),
                strong=np.array([prompt.strong or 0.0 for prompt, _ in part]),
                prices=PAIR_PRICES,
            )
        )
    return contests


def _many(prompts: Sequence[Prompt], judged: Sequence[Judgement], prices: Mapping[str, float]) -> list[Contest]:
    """One contest over prompts with scores of many models: the best of the cheapest against the best of all."""
    rows = [(prompt.scores, prompt.text, each) for prompt, each in zip(prompts, judged, strict=True) if prompt.scores]
    if not rows:
        return []
    models = sorted(set.intersection(*(set(scores) for scores, _, _ in rows)))
    mean = {model: sum(scores[model] for scores, _, _ in rows) / len(rows) for model in models}
    unpriced = [model for model in models if model not in prices]
    if unpriced:
        raise InputError(f"no price is known of {', '.join(unpriced)}: name a file with --prices")
    least = min(prices[model] for model in models)
    weak = max((model for model in models if prices[model] == least), key=mean.__getitem__)
    strong = max(models, key=mean.__getitem__)
    if mean[strong] <= mean[weak]:
        return []
    known = all(strong in each.good and weak in each.good for _, _, each in rows)
    return [
        Contest(
            name=f"{weak} or {strong}",
            judged=[each for _, _, each in rows],
            texts=[text for _, text, _ in rows],
            weak=np.array([scores[weak] for scores, _, _ in rows]),
            strong=np.array([scores[strong] for scores, _, _ in rows]),
            prices=(prices[weak], prices[strong]),
            scores=np.array([each.good[strong] - each.good[weak] for _, _, each in rows]) if known else None,
        )
    ]


def _price_list(path: Path | None) -> Mapping[str, float]:
    if path is None:
        return PRICES
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return {str(model): float(row["input_usd_per_mtok"]) for model, row in rows.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: must be JSON, model -> {{input_usd_per_mtok: number}}: {error}") from error


def speed(model: Model, texts: Sequence[str]) -> dict[str, float]:
    """Milliseconds of one prompt alone, and prompts a second in one pass; on this machine, as loaded as it is."""
    some = texts[:: max(1, len(texts) // LOOKED_AT)][:LOOKED_AT]
    model.judge(some[:1])
    took = []
    for text in some:
        start = time.perf_counter()
        model.judge([text])
        took.append(1000 * (time.perf_counter() - start))
    start = time.perf_counter()
    model.judge(some)
    middle, high = np.percentile(took, [50, 99])
    return {
        "p50_ms": round(float(middle), 3),
        "p99_ms": round(float(high), 3),
        "batch_per_second": round(len(some) / (time.perf_counter() - start), 1),
    }


def _show(console: Console, found: Mapping[str, Any]) -> None:
    if "classes" in found:
        classes = found["classes"]
        table = Table(
            "class",
            "prompts",
            "precision",
            "recall",
            "F1",
            title="Classes: " + ", ".join(f"{name} {classes[name]:.3f}" for name in ("accuracy", "macro_f1", "ece")),
        )
        for name, each in classes["classes"].items():
            table.add_row(name, str(each["prompts"]), *(f"{each[key]:.3f}" for key in ("precision", "recall", "f1")))
        console.show(table)
    for contest in found["routing"]:
        quality = ", ".join(f"{name} {value:.3f}" for name, value in contest["quality"].items())
        table = Table(
            "router",
            "APGR",
            "CPT50",
            "CPT80",
            "cost at 95 %",
            "cost at 98 %",
            title=f"{contest['name']}: {contest['questions']} questions; {quality}",
        )
        for name, each in contest["routers"].items():
            table.add_row(
                name, *(_cell(each.get(key)) for key in ("apgr", "cpt50", "cpt80", "cost_at_95", "cost_at_98"))
            )
        console.show(table)
    times = found["speed"]
    console.line(
        f"one prompt p50 {times['p50_ms']:.2f} ms, p99 {times['p99_ms']:.2f} ms; "
        f"{times['batch_per_second']:.0f} a second in batch"
    )
    console.emit(found)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if value < 2 else f"{value:.1f}"
