"""Named points in the code at which a process can hurt itself, so that tests hit the moment that they mean.

Random kills pass over the few microseconds that decide: between the send and the commit, between the answer and the
journal. Here a process is told by the environment variable ``STREAMS_FAULTS``, read once at its start, what to do to
itself at which point::

    [{"point": "after-journal", "action": "kill", "passes": 3, "marker": "/tmp/case/killed"}]

A process that was told nothing pays one look at ``armed`` a point.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import time
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TypeVar

from schemas.errors import ConfigurationError, TierflowError

log = logging.getLogger(__name__)

T = TypeVar("T")

VARIABLE: Final = "STREAMS_FAULTS"
_STRUCK: Final = "struck by a planned fault"

armed = False
"""Whether anything is planned; ``if faults.armed: await faults.reach(...)`` costs a dictionary look-up when not."""


class Point(StrEnum):
    """Where something can be planned, in the order in which a record passes them."""

    AFTER_FETCH = "after-fetch"
    """Records were taken, nothing was done with them."""
    AFTER_CLAIM = "after-claim"
    """A paid call is claimed and not made."""
    DURING_CALL = "during-call"
    """The provider is at work."""
    AFTER_CALL = "after-call"
    """The answer is in memory only."""
    AFTER_JOURNAL = "after-journal"
    """The answer is in the state store, nothing in the log."""
    AFTER_BEGIN = "after-begin"
    """The broker knows of the transaction and its partitions."""
    AFTER_SOME_SENDS = "after-some-sends"
    """One partition's batch is written. While anything is armed, batches are written one by one."""
    AFTER_SENDS = "after-sends"
    """All records are written."""
    AFTER_OFFSETS = "after-offsets"
    """The offsets are part of the transaction."""
    DURING_COMMIT = "during-commit"
    """The broker was asked to commit and did not answer yet."""
    AFTER_COMMIT = "after-commit"
    """It is visible, and this process did not book it yet."""


CALL_POINTS: Final = frozenset({Point.AFTER_CLAIM, Point.DURING_CALL, Point.AFTER_CALL, Point.AFTER_JOURNAL})
"""Points of a paid call: passed by workers, and by a classifier that asks a language model."""


class Action(StrEnum):
    """What happens there."""

    KILL = "kill"
    """SIGKILL to itself: nothing is cleaned up."""
    FREEZE = "freeze"
    """SIGSTOP to itself, until somebody sends SIGCONT."""
    RAISE = "raise"
    """An exception that nobody expects."""
    DELAY = "delay"
    """This task waits; others go on."""
    BLOCK = "block"
    """The event loop stands still: no heartbeat, no renewal."""


class InjectedError(TierflowError):
    """Raised on purpose at a fault point."""

    code = "internal.injected"


@dataclass(slots=True)
class Fault:
    """Something planned.

    Attributes:
        point: Where.
        action: What.
        passes: At which pass of the point, from 1.
        seconds: How long a delay or block lasts; at a ``during`` point, how long after its begin (then it does not
            last: use another point).
        marker: File that is made when it happens; if it is there already nothing happens, so that a process which is
            started again under the same environment lives.
        every: Happens at each pass from ``passes`` on; needs no marker.
        passed: How often the point was passed.
    """

    point: Point
    action: Action
    passes: int = 1
    seconds: float = 0.0
    marker: Path | None = None
    every: bool = False
    passed: int = field(default=0, compare=False)

    def due(self) -> bool:
        """Count a pass; whether it happens now."""
        self.passed += 1
        if self.passed < self.passes or (self.passed > self.passes and not self.every):
            return False
        return self.marker is None or _made(self.marker, f"{os.getpid()} {self.action} at {self.point}\n")


_planned: dict[Point, list[Fault]] = {}


def arm(faults: Iterable[Fault]) -> None:
    """Plan faults for this process, in place of those planned before; none disarms it."""
    global armed  # noqa: PLW0603 - a flag of the process, so that looking at it costs next to nothing
    _planned.clear()
    for fault in faults:
        _planned.setdefault(fault.point, []).append(fault)
        log.warning("armed: %s at pass %d of %s", fault.action, fault.passes, fault.point)
    armed = bool(_planned)


def arm_from(environ: Mapping[str, str]) -> None:
    """Plan what the environment says.

    Raises:
        ConfigurationError: It says nothing that can be understood.
    """
    text = environ.get(VARIABLE, "")
    if text:
        arm(read(text))


def read(text: str) -> list[Fault]:
    """Faults from their JSON form.

    Raises:
        ConfigurationError: Says what is wrong with it.
    """
    try:
        entries = json.loads(text)
        if not isinstance(entries, list):
            raise TypeError("a list is wanted")  # noqa: TRY301 - told like the others
        return [
            Fault(
                **{
                    **entry,
                    "point": Point(entry["point"]),
                    "action": Action(entry["action"]),
                    "marker": Path(entry["marker"]) if entry.get("marker") else None,
                }
            )
            for entry in entries
        ]
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigurationError(f"{VARIABLE} is no list of faults: {error}") from error


def written(faults: Iterable[Fault]) -> str:
    """The JSON form that ``read`` takes."""
    return json.dumps(
        [
            {
                "point": fault.point.value,
                "action": fault.action.value,
                "passes": fault.passes,
                "seconds": fault.seconds,
                "marker": str(fault.marker) if fault.marker else None,
                "every": fault.every,
            }
            for fault in faults
        ]
    )


async def reach(point: Point) -> None:
    """Pass a point.

    Raises:
        InjectedError: If that is planned.
    """
    for fault in _planned.get(point, ()):
        if fault.due():
            if fault.action is Action.DELAY:
                await asyncio.sleep(fault.seconds)
            else:
                _do(fault)


async def during(point: Point, work: Awaitable[T]) -> T:
    """Wait for ``work``; what is planned happens ``seconds`` after its begin, if it still goes on then.

    Raises:
        InjectedError: If that is planned.
    """
    running: asyncio.Future[T] = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    timers = [loop.call_later(fault.seconds, _strike, fault, running) for fault in _planned.get(point, ())]
    try:
        return await running
    except asyncio.CancelledError as error:
        if error.args == (_STRUCK,):
            raise InjectedError(f"injected at {point}") from None
        raise
    finally:
        for timer in timers:
            timer.cancel()
        if not running.done():
            running.cancel()


def _strike(fault: Fault, running: "asyncio.Future[Any]") -> None:
    if running.done() or not fault.due():
        return
    if fault.action is Action.RAISE:
        running.cancel(_STRUCK)
    else:
        _do(fault)


def _do(fault: Fault) -> None:
    match fault.action:
        case Action.KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        case Action.FREEZE:
            os.kill(os.getpid(), signal.SIGSTOP)
        case Action.BLOCK:
            time.sleep(fault.seconds)
        case Action.RAISE:
            raise InjectedError(f"injected at {fault.point}")
        case Action.DELAY:
            pass  # a timer has waited already


def _made(marker: Path, text: str) -> bool:
    """Make the file; False if it was there."""
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
        return True
    return False
