"""A whole installation for a benchmark: broker, state store, model double and agents, each a process of its own."""

import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr

from bench._load import Job, Load, open_load
from registry.load import load_catalogue
from registry.log import publish_if_changed
from schemas.catalogue import Catalogue
from schemas.clock import SystemClock
from schemas.settings import EndpointSettings, Settings
from streams.admin import create_topics
from streams.brokers import ChildProcess, EmbeddedBroker, EmbeddedState, KafkaCluster
from streams.brokers.ports import LOOPBACK, pick_free
from streams.connection import BrokerKind
from streams.runtime import Platform, find_platform
from streams.topics import Topic
from tierflow.choices import AgentKind, BrokerChoice
from tierflow.environment import environment_of, with_section
from tierflow.reach import snapshot_log, topics_of
from tierflow.team import programs

ROOT: Final = Path(__file__).resolve().parent.parent
CATALOGUE: Final = str(Path(__file__).with_name("catalogue.yaml"))
ENDPOINT: Final = "bench"
FLOW: Final = ("classifier", "worker", "guardrail")
"""Agents that a request waits for; ``audit`` and ``archive`` only read along."""


@dataclass(eq=False, kw_only=True)
class House:
    """A running installation; made by ``open_house``.

    Attributes:
        broker: Which one.
        settings: What agents run with.
        platform: The broker, and what it can do.
        catalogue: What rules.
        topics: The topic table.
        folder: Logs and archive.
        model_url: Base URL of the model double.
        servers: Process ids of broker, state store and model double.
        agents: Running agents, by name.
    """

    broker: BrokerChoice
    settings: Settings
    platform: Platform
    catalogue: Catalogue
    topics: Sequence[Topic]
    folder: Path
    model_url: str
    servers: Mapping[str, int]
    agents: dict[str, ChildProcess] = field(default_factory=dict)

    @property
    def bootstrap(self) -> str:
        """Broker address."""
        return self.settings.kafka.bootstrap

    @property
    def archive(self) -> Path:
        """Folder of the archive."""
        return self.settings.archive.directory

    def pids(self) -> dict[str, int]:
        """Process ids of everything, by name."""
        return {**self.servers, **{name: child.pid for name, child in self.agents.items()}}

    def load(self, outof: Sequence[str] = ("results",)) -> Any:
        """A load process that sends requests and reads ``outof``; an async context manager."""
        return open_load(Job(bootstrap=self.bootstrap, into="requests", outof=outof, fetch_wait_ms=self.fetch_wait_ms))

    @property
    def fetch_wait_ms(self) -> int:
        """For readers of a benchmark: the embedded broker answers a waiting fetch only when its time is over."""
        return 5 if self.platform.capabilities.kind is BrokerKind.EMBEDDED else 100

    async def start(self, kind: str, tier: str = "", *, profile: Path | None = None) -> ChildProcess:
        """Start an agent as ``tierflow run`` does.

        Args:
            kind: Kind of agent.
            tier: Of a worker.
            profile: Take a profile, and write it there when the agent ends.
        """
        (program,) = programs(
            [(AgentKind(kind), tier, 1)],
            environment=lambda which, _: environment_of(self.settings, endpoints=which is AgentKind.WORKER),
            logs=self.folder,
            identity="bench",
            log_level="warning",
            loop=self.settings.loop,
        )
        argv = list(program.argv)
        if profile is not None:
            at = argv.index("tierflow")
            argv[at : at + 1] = ["bench._profiled", str(profile)]
        child = ChildProcess(name=program.name, argv=argv, log=program.log, env=program.env(), cwd=self.folder)
        await child.start()
        self.agents[program.group] = child
        return child

    async def stop(self, *names: str) -> None:
        """Drain agents, in this order; all if none is named."""
        for name in names or tuple(self.agents):
            await self.agents.pop(name).stop(grace=timedelta(seconds=40))

    async def start_all(self, *, profiles: Path | None = None) -> None:
        """Start every agent, readers first."""
        for kind in ("archive", "audit", "guardrail"):
            await self.start(kind, profile=profiles and profiles / f"{kind}.json")
        for tier in self.catalogue.tiers:
            await self.start("worker", tier.id, profile=profiles and profiles / f"worker-{tier.id}.json")
        await self.start("classifier", profile=profiles and profiles / "classifier.json")


@asynccontextmanager
async def open_house(
    broker: BrokerChoice,
    folder: Path,
    *,
    catalogue: str = CATALOGUE,
    model_latency: timedelta = timedelta(0),
    loop: Mapping[str, Any] | None = None,
    segment_age: timedelta = timedelta(seconds=10),
    nodes: int = 1,
) -> AsyncIterator[House]:
    """Start servers, make topics, publish a catalogue; agents are started by whoever measures them.

    Args:
        broker: Which broker.
        folder: For logs and archive.
        catalogue: Name or file.
        model_latency: How long the model double takes.
        loop: Changes to the loop's settings.
        segment_age: After which the archive seals a segment: short, so that sealing is part of a measurement.
        nodes: Nodes of Apache Kafka; of three, everything is on all of them and acknowledged by two.
    """
    folder = folder / broker.value
    async with AsyncExitStack() as stack:
        servers: dict[str, int] = {}
        if broker is BrokerChoice.KAFKA:
            cluster = await stack.enter_async_context(KafkaCluster(nodes=nodes))
            bootstrap = cluster.bootstrap
            servers |= {f"broker {node}": cluster.pid(node) for node in range(1, nodes + 1)}
        else:
            embedded = await stack.enter_async_context(EmbeddedBroker(work_dir=folder))
            bootstrap, servers["broker"] = embedded.address, embedded.pid
        store = await stack.enter_async_context(EmbeddedState(work_dir=folder))
        servers["state store"] = store.pid
        double, url = await _model_double(folder, model_latency)
        stack.push_async_callback(double.stop)
        servers["model double"] = double.pid
        settings = with_section(Settings(), "kafka", bootstrap=bootstrap)
        settings = with_section(settings, "state", url=SecretStr(store.url))
        settings = with_section(settings, "worker", endpoints={ENDPOINT: EndpointSettings(base_url=url)})
        settings = with_section(settings, "archive", directory=folder / "archive", segment_age=segment_age)
        settings = with_section(settings, "loop", **(loop or {}))
        if nodes > 1:
            settings = with_section(settings, "topics", replication=nodes, min_insync=nodes - 1)
        platform = await find_platform(settings)
        rules = load_catalogue(catalogue, retention=settings.topics.retention)
        topics = topics_of(rules, settings.topics)
        kind = platform.capabilities.kind
        await create_topics(platform.connection, topics, platform.names, settings.topics, kind=kind)
        async with snapshot_log(platform) as log:
            await publish_if_changed(log, rules, now_ms=SystemClock().now_ms(), author="bench")
        house = House(
            broker=broker,
            settings=settings,
            platform=platform,
            catalogue=rules,
            topics=topics,
            folder=folder,
            model_url=url,
            servers=servers,
        )
        try:
            yield house
        finally:
            await house.stop()


async def _model_double(folder: Path, latency: timedelta) -> tuple[ChildProcess, str]:
    (port,) = pick_free(1)
    argv = [sys.executable, "-m", "tests.doubles.model_server", "--port", str(port)]
    argv += ["--latency-ms", str(latency / timedelta(milliseconds=1))]
    double = ChildProcess(name="model double", argv=argv, log=folder / "model-double.log", cwd=ROOT)
    await double.start(ports=[port])
    return double, f"http://{LOOPBACK}:{port}/v1"


async def warm_up(load: Load, seconds: float, rate: float = 60.0) -> None:
    """Run some load so that what follows is measured warm, and everybody has joined.

    Raises:
        SystemExit: Not everything came back: then nothing that follows would mean anything.
    """
    await require_all(load, max(20, int(rate * seconds)), rate)


async def require_all(load: Load, count: int, rate: float) -> None:
    """Run a load of which nothing may be missing."""
    ran = await load.run(count, rate)
    if ran.missing:
        raise SystemExit(f"{ran.missing} of {count} records did not come out: look at the logs (--keep FOLDER)")
