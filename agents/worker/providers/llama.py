"""A llama.cpp server of our own: the same protocol, and the CPU time that its process spends."""

from dataclasses import replace
from types import MappingProxyType
from typing import Final

import psutil

from agents.worker.providers.http import Endpoint
from agents.worker.providers.openai import OpenAIProvider
from schemas.errors import ProviderError
from schemas.ports import ModelAnswer, ModelCall

_FIELDS: Final = MappingProxyType({"top_logprobs": 1})
"""The server sends 20 alternatives a token when it isn't told a number, and none of the token's own at 0."""


class CpuMeter:
    """CPU time of a process, shared out among the calls that ran meanwhile.

    At each start and end of a call the time spent since the last look is divided evenly among the calls that were
    running. So the shares of all calls add up to what the process spent while there were any; a single call at a time
    gets exactly its own. The kernel counts in ticks of 10 ms, which is the error of a call.

    Args:
        pid: The process.
    """

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._seen = 0.0
        self._shares: dict[object, float] = {}

    def enter(self) -> object:
        """A call starts; the returned token ends it."""
        self._look()
        token = object()
        self._shares[token] = 0.0
        return token

    def leave(self, token: object) -> int:
        """The call ends: its share in microseconds."""
        self._look()
        return round(self._shares.pop(token) * 1_000_000)

    def _look(self) -> None:
        try:
            times = self._process.cpu_times()
        except psutil.Error:
            return  # it died: the call fails by itself, and what it spent since the last look is lost
        spent, self._seen = times.user + times.system - self._seen, times.user + times.system
        for token in self._shares:
            self._shares[token] += spent / len(self._shares)


class LlamaProvider:
    """Calls a llama.cpp server on this machine.

    Args:
        endpoint: Where.
        cpu_pid: The server's process; without it CPU time is 0 (unknown).
    """

    def __init__(self, endpoint: Endpoint, cpu_pid: int | None = None) -> None:
        self._provider = OpenAIProvider(endpoint)
        self._with_logprobs = OpenAIProvider(endpoint, _FIELDS)
        self._pid = cpu_pid
        self._meter: CpuMeter | None = None

    async def complete(self, call: ModelCall) -> ModelAnswer:
        """Make the call, once. Raises ``ProviderError`` as any OpenAI-compatible endpoint does."""
        provider = self._with_logprobs if call.logprobs else self._provider
        meter = self._cpu()
        if meter is None:
            return await provider.complete(call)
        token = meter.enter()
        try:
            answer = await provider.complete(call)
        except ProviderError as error:
            error.cpu_us = meter.leave(token)
            raise
        except BaseException:
            meter.leave(token)
            raise
        return replace(answer, cpu_us=meter.leave(token))

    async def close(self) -> None:
        """Close the connections; the server is not ours to stop."""
        await self._provider.close()

    def _cpu(self) -> CpuMeter | None:
        if self._meter is None and self._pid is not None:
            try:
                self._meter = CpuMeter(self._pid)
            except psutil.NoSuchProcess:
                return None
        return self._meter
