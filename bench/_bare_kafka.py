"""A Kafka for benchmarks of bare hops: no agents, no state store, topics as a measurement needs them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Final

import psutil

from bench import copyloop
from bench._chain import Hop, Via, start_hop
from bench._load import Job, Load, Ran, open_load
from bench._meters import CpuMeter
from schemas.delivery import DeliveryMode
from streams.brokers import ChildProcess, KafkaCluster
from streams.connection import BrokerKind
from streams.faults import Fault

LINGER_MS: Final = 25.0
"""Between commits from ``BUSY`` on: what the loop's own linger grows to at these rates."""
BUSY: Final = 400.0
SHORT_SESSIONS: Final = {"group.min.session.timeout.ms": "1000"}
READER_WAIT_MS: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run through one hop."""

    ran: Ran
    cpu_s_per_1000: float
    sockets: int


@dataclass(frozen=True, slots=True)
class BareKafka:
    """A running cluster.

    Attributes:
        cluster: It.
        nodes: How many.
        folder: Logs of hops.
    """

    cluster: KafkaCluster
    nodes: int
    folder: Path

    async def topics(self, name: str) -> tuple[str, str]:
        """Make a source and a target topic."""
        source, target = f"{name}-in", f"{name}-out"
        await copyloop.create(self.cluster.bootstrap, source, target, replication=self.nodes)
        return source, target

    def hop(self, via: Via, mode: DeliveryMode, source: str, target: str, rate: float) -> Hop:
        """A hop between two topics, with the linger that its rate calls for."""
        bare = via is not Via.LOOP  # the loop finds its own
        return Hop(
            bootstrap=self.cluster.bootstrap,
            mode=mode,
            kind=BrokerKind.KAFKA,
            via=via,
            source=source,
            target=target,
            linger_ms=0.0 if bare and rate < BUSY else LINGER_MS,
        )

    @asynccontextmanager
    async def load(self, source: str, target: str) -> AsyncIterator[Load]:
        """Who sends to the source and reads the target."""
        job = Job(
            bootstrap=self.cluster.bootstrap, into=source, outof=[target], fetch_wait_ms=READER_WAIT_MS,
            meaningless=True,
        )  # fmt: skip
        async with open_load(job) as load:
            yield load

    async def start(self, hop: Hop, plan: Sequence[Fault] = (), **changes: object) -> ChildProcess:
        """Start a hop as a process."""
        return await start_hop(replace(hop, **changes), self.folder, plan)  # type: ignore[arg-type]

    async def measure(
        self, via: Via, mode: DeliveryMode, rate: float, *, seconds: float, warm_s: float, flat_out: int
    ) -> Measured:
        """CPU, latency and throughput of one hop at a rate (0: everything at once).

        Raises:
            SystemExit: Something did not come out.
        """
        source, target = await self.topics(f"{via}-{mode}-{rate:g}")
        child = await self.start(self.hop(via, mode, source, target, rate))
        try:
            async with self.load(source, target) as load:
                await load.run(max(20, int((rate or 1_000) * warm_s)), rate or 1_000)
                meter = CpuMeter({"hop": child.pid})
                ran = await load.run(int(rate * seconds) or flat_out, rate)
                used = meter.read().of("hop")
                sockets = len(psutil.Process(child.pid).net_connections())
        finally:
            await child.stop(grace=timedelta(seconds=5))
        if ran.missing:
            raise SystemExit(f"{ran.missing} of {ran.sent} records did not come out: look at {child.log}")
        return Measured(ran=ran, cpu_s_per_1000=1000 * used / ran.sent, sockets=sockets)


@asynccontextmanager
async def open_kafka(nodes: int, folder: Path) -> AsyncIterator[BareKafka]:
    """Start a cluster."""
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    async with KafkaCluster(nodes=nodes, settings=SHORT_SESSIONS) as cluster:
        yield BareKafka(cluster, nodes, folder)
