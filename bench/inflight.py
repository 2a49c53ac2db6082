"""A thousand calls of one second in flight in one worker: the rate that it reaches, its memory and its CPU time.

    python -m bench.inflight [--broker embedded kafka]

The assignments wait in the tier's topic before the worker starts, so that nothing else runs meanwhile but broker, state
store and model double. In: the worker's process. With a second a call and a thousand in flight, a thousand calls a
second is what there can be. ``loop.max_in_flight`` is raised to 2,048: with its default of 512 a process holds no more
records than that, and so has no more calls in flight, whatever the catalogue allows.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import httpx

from bench._house import House, open_house
from bench._meters import cpu_seconds, peak_mib, resident_mib
from bench._options import COMMIT, Options, alone, show
from bench._progress import finished
from tierflow.choices import BrokerChoice

CALLS: Final = 15_000
IN_FLIGHT: Final = 1_000
LATENCY: Final = timedelta(seconds=1)
LOOP: Final[Mapping[str, Any]] = {"max_in_flight": 2_048}
_LOOK_S: Final = 0.25
_STALL_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class InFlight:
    """What was reached. Memory in MiB."""

    calls: int
    most_open: int
    per_second: float
    cpu_s_per_1000: float
    cores: float
    idle_mib: float
    peak_mib: float


async def measure(broker: BrokerChoice, options: Options) -> InFlight:
    """Queue assignments, then let one worker at them."""
    count = options.records(CALLS)
    async with open_house(broker, options.folder, model_latency=LATENCY, loop=LOOP) as house:
        async with house.load(outof=()) as load:
            await load.run(count)
        await house.start("classifier")
        await finished(house, "classifier", 0)
        await house.stop("classifier")
        return await _work(house, count)


async def _work(house: House, count: int) -> InFlight:
    worker = await house.start("worker", "fast")
    async with httpx.AsyncClient(base_url=house.model_url.removesuffix("/v1"), trust_env=False) as client:

        async def stats() -> dict[str, int]:
            found: dict[str, int] = (await client.get("/stats", timeout=10)).json()
            return found

        while (await stats())["calls"] == 0:
            idle = resident_mib(worker.pid)
            await asyncio.sleep(_LOOK_S)
        began, cpu, first = time.monotonic(), cpu_seconds(worker.pid), (await stats())["calls"]
        calls, moved = first, began
        while calls < count and time.monotonic() - moved < _STALL_S:
            await asyncio.sleep(_LOOK_S)
            now = (await stats())["calls"]
            if now > calls:
                calls, moved = now, time.monotonic()
        span = max(moved - began, _LOOK_S)  # a few calls are done before the first look
        used = cpu_seconds(worker.pid) - cpu
        await finished(house, "worker-fast", 0)
        return InFlight(
            calls=calls,
            most_open=(await stats())["most_open"],
            per_second=(calls - first) / span,
            cpu_s_per_1000=1000 * used / max(1, calls - first),
            cores=used / span,
            idle_mib=idle,
            peak_mib=peak_mib(worker.pid),
        )


async def main(options: Options) -> None:
    """Measure and print."""
    rows = [(broker, await measure(broker, options)) for broker in options.brokers]
    show(
        f"{IN_FLIGHT:,} calls of {LATENCY.total_seconds():g} s in flight in one worker",
        ["broker", "calls", "most at once", "calls/s", "CPU s per 1,000", "cores", "MiB before", "MiB at most"],
        [
            [
                COMMIT[broker],
                row.calls,
                row.most_open,
                row.per_second,
                row.cpu_s_per_1000,
                row.cores,
                row.idle_mib,
                row.peak_mib,
            ]
            for broker, row in rows
        ],
    )


if __name__ == "__main__":
    alone("inflight", main, __doc__)
