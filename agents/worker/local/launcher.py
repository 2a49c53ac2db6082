"""Starts and stops llama.cpp servers, and measures what they use.

What such a server answers on ``POST /v1/chat/completions``, where it differs from what one may expect (xllamacpp
2026.10; ``tests/agents/test_local_server.py`` holds it to most of this):

- ``logprobs: true`` gives ``choices[i].logprobs.content``, a list of ``{id, token, bytes, logprob, top_logprobs}``,
  one a generated token, the end token included (its ``token`` is empty). The probabilities are those before
  temperature and schema, so an answer bound to a schema looks unlikely however good it is. ``top_logprobs`` defaults
  to 20 alternatives a token; 0 switches the whole field off. Ask for 1.
- ``finish_reason`` is ``stop`` (end token or stop word) or ``length`` (``max_tokens``, or the context is full).
  ``max_tokens: 0`` gives one token.
- ``usage`` has ``prompt_tokens``, ``completion_tokens``, ``total_tokens``, ``prompt_tokens_details.cached_tokens``.
  With ``n > 1`` the prompt is processed once, ``n`` may not exceed the slots, and ``completion_tokens`` is that of
  the first choice alone.
- ``timings`` has ``prompt_n``, ``prompt_ms``, ``predicted_n``, ``predicted_ms`` (wall time, not CPU) and rates.
- ``response_format`` ``json_schema`` binds the answer; it ignores ``multipleOf`` and ``patternProperties``, lets
  white space pass between and after the tokens, and an answer cut at ``max_tokens`` is no JSON. So check the answer
  all the same.
- Errors are ``{"error": {code, message, type}}``: 400 ``exceed_context_size_error`` (with ``n_prompt_tokens``,
  ``n_ctx``), 400 ``invalid_request_error`` (bad JSON, wrong types, unknown schema types), 401
  ``authentication_error``, and for content that the model can't take (an image) 500 ``server_error``, which no retry
  mends. Unknown fields, roles and model names are taken without a word. With ``stream: true`` a refusal still is a
  plain JSON answer with its status.
- Tools are shown to the model, but the calls of the models in the catalogue come back as text, not as ``tool_calls``.
- A last message of the assistant is continued, and the answer begins with it.
- A client that goes away stops the work within about a second, streaming or not.
"""

import asyncio
import os
import sys
import tempfile
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import psutil

from agents.worker.local import server
from schemas.errors import MissingExtraError, ProcessError, WeightsUnavailableError
from streams.brokers.ports import LOOPBACK, pick_free
from streams.brokers.process import ChildProcess, ChildState, describe_exit

_POLL_S = 0.05  # between looks at /health: short beside loading a model (0.3 s to several)
_ENVIRONMENT = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TMPDIR")


class LlamaServer:
    """One model served by one llama.cpp process on a loopback port, with the OpenAI API.

    Use it as an async context manager, or call ``start`` and ``stop``. It dies with the process that started it. Start
    it from a thread that lives on (an event loop in the main thread): see ``ChildProcess``.

    Args:
        model_path: GGUF file.
        threads: Threads that compute; default half the cores. They wait for each other by spinning: with as many as
            cores on a busy machine CPU time explodes (72 s for an answer that takes about 11 s with one thread).
        parallel: Requests computed at once; further ones wait in the server, in order, without a limit of their number.
        context: Tokens of prompt and answer together that each request gets.
        port: Loopback port; 0 picks a free one at each start.
        api_key: If given, asked for as bearer token on everything but ``/health``.
        alias: Name of the model in answers; default the file's name.
        prompt_cache: Keep prompts between requests: faster on common beginnings, but an answer may then depend on what
            was asked before.
        log: Where the server's output goes; default a file in a temporary directory, gone after the stop.
    """

    def __init__(
        self,
        model_path: Path,
        *,
        threads: int | None = None,
        parallel: int = 1,
        context: int = 4096,
        port: int = 0,
        api_key: str = "",
        alias: str = "",
        prompt_cache: bool = False,
        log: Path | None = None,
    ) -> None:
        self.model_path = Path(model_path)
        self.threads = threads or max(1, (os.cpu_count() or 1) // 2)
        self.parallel = parallel
        self.context = context
        self.alias = alias or self.model_path.stem
        self._port = port
        self._wanted_port = port
        self._api_key = api_key
        self._prompt_cache = prompt_cache
        self._log = log
        self._child: ChildProcess | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    def __repr__(self) -> str:
        return f"LlamaServer({self.alias}, port={self._port}, parallel={self.parallel}, context={self.context})"

    @property
    def base_url(self) -> str:
        """What an OpenAI client takes as its base: ``http://127.0.0.1:PORT/v1``."""
        return f"http://{LOOPBACK}:{self._port}/v1"

    @property
    def pid(self) -> int:
        """Process id of the running (or last) server.

        Raises:
            ProcessError: It was never started.
        """
        return self._started().pid

    @property
    def running(self) -> bool:
        """Whether the process lives; it may be loading still."""
        return self._child is not None and self._child.state in {ChildState.RUNNING, ChildState.PAUSED}

    async def start(self, *, within: timedelta = timedelta(seconds=60)) -> None:
        """Starts the process and waits until the model is loaded; a failed start leaves no process.

        Raises:
            WeightsUnavailableError: There is no such file.
            MissingExtraError: The package ``xllamacpp`` is not installed.
            ProcessError: It runs already, ended early (with the last lines of its log) or was not ready in time.
        """
        if self.running:
            raise ProcessError(f"{self} runs already, as process {self.pid}")
        if not self.model_path.is_file():
            raise WeightsUnavailableError(f"there is no {self.model_path}: tierflow models fetch")
        if find_spec("xllamacpp") is None:
            raise MissingExtraError("xllamacpp", "local")
        self._port = self._wanted_port or pick_free(1)[0]
        if self._log is None and self._scratch is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="tierflow-llama-")
        log = self._log or Path(self._scratch.name if self._scratch else "") / f"{self.alias}.log"
        self._child = ChildProcess(
            name=f"llama.cpp server of {self.alias}", argv=self._argv(), log=log, env=self._env()
        )
        clock = asyncio.get_running_loop().time
        until = clock() + within.total_seconds()
        try:
            await self._child.start(ports=(self._port,), within=within)
            await self._wait_ready(timedelta(seconds=max(until - clock(), _POLL_S)))
        except BaseException:
            await self._child.kill()
            self._tidy()
            raise

    async def stop(self, *, grace: timedelta = timedelta(seconds=5)) -> None:
        """SIGTERM, and SIGKILL when the grace is over; requests in flight lose their connection.

        Nothing happens if it does not run.
        """
        if self._child is not None:
            await self._child.stop(grace=grace)
        self._tidy()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _started(self) -> ChildProcess:
        if self._child is None:
            raise ProcessError(f"{self} was not started")
        return self._child

    def _tidy(self) -> None:
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None

    def _argv(self) -> list[str]:
        # By path, and with -P against the folder's other modules: the child then imports none of our packages.
        argv = [sys.executable, "-P", server.__file__, "--model", str(self.model_path.absolute())]
        for name, value in (
            ("port", self._port),
            ("threads", self.threads),
            ("parallel", self.parallel),
            ("context", self.context),
            ("alias", self.alias),
        ):
            argv += [f"--{name}", str(value)]
        return [*argv, "--prompt-cache"] if self._prompt_cache else argv

    def _env(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        return {**kept, server.KEY_VARIABLE: self._api_key} if self._api_key else kept

    async def _wait_ready(self, within: timedelta) -> None:
        child = self._started()
        try:
            async with asyncio.timeout(within.total_seconds()), httpx.AsyncClient() as client:
                while not await _healthy(client, f"http://{LOOPBACK}:{self._port}/health"):
                    if (status := child.returncode) is not None:
                        raise ProcessError(
                            f"{child.name} ended with {describe_exit(status)} while loading; {await child.log_tail()}"
                        )
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise ProcessError(f"{child.name} was not ready in time; {await child.log_tail()}") from None


async def _healthy(client: httpx.AsyncClient, url: str) -> bool:
    """503 while it loads, no answer before and after it lives."""
    try:
        return (await client.get(url)).is_success
    except httpx.TransportError:
        return False


def cpu_seconds(pid: int) -> float:
    """CPU seconds, user and system of all threads, that a process has used since its start.

    The difference around a call is what the call cost, if it was the only one on that server; with several at once
    share it out, by tokens say. Resolution 10 ms (the kernel's clock tick).

    Raises:
        ProcessError: There is no such process.
    """
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        raise ProcessError(f"there is no process {pid}") from None
    return times.user + times.system
