"""The floor: a bare hop that copies records from one topic to another and commits its offsets.

What any hop costs before it does something: consume, produce with 13 headers, commit. In two ways (``sink``: this
project's; ``aiokafka``: the library's own producer, record by record, whose transactions do not fence) and two modes.
The load comes from, and is read back by, a process of its own with another client library, so that the CPU seconds
shown are the hop's alone. In: the hop's process. Out: broker, load.

    python -m bench.copyloop 127.0.0.1:9092 --mode exactly_once --rate 500 2000 0

A rate of 0 is flat out: all records are there before the hop starts.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Literal

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.coordinator.assignors.range import RangePartitionAssignor

from schemas.delivery import DeliveryMode
from streams.connection import BrokerKind, KafkaConnection
from streams.records import TP, OffsetCommit, OutRecord
from streams.sink import AtLeastOnceSink, Sink, TransactionalSink
from streams.source import MissingOffsets, Source

Via = Literal["sink", "aiokafka"]

PARTITIONS = 6
SIZE = 512
HEADERS = 13
WARM_UP_S = 3.0
FLAT_OUT_RECORDS = 40_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyResult:
    """One run. Latencies are from just before the send to the return of a read-committed poll, in ms."""

    via: str
    mode: str
    rate: float
    linger_ms: float
    records: int
    per_second: float
    commits: int
    cpu_s_per_1000: float
    p50_ms: float
    p99_ms: float


async def run_copy(
    bootstrap: str,
    mode: DeliveryMode,
    rate: float,
    seconds: float,
    *,
    via: Via = "sink",
    linger: timedelta = timedelta(0),
    kind: BrokerKind = BrokerKind.KAFKA,
) -> CopyResult:
    """Run one copy loop at a rate (0: flat out) and measure it.

    Args:
        bootstrap: Broker address.
        mode: With a transaction a commit, or without.
        rate: Records a second over all partitions.
        seconds: How long, after the warm-up; not used flat out.
        via: Which client code.
        linger: Least time between the starts of two commits.
        kind: What answers at the address.
    """
    run = uuid.uuid4().hex[:8]
    source, target = f"copy-in-{run}", f"copy-out-{run}"
    await create(bootstrap, source, target)
    warm = int(rate * WARM_UP_S)
    total = FLAT_OUT_RECORDS if not rate else warm + int(rate * seconds)
    load = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.copyloop", "--load", json.dumps([bootstrap, source, target, rate, total, warm]),
        stdout=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.PIPE,
    )  # fmt: skip
    if load.stdout is None or load.stdin is None:
        raise RuntimeError("no pipes to the load process")
    meter = Meter(total, warm)
    hop = sink_hop if via == "sink" else aiokafka_hop
    try:
        if not rate:
            await load.stdout.readline()  # all records are there
        ready = asyncio.Event()
        copying = asyncio.create_task(hop(bootstrap, mode, source, target, linger, kind, meter, ready))
        await asyncio.wait([asyncio.create_task(ready.wait()), copying], return_when=asyncio.FIRST_COMPLETED)
        if rate:
            load.stdin.write(b"go\n")
        await copying
        answer = json.loads(await load.stdout.readline())
        await load.wait()
    finally:
        with suppress(ProcessLookupError):
            load.kill()
        await load.wait()
    return CopyResult(
        via=via,
        mode=mode.value,
        rate=rate,
        linger_ms=linger.total_seconds() * 1000,
        records=meter.counted,
        per_second=round(meter.counted / meter.wall_s),
        commits=meter.commits,
        cpu_s_per_1000=round(1000 * meter.cpu_s / meter.counted, 4),
        p50_ms=answer["p50"],
        p99_ms=answer["p99"],
    )


class Meter:
    """CPU and wall time between the end of the warm-up and the last record."""

    def __init__(self, total: int, warm: int) -> None:
        self._total, self._warm = total, warm
        self._done = 0
        self._begin: tuple[float, float, int] | None = None
        self.commits = 0
        self.counted = 1
        self.cpu_s = self.wall_s = 0.0

    def start(self) -> None:
        """Begin at once where there is no warm-up."""
        if not self._warm:
            self._begin = (time.process_time(), time.monotonic(), 0)

    def add(self, records: int) -> bool:
        """Count a commit; whether it was the last."""
        self._done += records
        if self._begin is None and self._done >= self._warm:
            self._begin = (time.process_time(), time.monotonic(), self._done)
        elif self._begin is not None:
            self.commits += 1
        if self._done < self._total:
            return False
        cpu, wall, done = self._begin or (0.0, 0.0, 0)
        self.cpu_s, self.wall_s = time.process_time() - cpu, time.monotonic() - wall
        self.counted = self._done - done
        return True


class _Ready:
    def __init__(self, event: asyncio.Event) -> None:
        self._event = event

    async def on_assigned(self, positions: Mapping[TP, OffsetCommit]) -> None:
        del positions
        self._event.set()

    async def on_revoked(self, partitions: frozenset[TP], *, lost: bool) -> None:
        del partitions, lost


async def sink_hop(
    bootstrap: str,
    mode: DeliveryMode,
    source_topic: str,
    target: str,
    linger: timedelta,
    kind: BrokerKind,
    meter: Meter,
    ready: asyncio.Event,
) -> None:
    connection = KafkaConnection.at(bootstrap)
    group = f"g-{source_topic}"
    source = Source(
        connection, group=group, topics=[source_topic], listener=_Ready(ready), kind=kind,
        missing=MissingOffsets.EARLIEST,
    )  # fmt: skip
    sink: Sink = (
        TransactionalSink(connection, source, transactional_id=group)
        if mode is DeliveryMode.EXACTLY_ONCE
        else AtLeastOnceSink(connection, source)
    )
    await sink.start()
    await source.start()
    meter.start()
    pace = linger.total_seconds()
    try:
        while True:
            began = time.monotonic()
            fetched = await source.poll(timedelta(seconds=1))
            if not fetched:
                continue
            outputs = [
                OutRecord(target, record.key, record.value, record.headers)
                for records in fetched.values()
                for record in records
            ]
            await sink.commit(
                outputs, {tp: OffsetCommit(records[-1].offset + 1, "m") for tp, records in fetched.items()}
            )
            if meter.add(len(outputs)):
                return
            if pace and (rest := pace - (time.monotonic() - began)) > 0:
                await asyncio.sleep(rest)
    finally:
        await sink.stop()
        await source.stop()


async def aiokafka_hop(
    bootstrap: str,
    mode: DeliveryMode,
    source_topic: str,
    target: str,
    linger: timedelta,
    kind: BrokerKind,
    meter: Meter,
    ready: asyncio.Event,
) -> None:
    group = f"g-{source_topic}"
    transactional = mode is DeliveryMode.EXACTLY_ONCE
    consumer = AIOKafkaConsumer(
        source_topic, bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False,
        isolation_level="read_committed", auto_offset_reset="earliest",
        partition_assignment_strategy=(RangePartitionAssignor,),
        fetch_max_wait_ms=int(KafkaConnection.at(bootstrap).fetch_wait(kind).total_seconds() * 1000),
    )  # fmt: skip
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", transactional_id=group if transactional else None
    )
    await producer.start()
    await consumer.start()
    ready.set()
    meter.start()
    pace = linger.total_seconds()
    try:
        while True:
            began = time.monotonic()
            fetched = await consumer.getmany(timeout_ms=1000)
            if not fetched:
                continue
            offsets = {tp: (records[-1].offset + 1, "m") for tp, records in fetched.items()}
            if transactional:
                await producer.begin_transaction()
            futures = [
                await producer.send(target, record.value, record.key, headers=list(record.headers))
                for records in fetched.values()
                for record in records
            ]
            await asyncio.gather(*futures)
            if transactional:
                await producer.send_offsets_to_transaction(offsets, group)
                await producer.commit_transaction()
            else:
                await consumer.commit(offsets)
            if meter.add(len(futures)):
                return
            if pace and (rest := pace - (time.monotonic() - began)) > 0:
                await asyncio.sleep(rest)
    finally:
        await producer.stop()
        await consumer.stop()


async def create(bootstrap: str, *topics: str, replication: int = 1) -> None:
    """Make topics."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, PARTITIONS, replication) for topic in topics])
    finally:
        await admin.close()


def _load(bootstrap: str, source: str, target: str, rate: float, total: int, warm: int) -> None:
    """Send the records and read the copies: the other process."""
    import threading  # noqa: PLC0415 - only this process needs them

    from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition  # noqa: PLC0415

    headers: list[tuple[str, str | bytes | None]] = [
        (f"tierflow-header-{i}", b"some-value-%d" % i) for i in range(HEADERS)
    ]
    padding = bytes(SIZE - 8)
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "linger.ms": 0 if rate else 50,
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": 1_000_000,
        }
    )

    def send() -> None:
        began = time.monotonic()
        for number in range(total):
            while rate and number >= (time.monotonic() - began) * rate:
                time.sleep(0.002)
            value = time.time_ns().to_bytes(8, "big") + padding
            producer.produce(source, value, uuid.uuid4().hex.encode(), headers=headers)
            if not number % 100:
                producer.poll(0)
        producer.flush(60)

    if rate:
        sys.stdin.readline()
        sender = threading.Thread(target=send)
        sender.start()
    else:
        send()
        print("ready", flush=True)
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"read-{target}",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 20,
        }
    )
    consumer.assign([TopicPartition(target, number, OFFSET_BEGINNING) for number in range(PARTITIONS)])
    latencies: list[tuple[int, float]] = []
    last = time.monotonic()
    while len(latencies) < total and time.monotonic() - last < 60:
        for message in consumer.consume(1000, 0.05):
            now, last = time.time_ns(), time.monotonic()
            if message.error() is None:
                sent = int.from_bytes((message.value() or b"")[:8], "big")
                latencies.append((sent, (now - sent) / 1e6))
    consumer.close()
    counted = [latency for _, latency in sorted(latencies)[warm:]]
    cuts = statistics.quantiles(counted, n=100) if len(counted) > 1 else [0.0] * 99
    print(json.dumps({"p50": round(cuts[49], 1), "p99": round(cuts[98], 1), "received": len(latencies)}), flush=True)


def show(results: Sequence[CopyResult]) -> None:
    """Print a table."""
    columns = list(asdict(results[0]))
    rows = [[str(value) for value in asdict(result).values()] for result in results]
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    for row in [columns, *rows]:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bootstrap", nargs="?", default="127.0.0.1:9092")
    parser.add_argument("--mode", nargs="+", choices=[mode.value for mode in DeliveryMode],
                        default=[mode.value for mode in DeliveryMode])  # fmt: skip
    parser.add_argument("--rate", nargs="+", type=float, default=[500, 2000, 0], help="records a second; 0: flat out")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--linger", nargs="+", type=float, default=[0, 25], help="ms between commits")
    parser.add_argument("--via", nargs="+", choices=["sink", "aiokafka"], default=["sink", "aiokafka"])
    parser.add_argument("--kind", choices=[kind.value for kind in BrokerKind], default="kafka")
    parser.add_argument("--load", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.load:
        _load(*json.loads(given.load))
        return
    results = [
        asyncio.run(
            run_copy(given.bootstrap, DeliveryMode(mode), rate, given.seconds, via=via,
                     linger=timedelta(milliseconds=linger if rate else 0), kind=BrokerKind(given.kind))
        )
        for mode in given.mode
        for rate in given.rate
        for linger in (given.linger if rate else given.linger[:1])
        for via in given.via
    ]  # fmt: skip
    show(results)


if __name__ == "__main__":
    main()
