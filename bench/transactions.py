"""Where a transaction's time goes: each request of it, how often it is tried, and how long it takes.

    python -m bench.transactions [--nodes 3]

A bare hop of this project's source and sink at 60/s between topics of six partitions, in this process, with a clock
around each request to the broker: with one producer, and with two in turn as agents have it. Tries above one are
refusals, mostly because the broker still writes what ended the producer's last transaction. ``a transaction``: from the
start of a commit to the answer to its end.
"""

import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final

from bench import copyloop
from bench._bare_kafka import BareKafka, open_kafka
from bench._options import Options, alone, show
from schemas.delivery import DeliveryMode
from streams._aiokafka import Wire
from streams.connection import BrokerKind
from streams.sink import TransactionalSink

RATE: Final = 60.0
WHOLE: Final = "commit"
STEPS: Final = {
    "add_partitions": "announce partitions",
    "produce": "write records (a broker)",
    "add_offsets": "announce the group",
    "txn_offset_commit": "write offsets",
    "end_txn": "end",
    WHOLE: "a transaction",
}


@contextmanager
def _clocked() -> Iterator[dict[str, list[float]]]:
    """Milliseconds of each call, by the method's name."""
    took: dict[str, list[float]] = defaultdict(list)
    plain: list[tuple[Any, str, Callable[..., Any]]] = []

    def clock(owner: Any, name: str) -> None:
        inner = getattr(owner, name)
        plain.append((owner, name, inner))

        async def timed(*args: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return await inner(*args, **named)
            finally:
                took[name].append((time.perf_counter() - began) * 1000)

        setattr(owner, name, timed)

    for name in STEPS:
        clock(TransactionalSink if name == WHOLE else Wire, name)
    try:
        yield took
    finally:
        for owner, name, inner in plain:
            setattr(owner, name, inner)


@contextmanager
def _producers(count: int) -> Iterator[None]:
    """Sinks have so many."""
    plain = TransactionalSink.__init__

    def fewer(self: TransactionalSink, *args: Any, **named: Any) -> None:
        plain(self, *args, **named)
        while len(self._producers) > count:
            self._producers.pop()

    TransactionalSink.__init__ = fewer  # type: ignore[method-assign]
    try:
        yield
    finally:
        TransactionalSink.__init__ = plain  # type: ignore[method-assign]


async def _measure(kafka: BareKafka, count: int, options: Options) -> tuple[dict[str, list[float]], float]:
    """Times by request, and the hop's median latency."""
    source, target = await kafka.topics(f"transactions-{count}")
    with _producers(count), _clocked() as took:
        endless = copyloop.Meter(1 << 60, 0)
        hop = asyncio.create_task(
            copyloop.sink_hop(
                kafka.cluster.bootstrap,
                DeliveryMode.EXACTLY_ONCE,
                source,
                target,
                timedelta(0),
                BrokerKind.KAFKA,
                endless,
                asyncio.Event(),
            )
        )
        async with kafka.load(source, target) as load:
            await load.run(max(20, int(RATE * options.warm_s)), RATE)
            took.clear()
            ran = await load.run(max(20, int(RATE * options.seconds)), RATE)
        found = {name: list(times) for name, times in took.items()}
        if ran.missing:
            raise SystemExit(f"{ran.missing} of {ran.sent} records did not come out; the hop: {hop!r}")
        hop.cancel()
        await asyncio.gather(hop, return_exceptions=True)
    return found, ran.p50_ms


async def main(options: Options) -> None:
    """Measure and print."""
    async with open_kafka(options.nodes, options.folder / f"transactions-{options.nodes}") as kafka:
        one, one_ms = await _measure(kafka, 1, options)
        two, two_ms = await _measure(kafka, 2, options)
    show(
        f"A transaction, {options.cluster}, {RATE:g}/s",
        ["request", "tries, one producer", "p50 ms", "tries, two in turn", "p50 ms"],
        [[what, *(cell for found in (one, two) for cell in _cells(found, name))] for name, what in STEPS.items()],
        f"A record came out after {one_ms:.0f} ms with one, {two_ms:.0f} ms with two (p50).",
    )


def _cells(found: dict[str, list[float]], name: str) -> tuple[float, float]:
    return len(found[name]) / len(found[WHOLE]), statistics.median(found[name])


if __name__ == "__main__":
    alone("transactions", main, __doc__)
