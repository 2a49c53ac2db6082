"""What the two remedies against zombies cost: one producer fenced by generation, or a producer for each partition.

    python -m bench.fencing [--nodes 3]

Both are bare loops that copy records with 13 headers between topics of six partitions, in transactions, at the same
linger: this project's source and sink (one transactional producer, commits fenced by the group's generation), and a
prototype with aiokafka's public API (a transactional producer for each input partition, fenced when the next owner
starts it). In: the hop's process. ``bench.fencing_faults`` has what they do when it matters.
"""

from typing import Final

from bench._bare_kafka import Measured, open_kafka
from bench._chain import Via
from bench._options import Options, alone, show
from schemas.delivery import DeliveryMode

RATES: Final = (60.0, 500.0, 2000.0)
REMEDIES: Final = {
    Via.SINK: "(a) one producer, fenced by generation",
    Via.PER_PARTITION: "(b) a producer each partition",
}


async def measure(options: Options) -> list[tuple[float, Via, Measured]]:
    """Both at each rate, side by side."""
    rows = []
    async with open_kafka(options.nodes, options.folder / f"fencing-{options.nodes}") as kafka:
        for via in REMEDIES:  # a cold broker would be charged to whoever comes first
            await kafka.measure(
                via, DeliveryMode.EXACTLY_ONCE, 501.0, seconds=0.1, warm_s=options.warm_s / 2, flat_out=0
            )
        for rate in RATES:
            for via in REMEDIES:
                found = await kafka.measure(
                    via, DeliveryMode.EXACTLY_ONCE, rate, seconds=options.seconds, warm_s=2.0, flat_out=0
                )
                rows.append((rate, via, found))
    return rows


async def main(options: Options) -> None:
    """Measure and print."""
    rows = await measure(options)
    show(
        f"Two remedies against zombies, {options.cluster}, six partitions",
        ["at", "remedy", "CPU s per 1,000", "p50 ms", "p99 ms", "sockets"],
        [
            [f"{rate:,.0f}/s", REMEDIES[via], found.cpu_s_per_1000, found.ran.p50_ms, found.ran.p99_ms, found.sockets]
            for rate, via, found in rows
        ],
    )


if __name__ == "__main__":
    alone("fencing", main, __doc__)
