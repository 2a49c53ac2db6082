"""What ``tierflow up`` shows: a live table on a terminal, plain lines elsewhere, JSON lines for programs."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

import psutil
from rich.live import Live
from rich.table import Table

from agents.worker.local.fetch import Progress
from tierflow.console import Console, plain
from tierflow.durations import told
from tierflow.fetching import Watcher
from tierflow.processes import Change, MemberStatus, Phase

_EVERY_S: Final = 1.0
_STYLES: Final = {Phase.RUNNING: "green", Phase.WAITING: "yellow", Phase.FAILED: "bold red", Phase.STOPPING: "cyan"}


class Lines:
    """Reports as they come.

    Args:
        console: Where.
        watcher: Takes the reports of a fetch.
    """

    def __init__(self, console: Console, watcher: Watcher) -> None:
        self._console = console
        self._watcher = watcher

    def say(self, text: str) -> None:
        """A step was done."""
        self._console.note(f"{_now()} {text}")
        self._console.emit({"event": "step", "text": text})

    def fetching(self, progress: Progress) -> None:
        """Weights arrive."""
        self._watcher(progress)

    def changed(self, change: Change) -> None:
        """Something happened to an agent."""
        detail = f": {change.detail}" if change.detail else ""
        text = f"{_now()} {change.name} {change.phase.value} (process {change.pid}){detail}"
        if change.phase in {Phase.WAITING, Phase.FAILED}:
            self._console.warn(text)
        else:
            self._console.note(text)
        self._console.emit(
            {
                "event": "agent",
                "name": change.name,
                "group": change.group,
                "phase": change.phase.value,
                "pid": change.pid,
                "detail": change.detail,
            }
        )


class StatusTable:
    """The agents as a table, with what each uses.

    Args:
        statuses: Gives them as they are now.
        title: Above the table.
    """

    def __init__(self, statuses: Callable[[], tuple[MemberStatus, ...]], title: str) -> None:
        self._statuses = statuses
        self._title = title
        self._processes: dict[int, psutil.Process] = {}

    def table(self) -> Table:
        """As it is now."""
        table = Table("agent", "state", "process", "up", "restarts", "CPU", "memory", title=self._title)
        for member in self._statuses():
            cpu, memory = self._usage(member.pid) if member.phase is Phase.RUNNING else ("", "")
            deaths = plain(f"{member.deaths} ({member.last_exit})" if member.deaths else "0")
            table.add_row(
                member.name,
                plain(member.phase.value, _STYLES.get(member.phase, "")),
                str(member.pid or ""),
                told(member.up_for) if member.up_for else "",
                deaths,
                cpu,
                memory,
            )
        return table

    def _usage(self, pid: int) -> tuple[str, str]:
        try:
            process = self._processes.setdefault(pid, psutil.Process(pid))
            with process.oneshot():
                return f"{process.cpu_percent():.0f} %", f"{process.memory_info().rss / 1e6:.0f} MB"
        except psutil.Error:
            self._processes.pop(pid, None)
            return "", ""


@asynccontextmanager
async def shown(console: Console, table: StatusTable) -> AsyncIterator[None]:
    """Show the table while a person watches; nothing otherwise."""
    if not console.live:
        yield
        return
    with Live(table.table(), console=console.aside, auto_refresh=False) as live:

        async def refresh() -> None:
            while True:
                live.update(table.table(), refresh=True)
                await asyncio.sleep(_EVERY_S)

        task = asyncio.create_task(refresh())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _now() -> str:
    return datetime.now(UTC).astimezone().strftime("%H:%M:%S")
