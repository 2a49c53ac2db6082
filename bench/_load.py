"""The client's side, in a process of its own with another client library: sends requests, reads what they end in.

So that the CPU time of the measured processes is theirs alone. ``Load`` drives it; a run is one line of JSON to it and
one back. A latency is from just before the send to the return of a read-committed poll.
"""

import asyncio
import json
import statistics
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

QUIET_S: Final = 60.0
"""A run is over when nothing came for so long: something was lost, and ``missing`` says how much."""
PROMPTS: Final = Path(__file__).parent.parent / "examples" / "requests.jsonl"
HEADERS: Final = 13
"""Of a record without meaning: as many as a record has between our stages."""
PARTITIONS: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Where a load process sends to and reads from.

    Attributes:
        bootstrap: Broker address.
        into: Topic to send to.
        outof: Topics to read; each request is expected in one of them once. Empty: nothing is read.
        fetch_wait_ms: Longest wait of a fetch at the broker.
        meaningless: Send records with 13 headers that mean nothing, in place of requests: for bare hops.
    """

    bootstrap: str
    into: str
    outof: Sequence[str] = ()
    fetch_wait_ms: int = 20
    meaningless: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What came of one run. Latencies in ms."""

    sent: int
    missing: int
    wall_s: float
    p50_ms: float
    p99_ms: float
    longest_ms: float = 0.0

    @property
    def per_second(self) -> float:
        """Records a second from the first send to the last arrival."""
        return (self.sent - self.missing) / self.wall_s


class Load:
    """A load process; made by ``open_load``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    async def run(self, count: int, rate: float = 0.0) -> Ran:
        """Send ``count`` records, ``rate`` a second (0: all at once), and wait until each has come out."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("no pipes to the load process")
        self._process.stdin.write(json.dumps([count, rate]).encode() + b"\n")
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("the load process died; see its output above")
        return Ran(**json.loads(line))


@asynccontextmanager
async def open_load(job: Job) -> AsyncIterator[Load]:
    """Start a load process; it ends with the context."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench._load", json.dumps(asdict(job)),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    try:
        yield Load(process)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


# -- in the other process ----------------------------------------------------------------------------------------------


def _bodies() -> list[bytes]:
    """Plain prompts of the example workload, as producers send them."""
    bodies = []
    for line in PROMPTS.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        value = json.loads(line)
        if set(value) <= {"prompt", "_note"} and "case" not in value.get("_note", {}):
            bodies.append(json.dumps({"prompt": value["prompt"]}).encode())
    return bodies


def _messages(job: dict[str, Any]) -> Iterator[tuple[str, bytes, list[tuple[str, str | bytes | None]]]]:
    """Id, value and headers of one record after the other."""
    bodies = _bodies()
    padding: list[tuple[str, str | bytes | None]] = [
        (f"tierflow-header-{i}", b"some-value-%d" % i) for i in range(HEADERS - 2)
    ]
    number = 0
    while True:
        request_id = str(uuid.uuid4())
        headers: list[tuple[str, str | bytes | None]] = [
            ("content-type", b"application/json"),
            ("tierflow.request-id", request_id.encode()),
        ]
        yield request_id, bodies[number % len(bodies)], headers + padding if job["meaningless"] else headers
        number += 1


class _Client:
    """Sends and reads."""

    def __init__(self, job: dict[str, Any]) -> None:
        from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition  # noqa: PLC0415 - only here

        where = {"bootstrap.servers": job["bootstrap"]}
        self._into = job["into"]
        self._messages = _messages(job)
        self._producer = Producer(
            where | {"linger.ms": 0, "partitioner": "murmur2_random", "queue.buffering.max.messages": 1_000_000}
        )
        self._consumer = Consumer(
            where
            | {
                "group.id": f"bench-{uuid.uuid4().hex}",  # no group is joined: partitions are assigned by hand
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": job["fetch_wait_ms"],
            }
        )
        self._reading = bool(job["outof"])
        if self._reading:
            self._consumer.assign(
                [TopicPartition(topic, n, OFFSET_BEGINNING) for topic in job["outof"] for n in range(PARTITIONS)]
            )
        self._sent: dict[str, int] = {}

    def run(self, count: int, rate: float) -> Ran:
        """One run."""
        began = time.monotonic()
        sender = threading.Thread(target=self._send, args=(count, rate, began))
        sender.start()
        latencies = self._read(count, rate) if self._reading else []
        sender.join()
        missing = count - len(latencies) if self._reading else 0
        cuts = statistics.quantiles(latencies, n=100) if len(latencies) > 1 else [0.0] * 99
        wall = (self._last if latencies else time.monotonic()) - began
        self._sent.clear()
        return Ran(
            sent=count,
            missing=missing,
            wall_s=wall,
            p50_ms=cuts[49],
            p99_ms=cuts[98],
            longest_ms=max(latencies, default=0.0),
        )

    def _send(self, count: int, rate: float, began: float) -> None:
        for number in range(count):
            while rate and number >= (time.monotonic() - began) * rate:
                time.sleep(0.002)
            request_id, value, headers = next(self._messages)
            self._sent[request_id] = time.time_ns()
            self._producer.produce(self._into, value, request_id.encode(), headers=headers)
            if rate or not number % 100:
                self._producer.poll(0)
        self._producer.flush(60)

    def _read(self, count: int, rate: float) -> list[float]:
        latencies: list[float] = []
        self._last = time.monotonic()
        patience = QUIET_S + (1 / rate if rate else 0)
        while len(latencies) < count and time.monotonic() - self._last < patience:
            for message in self._consumer.consume(1000, 0.05):
                now = time.time_ns()
                if message.error() is not None:
                    continue
                # A request's id is its key all the way; a repeat, and what an earlier run left, is nobody's.
                sent = self._sent.pop((message.key() or b"").decode(), None)
                if sent is not None:
                    latencies.append((now - sent) / 1e6)
                    self._last = time.monotonic()
        return latencies


def _main() -> None:
    client = _Client(json.loads(sys.argv[1]))
    for line in sys.stdin:
        count, rate = json.loads(line)
        print(json.dumps(asdict(client.run(count, rate))), flush=True)


if __name__ == "__main__":
    _main()
