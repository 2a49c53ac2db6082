"""The llama.cpp servers of a catalogue: which there must be, their weights, and keeping them up."""

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
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
MEMORY_FACTOR: Final = 2
"""Memory of a server by the size of its weights: a copy in the layout that its processor likes, and its contexts."""
LOAD_WITHIN: Final = timedelta(minutes=3)
"""A gigabyte from a cold disk on a busy machine; 2 s on a warm one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalModel:
    """A server that a catalogue needs.

    Attributes:
        endpoint: Name under which workers find it.
        weights: Name of the weights.
        context: Tokens of prompt and answer that a request gets.
        worker: The only worker that uses it; empty for all that have no server of their own.
    """

    endpoint: str
    weights: str
    context: int
    worker: str = ""

    @property
    def name(self) -> str:
        """Names the server among all."""
        return f"{self.endpoint}-{self.worker}" if self.worker else self.endpoint


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


def apart(
    models: Sequence[LocalModel],
    catalogue: Catalogue,
    files: Mapping[str, Path],
    *,
    workers: Sequence[tuple[str, str]],
    available: int,
) -> tuple[LocalModel, ...]:
    """The same models with a server for each worker that calls them, as far as memory allows.

    A server with one thread keeps one core busy, however many requests wait; two threads of one server wait for each
    other by spinning, which on a busy machine costs more than it brings. It also lets each worker tell what CPU time
    its calls took: of a shared server each sees the time of all.

    Args:
        models: One an endpoint.
        catalogue: Says which tiers call which model.
        files: Weights by name.
        workers: Name and tier of each, cheapest tier first.
        available: Bytes of memory that may be used.
    """
    endpoints = {ref: model.endpoint for model in catalogue.models for ref in (model.id, model.ref)}
    tiers: dict[str, set[str]] = {}
    for step in (step for plan in catalogue.plans for step in plan.steps):
        for ref in step.models:
            tiers.setdefault(endpoints[ref], set()).add(step.tier)
    wanted = list(models)
    left = available - MEMORY_FACTOR * sum(files[model.weights].stat().st_size for model in models)
    for model in models:
        callers = [name for name, tier in workers if tier in tiers.get(model.endpoint, ())]
        for name in callers[1:]:
            left -= MEMORY_FACTOR * files[model.weights].stat().st_size
            if left >= 0:
                wanted.append(replace(model, worker=name))
    return tuple(wanted)


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
        threads: Threads of each server; a fair share of the cores if None, since too many wait by spinning.
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
        self._keys = {model.name: secrets.token_urlsafe(18) for model in self._models}
        # Ports are chosen here, so that a server that died comes back where its clients look for it.
        ports = pick_free(len(self._models)) if self._models else ()
        self._urls = {
            model.name: f"http://{LOOPBACK}:{port}/v1" for model, port in zip(self._models, ports, strict=True)
        }
        share = max(1, (os.cpu_count() or 1) // max(1, len(self._models)))
        self._servers = {
            model.name: LlamaServer(
                files[model.weights],
                threads=threads or share,
                parallel=PARALLEL,
                context=model.context,
                port=port,
                api_key=self._keys[model.name],
                alias=model.weights,
                log=logs / f"llama-{model.name}.log",
            )
            for model, port in zip(self._models, ports, strict=True)
        }

    @property
    def servers(self) -> Mapping[str, LlamaServer]:
        """By name."""
        return dict(self._servers)

    def addresses(self) -> dict[str, EndpointSettings]:
        """Where the models are or will be; known before they run."""
        return {model.endpoint: EndpointSettings(base_url=self._urls[model.name]) for model in self._models}

    def endpoints(self, worker: str = "") -> dict[str, EndpointSettings]:
        """What a worker, or anybody else, needs to know of the running servers, as it is now.

        Raises:
            ProcessError: One was never started.
        """
        found = {model.endpoint: model for model in self._models if not model.worker}
        found |= {model.endpoint: model for model in self._models if model.worker == worker}
        return {
            endpoint: EndpointSettings(
                base_url=self._servers[model.name].base_url,
                api_key=SecretStr(self._keys[model.name]),
                cpu_pid=self._servers[model.name].pid,
            )
            for endpoint, model in found.items()
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
