"""The classifier's hop alone, beside a bare copy loop: CPU time and latency at 500/s, 2,000/s and flat out.

    python -m bench.hop [--broker embedded kafka]

In: one classifier process as ``tierflow run classifier`` starts it, with the catalogue of the local run (rules,
filters, scores), the surface classifier, the idempotent receiver in a real Valkey, decision and slip encoded, and on
Kafka a transaction a commit. The requests are the prompts of ``examples/``. Out: broker, state store, client.
Floor: a process that copies records with 13 headers, commits at the same pace, and does nothing else; with this
project's client and with aiokafka's own producer. Flat out, the floor starts with everything there; the hop gets
everything at once while it runs.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from agents.liveness import keep_marked
from bench._house import House, open_house, warm_up
from bench._load import Load
from bench._meters import CpuMeter
from bench._options import COMMIT, Options, alone, show
from bench.copyloop import Via, run_copy
from streams.topics import RESULTS, tier_topic
from tierflow.choices import BrokerChoice
from tierflow.wiring import open_state

RATES: Final = (500.0, 2000.0, 0.0)
FLAT_OUT: Final = 30_000
GOAL: Final = 0.1
"""CPU seconds per 1,000 records, at 2,000/s and above."""
LINGER: Final = timedelta(milliseconds=25)
"""Between the floor's commits: what the loop's own linger grows to at these rates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HopCost:
    """One row. Rate 0 is flat out; latencies in ms."""

    broker: BrokerChoice
    what: str
    rate: float
    per_second: float
    cpu_s_per_1000: float
    p50_ms: float
    p99_ms: float
    missing: int = 0


async def measure(broker: BrokerChoice, options: Options, rates: Sequence[float] = RATES) -> list[HopCost]:
    """The classifier's hop at each rate."""
    async with open_house(broker, options.folder, catalogue="local") as house, _workers_marked(house):
        await house.start("classifier")
        topics = [tier_topic(tier.id) for tier in house.catalogue.tiers]
        async with house.load(outof=[*topics, RESULTS]) as load:
            await warm_up(load, options.warm_s, rates[0] or 500.0)
            return [await _at(rate, house, load, options) for rate in rates]


async def _at(rate: float, house: House, load: Load, options: Options) -> HopCost:
    meter = CpuMeter(house.pids())
    ran = await load.run(int(rate * options.seconds) or options.records(FLAT_OUT), rate)
    return HopCost(
        broker=house.broker,
        what="classifier",
        rate=rate,
        per_second=ran.per_second,
        cpu_s_per_1000=1000 * meter.read().of("classifier") / ran.sent,
        p50_ms=ran.p50_ms,
        p99_ms=ran.p99_ms,
        missing=ran.missing,
    )


@asynccontextmanager
async def _workers_marked(house: House) -> AsyncIterator[None]:
    """Let the classifier believe that every tier has a worker."""
    async with open_state(house.settings) as store, asyncio.TaskGroup() as group:
        marks = [group.create_task(keep_marked(store, tier.id)) for tier in house.catalogue.tiers]
        try:
            yield
        finally:
            for mark in marks:
                mark.cancel()


async def floors(broker: BrokerChoice, options: Options, rates: Sequence[float] = RATES) -> list[HopCost]:
    """Bare copy loops at the same rates, on a broker of their own."""
    rows = []
    vias: tuple[tuple[Via, str], ...] = (("sink", "copy, this project's client"), ("aiokafka", "copy, aiokafka"))
    async with open_house(broker, options.folder) as house:
        found = house.platform.capabilities
        for rate in rates:
            for via, what in vias:
                linger = LINGER if rate else timedelta(0)
                copied = await run_copy(
                    house.bootstrap, found.mode, rate, options.seconds, via=via, linger=linger, kind=found.kind
                )
                rows.append(
                    HopCost(
                        broker=broker,
                        what=what,
                        rate=rate,
                        per_second=copied.per_second,
                        cpu_s_per_1000=copied.cpu_s_per_1000,
                        p50_ms=copied.p50_ms,
                        p99_ms=copied.p99_ms,
                    )
                )
    return rows


async def main(options: Options) -> None:
    """Measure and print."""
    for broker in options.brokers:
        rows = [*await measure(broker, options), *await floors(broker, options)]
        rows.sort(key=lambda row: RATES.index(row.rate))
        show(
            f"A hop, {COMMIT[broker]}; goal: the classifier <= {GOAL:g} CPU s per 1,000 at 2,000/s and above",
            ["at", "what", "records/s", "CPU s per 1,000", "p50 ms", "p99 ms", "missing"],
            [
                [
                    f"{row.rate:,.0f}/s" if row.rate else "flat out",
                    row.what,
                    row.per_second,
                    row.cpu_s_per_1000,
                    row.p50_ms,
                    row.p99_ms,
                    row.missing,
                ]
                for row in rows
            ],
        )


if __name__ == "__main__":
    alone("hop", main, __doc__)
