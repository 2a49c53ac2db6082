"""CPU seconds per 1,000 requests of every process of an installation, with a model that answers at once.

    python -m bench.pipeline [--broker embedded kafka]

All agents run as ``tierflow run`` starts them, one process each, three workers of which the requests use one. In: each
agent's whole process, its client libraries and idling included; the archive with its segments sealed. Out, in columns
of their own: broker, state store, and the model double behind real HTTP. Not shown: the client. Each request takes one
step: a call, five provenance events. Flat out, all requests are sent at once.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from bench._house import FLOW, House, open_house, warm_up
from bench._load import Load, Ran
from bench._meters import CpuMeter, Usage
from bench._options import COMMIT, Options, alone, show
from bench._progress import archived, finished
from tierflow.choices import BrokerChoice

RATES: Final = (60.0, 200.0, 0.0)
FLAT_OUT: Final = 8_000
SEAL: Final = timedelta(seconds=5)
"""Age at which the archive seals a segment here (a minute by default), so that a run holds the work of sealing."""
GOALS: Final = "goal: flow <= 0.8, all <= 1.2"
BESIDE: Final = ("audit", "archive")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One row. Rate 0 is flat out."""

    rate: float
    ran: Ran
    usage: Usage

    def of(self, *names: str) -> float:
        """CPU seconds per 1,000 requests of processes whose names begin with one of these."""
        return 1000 * self.usage.of(*names) / self.ran.sent


async def measure(broker: BrokerChoice, options: Options, rates: Sequence[float] = RATES) -> list[Cost]:
    """All agents at each rate."""
    async with open_house(broker, options.folder, segment_age=SEAL) as house:
        await house.start_all()
        async with house.load() as load:
            await warm_up(load, options.warm_s)
            await _at_rest(house)
            return [await _at(rate, house, load, options) for rate in rates]


async def _at(rate: float, house: House, load: Load, options: Options) -> Cost:
    meter = CpuMeter(house.pids())
    ran = await load.run(int(rate * options.seconds) or options.records(FLAT_OUT), rate)
    used = dict(meter.read().seconds)
    await _at_rest(house)
    later = meter.read().seconds
    # Who only reads along is done later; what the others use while it catches up is idling.
    used.update({name: later[name] for name in BESIDE})
    return Cost(rate=rate, ran=ran, usage=Usage(used))


async def _at_rest(house: House) -> None:
    await finished(house, "audit", 0)
    await archived(house)
    await asyncio.sleep(SEAL.total_seconds() + 1)


async def main(options: Options) -> None:
    """Measure and print."""
    for broker in options.brokers:
        rows = await measure(broker, options)
        show(
            f"CPU seconds per 1,000 requests, {COMMIT[broker]}; {GOALS}",
            [
                "at", "requests/s", "p50 ms", "p99 ms", "classifier", "worker", "guardrail", "= flow",
                "audit", "archive", "= all", "broker", "state store", "model double", "missing",
            ],
            [
                [
                    f"{row.rate:,.0f}/s" if row.rate else "flat out",
                    row.ran.per_second,
                    row.ran.p50_ms,
                    row.ran.p99_ms,
                    *(row.of(name) for name in FLOW),
                    row.of(*FLOW),
                    *(row.of(name) for name in BESIDE),
                    row.of(*FLOW, *BESIDE),
                    row.of("broker"),
                    row.of("state store"),
                    row.of("model double"),
                    row.ran.missing,
                ]
                for row in rows
            ],
        )  # fmt: skip


if __name__ == "__main__":
    alone("pipeline", main, __doc__)
