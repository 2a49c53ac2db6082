"""One child process: started, waited for, stopped, and hurt on purpose by fault tests.

For Linux and macOS. On Linux a child also dies when its parent is killed (see ``_guard``); macOS offers no such thing.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from enum import StrEnum
from pathlib import Path

import psutil

from schemas.errors import ProcessError
from streams.brokers.ports import LOOPBACK

_LOG = logging.getLogger(__name__)
_GUARD = Path(__file__).with_name("_guard.py")
_POLL_S = 0.02  # between looks at a port: short beside the fastest start (the embedded broker's 10 ms)
_TAIL_LINES = 30  # holds a Java stack trace with its cause
_TAIL_BYTES = 64 * 1024
# What a server needs from our environment. Everything else stays here: API keys are none of its business, and some
# servers read settings from variables that were meant for somebody else.
_ENVIRONMENT = ("HOME", "JAVA_HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ")


class ChildState(StrEnum):
    """Where a child is in its life; it can be started again once it has exited."""

    NEW = "new"
    RUNNING = "running"
    PAUSED = "paused"
    EXITED = "exited"


class ChildProcess:
    """A program in a process group of its own, with its output in a log file.

    Start it from a thread that lives as long as the child should: Linux takes the end of the thread that made a child
    for the death of its parent. An event loop in the main thread is such a thread.

    Args:
        name: For messages and log lines.
        argv: Full path of the program, and its arguments.
        log: Where standard output and standard error go; appended to.
        env: Whole environment of the child; a few harmless variables of ours if None.
        cwd: Working directory of the child; the log's folder if None.
    """

    def __init__(
        self,
        *,
        name: str,
        argv: Sequence[str],
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self._argv = tuple(argv)
        self._env = dict(env) if env is not None else {k: os.environ[k] for k in _ENVIRONMENT if k in os.environ}
        self._cwd = cwd or log.parent
        self._process: asyncio.subprocess.Process | None = None
        self._paused = False

    @property
    def state(self) -> ChildState:
        """Where it is in its life."""
        if self._process is None:
            return ChildState.NEW
        if self._process.returncode is not None:
            return ChildState.EXITED
        return ChildState.PAUSED if self._paused else ChildState.RUNNING

    @property
    def pid(self) -> int:
        """Process id of the running (or last) child.

        Raises:
            ProcessError: It was never started.
        """
        if self._process is None:
            raise ProcessError(f"{self.name} was not started")
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return None if self._process is None else self._process.returncode

    async def start(self, *, ports: Sequence[int] = (), within: timedelta = timedelta(seconds=30)) -> None:
        """Start it and wait until it listens on all the loopback ports; a failed start leaves no process.

        Raises:
            ProcessError: It runs already, can't be run, ended early (with the last lines of its log), or does not
                listen in time.
        """
        if self.state in {ChildState.RUNNING, ChildState.PAUSED}:
            raise ProcessError(f"{self.name} runs already, as process {self.pid}")
        try:
            await self._spawn()
            await self._wait_listening(ports, within)
        except BaseException:
            await self.kill()
            raise

    async def wait(self, *, within: timedelta) -> int:
        """Wait until it ends by itself, and return its exit status. For tools that do one thing.

        Raises:
            ProcessError: It takes longer; it is killed.
        """
        process = self._require()
        try:
            async with asyncio.timeout(within.total_seconds()):
                return await process.wait()
        except TimeoutError:
            raise ProcessError(
                f"{self.name} did not end within {within.total_seconds():g} s; {await self.log_tail()}"
            ) from None
        finally:
            await self.kill()

    async def stop(self, *, grace: timedelta = timedelta(seconds=10)) -> None:
        """Ask it to end (SIGTERM), and kill it when the grace is over. Nothing happens if it does not run."""
        if self.state not in {ChildState.RUNNING, ChildState.PAUSED}:
            return
        process = self._require()
        self._signal(signal.SIGTERM)
        self.resume()  # a stopped process sees no SIGTERM
        try:
            async with asyncio.timeout(grace.total_seconds()):
                await process.wait()
        except TimeoutError:
            _LOG.warning("%s did not stop within %g s: killed", self.name, grace.total_seconds())
        finally:
            await self.kill()

    async def kill(self) -> None:
        """SIGKILL to the whole process group, and wait until it is gone. Nothing happens if it does not run."""
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            self._signal(signal.SIGKILL, group=True)
        await process.wait()

    def pause(self) -> None:
        """SIGSTOP: it keeps its connections and answers nothing."""
        self._signal(signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)
        self._paused = False

    async def log_tail(self) -> str:
        """The last lines of its log, for an error message."""
        return await asyncio.to_thread(_tail, self.log)

    def _require(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise ProcessError(f"{self.name} was not started")
        return self._process

    def _signal(self, number: signal.Signals, *, group: bool = False) -> None:
        process = self._require()
        if process.returncode is not None:
            raise ProcessError(f"{self.name} has ended with {describe_exit(process.returncode)}")
        # Gone already, and the event loop hears of it in a moment: then there is nobody left to signal.
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(process.pid, number)

    async def _spawn(self) -> None:
        guard = (sys.executable, "-I", "-S", str(_GUARD), str(os.getpid())) if sys.platform == "linux" else ()
        descriptor = await asyncio.to_thread(_open_log, self.log)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *guard,
                *self._argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                env=self._env,
                cwd=self._cwd,
                start_new_session=True,  # Ctrl-C goes to us alone: agents drain first, the broker stops last
            )
        except OSError as error:
            raise ProcessError(f"{self.name} can't be started: {error}") from error
        finally:
            os.close(descriptor)
        self._paused = False

    async def _wait_listening(self, ports: Sequence[int], within: timedelta) -> None:
        missing = list(ports)
        try:
            async with asyncio.timeout(within.total_seconds()):
                while missing:
                    if (status := self.returncode) is not None:
                        ended = f"{self.name} ended with {describe_exit(status)} before it listened"
                        raise ProcessError(f"{ended}; {await self.log_tail()}")
                    if await _accepts(missing[0]) and await asyncio.to_thread(_listens, self.pid, missing[0]):
                        missing.pop(0)
                    else:
                        await asyncio.sleep(_POLL_S)
        except TimeoutError:
            places = ", ".join(f"{LOOPBACK}:{port}" for port in missing)
            raise ProcessError(
                f"{self.name} did not listen on {places} within {within.total_seconds():g} s; {await self.log_tail()}"
            ) from None


def describe_exit(status: int) -> str:
    """``exit status 1``, ``SIGKILL``: what a person makes of a return code."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


async def _accepts(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(LOOPBACK, port)
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


def _listens(pid: int, port: int) -> bool:
    """Whether it is this very process that listens there, and not one that took the port first."""
    try:
        connections = psutil.Process(pid).net_connections("tcp")
    except psutil.AccessDenied:
        return True  # not ours to see on this system; the port answers, and that must do
    except psutil.Error:
        return False
    return any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in connections)


def _open_log(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError as error:
        return f"its log {path} can't be read ({error.strerror})"
    if not lines:
        return f"its log {path} is empty"
    return "\n".join((f"last lines of {path}:", *(f"    {line}" for line in lines[-_TAIL_LINES:])))
