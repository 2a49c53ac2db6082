"""Brings everything up, sends the workload, drains, and gives the account."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Self

import yaml
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

from agents.audit.reader import ArchiveReader, Reconciliation
from agents.worker.local.fetch import Progress as FetchProgress
from registry.load import load_catalogue
from schemas.enums import Status
from tierflow.actions.archive import books
from tierflow.choices import BrokerChoice
from tierflow.console import one_line, plain
from tierflow.demo import report
from tierflow.demo.compare import ROUTED, Answer, compare, read_recorded, write_recorded
from tierflow.demo.drive import Driven, Outcome, drive
from tierflow.demo.only_tier import only_tier
from tierflow.demo.workload import Asked, Score, load_score, load_workload
from tierflow.exits import NOT_SO, OK
from tierflow.front import Front
from tierflow.processes import Change
from tierflow.story_view import story_tree
from tierflow.up import DEFAULT_CATALOGUE, UpOptions, bring_up

STAND_IN: Final = "small"
"""Catalogue in which one small model stands in for every tier."""
LINES_EVERY: Final = 10
"""Where nobody watches a progress bar, a line tells of every tenth end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What to demonstrate.

    Attributes:
        requests: File of requests; answers recorded and checker lie beside it.
        catalogue: Name or file.
        models: Other models behind the catalogue's model ids, by id.
        broker: Which broker.
        sample: Ordinary requests to draw; None takes all.
        seed: Of the draw.
        within: Longest time for all requests.
        everything_to: Tier that gets everything; empty routes.
        record: File that answers are recorded in; None does not.
    """

    requests: Path
    catalogue: str
    models: Mapping[str, str]
    broker: BrokerChoice
    sample: int | None
    seed: int
    within: timedelta
    everything_to: str
    record: Path | None


class _Reporter:
    """Tells what happens while things start."""

    def __init__(self, front: Front) -> None:
        self._console = front.console
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TimeElapsedColumn(),
            console=front.console.aside,
            disable=not front.console.live,
            transient=True,
        )
        self._tasks: dict[str, Any] = {}
        self._told: dict[str, int] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def say(self, text: str) -> None:
        """A step was done."""
        self._console.note(text)

    def fetching(self, progress: FetchProgress) -> None:
        """Weights arrive."""
        if progress.name not in self._tasks:
            self._tasks[progress.name] = self._bars.add_task(progress.name, total=progress.total)
        self._bars.update(
            self._tasks[progress.name], completed=progress.done, description=f"{progress.name} {progress.phase.value}"
        )
        quarter = 4 * progress.done // max(1, progress.total)
        if not self._console.live and self._told.get(progress.name, -1) < quarter:
            self._told[progress.name] = quarter
            self._console.note(f"{progress.name}: {progress.phase.value}, {25 * quarter} %")

    def changed(self, change: Change) -> None:
        """Something happened to an agent."""
        if change.detail:
            self._console.note(f"{change.name}: {change.phase.value}, {change.detail}")


class _Watch:
    """Shows answers as they come."""

    def __init__(self, front: Front, total: int) -> None:
        self._console = front.console
        self._total = total
        self._bar = Progress(
            TextColumn("requests"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=front.console.aside,
            disable=not front.console.live,
            transient=True,
        )
        self._task = self._bar.add_task("", total=total)

    def showing(self) -> AbstractContextManager[object]:
        """While the bar is on the screen."""
        return self._bar if self._console.live else nullcontext()

    def tell(self, outcome: Outcome, left: int) -> None:
        """One more ended."""
        ended = self._total - left
        where = f" by {outcome.result.model}" if outcome.result is not None and outcome.result.model else ""
        text = f"{outcome.asked.label}: {outcome.status}{where}"
        self._bar.update(self._task, completed=ended, description=text)
        if not self._console.live and (ended % LINES_EVERY == 0 or left == 0):
            self._console.note(
                f"{ended} of {self._total} ended, last {text}, after {outcome.after.total_seconds():.1f} s"
            )


async def demonstrate(front: Front, options: DemoOptions) -> int:
    """Run the demonstration.

    Returns:
        0 when every accepted request ended once with a complete story.

    Raises:
        TierflowError: Something could not be brought up.
    """
    began = time.monotonic()
    folder = options.requests.parent
    asked = load_workload(options.requests, sample=options.sample, seed=options.seed)
    score = load_score(folder / "check.py")
    front.options.folder.mkdir(parents=True, exist_ok=True)
    up = UpOptions(
        folder=front.options.folder,
        broker=options.broker,
        catalogue=_catalogue(front, options),
        models=options.models,
        workers=_workers(options),
    )
    with _Reporter(front) as reporter:
        async with bring_up(up, front.settings, reporter) as running:
            front.console.note(
                f"sending {len(asked)} requests from {options.requests} ({time.monotonic() - began:.0f} s)"
            )
            watch = _Watch(front, len(asked))
            with watch.showing():
                driven = await drive(running.platform, asked, within=options.within, tell=watch.tell)
            archive = running.archive
            front.console.note("draining")
    found = await asyncio.to_thread(books, archive)
    _account(front, options, asked, driven, score, found, archive)
    return _verdict(front, driven, found)


def _catalogue(front: Front, options: DemoOptions) -> str:
    if not options.everything_to:
        return options.catalogue
    changed = only_tier(load_catalogue(options.catalogue), options.everything_to)
    path = front.options.folder / f"only-{options.everything_to}.yaml"
    content = changed.model_dump(mode="json", exclude_defaults=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return str(path)


def _workers(options: DemoOptions) -> dict[str, int]:
    """Two workers, and so two servers of the model, for the tier with most of the work of the shipped catalogue."""
    if options.everything_to:
        return {options.everything_to: 2}
    return {"balanced": 2} if options.catalogue == DEFAULT_CATALOGUE else {}


def _account(
    front: Front,
    options: DemoOptions,
    asked: Sequence[Asked],
    driven: Driven,
    score: Score,
    found: Reconciliation,
    archive: Path,
) -> None:
    console = front.console
    arm = options.everything_to or ROUTED
    answers = [answer for outcome in driven.outcomes if (answer := outcome.answer(arm)) is not None]
    if options.record is not None:
        write_recorded(options.record, answers)
        console.note(f"recorded {len(answers)} answers in {options.record}")
    console.show("", report.by_tier_and_class(driven.outcomes, score))
    console.show("", report.without_model(driven.outcomes))
    _show_story(front, driven, archive)
    stand_in = options.catalogue == STAND_IN
    ours = options.catalogue == DEFAULT_CATALOGUE and not options.models and not options.everything_to
    others = [] if not ours else read_recorded(options.requests.parent / "recorded.jsonl")
    arms = compare(asked, [*answers, *others], score)
    if arms:
        console.show("", report.comparison(arms, stand_in=stand_in))
    console.show("", report.balance(found, driven.outcomes))
    console.line(
        f"{driven.seconds:.0f} s for all, first answer after {driven.first_answer_s:.1f} s; "
        f"archive: {archive}; tierflow explain ID --archive {archive}"
    )
    console.emit(_summary(driven, answers, found, archive, score))


def _show_story(front: Front, driven: Driven, archive: Path) -> None:
    """The story of the request that went through most."""
    told = [outcome for outcome in driven.outcomes if outcome.result is not None and outcome.result.steps]
    if not told:
        return
    most = max(told, key=lambda each: (each.result.escalations if each.result else 0, each.after))
    story = ArchiveReader(archive).story(most.request_id)
    value = most.asked.line.value or {}
    front.console.show("", plain(f"One request's story: {one_line(str(value.get('prompt', '')), 90)}", "bold"))
    front.console.show(story_tree(story))


def _verdict(front: Front, driven: Driven, found: Reconciliation) -> int:
    """Whether the promise was kept."""
    missing = [outcome.request_id for outcome in driven.outcomes if outcome.status == "unfinished"]
    for request_id in missing:
        front.console.warn(f"{request_id} did not end in time")
    for request_id, wrong in found.offending.items():
        front.console.warn(f"{request_id}: {'; '.join(wrong)}")
    for line in driven.unreadable:
        front.console.warn(f"unreadable: {line}")
    said = _disagreement(driven, found)
    if said:
        front.console.warn(said)
    if missing or said or driven.unreadable or not found.balanced:
        front.console.warn("the books do not balance")
        return NOT_SO
    return OK


def _disagreement(driven: Driven, found: Reconciliation) -> str:
    ended = sum(found.ended.values())
    seen = sum(1 for outcome in driven.outcomes if outcome.result is not None)
    return f"{seen} results were seen, the archive tells of {ended}" if seen != ended else ""


def _summary(
    driven: Driven, answers: Sequence[Answer], found: Reconciliation, archive: Path, score: Score
) -> dict[str, Any]:
    rights = [right for outcome in driven.outcomes if (right := outcome.right(score)) is not None]
    return {
        "requests": len(driven.outcomes),
        "accepted": found.accepted,
        "ended": {status.value: count for status, count in found.ended.items()},
        "dead_letters": found.dead_letters,
        "duplicates_dropped": found.duplicates_dropped,
        "offending": found.offending,
        "balanced": found.balanced,
        "checked": len(rights),
        "right": sum(rights),
        "cost_micros": sum(answer.cost_micros for answer in answers),
        "seconds": round(driven.seconds, 1),
        "first_answer_seconds": round(driven.first_answer_s, 1),
        "archive": str(archive),
        "answered": [outcome.request_id for outcome in driven.outcomes if outcome.status == Status.ANSWERED],
    }
