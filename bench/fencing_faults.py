"""The two remedies against zombies when it matters: three aimed faults, and what a reader sees of them.

    python -m bench.fencing_faults [--nodes 3]

The same faults for both, at named points of ``streams/faults.py``, records at 200/s through one hop of six partitions:
frozen between its sends and its commit, woken inside its transaction after another process did the work; killed while
it commits, with another process (or the same again) taking over; ten rebalances in thirty seconds. (a) is this
project's loop with a stage that copies, (b) the prototype. Everything committed is then read anew by librdkafka.
"""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiokafka import AIOKafkaConsumer
from aiokafka.coordinator.assignors.range import RangePartitionAssignor

from bench._bare_kafka import BareKafka, open_kafka
from bench._chain import Hop, Via
from bench._load import PARTITIONS, Load, Ran
from bench._options import Options, alone, show
from schemas.delivery import DeliveryMode
from streams.brokers import ChildProcess
from streams.faults import Action, Fault, Point
from streams.records import TP
from tests.faults.reading import committed, ends, read_all

RATE: Final = 200.0
RECORDS: Final = 2_000
STORM: Final = 10
STORM_S: Final = 30.0
SESSION_S: Final = 4.0
LATE_S: Final = 3.0
"""What a zombie could still add is waited for."""
LONG_S: Final = 45.0
"""So that only the remedy stands between the zombie and its commit, not the end of its transaction."""
REMEDIES: Final = {Via.LOOP: "(a) by generation", Via.PER_PARTITION: "(b) a producer each partition"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a case's records."""

    case: str
    via: Via
    ran: Ran
    lost: int
    twice: int


class _Case:
    """One fault on topics of its own."""

    def __init__(self, kafka: BareKafka, via: Via, folder: Path) -> None:
        self.kafka, self.via, self.folder = kafka, via, folder
        self.hops: list[ChildProcess] = []
        self.hop: Hop | None = None

    async def play(self, case: str, fault: "Callable[[_Case, Load], Awaitable[Ran]]") -> Outcome:
        source, target = await self.kafka.topics("-".join(re.findall(r"\w+", f"{case} {self.via}")))
        self.hop = self.kafka.hop(self.via, DeliveryMode.EXACTLY_ONCE, source, target, 0.0)
        try:
            async with self.kafka.load(source, target) as load:
                ran = await fault(self, load)
                await asyncio.sleep(LATE_S)
        finally:
            await asyncio.gather(*(child.kill() for child in self.hops))
        found = await asyncio.to_thread(
            read_all, self.kafka.cluster.bootstrap, [TP(target, number) for number in range(PARTITIONS)]
        )
        counted = Counter(record.key for record in found)
        return Outcome(case=case, via=self.via, ran=ran, lost=ran.sent - len(counted), twice=len(found) - len(counted))

    async def start(self, plan: Sequence[Fault] = (), name: str = "first", **changes: object) -> ChildProcess:
        if self.hop is None:
            raise RuntimeError("not playing")
        child = await self.kafka.start(self.hop, plan, name=name, session_s=SESSION_S, **changes)
        self.hops.append(child)
        return child

    async def struck(self, marker: Path) -> None:
        async with asyncio.timeout(60):
            while not await asyncio.to_thread(marker.exists):
                await asyncio.sleep(0.02)

    async def taken_over(self, within_s: float = 40) -> bool:
        """Wait until everything that was sent is committed by the group; whether that came."""
        if self.hop is None:
            raise RuntimeError("not playing")
        bootstrap, source = self.kafka.cluster.bootstrap, self.hop.source
        tps = [TP(source, number) for number in range(PARTITIONS)]
        group, until = f"g-{source}", time.monotonic() + within_s
        while time.monotonic() < until:
            done = await asyncio.to_thread(committed, bootstrap, {group: tps})
            end = await asyncio.to_thread(ends, bootstrap, tps)
            if all(done[group, tp] >= end[tp].high for tp in tps):
                return True
            await asyncio.sleep(0.3)
        return False


async def _zombie(case: _Case, load: Load) -> Ran:
    marker = case.folder / f"frozen-{case.via}"
    first = await case.start([Fault(Point.AFTER_SENDS, Action.FREEZE, passes=20, marker=marker)], transaction_s=LONG_S)
    running = asyncio.create_task(load.run(RECORDS, RATE))
    await case.struck(marker)
    await case.start(name="second", transaction_s=LONG_S)
    await asyncio.sleep(RECORDS / RATE)  # everything is sent
    await case.taken_over()
    first.resume()
    return await running


async def _killed(case: _Case, load: Load, name: str) -> Ran:
    marker = case.folder / f"killed-{case.via}-{name}"
    plan = [Fault(Point.DURING_COMMIT, Action.KILL, passes=20, marker=marker)]
    await case.start(plan)
    running = asyncio.create_task(load.run(RECORDS, RATE))
    await case.struck(marker)
    await case.start(name=name)
    return await running


async def _other(case: _Case, load: Load) -> Ran:
    return await _killed(case, load, "second")


async def _same(case: _Case, load: Load) -> Ran:
    return await _killed(case, load, "first")


async def _storm(case: _Case, load: Load) -> Ran:
    if case.hop is None:
        raise RuntimeError("not playing")
    await case.start()
    running = asyncio.create_task(load.run(int(RATE * STORM_S), RATE))
    for _ in range(STORM):
        began = time.monotonic()
        guest = AIOKafkaConsumer(
            case.hop.source, bootstrap_servers=case.hop.bootstrap, group_id=f"g-{case.hop.source}",
            enable_auto_commit=False, session_timeout_ms=int(SESSION_S * 1000), heartbeat_interval_ms=1000,
            partition_assignment_strategy=(RangePartitionAssignor,),
        )  # fmt: skip
        await guest.start()
        await asyncio.sleep(1)
        await guest.stop()
        await asyncio.sleep(max(0.0, STORM_S / STORM - (time.monotonic() - began)))
    return await running


CASES: Final = {
    "frozen between send and commit": _zombie,
    "killed while committing, another takes over": _other,
    "killed while committing, started again": _same,
    f"{STORM} rebalances in {STORM_S:g} s": _storm,
}


async def measure(options: Options) -> list[Outcome]:
    """Every case with both."""
    folder = options.folder / f"fencing-faults-{options.nodes}"
    async with open_kafka(options.nodes, folder) as kafka:
        return [await _Case(kafka, via, folder).play(case, fault) for case, fault in CASES.items() for via in REMEDIES]


async def main(options: Options) -> None:
    """Play and print."""
    show(
        f"Two remedies against zombies under aimed faults, {options.cluster}, {RATE:g}/s",
        ["fault", "remedy", "records", "lost", "twice", "p50 ms", "p99 ms", "longest ms"],
        [
            [each.case, REMEDIES[each.via], each.ran.sent, each.lost, each.twice,
             each.ran.p50_ms, each.ran.p99_ms, each.ran.longest_ms]
            for each in await measure(options)
        ],
        "Latency to a read-committed reader, faults included: the longest is the time in which nothing was visible.",
    )  # fmt: skip


if __name__ == "__main__":
    alone("fencing_faults", main, __doc__)
