"""``tierflow eval tiers``: every general model of a catalogue on labelled questions, and what routing would bring."""

import os
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from agents.classifier.learned.store import shipped
from agents.classifier.training.tiers import SHARES, read_answered, tiers_report
from agents.worker.local.arithmetic import solve
from agents.worker.providers import LocalProviders
from registry.load import load_catalogue
from schemas.catalogue import Catalogue, Model, ProviderKind
from schemas.settings import WorkerSettings
from tierflow.answering import ask_all, general_models, read_questions
from tierflow.console import Console
from tierflow.demo.workload import load_score
from tierflow.environment import bound_worker
from tierflow.front import Front
from tierflow.local_models import LocalServers, ensure_weights, local_models


async def tiers(
    front: Front, *, data: Path, out: Path, catalogue: str, models: Sequence[str], checker: Path, limit: int | None
) -> None:
    """Ask, check, keep, and tell what routing between the models would bring.

    Raises:
        InputError: Questions, or outcomes that are there already, can't be used.
        ConfigurationError: The checker isn't there, or the catalogue is wrong.
    """
    found = load_catalogue(catalogue)
    questions, score = read_questions(data)[:limit], load_score(checker)
    wanted = general_models(found, models)
    async with AsyncExitStack() as parts:
        worker = await _worker(front, found, wanted, parts)
        providers = LocalProviders(worker)
        parts.push_async_callback(providers.close)
        added = await ask_all(questions, wanted, providers, score, out, front.console.note)
    front.console.line(f"{added} answers added to {out}")
    if len(wanted) > 1:
        show(front.console, out, None, wanted)


async def _worker(front: Front, catalogue: Catalogue, models: Sequence[Model], parts: AsyncExitStack) -> WorkerSettings:
    """Worker settings in which all models are bound; local servers that nobody bound are started here."""
    worker = bound_worker(front.settings.worker, catalogue, os.environ)
    endpoints = {model.endpoint for model in models if model.kind is ProviderKind.LLAMA} - worker.endpoints.keys()
    needed = [each for each in local_models(catalogue) if each.endpoint in endpoints]
    if not needed:
        return worker
    files = await ensure_weights([each.weights for each in needed])
    logs = front.options.folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    servers = await parts.enter_async_context(LocalServers(needed, files, logs=logs, tell=front.console.warn))
    return worker.model_copy(update={"endpoints": {**worker.endpoints, **servers.endpoints()}})


def show(console: Console, outcomes: Path, questions: Path | None, models: Sequence[Model]) -> None:
    """Accuracy and cost of each way of routing, out of fold. Prices are those of prompt tokens in the catalogue."""
    known = read_answered(outcomes, questions, [model.ref for model in models])
    sizes = {model.ref: float(model.price.input_micros_per_million) for model in models}
    solved = np.array([solve(prompt) is not None for prompt in known.prompts])
    report = tiers_report(shipped(), known, sizes, solved)
    table = Table("way", "right", "price-like cost", "CPU", title=f"{report['questions']} questions, costs as shares")
    for name, each in (*report["always"].items(), ("oracle", report["oracle"])):
        table.add_row(name, *(f"{each[key]:.3f}" for key in ("accuracy", "cost", "cpu")))
    console.show(table, _at_cost(report["accuracy_at_cost"]))
    console.emit(report)


def _at_cost(found: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table("right at cost up to", *(f"{share:g}" for share in SHARES), title="Out of fold")
    for name, of_share in found.items():
        cells = [of_share[f"{share:g}"] for share in SHARES]
        table.add_row(name, *("" if cell is None else f"{cell:.3f}" for cell in cells))
    return table
