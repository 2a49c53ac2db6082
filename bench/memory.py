"""Memory of each agent when 10,000 requests wait for it, beside 100.

    python -m bench.memory [--broker embedded kafka]

Each stage is started only when all records lie in the topics before it, and stopped before the next starts; shown is
the most its process ever had resident. The bound that ``streams/loop.py`` states: at most ``loop.max_in_flight``
records (512) and ``loop.max_in_flight_bytes`` (64 MiB) are held, beside one fetch of the client, which takes at most
a topic's largest record (2 MiB) from each partition.
"""

from collections.abc import Mapping
from typing import Final

from bench._house import House, open_house
from bench._meters import peak_mib
from bench._options import COMMIT, Options, alone, show
from bench._progress import archived, committed, finished
from tierflow.choices import BrokerChoice

FEW: Final = 100
MANY: Final = 10_000
STAGES: Final = (("classifier", ""), ("worker", "fast"), ("guardrail", ""), ("audit", ""), ("archive", ""))


async def measure(broker: BrokerChoice, options: Options) -> dict[int, Mapping[str, float]]:
    """Peak MiB of each agent, by the number of requests that waited."""
    async with open_house(broker, options.folder) as house:
        return {count: await _round(house, count) for count in (FEW, options.records(MANY))}


async def _round(house: House, count: int) -> Mapping[str, float]:
    async with house.load(outof=()) as load:
        await load.run(count)
    peaks = {}
    for kind, tier in STAGES:
        name = f"{kind}-{tier}" if tier else kind
        before = 0 if kind == "archive" else await committed(house, name)
        child = await house.start(kind, tier)
        if kind == "archive":
            await archived(house)
        else:
            await finished(house, name, before)
        peaks[name] = peak_mib(child.pid)
        await house.stop(name)
    return peaks


async def main(options: Options) -> None:
    """Measure and print."""
    for broker in options.brokers:
        peaks = await measure(broker, options)
        (few, small), (many, large) = peaks.items()
        show(
            f"Most memory resident, MiB, {COMMIT[broker]}",
            ["agent", f"{few:,} waiting", f"{many:,} waiting", "growth"],
            [[name, small[name], large[name], large[name] - small[name]] for name in small],
        )


if __name__ == "__main__":
    alone("memory", main, __doc__)
