"""``tierflow classifier``: training, scores on folds, the model card."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.table import Table

from agents.classifier.learned.store import read_card, shipped_path
from tierflow.console import Console


def train(
    console: Console,
    data: Path,
    out: Path,
    *,
    seed: int,
    folds: bool,
    outcomes: Path | None = None,
    questions: Path | None = None,
    labels: Sequence[Path] = (),
    leave_out: Path | None = None,
) -> None:
    """Train and write weights and card."""
    from agents.classifier.training.run import run  # noqa: PLC0415 - numpy and more
    from agents.classifier.training.tiers import read_answered, read_ids  # noqa: PLC0415 - the same

    lineage = {"date": datetime.now(UTC).date().isoformat(), "code": f"tierflow {_version()}"}
    unseen = read_ids(leave_out) if leave_out is not None else ()
    answered = read_answered(outcomes, questions, leave_out=unseen) if outcomes is not None else None
    card_ = run(
        data / "routing",
        out,
        seed=seed,
        folds=folds,
        answered=answered,
        labels=labels,
        lineage=lineage,
        tell=console.note,
    )
    _show(console, card_)
    console.line(f"written: {out}")


def evaluate(console: Console, data: Path, report: Path | None, *, seed: int) -> None:
    """Score the training on folds and left-out sources."""
    from agents.classifier.training.run import run  # noqa: PLC0415 - numpy and more

    found = run(data / "routing", None, seed=seed, folds=True, lineage={}, tell=console.note)
    if report is not None:
        report.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    _show(console, found)


def card(console: Console, weights: Path | None) -> None:
    """Show the card of a weights file."""
    _show(console, read_card(weights or shipped_path()))


def _show(console: Console, found: Mapping[str, Any]) -> None:
    table = Table("what", "value", title="Model card")
    for name, value in _flat(found):
        table.add_row(name, value)
    console.show(table)
    console.emit(found)


def _flat(found: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for name, value in found.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", str(value)


def _version() -> str:
    try:
        return version("tierflow")
    except PackageNotFoundError:
        return "from a checkout"
