"""A hop in exactly-once beside the same hop in at-least-once, and beside bare copy loops: all on the same Kafka.

    python -m bench.modes [--nodes 3]

A hop is this project's loop with a stage that only copies records with 13 headers: polling, order, tracking, stamping,
committing; what an agent does on top is ``bench.hop``'s and ``bench.pipeline``'s. The bare loops consume, produce and
commit with aiokafka, in transactions (which do not fence) and without. In: the hop's process. Flat out, everything is
sent at once while the hop runs; the rate is from the first send to the last arrival.
"""

from typing import Final

from bench._bare_kafka import Measured, open_kafka
from bench._chain import Via
from bench._options import Options, alone, show
from schemas.delivery import DeliveryMode

RATES: Final = (500.0, 2000.0, 0.0)
FLAT_OUT: Final = 30_000
ROWS: Final = {
    (Via.LOOP, DeliveryMode.EXACTLY_ONCE): "the loop, exactly once",
    (Via.LOOP, DeliveryMode.AT_LEAST_ONCE): "the loop, at least once",
    (Via.AIOKAFKA, DeliveryMode.EXACTLY_ONCE): "bare aiokafka, transactions",
    (Via.AIOKAFKA, DeliveryMode.AT_LEAST_ONCE): "bare aiokafka, no transactions",
}


async def measure(options: Options) -> list[tuple[float, str, Measured]]:
    """Each at each rate, side by side."""
    rows = []
    async with open_kafka(options.nodes, options.folder / f"modes-{options.nodes}") as kafka:
        for via, mode in ROWS:  # a cold broker would be charged to whoever comes first
            await kafka.measure(via, mode, 501.0, seconds=0.1, warm_s=options.warm_s / len(ROWS), flat_out=0)
        for rate in RATES:
            for (via, mode), what in ROWS.items():
                found = await kafka.measure(
                    via, mode, rate, seconds=options.seconds, warm_s=2.0, flat_out=options.records(FLAT_OUT)
                )
                rows.append((rate, what, found))
    return rows


async def main(options: Options) -> None:
    """Measure and print."""
    rows = await measure(options)
    cells: list[list[object]] = []
    for rate, what, found in rows:
        floor = next(each for at, name, each in rows if at == rate and name == "bare aiokafka, no transactions")
        cells.append(
            [
                f"{rate:,.0f}/s" if rate else "flat out",
                what,
                found.ran.per_second,
                found.cpu_s_per_1000,
                f"{found.cpu_s_per_1000 / floor.cpu_s_per_1000:.2f}",
                found.ran.p50_ms,
                found.ran.p99_ms,
            ]
        )
    show(
        f"A hop by what it promises, Apache Kafka, {options.cluster}",
        ["at", "what", "records/s", "CPU s per 1,000", "x bare", "p50 ms", "p99 ms"],
        cells,
        "x bare: CPU beside the bare loop without transactions.",
    )


if __name__ == "__main__":
    alone("modes", main, __doc__)
