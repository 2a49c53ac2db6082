"""A tree of processes that are kept running: started, watched, restarted with back-off, and drained in order.

One ``ProcessTree`` holds the agents of an installation on this machine. Each member belongs to a group (its stage); a
stop goes through the groups in a given order, so that what feeds others ends first.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from schemas.errors import ConfigurationError, ProcessError
from streams.brokers.process import ChildProcess, ChildState, describe_exit

_FOREVER: Final = timedelta(days=36_500)
_LOOK_S: Final = 0.05  # between looks at a member that is starting while it should stop


class Phase(StrEnum):
    """Where a member of the tree is in its life."""

    NEW = "new"
    RUNNING = "running"
    WAITING = "waiting"
    """It died, and is started again when its back-off is over."""
    STOPPING = "stopping"
    """It was asked to end, and finishes what it has begun."""
    STOPPED = "stopped"
    FAILED = "failed"
    """It died in a way that another start does not mend."""


NEXT: Final[Mapping[Phase, frozenset[Phase]]] = {
    Phase.NEW: frozenset({Phase.RUNNING, Phase.FAILED}),
    Phase.RUNNING: frozenset({Phase.WAITING, Phase.STOPPING, Phase.STOPPED, Phase.FAILED}),
    Phase.WAITING: frozenset({Phase.RUNNING, Phase.STOPPED, Phase.FAILED}),
    Phase.STOPPING: frozenset({Phase.STOPPED}),
    Phase.STOPPED: frozenset({Phase.RUNNING, Phase.FAILED}),
    Phase.FAILED: frozenset(),
}
"""Which phases may follow which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarts:
    """How a member that died comes back."""

    first: timedelta = timedelta(milliseconds=500)
    """Pause before the first restart; it doubles with each that follows."""
    longest: timedelta = timedelta(seconds=30)
    steady: timedelta = timedelta(seconds=60)
    """Who ran this long is healthy: the next death counts as the first again."""
    fatal: frozenset[int] = frozenset({ConfigurationError.exit_code})
    """Exit statuses that no restart mends: settings or catalogue are wrong."""

    def delay(self, deaths: int) -> timedelta:
        """The pause after so many deaths in a row, from 1."""
        doublings = min(deaths - 1, 30)  # 2**30 half seconds are beyond any longest pause
        return min(self.first * (1 << doublings), self.longest)


def _no_more_environment() -> Mapping[str, str]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A process to keep running.

    Attributes:
        name: Unique in the tree, such as ``worker-fast-1``.
        group: Members of one group are drained together.
        argv: Full path of the program, and its arguments.
        log: Where its output goes; appended to.
        env: Its whole environment, asked for at each start: what it depends on may have moved.
        cwd: Its working folder; that of the log if None.
        grace: How long it may take to end by itself before it is killed.
    """

    name: str
    group: str
    argv: Sequence[str]
    log: Path
    env: Callable[[], Mapping[str, str]] = _no_more_environment
    cwd: Path | None = None
    grace: timedelta = timedelta(seconds=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Something that happened to a member.

    Attributes:
        name: Which member.
        group: Its group.
        phase: What it is now.
        pid: Process id of its running or last process; 0 if it never ran.
        detail: Why, for people; empty when there is nothing to explain.
    """

    name: str
    group: str
    phase: Phase
    pid: int
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberStatus:
    """One line of a status table.

    Attributes:
        name: Which member.
        group: Its group.
        phase: Where it is in its life.
        pid: Process id of its running or last process; 0 if it never ran.
        deaths: How often it ended without being asked to.
        up_for: How long the present process runs; zero if none does.
        last_exit: How it ended last, for people; empty if it never did.
        log: Its log file.
    """

    name: str
    group: str
    phase: Phase
    pid: int
    deaths: int
    up_for: timedelta
    last_exit: str
    log: Path


Tell = Callable[[Change], None]


@dataclass(slots=True, eq=False)
class _Member:
    """One program under supervision."""

    program: Program
    restarts: Restarts
    tell: Tell
    broke: asyncio.Event
    phase: Phase = Phase.NEW
    deaths: int = 0
    last_exit: str = ""
    failure: str = ""
    since: float = 0.0
    child: ChildProcess | None = None
    _asked: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        child = self.child
        return 0 if child is None or child.state is ChildState.NEW else child.pid

    async def start(self) -> None:
        if self._task is not None and not self._task.done():
            raise ProcessError(f"{self.program.name} runs already")
        self._asked = asyncio.Event()
        await self._spawn()
        self._task = asyncio.create_task(self._supervise(), name=f"watch {self.program.name}")

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL when the grace is over; returns when it is gone."""
        self._asked.set()
        if self._task is None:
            return
        if self.phase is Phase.RUNNING and not self._task.done():
            self._enter(Phase.STOPPING)
        while not self._task.done():
            if self.child is not None:
                await self.child.stop(grace=self.program.grace)
            await asyncio.wait({self._task}, timeout=_LOOK_S)
        self._task.result()

    async def kill(self) -> None:
        """End it now; for when there is no time to ask."""
        self._asked.set()
        if self._task is not None:
            self._task.cancel()  # waiting for a child kills it when that is broken off
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self.child is not None:
            await self.child.kill()

    async def _spawn(self) -> None:
        program = self.program
        try:
            self.child = ChildProcess(
                name=program.name, argv=program.argv, log=program.log, env=program.env(), cwd=program.cwd
            )
            await self.child.start()
        except ProcessError as error:
            self._fail(str(error))
            raise
        self.since = asyncio.get_running_loop().time()
        self._enter(Phase.RUNNING)

    async def _supervise(self) -> None:
        in_a_row = 0
        clock = asyncio.get_running_loop().time
        while True:
            child = self.child
            assert child is not None  # noqa: S101 - it was spawned before this runs
            status = await child.wait(within=_FOREVER)
            self.last_exit = describe_exit(status)
            if self._asked.is_set():
                self._enter(Phase.STOPPED, self.last_exit)
                return
            self.deaths += 1
            if status in self.restarts.fatal:
                said = await child.log_tail()
                if self.phase is Phase.STOPPING:  # asked to end while its log was read
                    self._enter(Phase.STOPPED, self.last_exit)
                else:
                    self._fail(f"{self.program.name} ended with {self.last_exit}; {said}")
                return
            in_a_row = 1 if clock() - self.since >= self.restarts.steady.total_seconds() else in_a_row + 1
            delay = self.restarts.delay(in_a_row)
            self._enter(Phase.WAITING, f"{self.last_exit}; starts again in {delay.total_seconds():g} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), delay.total_seconds())
            if self._asked.is_set():
                self._enter(Phase.STOPPED, self.last_exit)
                return
            try:
                await self._spawn()
            except ProcessError:
                return

    def _fail(self, reason: str) -> None:
        self.failure = reason
        self._enter(Phase.FAILED, reason)
        self.broke.set()

    def _enter(self, phase: Phase, detail: str = "") -> None:
        if phase not in NEXT[self.phase]:
            raise ProcessError(f"{self.program.name} can't go from {self.phase} to {phase}")
        self.phase = phase
        self.tell(Change(name=self.program.name, group=self.program.group, phase=phase, pid=self.pid, detail=detail))

    def status(self) -> MemberStatus:
        runs = self.phase in {Phase.RUNNING, Phase.STOPPING}
        seconds = asyncio.get_running_loop().time() - self.since if runs else 0.0
        return MemberStatus(
            name=self.program.name,
            group=self.program.group,
            phase=self.phase,
            pid=self.pid,
            deaths=self.deaths,
            up_for=timedelta(seconds=seconds),
            last_exit=self.last_exit,
            log=self.program.log,
        )


class ProcessTree:
    """Keeps programs running until it is told to stop. An async context manager: leaving it leaves no process behind.

    Use it from the event loop of the main thread (see ``ChildProcess``).

    Args:
        restarts: How members that died come back.
        tell: Called with every change, from the event loop.
    """

    def __init__(self, *, restarts: Restarts | None = None, tell: Tell | None = None) -> None:
        self._restarts = restarts or Restarts()
        self._tell = tell or (lambda _: None)
        self._members: dict[str, _Member] = {}
        self._broke = asyncio.Event()

    async def start(self, programs: Iterable[Program]) -> None:
        """Start programs and keep them running.

        Raises:
            ProcessError: A name is taken, or a program can't be run at all.
        """
        for program in programs:
            if program.name in self._members:
                raise ProcessError(f"there is a process named {program.name} already")
            member = _Member(program, self._restarts, self._tell, self._broke)
            self._members[program.name] = member
            await member.start()

    async def stop(self, order: Sequence[str] = (), *, before: Callable[[str], Awaitable[None]] | None = None) -> None:
        """Drain all members: groups one after the other in ``order``, those it does not name together at the end.

        Args:
            order: Names of groups.
            before: Awaited before each named group is asked to end: the time to let it finish what others sent it.
        """
        for group in order:
            if not any(member.program.group == group for member in self._members.values()):
                continue
            if before is not None:
                await before(group)
            await self.stop_group(group)
        await asyncio.gather(*(member.stop() for member in self._members.values()))

    async def stop_group(self, group: str) -> None:
        """Drain the members of a group, all at once."""
        await asyncio.gather(*(member.stop() for member in self._of(group)))

    async def restart_group(self, group: str) -> None:
        """Drain the members of a group one after the other and start each again, with the environment of now."""
        for member in self._of(group):
            await member.stop()
            await member.start()

    async def broken(self) -> ProcessError:
        """Wait until a member fails for good, and say why."""
        await self._broke.wait()
        return ProcessError(next(member.failure for member in self._members.values() if member.failure))

    def statuses(self) -> tuple[MemberStatus, ...]:
        """All members as they are now, in the order of their start."""
        return tuple(member.status() for member in self._members.values())

    async def kill(self) -> None:
        """End all members at once."""
        await asyncio.gather(*(member.kill() for member in self._members.values()))

    async def __aenter__(self) -> Self:
        """Nothing is started yet."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill what still runs; an orderly end is ``stop``'s."""
        await self.kill()

    def _of(self, group: str) -> list[_Member]:
        return [member for member in self._members.values() if member.program.group == group]
