"""A real Apache Kafka on loopback: one node or three, in KRaft mode, each broker and controller at once.

For local use and for tests: nodes can be killed, paused and restarted one by one. What it keeps lies in its working
folder, so that another start on the same folder continues it.
"""

import asyncio
import contextlib
import tempfile
from collections.abc import Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from schemas.errors import ConfigurationError, ProcessError
from streams.brokers.distribution import KafkaDistribution, resolve_kafka
from streams.brokers.kafka_config import LOG4J_PROPERTIES, Layout, NodePorts, new_cluster_id, server_properties
from streams.brokers.locks import FileLock
from streams.brokers.ports import LOOPBACK, is_free, pick_free, require_free
from streams.brokers.process import ChildProcess, ChildState

_SIZES = (1, 3)  # two nodes are no better than one: both are needed for a majority
_HEAP_MIB = {1: 512, 3: 384}
_FORMAT_WITHIN = timedelta(seconds=60)
_ASK_TIMEOUT_MS = 2_000
_ASK_PAUSE_S = 0.1
_JVM_OPTIONS = (
    "-Djava.net.preferIPv4Stack=true",  # listens on 127.0.0.1 itself instead of its IPv6 alias
    "-Djava.awt.headless=true",
    "-XX:-UsePerfData",  # no shared file in /tmp, which a killed process would leave behind
    "-XX:+ExitOnOutOfMemoryError",  # a broker without memory must not linger half alive
)
# The formatting tool lives for a second: no time to optimise anything.
_TOOL_OPTIONS = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:-UsePerfData")


class KafkaCluster:
    """An async context manager around one or three Kafka nodes.

    Nodes are numbered from 1. With a working folder, ``start`` after ``stop`` (or another object on the same folder)
    continues with the same records and, where they are still free, the same ports.
    """

    def __init__(
        self,
        *,
        nodes: int = 1,
        work_dir: Path | None = None,
        ports: Sequence[int] = (),
        proxies: Sequence[str] = (),
        settings: Mapping[str, str] | None = None,
        heap_mib: int | None = None,
        jvm_options: Sequence[str] = (),
        start_within: timedelta = timedelta(seconds=90),
        stop_grace: timedelta = timedelta(seconds=15),
    ) -> None:
        """Nothing is started yet.

        Args:
            nodes: 1, or 3 (replicated three times, two in sync required).
            work_dir: Folder for records, settings and logs; a temporary one, removed at ``stop``, if None.
            ports: Client port of each node; free ones are picked if empty.
            proxies: For tests with a proxy between clients and brokers: ``host:port`` of each node's proxy. Each node
                then listens on a second port (``proxy_targets``) and tells those who come through it to come back
                through the proxy.
            settings: Kafka settings to say differently, for all nodes.
            heap_mib: Largest Java heap of a node in MiB; 512 for one node, 384 each for three.
            jvm_options: More options for Java.
            start_within: How long a start may take until all nodes answer, without the first download.
            stop_grace: How long an orderly end may take before what is left is killed.

        Raises:
            ConfigurationError: The numbers do not fit together.
        """
        if nodes not in _SIZES:
            raise ConfigurationError(f"a local Kafka has 1 or 3 nodes, not {nodes}")
        for what, given in (("ports", ports), ("proxies", proxies)):
            if given and len(given) != nodes:
                raise ConfigurationError(f"{what}: {len(given)} given for {nodes} nodes; give one each, or none")
        self._size = nodes
        self._work_dir = work_dir
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._ports = tuple(ports)
        self._proxies = tuple(proxies)
        self._settings = dict(settings or {})
        heap = heap_mib or _HEAP_MIB[nodes]
        self._options = (f"-Xmx{heap}m", *_JVM_OPTIONS, *jvm_options)
        self._start_within = start_within
        self._stop_grace = stop_grace
        self._lock: FileLock | None = None
        self._layout: Layout | None = None
        self._children: dict[int, ChildProcess] = {}

    @property
    def addresses(self) -> tuple[str, ...]:
        """``127.0.0.1:port`` of each node, once started."""
        return tuple(f"{LOOPBACK}:{ports.client}" for ports in self._started().nodes)

    @property
    def bootstrap(self) -> str:
        """All addresses, joined by commas, as clients want them."""
        return ",".join(self.addresses)

    @property
    def proxy_targets(self) -> tuple[str, ...]:
        """Where each node's proxy must forward to; empty without proxies."""
        return tuple(f"{LOOPBACK}:{ports.proxied}" for ports in self._started().nodes if self._proxies)

    def pid(self, node: int) -> int:
        """Process id of a node."""
        return self._child(node).pid

    def state(self, node: int) -> ChildState:
        """Whether a node runs, is paused, or has exited."""
        return self._child(node).state

    def log(self, node: int) -> Path:
        """Log file of a node."""
        return self._child(node).log

    async def start(self) -> None:
        """Start all nodes, and return when each of them knows all others.

        Raises:
            ConfigurationError: No usable Java or Maven, a port in use, or a folder with another kind of cluster.
            ProcessError: It runs already, the jars can't be resolved, or a node did not start; with the last lines of
                the log.
        """
        if self._running():
            raise ProcessError("Apache Kafka runs already")
        kafka = await resolve_kafka()
        try:
            folder = await self._enter_folder()
            self._layout = layout = await asyncio.to_thread(self._lay_out, folder)
            numbers = range(1, self._size + 1)
            await _all(self._prepare(kafka, layout, folder, node) for node in numbers)
            await _all(self._launch(node) for node in numbers)
            await _all(self._wait_ready(node, set(numbers)) for node in numbers)
        except BaseException:
            await self._stop_children(timedelta(0))
            await self._leave_folder()
            raise

    async def stop(self) -> None:
        """Stop all nodes; nothing happens if none runs.

        An orderly end of three takes some seconds, as the last ones wait for a majority that is gone. Records in a
        temporary folder are thrown away, and need no orderly end.
        """
        await self._stop_children(self._stop_grace if self._temporary is None else timedelta(0))
        await self._leave_folder()

    async def kill(self, node: int) -> None:
        """SIGKILL a node, as a crash does, and return when it is gone."""
        await self._child(node).kill()

    def pause(self, node: int) -> None:
        """SIGSTOP a node: its connections stay, nothing is answered."""
        self._child(node).pause()

    def resume(self, node: int) -> None:
        """SIGCONT a node."""
        self._child(node).resume()

    async def restart(self, node: int) -> None:
        """Stop a node if it runs, start it with the same records and ports, and return when it serves again.

        After ``kill`` this takes until the others have given the dead one up (``broker.session.timeout.ms``).
        """
        await self._child(node).stop(grace=self._stop_grace)
        await self._launch(node)
        await self._wait_ready(node, {node})

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        await self.stop()

    def _started(self) -> Layout:
        if self._layout is None:
            raise ProcessError("Apache Kafka was not started")
        return self._layout

    def _child(self, node: int) -> ChildProcess:
        self._started()
        if not 1 <= node <= self._size:
            raise ConfigurationError(f"there is no node {node}: nodes are numbered from 1 to {self._size}")
        if node not in self._children:
            raise ProcessError(f"Kafka node {node} was not started")
        return self._children[node]

    def _running(self) -> list[ChildProcess]:
        return [c for c in self._children.values() if c.state in {ChildState.RUNNING, ChildState.PAUSED}]

    async def _enter_folder(self) -> Path:
        """The working folder, for us alone until ``_leave_folder``."""
        if self._work_dir is not None:
            folder = await asyncio.to_thread(self._work_dir.absolute)
        else:
            self._temporary = await asyncio.to_thread(
                tempfile.TemporaryDirectory[str], prefix="tierflow-kafka-", ignore_cleanup_errors=True
            )
            folder = Path(self._temporary.name)
        self._lock = FileLock(folder / "cluster.lock")
        if not self._lock.try_acquire():
            raise ConfigurationError(f"{folder} is in use by another running cluster: choose another folder")
        return folder

    def _lay_out(self, folder: Path) -> Layout:
        """Continue the folder's cluster or begin one; ports that were picked move if somebody has taken them."""
        require_free(self._ports)
        kept = Layout.load(folder)
        if kept is not None and len(kept.nodes) != self._size:
            raise ConfigurationError(
                f"{folder} holds a cluster of {len(kept.nodes)} nodes, not {self._size}: choose another folder"
            )
        fresh = iter(pick_free(3 * self._size))
        nodes = []
        for i in range(self._size):
            old = kept.nodes[i] if kept is not None else NodePorts(client=0, controller=0)
            client = self._ports[i] if self._ports else _still_free(old.client) or next(fresh)
            proxied = (_still_free(old.proxied) or next(fresh)) if self._proxies else 0
            controller = _still_free(old.controller) or next(fresh)
            nodes.append(NodePorts(client=client, controller=controller, proxied=proxied))
        layout = Layout(cluster_id=new_cluster_id(), nodes=tuple(nodes))
        if kept is not None:
            layout = replace(layout, cluster_id=kept.cluster_id)
        layout.save(folder)
        return layout

    async def _prepare(self, kafka: KafkaDistribution, layout: Layout, folder: Path, node: int) -> None:
        """Write a node's settings, and format its storage if that is new."""
        home = folder / f"node-{node}"
        data = home / "data"
        properties = home / "server.properties"
        log4j = home / "log4j2.properties"

        def write() -> bool:
            home.mkdir(parents=True, exist_ok=True)
            proxy = self._proxies[node - 1] if self._proxies else ""
            text = server_properties(layout, node, data_dir=data, advertised_proxy=proxy, settings=self._settings)
            properties.write_text(text, encoding="utf-8")
            log4j.write_text(LOG4J_PROPERTIES, encoding="utf-8")
            return (data / "meta.properties").exists()

        logging = f"-Dlog4j2.configurationFile={log4j}"
        if not await asyncio.to_thread(write):
            arguments = ("format", "--cluster-id", layout.cluster_id, "--config", str(properties))
            options = (*_TOOL_OPTIONS, logging)
            command = kafka.command("kafka.tools.StorageTool", *arguments, options=options)
            tool = ChildProcess(name=f"Kafka's storage tool for node {node}", argv=command, log=home / "format.log")
            await tool.start()
            if await tool.wait(within=_FORMAT_WITHIN) != 0:
                raise ProcessError(f"{tool.name} failed; {await tool.log_tail()}")
        command = kafka.command("kafka.Kafka", str(properties), options=(*self._options, logging))
        self._children[node] = ChildProcess(name=f"Kafka node {node}", argv=command, log=home / "server.log")

    async def _launch(self, node: int) -> None:
        ports = self._started().nodes[node - 1]
        wanted = [port for port in (ports.controller, ports.client, ports.proxied) if port]
        await self._child(node).start(ports=wanted, within=self._start_within)

    async def _wait_ready(self, node: int, expected: Collection[int]) -> None:
        """Wait until a node answers, and says that all expected nodes serve."""
        child = self._child(node)
        missing = set(expected)
        try:
            async with asyncio.timeout(self._start_within.total_seconds()):
                while missing := set(expected) - await _serving(self.addresses[node - 1]):
                    if child.returncode is not None:
                        raise ProcessError(f"{child.name} ended while it started; {await child.log_tail()}")
                    await asyncio.sleep(_ASK_PAUSE_S)
        except TimeoutError:
            late = f"{child.name} does not see {sorted(missing)} within {self._start_within.total_seconds():g} s"
            raise ProcessError(f"{late}; {await child.log_tail()}") from None

    async def _stop_children(self, grace: timedelta) -> None:
        ends = (child.stop(grace=grace) if grace else child.kill() for child in self._children.values())
        await asyncio.gather(*ends)

    async def _leave_folder(self) -> None:
        if self._lock is not None:
            self._lock.release()
        if self._temporary is not None:
            temporary, self._temporary = self._temporary, None
            await asyncio.to_thread(temporary.cleanup)


async def _serving(address: str) -> set[int]:
    """Ids of the nodes that serve clients, as the node at this address sees it; none if it does not answer."""
    client = AIOKafkaClient(bootstrap_servers=address, request_timeout_ms=_ASK_TIMEOUT_MS)
    try:
        await client.bootstrap()
        return {broker.nodeId for broker in client.cluster.brokers()}
    except (KafkaError, OSError):
        return set()
    finally:
        with contextlib.suppress(KafkaError, OSError):
            await client.close()


async def _all(works: Iterable[Coroutine[None, None, None]]) -> None:
    """Run them side by side; the first failure ends the others and is raised as it is, not as a group."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except BaseExceptionGroup as errors:
        first = errors.exceptions[0]
        raise first from first.__cause__


def _still_free(port: int) -> int:
    return port if port and is_free(port) else 0
