"""Bare hops, each a process: what moving records from topic to topic costs when nothing is done to them.

    python -m bench._chain '{"bootstrap": ..., "mode": ..., "kind": ..., "via": ..., "source": ..., "target": ...}'

is one hop; ``start_hop`` starts it, ``open_chain`` several in a row, with their topics.
"""

import asyncio
import itertools
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path

from bench import _copy_stage, _per_partition, copyloop
from bench._house import ROOT, House
from bench._load import Job
from schemas.delivery import DeliveryMode
from streams import faults
from streams.brokers import ChildProcess
from streams.connection import BrokerKind


class Via(StrEnum):
    """What moves the records."""

    AIOKAFKA = "aiokafka"
    """A bare loop with aiokafka's own producer."""
    SINK = "sink"
    """A bare loop with this project's source and sink."""
    LOOP = "loop"
    """This project's loop with a stage that copies: what every agent is built on."""
    PER_PARTITION = "per-partition"
    """A prototype: aiokafka, with a transactional producer for each input partition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One hop.

    Attributes:
        bootstrap: Broker address.
        mode: With transactions, or without.
        kind: What answers there.
        via: What moves the records.
        source: Topic to read.
        target: Topic to write.
        linger_ms: Least time between the starts of two commits; of ``LOOP`` the longest wait under load.
        name: Tells processes apart that share the work.
        session_s: When the group gives a silent one up.
        transaction_s: When the broker ends an abandoned transaction.
    """

    bootstrap: str
    mode: DeliveryMode
    kind: BrokerKind
    via: Via
    source: str
    target: str
    linger_ms: float = 0.0
    name: str = "first"
    session_s: float = 15.0
    transaction_s: float = 10.0


async def start_hop(hop: Hop, folder: Path, plan: Sequence[faults.Fault] = ()) -> ChildProcess:
    """Start a hop as a process, with faults if any are planned."""
    name = f"{hop.via.value} {hop.source} {hop.name}"
    child = ChildProcess(
        name=name,
        argv=[sys.executable, "-m", "bench._chain", json.dumps(asdict(hop))],
        log=folder / f"{name.replace(' ', '-')}.log",
        env={**os.environ, faults.VARIABLE: faults.written(plan) if plan else ""},
        cwd=ROOT,
    )
    await child.start()
    return child


@asynccontextmanager
async def open_chain(house: House, hops: int, via: Via) -> AsyncIterator[tuple[Job, dict[str, int]]]:
    """Start a chain of bare hops on a house's broker; gives the load that goes through it, and process ids."""
    topics = [f"bare-{via}-{number}" for number in range(hops + 1)]
    await copyloop.create(house.bootstrap, *topics, replication=house.settings.topics.replication)
    async with AsyncExitStack() as stack:
        pids = {}
        for source, target in itertools.pairwise(topics):
            hop = Hop(
                bootstrap=house.bootstrap,
                mode=house.platform.capabilities.mode,
                kind=house.platform.capabilities.kind,
                via=via,
                source=source,
                target=target,
            )
            child = await start_hop(hop, house.folder)
            stack.push_async_callback(child.stop, grace=timedelta(seconds=2))
            pids[f"hop {source}"] = child.pid
        yield (
            Job(
                bootstrap=house.bootstrap,
                into=topics[0],
                outof=[topics[-1]],
                fetch_wait_ms=house.fetch_wait_ms,
                meaningless=True,
            ),
            pids,
        )


async def _run(hop: Hop) -> None:
    session, transaction = timedelta(seconds=hop.session_s), timedelta(seconds=hop.transaction_s)
    linger = timedelta(milliseconds=hop.linger_ms)
    if hop.via is Via.LOOP:
        await _copy_stage.run(
            hop.bootstrap, hop.mode, hop.source, hop.target, linger=linger, kind=hop.kind, name=hop.name,
            session=session, transaction=transaction,
        )  # fmt: skip
    elif hop.via is Via.PER_PARTITION:
        await _per_partition.run(
            hop.bootstrap, hop.source, hop.target, linger=linger, session=session, transaction=transaction
        )
    else:
        bare = copyloop.sink_hop if hop.via is Via.SINK else copyloop.aiokafka_hop
        endless = copyloop.Meter(sys.maxsize, 0)
        await bare(hop.bootstrap, hop.mode, hop.source, hop.target, linger, hop.kind, endless, asyncio.Event())


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    faults.arm_from(os.environ)
    asyncio.run(
        _run(
            Hop(
                **{
                    **given,
                    "mode": DeliveryMode(given["mode"]),
                    "kind": BrokerKind(given["kind"]),
                    "via": Via(given["via"]),
                }
            )
        )
    )
