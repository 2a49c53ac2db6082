"""``tierflow registry``: the rules, as files and as published."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from registry.adjust import with_model_names
from registry.check import check_files
from registry.diff import diff
from registry.history import History
from registry.load import load_catalogue
from registry.log import publish, read_history, rollback
from registry.problems import Problem
from registry.snapshot import Snapshot
from schemas.errors import CatalogueError
from tierflow.console import one_line, plain
from tierflow.exits import NOT_SO, OK
from tierflow.front import Front
from tierflow.reach import snapshot_log
from tierflow.up import author as user_name


def check(front: Front, names: Sequence[str]) -> int:
    """Check catalogue files without a broker.

    Returns:
        0 when they can be published.
    """
    report = check_files(names, retention=front.settings.topics.retention)
    for problem in report.errors:
        front.console.show(plain(str(problem), "red"))
    for problem in report.warnings:
        front.console.show(plain(f"{problem} (warning)", "yellow"))
    if report.ok:
        front.console.line(report.summary)
    front.console.emit(
        {
            "ok": report.ok,
            "hash": report.hash,
            "summary": report.summary,
            "files": [str(file) for file in report.files],
            "errors": [_problem(each) for each in report.errors],
            "warnings": [_problem(each) for each in report.warnings],
        }
    )
    return OK if report.ok else NOT_SO


async def publish_files(
    front: Front,
    names: Sequence[str],
    *,
    models: dict[str, str],
    author: str,
    approver: str,
    expected: int | None,
    if_empty: bool,
) -> None:
    """Publish a catalogue as the next snapshot.

    Args:
        front: Surroundings.
        names: Files, folders or shipped catalogues; together they are one.
        models: Other models behind the catalogue's model ids.
        author: Who does it; the user of this process if empty.
        approver: Who approved it.
        expected: Number that is believed to rule; another is a conflict.
        if_empty: Do nothing if something was published already.
    """
    catalogue = load_catalogue(*names, retention=front.settings.topics.retention)
    if models:
        catalogue = with_model_names(catalogue, models)
    platform = await front.platform()
    async with snapshot_log(platform) as log:
        history = await read_history(log)
        if if_empty and history.number:
            front.console.line(f"snapshot {history.number} is published already; nothing was changed")
            front.console.emit({"published": False, "number": history.number})
            return
        before = history.current()[0]
        snapshot = await publish(
            log,
            catalogue,
            now_ms=_now_ms(),
            author=author or user_name(),
            approver=approver,
            expected=history.number if expected is None else expected,
        )
    changes = diff(before, snapshot) if before is not None else []
    front.console.line(f"published {catalogue.name} as snapshot {snapshot.number} ({snapshot.hash[:12]})")
    if before is not None:
        front.console.line(f"{len(changes)} changes against snapshot {before.number}")
    front.console.emit({"published": True, **_about(snapshot), "changes": len(changes)})


async def show(front: Front, number: int | None) -> None:
    """Show a snapshot, and what was published before it."""
    platform = await front.platform()
    async with snapshot_log(platform) as log:
        history = await read_history(log)
    snapshot = _of(history, number)
    table = Table("number", "content", "by", "approved by", "published")
    for each in history.published[-10:]:
        envelope = each.envelope
        style = "bold" if envelope.number == snapshot.number else ""
        when = datetime.fromtimestamp(envelope.published_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        table.add_row(
            str(envelope.number),
            envelope.hash[:12],
            plain(envelope.author),
            plain(envelope.approver),
            when,
            style=style,
        )
    front.console.show(table, _models(snapshot))
    for skipped in history.skipped:
        front.console.warn(f"registry record {skipped.position} counts for nothing: {skipped.reason}")
    front.console.emit({**_about(snapshot), "content": snapshot.catalogue.model_dump(mode="json")})


async def show_diff(front: Front, before: str, after: str | None) -> int:
    """What differs between two snapshots, or a snapshot and a catalogue.

    Args:
        front: Surroundings.
        before: Number, file or shipped catalogue.
        after: The same; what rules if None.

    Returns:
        1 if something differs, as ``diff`` does.
    """
    history = History()
    if after is None or any(each.isdecimal() for each in (before, after)):
        platform = await front.platform()
        async with snapshot_log(platform) as log:
            history = await read_history(log)
    first, second = _named(before, history), _of(history, None) if after is None else _named(after, history)
    changes = diff(first, second)
    for change in changes:
        front.console.line(f"{change.path}: {one_line(change.before, 200)} -> {one_line(change.after, 200)}")
        front.console.emit({"path": change.path, "before": change.before, "after": change.after})
    front.console.line(f"{len(changes)} changes")
    return NOT_SO if changes else OK


async def roll_back(front: Front, number: int, *, author: str, approver: str) -> None:
    """Publish the content of an earlier snapshot under the next number."""
    platform = await front.platform()
    async with snapshot_log(platform) as log:
        snapshot = await rollback(log, number, now_ms=_now_ms(), author=author or user_name(), approver=approver)
    front.console.line(f"the content of snapshot {number} rules again, as number {snapshot.number}")
    front.console.emit({"published": True, **_about(snapshot), "content_of": number})


def _named(name: str, history: History) -> Snapshot:
    return _of(history, int(name)) if name.isdecimal() else Snapshot.from_catalogue(load_catalogue(Path(name)))


def _of(history: History, number: int | None) -> Snapshot:
    if number is None:
        snapshot, problem = history.current()
        if snapshot is None:
            raise CatalogueError(problem or "nothing is published yet: tierflow registry publish")
        return snapshot
    found = history.find(number)
    if found is None:
        raise CatalogueError(f"there is no snapshot {number}; there are 1 to {history.number}")
    return found.understood()


def _models(snapshot: Snapshot) -> Table:
    table = Table("model", "kind", "tiers", "status", "in / out per million", title=snapshot.catalogue.name)
    used: dict[str, set[str]] = {}
    for plan in snapshot.catalogue.plans:
        for step in plan.steps:
            for ref in step.models:
                used.setdefault(snapshot.model(ref).ref, set()).add(step.tier)
    for model in snapshot.catalogue.models:
        price = f"{model.price.input_micros_per_million:,} / {model.price.output_micros_per_million:,} micros"
        tiers = ", ".join(sorted(used.get(model.ref, ()))) or "-"
        table.add_row(model.ref, model.kind.value, tiers, snapshot.prohibited(model) or model.status.value, price)
    return table


def _about(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "number": snapshot.number,
        "hash": snapshot.hash,
        "name": snapshot.catalogue.name,
        "author": snapshot.author,
        "approver": snapshot.approver,
        "published_ms": snapshot.published_ms,
    }


def _problem(problem: Problem) -> dict[str, Any]:
    place = problem.place
    where = {} if place is None else {"file": place.file, "line": place.line, "column": place.column}
    return {"field": problem.field, "message": problem.message, **where}


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
