"""Bare hops in a row, each a process: what moving records that often costs when nothing is done to them.

    python -m bench._chain '{"bootstrap": ..., "mode": ..., "kind": ..., "via": ..., "source": ..., "target": ...}'

is one hop; ``open_chain`` starts several, with their topics.
"""

import asyncio
import itertools
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from bench import copyloop
from bench._house import ROOT, House
from bench._load import Job
from schemas.delivery import DeliveryMode
from streams.brokers import ChildProcess
from streams.connection import BrokerKind


@asynccontextmanager
async def open_chain(house: House, hops: int, via: copyloop.Via) -> AsyncIterator[tuple[Job, dict[str, int]]]:
    """Start a chain of bare hops on a house's broker; gives the load that goes through it, and process ids."""
    topics = [f"bare-{via}-{number}" for number in range(hops + 1)]
    await copyloop._create(house.bootstrap, *topics)  # noqa: SLF001 - a neighbour
    async with AsyncExitStack() as stack:
        pids = {}
        for source, target in itertools.pairwise(topics):
            hop = {
                "bootstrap": house.bootstrap,
                "mode": house.platform.capabilities.mode.value,
                "kind": house.platform.capabilities.kind.value,
                "via": via,
                "source": source,
                "target": target,
            }
            child = _child(source, hop, house.folder)
            await child.start()
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


def _child(name: str, hop: dict[str, Any], folder: Path) -> ChildProcess:
    argv = [sys.executable, "-m", "bench._chain", json.dumps(hop)]
    return ChildProcess(name=name, argv=argv, log=folder / f"{name}.log", cwd=ROOT)


async def _hop(hop: dict[str, Any]) -> None:
    run = copyloop._sink_hop if hop["via"] == "sink" else copyloop._aiokafka_hop  # noqa: SLF001 - a neighbour
    endless = copyloop._Meter(sys.maxsize, 0)  # noqa: SLF001
    await run(
        hop["bootstrap"],
        DeliveryMode(hop["mode"]),
        hop["source"],
        hop["target"],
        timedelta(0),
        BrokerKind(hop["kind"]),
        endless,
        asyncio.Event(),
    )


if __name__ == "__main__":
    asyncio.run(_hop(json.loads(sys.argv[1])))
