"""The llama.cpp servers of a catalogue: which there must be, their weights, and keeping them up."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pydantic import SecretStr

from agents.worker.local.cache import WeightsCache, WeightsState
from agents.worker.local.fetch import Progress, fetch
from agents.worker.local.launcher import LlamaServer
from agents.worker.local.weights import weights_named
from schemas.catalogue import Catalogue, ProviderKind
from schemas.errors import ConfigurationError, ProcessError
from schemas.settings import EndpointSettings
from streams.brokers.ports import LOOPBACK, pick_free
from tierflow.environment import callable_models
from tierflow.processes import Restarts

_LOOK_S: Final = 1.0
PARALLEL: Final = 2
"""Answers that a server works on at a time: two together cost less than one after the other."""
LOAD_WITHIN: Final = timedelta(minutes=3)
"""A gigabyte from a cold disk on a busy machine; 2 s on a warm one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalModel:
    """A server that a catalogue needs.

    Attributes:
        endpoint: Name under which workers find it.
        weights: Name of the weights.
        context: Tokens of prompt and answer that a request gets.
    """

    endpoint: str
    weights: str
    context: int


def local_models(catalogue: Catalogue) -> tuple[LocalModel, ...]:
    """The servers that a catalogue's local models need, one an endpoint.

    Raises:
        ConfigurationError: Two models want different weights behind one endpoint, or weights that nobody knows.
    """
    found: dict[str, LocalModel] = {}
    for model in callable_models(catalogue):
        if model.kind is not ProviderKind.LLAMA:
            continue
        weights_named(model.name)
        known = found.get(model.endpoint)
        if known is not None and known.weights != model.name:
            raise ConfigurationError(
                f"models {known.weights} and {model.name} share the endpoint {model.endpoint}: a local server has one "
                "model, so give each an endpoint of its own"
            )
        context = max(model.context_tokens, known.context if known else 0)
        found[model.endpoint] = LocalModel(endpoint=model.endpoint, weights=model.name, context=context)
    return tuple(found.values())


async def ensure_weights(names: Iterable[str], progress: Callable[[Progress], None] | None = None) -> dict[str, Path]:
    """The files of the weights, fetched where they are missing.

    Raises:
        WeightsError: One could not be had.
    """
    cache = WeightsCache()
    wanted = list(dict.fromkeys(names))
    missing = [name for name in wanted if cache.status(weights_named(name)).state is not WeightsState.READY]
    if missing:
        fetched = await asyncio.to_thread(fetch, missing, progress, cache=cache)
        for error in fetched.errors.values():
            raise error
    return {name: cache.ready(name) for name in wanted}


class LocalServers:
    """Running llama.cpp servers. An async context manager: leaving it stops them.

    Args:
        models: Which.
        files: Weights by name.
        logs: Folder of their logs.
        tell: Called with a line when one died and when it is back.
        threads: Threads of each server; half the cores if None, since too many wait by spinning.
    """

    def __init__(
        self,
        models: Iterable[LocalModel],
        files: Mapping[str, Path],
        *,
        logs: Path,
        tell: Callable[[str], None],
        threads: int | None = None,
    ) -> None:
        self._models = tuple(models)
        self._tell = tell
        self._keys = {model.endpoint: secrets.token_urlsafe(18) for model in self._models}
        # Ports are chosen here, so that a server that died comes back where its clients look for it.
        ports = pick_free(len(self._models)) if self._models else ()
        self._urls = {
            model.endpoint: f"http://{LOOPBACK}:{port}/v1" for model, port in zip(self._models, ports, strict=True)
        }
        self._servers = {
            model.endpoint: LlamaServer(
                files[model.weights],
                threads=threads,
                parallel=PARALLEL,
                context=model.context,
                port=port,
                api_key=self._keys[model.endpoint],
                alias=model.weights,
                log=logs / f"llama-{model.endpoint}.log",
            )
            for model, port in zip(self._models, ports, strict=True)
        }

    @property
    def servers(self) -> Mapping[str, LlamaServer]:
        """By endpoint."""
        return dict(self._servers)

    def addresses(self) -> dict[str, EndpointSettings]:
        """Where the servers are or will be; known before they run."""
        return {name: EndpointSettings(base_url=url) for name, url in self._urls.items()}

    def endpoints(self) -> dict[str, EndpointSettings]:
        """What workers need to know of the running servers, as it is now.

        Raises:
            ProcessError: One was never started.
        """
        return {
            name: EndpointSettings(base_url=server.base_url, api_key=SecretStr(self._keys[name]), cpu_pid=server.pid)
            for name, server in self._servers.items()
        }

    async def start(self) -> None:
        """Start all, one after the other: each would take all cores while it loads.

        Raises:
            MissingExtraError: The package with llama.cpp is not installed.
            ProcessError: One did not start.
        """
        for server in self._servers.values():
            await server.start(within=LOAD_WITHIN)

    async def watch(self, changed: Callable[[], Awaitable[None]], restarts: Restarts | None = None) -> None:
        """Start servers again that died, for ever.

        Args:
            changed: Awaited after a restart: process ids are others now.
            restarts: Pauses before a restart.
        """
        policy = restarts or Restarts()
        deaths = dict.fromkeys(self._servers, 0)
        while True:
            await asyncio.sleep(_LOOK_S)
            for name, server in self._servers.items():
                if server.running:
                    continue
                deaths[name] += 1
                pause = policy.delay(deaths[name])
                self._tell(f"local model {name} died; starts again in {pause.total_seconds():g} s")
                await asyncio.sleep(pause.total_seconds())
                try:
                    await server.start(within=LOAD_WITHIN)
                except ProcessError as error:
                    self._tell(f"local model {name}: {error}")
                    continue
                self._tell(f"local model {name} is back, as process {server.pid}")
                await changed()

    async def stop(self) -> None:
        """Stop all."""
        await asyncio.gather(*(server.stop() for server in self._servers.values()))

    async def __aenter__(self) -> Self:
        """Start."""
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        await self.stop()
