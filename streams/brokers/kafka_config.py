"""What a local Kafka node is told: its settings, its log's settings, and the layout that outlives a restart."""

import base64
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from schemas.errors import ConfigurationError
from streams.brokers.ports import LOOPBACK

# A request of the largest size that topics take (2 MiB), with headers and the batch around it.
MESSAGE_MAX_BYTES = 2 * 1024 * 1024 + 64 * 1024

_LAYOUT_FILE = "cluster.json"

# The same on every node. Kafka's own defaults are for servers with many disks, not for a laptop or two CI cores.
_COMMON: Mapping[str, str] = {
    "auto.create.topics.enable": "false",  # a misspelt topic is an error, not a new topic
    "group.initial.rebalance.delay.ms": "0",  # 3 s that only help large groups that start at once
    "offsets.topic.num.partitions": "4",  # 50 by default: files and start-up time for nothing here
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.num.partitions": "1",
    "message.max.bytes": str(MESSAGE_MAX_BYTES),
    "replica.fetch.max.bytes": str(MESSAGE_MAX_BYTES),
    # An abandoned transaction hides everything behind it from read_committed readers: bounded by a minute, which is
    # also what clients ask for by default, and looked at every second instead of every ten.
    "transaction.max.timeout.ms": "60000",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),  # 128 MiB by default: a third of our heap
}

# How soon a dead node is noticed, and how long a killed one that comes back is refused as its own double. A single
# node has nobody to hand over to, so only the second counts; three must not take a busy moment for a death.
_SESSION_MS = {1: 3_000, 3: 6_000}

# Warnings and errors, and the line that says what was started, on standard output, which is our log file. A node that
# is down would otherwise make the others write twenty lines a second about it.
LOG4J_PROPERTIES = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{yyyy-MM-dd'T'HH:mm:ss.SSS} %p %c{1}: %m%n
rootLogger.level = warn
rootLogger.appenderRefs = console
rootLogger.appenderRef.console.ref = console
logger.server.name = kafka.server.KafkaRaftServer
logger.server.level = info
logger.network.name = org.apache.kafka.clients.NetworkClient
logger.network.level = error
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePorts:
    """The loopback ports of one node.

    Attributes:
        client: Where clients and the other nodes connect.
        controller: Where the controllers' quorum talks.
        proxied: Where a test's proxy connects; 0 without one.
    """

    client: int
    controller: int
    proxied: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What a working folder's cluster is; kept in the folder, so that a later start continues it.

    Attributes:
        cluster_id: 22 characters, drawn once a folder; Kafka refuses storage of another cluster.
        nodes: Ports of each node; node 1 is the first.
    """

    cluster_id: str
    nodes: tuple[NodePorts, ...]

    @classmethod
    def load(cls, work_dir: Path) -> Self | None:
        """Read it back; None if the folder has none.

        Raises:
            ConfigurationError: The file is there and is not one of ours.
        """
        path = work_dir / _LAYOUT_FILE
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return cls(cluster_id=data["cluster_id"], nodes=tuple(NodePorts(**node) for node in data["nodes"]))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(
                f"{path} is not a cluster's layout ({error!r}): choose another folder, or remove this one"
            ) from error

    def save(self, work_dir: Path) -> None:
        """Write it, in one step."""
        work_dir.mkdir(parents=True, exist_ok=True)
        path = work_dir / _LAYOUT_FILE
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        partial.replace(path)


def new_cluster_id() -> str:
    """16 random bytes in the alphabet that Kafka wants, without a leading dash, which would look like an option."""
    while True:
        drawn = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not drawn.startswith("-"):
            return drawn


def server_properties(
    layout: Layout, node: int, *, data_dir: Path, advertised_proxy: str = "", settings: Mapping[str, str]
) -> str:
    """The settings file of one node (1 for the first).

    Args:
        layout: The cluster.
        node: Number of the node, which is also its id.
        data_dir: Folder of its records.
        advertised_proxy: ``host:port`` that clients of the proxied listener are told to come to; empty without one.
        settings: What to say differently; wins over everything else.
    """
    ports = layout.nodes[node - 1]
    listeners = [f"PLAINTEXT://{LOOPBACK}:{ports.client}"]
    advertised = list(listeners)
    if advertised_proxy:
        listeners.append(f"PROXIED://{LOOPBACK}:{ports.proxied}")
        advertised.append(f"PROXIED://{advertised_proxy}")
    listeners.append(f"CONTROLLER://{LOOPBACK}:{ports.controller}")
    voters = [f"{i}@{LOOPBACK}:{other.controller}" for i, other in enumerate(layout.nodes, 1)]
    replicas = len(layout.nodes)
    session_ms = _SESSION_MS[replicas]
    in_sync = max(1, replicas - 1)  # of three: one may be away, and what was acknowledged is still on two
    lines = {
        "process.roles": "broker,controller",
        "node.id": str(node),
        "controller.quorum.voters": _comma(voters),
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listeners": _comma(listeners),
        "advertised.listeners": _comma(advertised),
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": str(data_dir).replace("\\", "\\\\"),
        "default.replication.factor": str(replicas),
        "min.insync.replicas": str(in_sync),
        "offsets.topic.replication.factor": str(replicas),
        "transaction.state.log.replication.factor": str(replicas),
        "transaction.state.log.min.isr": str(in_sync),
        "share.coordinator.state.topic.replication.factor": str(replicas),
        "share.coordinator.state.topic.min.isr": str(in_sync),
        "broker.session.timeout.ms": str(session_ms),
        "broker.heartbeat.interval.ms": str(session_ms // 6),
        **_COMMON,
        **settings,
    }
    return "".join(f"{key}={value}\n" for key, value in lines.items())


def _comma(parts: Sequence[str]) -> str:
    return ",".join(parts)
