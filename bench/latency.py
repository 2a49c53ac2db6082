"""Added latency of the whole path at 60 requests a second, beside as many bare hops on the same broker.

    python -m bench.latency [--broker embedded kafka]

Path: from just before the send to ``requests`` to the arrival of the result at a read-committed reader, through
classifier, worker and guardrail, each a process, with the state store and a model behind real HTTP that answers at
once. On Kafka each of the three hops is a transaction. Audit and archive run beside it, as they do in an installation.
Floor: three bare hops, each a process, which copy records with 13 headers and do nothing; with aiokafka's own producer,
and with this project's. In both: the way to the broker and back of the client.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench._chain import Via, open_chain
from bench._house import FLOW, open_house, warm_up
from bench._load import Job, Ran, open_load
from bench._meters import CpuMeter, Usage
from bench._options import COMMIT, Options, alone, show
from tierflow.choices import BrokerChoice

RATE: Final = 60.0
HOPS: Final = 3
GOAL: Final = 2.0
"""At most so many times the floor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """One row: what was measured, and CPU seconds per 1,000 records of its processes."""

    broker: BrokerChoice
    what: str
    ran: Ran
    cpu_s_per_1000: float


async def measure(
    broker: BrokerChoice, options: Options, floors: Sequence[Via] = (Via.AIOKAFKA, Via.SINK)
) -> list[Latency]:
    """The floors, and then the path, on a broker."""
    rows = []
    async with open_house(broker, options.folder, nodes=options.nodes) as house:
        for via in floors:
            async with open_chain(house, HOPS, via) as (job, pids):
                ran, usage = await _run(job, pids, options)
            what = f"{HOPS} bare hops, " + ("aiokafka" if via is Via.AIOKAFKA else "this project's client")
            rows.append(Latency(broker=broker, what=what, ran=ran, cpu_s_per_1000=1000 * usage.of("hop") / ran.sent))
        await house.start_all()
        job = Job(bootstrap=house.bootstrap, into="requests", outof=["results"], fetch_wait_ms=house.fetch_wait_ms)
        ran, usage = await _run(job, house.pids(), options)
        rows.append(Latency(broker=broker, what="the path", ran=ran, cpu_s_per_1000=1000 * usage.of(*FLOW) / ran.sent))
    return rows


async def _run(job: Job, pids: dict[str, int], options: Options) -> tuple[Ran, Usage]:
    async with open_load(job) as load:
        await warm_up(load, options.warm_s, RATE)
        meter = CpuMeter(pids)
        ran = await load.run(max(10, int(RATE * options.seconds)), RATE)
        return ran, meter.read()


async def main(options: Options) -> None:
    """Measure and print."""
    rows = [row for broker in options.brokers for row in await measure(broker, options)]
    cells: list[list[object]] = []
    for row in rows:
        floor = next(each for each in rows if each.broker is row.broker)
        times = f"{row.ran.p50_ms / floor.ran.p50_ms:.2f} / {row.ran.p99_ms / floor.ran.p99_ms:.2f}"
        cells.append(
            [COMMIT[row.broker], row.what, row.ran.p50_ms, row.ran.p99_ms, times, row.cpu_s_per_1000, row.ran.missing]
        )
    show(
        f"Latency at {RATE:g}/s, {options.cluster}, {options.seconds:g} s after {options.warm_s:g} s of load; "
        f"goal: {GOAL:g} x aiokafka",
        ["broker", "what", "p50 ms", "p99 ms", "x aiokafka, p50 / p99", "CPU s per 1,000", "missing"],
        cells,
        "CPU: the hops' processes; for the path classifier, workers and guardrail.",
    )


if __name__ == "__main__":
    alone("latency", main, __doc__)
