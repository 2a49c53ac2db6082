"""``tierflow up``: an installation on this machine until a signal."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from schemas.settings import Settings
from streams.runtime import stop_on_signals
from tierflow.choices import BrokerChoice, StateChoice
from tierflow.console import Console
from tierflow.exits import OK
from tierflow.fetching import watching
from tierflow.front import Front
from tierflow.status import Lines, StatusTable, shown
from tierflow.up import Running, UpOptions, bring_up


def chosen(front: Front, broker: BrokerChoice | None, state: StateChoice | None) -> tuple[BrokerChoice, StateChoice]:
    """What was chosen; a broker or store that settings name is meant to be used."""
    named = front.explicit("kafka", "bootstrap")
    kept = front.explicit("state", "url")
    return (
        broker or (BrokerChoice.EXTERNAL if named else BrokerChoice.EMBEDDED),
        state or (StateChoice.EXTERNAL if kept else StateChoice.EMBEDDED),
    )


async def up(console: Console, settings: Settings, options: UpOptions) -> int:
    """Bring an installation up, and drain it when a signal asks for that; a second signal ends everything at once.

    Raises:
        TierflowError: It did not come up, or can't go on; nothing of it is left running.
    """
    stop = asyncio.Event()
    with watching(console) as watcher, _cancelled_by_signals() as cancelled:
        try:
            async with bring_up(options, settings, Lines(console, watcher)) as running:
                stop_on_signals(stop)
                watcher.close()
                await _hold(console, running, stop)
        except asyncio.CancelledError:
            if not cancelled:
                raise
            console.note("stopped before everything was up")
            return cancelled[0]
    console.note("stopped")
    return OK


async def _hold(console: Console, running: Running, stop: asyncio.Event) -> None:
    """Show what runs until it shall end."""
    found = running.platform.capabilities
    console.emit(
        {
            "event": "up",
            "bootstrap": running.settings.kafka.bootstrap,
            "mode": found.mode.value,
            "catalogue": running.snapshot.catalogue.name,
            "archive": str(running.archive),
            "logs": str(running.logs),
            "pid": os.getpid(),
        }
    )
    console.note(f"up: logs in {running.logs}, archive in {running.archive}; Ctrl-C stops it")
    console.note(
        "from this folder: tierflow send --wait 'What is 17 * 23?', tierflow tail results, tierflow explain ID"
    )
    title = f"{found.broker}, {found.mode.value}; catalogue {running.snapshot.catalogue.name}"
    async with shown(console, StatusTable(running.statuses, title)):
        await running.run_until(stop)
        console.note("draining: what was begun is finished; a second signal ends everything at once")
        await running.drain()
    if running.started.broker is BrokerChoice.EMBEDDED and (left := await running.unfinished()):
        console.warn(f"{left} requests had not ended, and the embedded broker keeps nothing")


@contextmanager
def _cancelled_by_signals() -> Iterator[list[int]]:
    """Until it is up, a signal cancels the start; yields the exit code of the signal that came."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    came: list[int] = []

    def cancel(number: int) -> None:
        came.append(128 + number)
        if task is not None:
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, cancel, number)
    try:
        yield came
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
