"""Showing how weights arrive: bars on a terminal, a line now and then elsewhere, JSON lines for programs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

from agents.worker.local.fetch import FetchPhase, Progress
from tierflow.console import Console

_STEP: Final = 0.1


class Watcher:
    """Takes the reports of a fetch.

    Args:
        console: Where to show them.
        bars: Bars of a terminal; None where nobody watches.
    """

    def __init__(self, console: Console, bars: Bars | None) -> None:
        self._console = console
        self._bars = bars
        self._tasks: dict[str, int] = {}
        self._told: dict[str, tuple[FetchPhase, int]] = {}

    def __call__(self, progress: Progress) -> None:
        """Take a report; from any thread."""
        if self._bars is not None:
            self._bar(self._bars, progress)
        else:
            self._line(progress)

    def close(self) -> None:
        """Take the bars away: what follows wants the terminal for itself."""
        if self._bars is not None:
            self._bars.stop()

    def _bar(self, bars: Bars, progress: Progress) -> None:
        if progress.name not in self._tasks:
            self._tasks[progress.name] = bars.add_task(progress.name, total=progress.total)
        words = f"{progress.name} {progress.phase.value}"
        bars.update(bars.task_ids[self._tasks[progress.name]], completed=progress.done, description=words)

    def _line(self, progress: Progress) -> None:
        """A line when something else begins, and every tenth of the way."""
        step = int(progress.done / max(progress.total, 1) / _STEP)
        if self._told.get(progress.name) == (progress.phase, step):
            return
        self._told[progress.name] = (progress.phase, step)
        share = progress.done / max(progress.total, 1)
        self._console.note(f"{progress.name}: {progress.phase.value} {share:.0%} of {progress.total / 1e6:,.0f} MB")
        self._console.emit(
            {
                "weights": progress.name,
                "phase": progress.phase.value,
                "done": progress.done,
                "total": progress.total,
            }
        )


@contextmanager
def watching(console: Console) -> Iterator[Watcher]:
    """A watcher, with bars where a person watches."""
    if not console.live:
        yield Watcher(console, None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console.aside, transient=True) as bars:
        yield Watcher(console, bars)
