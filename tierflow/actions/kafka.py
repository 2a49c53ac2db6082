"""``tierflow kafka``: a real Apache Kafka, fetched, and in the foreground."""

import asyncio
from pathlib import Path

from streams.brokers import ChildState, KafkaCluster, resolve_kafka
from streams.brokers.distribution import KAFKA_VERSION
from streams.errors import BrokerUnavailableError
from streams.runtime import stop_on_signals
from tierflow.console import Console

_LOOK_S = 1.0


async def fetch(console: Console) -> None:
    """Have Apache Kafka on this machine.

    Raises:
        ConfigurationError: No Java or Maven.
        ProcessError: It can't be downloaded.
    """
    found = await resolve_kafka()
    console.line(f"Apache Kafka {KAFKA_VERSION}: {found.libs}")
    console.emit({"version": KAFKA_VERSION, "libs": str(found.libs)})


async def start(console: Console, *, nodes: int, folder: Path | None, ports: list[int]) -> None:
    """Run Apache Kafka until a signal.

    Raises:
        ConfigurationError: No Java or Maven, ports in use, or a folder of another cluster.
        ProcessError: It did not start.
        BrokerUnavailableError: All nodes died.
    """
    stop = asyncio.Event()
    if folder is None:
        console.note("records are thrown away at the end: give --data a folder to keep them")
    async with KafkaCluster(nodes=nodes, work_dir=folder, ports=ports) as cluster:
        stop_on_signals(stop)
        console.line(f"Apache Kafka with {nodes} node{'s' if nodes > 1 else ''}: {cluster.bootstrap}")
        console.note(f"use it with: tierflow --bootstrap {cluster.bootstrap} ... ; Ctrl-C stops it")
        numbers = range(1, nodes + 1)
        console.emit({"bootstrap": cluster.bootstrap, "nodes": [{"node": n, "pid": cluster.pid(n)} for n in numbers]})
        dead: set[int] = set()
        while not stop.is_set():
            for node in numbers:
                if cluster.state(node) is ChildState.EXITED and node not in dead:
                    dead.add(node)
                    console.warn(f"node {node} died; its log: {cluster.log(node)}")
            if len(dead) == nodes:
                raise BrokerUnavailableError("all nodes died; see the logs")
            try:
                await asyncio.wait_for(stop.wait(), _LOOK_S)
            except TimeoutError:
                continue
        console.note("stopping")
