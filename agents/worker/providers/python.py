"""Python executors behind the provider port: allow-listed, with a time limit, their CPU time counted."""

import asyncio
import os
import sys
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import orjson

import agents
from agents.worker.executors import DeclinedError, Executor, Question, load
from schemas.enums import FinishReason
from schemas.errors import ConfigurationError, FailureClass, ProviderError
from schemas.ports import ModelAnswer, ModelCall

THREADS: Final = 4
"""For executors that are sure to be quick; more threads would only wait for the interpreter's lock."""

CHILDREN: Final = max(1, min(4, os.cpu_count() or 1))
"""Processes of one isolated executor; further questions wait within their own time limit."""

_ANSWER_BYTES: Final = 1 << 20
_KEPT: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")


class PythonProvider:
    """Runs executors.

    Args:
        allowed: Names that local settings allow.
        path: Further folders where child processes look for packages, beside those of the environment.
    """

    def __init__(self, allowed: Collection[str], *, path: Sequence[Path] = ()) -> None:
        self._allowed = frozenset(allowed)
        # Our own packages may lie in a checkout that was never installed.
        self._path = os.pathsep.join(str(folder) for folder in (Path(agents.__file__).parent.parent, *path))
        self._threads: ThreadPoolExecutor | None = None
        self._pools: dict[str, _Pool] = {}

    async def complete(self, call: ModelCall) -> ModelAnswer:
        """Ask the executor named by ``call.model``.

        Raises:
            ProviderError: BAD_OUTPUT when it declines or fails; TIMEOUT; AUTH when it is not allowed here; UNKNOWN when
                it can't be loaded.
        """
        name = call.model
        if name not in self._allowed:
            raise ProviderError(FailureClass.AUTH, f"executor {name} is not allowed here: see worker.executors")
        try:
            executor = load(name)
        except ConfigurationError as error:
            raise ProviderError(FailureClass.UNKNOWN, str(error)) from None
        question = Question(asked(call), call.extra)
        try:
            async with asyncio.timeout(call.timeout.total_seconds()):
                made = await (self._in_child if executor.isolated else self._in_thread)(name, executor, question)
        except TimeoutError:
            raise ProviderError(FailureClass.TIMEOUT, f"executor {name}: no answer in time") from None
        cpu_us = int(made["cpu_us"])
        if "text" in made:
            return ModelAnswer(text=made["text"], finish_reason=FinishReason.STOP, model=name, cpu_us=cpu_us)
        said = f"declined: {made['declined']}" if "declined" in made else f"failed with {made['failed']}"
        raise ProviderError(FailureClass.BAD_OUTPUT, f"executor {name} {said}", cpu_us=cpu_us)

    async def close(self) -> None:
        """End the child processes."""
        for pool in self._pools.values():
            await pool.close()
        self._pools.clear()
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, name: str, executor: Executor, question: Question) -> dict[str, Any]:
        del name
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="executor")
        async with asyncio.timeout(executor.limit.total_seconds()):
            return await asyncio.get_running_loop().run_in_executor(self._threads, _timed, executor, question)

    async def _in_child(self, name: str, executor: Executor, question: Question) -> dict[str, Any]:
        pool = self._pools.get(name)
        if pool is None:
            pool = self._pools[name] = _Pool(name, self._path, executor.limit)
        return await pool.ask(orjson.dumps({"text": question.text, "options": dict(question.options)}))


def asked(call: ModelCall) -> str:
    """Text of the last user message."""
    for message in reversed(call.messages):
        if message.role == "user":
            content = message.content
            if isinstance(content, str):
                return content
            return "\n".join(str(part["text"]) for part in content if part.get("type") == "text")
    return ""


def _timed(executor: Executor, question: Question) -> dict[str, Any]:
    started = time.thread_time_ns()
    made: dict[str, Any]
    try:
        made = {"text": executor.run(question)}
    except DeclinedError as error:
        made = {"declined": str(error)}
    except Exception as error:  # noqa: BLE001 - whatever it raises is the executor's failure
        made = {"failed": type(error).__name__}
    return {**made, "cpu_us": (time.thread_time_ns() - started) // 1000}


@dataclass(slots=True)
class _Pool:
    """Child processes of one executor: started when needed, kept when idle, killed when they don't answer in time."""

    name: str
    path: str
    limit: timedelta
    idle: list[asyncio.subprocess.Process] = field(default_factory=list)
    running: set[asyncio.subprocess.Process] = field(default_factory=set)
    ready: set[int] = field(default_factory=set)
    free: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CHILDREN))

    async def ask(self, line: bytes) -> dict[str, Any]:
        """One question to one child. Cancelled (as by a time limit), the child is killed with it."""
        async with self.free:
            child = self.idle.pop() if self.idle else await self._spawn()
            self.running.add(child)
            healthy = False
            try:
                if child.pid not in self.ready:
                    await _line(child)
                    self.ready.add(child.pid)
                async with asyncio.timeout(self.limit.total_seconds()):
                    made = await _exchange(child, line)
                healthy = made is not None
            finally:
                self.running.discard(child)
                if healthy:
                    self.idle.append(child)
                else:
                    self.ready.discard(child.pid)
                    await _end(child)
        return made or {"failed": "end of its process", "cpu_us": 0}

    async def close(self) -> None:
        """End all of them."""
        for child in (*self.idle, *self.running):
            await _end(child)
        self.idle.clear()

    async def _spawn(self) -> asyncio.subprocess.Process:
        env = {name: os.environ[name] for name in _KEPT if name in os.environ} | {"PYTHONPATH": self.path}
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "agents.worker.executors.child",
            self.name,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=env,
            limit=_ANSWER_BYTES,
        )


async def _exchange(child: asyncio.subprocess.Process, line: bytes) -> dict[str, Any] | None:
    """The child's answer, or None if it ended instead."""
    if child.stdin is None:
        return None
    try:
        child.stdin.write(line + b"\n")
        await child.stdin.drain()
    except ConnectionError:
        return None
    return await _line(child)


async def _line(child: asyncio.subprocess.Process) -> dict[str, Any] | None:
    """The next line that the child writes; None if it ends instead, or if the line is too long."""
    try:
        made: dict[str, Any] = orjson.loads(await child.stdout.readline() if child.stdout else b"")
    except ValueError:  # a line above the limit, or half a line
        return None
    return made


async def _end(child: asyncio.subprocess.Process) -> None:
    if child.returncode is None:
        child.kill()
    # Shielded: a cancelled caller must not leave a zombie behind.
    await asyncio.shield(child.wait())
