"""An installation of real processes on a real broker, to be hurt: one prefix a case, so that cases share a broker."""

import asyncio
import contextlib
import logging
import os
import signal
import threading
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import psutil
from aiokafka import AIOKafkaConsumer
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from pydantic import SecretStr

from registry.load import load_catalogue
from registry.log import publish_if_changed
from schemas.catalogue import Catalogue
from schemas.clock import SystemClock
from schemas.settings import EndpointSettings, Settings
from streams import faults
from streams.admin import create_topics
from streams.brokers import ChildProcess, ChildState
from streams.clients import admin_client
from streams.faults import Fault
from streams.records import TP
from streams.runtime import Platform, find_platform
from streams.topics import LEARNED, REGISTRY, REQUESTS, Topic
from tests.faults.oracle import Evidence, Resources, Sent, Sorted, judge, within_margin
from tests.faults.provider import Provider, Trick, prompt
from tests.faults.reading import QUIET, Tail, committed, ends, read_all, tailing
from tierflow.choices import AgentKind
from tierflow.environment import environment_of, with_section
from tierflow.reach import snapshot_log, topics_of
from tierflow.team import programs
from tierflow_client.request import make_record

log = logging.getLogger(__name__)

CATALOGUE: Final = Path(__file__).with_name("catalogue.yaml")
PARTITIONS: Final = 6
SESSION: Final = timedelta(seconds=4)
"""Short, as each case waits for one; longer than a busy test machine keeps a process from running."""
TRANSACTION: Final = timedelta(seconds=5)
CONCURRENCY: Final = 16
"""Calls in flight in one worker, as the catalogue says: what one crash can repeat at most."""
SETTLED_WITHIN_S: Final = 60.0
FLOW: Final = ("audit", "guardrail", "worker", "classifier")
"""Agents of a case; readers first."""


def faulty_settings(bootstrap: str, state_url: str, provider_url: str, prefix: str, **sections: Any) -> Settings:
    """Settings of agents under test: short times, everything else as users have it."""
    settings = Settings()
    settings = with_section(
        settings, "kafka", bootstrap=bootstrap, session_timeout=SESSION, heartbeat_interval=timedelta(seconds=1)
    )
    delays = (timedelta(seconds=1), timedelta(seconds=2))
    settings = with_section(settings, "topics", prefix=prefix, partitions=PARTITIONS, retry_delays=delays)
    settings = with_section(settings, "state", url=SecretStr(state_url), timeout=timedelta(seconds=1))
    settings = with_section(settings, "monitor", grace=timedelta(seconds=40))  # starts are slow on a busy machine
    loop = {
        "commit_timeout": timedelta(seconds=4),
        "transaction_timeout": TRANSACTION,
        "revoke_budget": timedelta(seconds=3),
        "drain_grace": timedelta(seconds=5),
        "back_off": timedelta(milliseconds=200),
        **sections.pop("loop", {}),
    }
    settings = with_section(settings, "loop", **loop)
    worker = {
        "endpoints": {"recorder": EndpointSettings(base_url=provider_url)},
        "lease": timedelta(seconds=3),
        "retry_base": timedelta(milliseconds=50),
        "retry_cap": timedelta(milliseconds=500),
        **sections.pop("worker", {}),
    }
    settings = with_section(settings, "worker", **worker)
    for section, values in sections.items():
        settings = with_section(settings, section, **values)
    return settings


@dataclass(eq=False, kw_only=True)
class World:
    """A running case; made by ``open_world``.

    Attributes:
        settings: What its agents run with.
        platform: Its broker.
        topics: Its topics.
        catalogue: What rules.
        provider: Who answers.
        folder: Logs and markers.
        tail: Reads along.
        sent: What was sent, in order.
        poison: Coordinates of records sent that are no requests.
        agents: Processes, by name; dead ones stay.
        crashes: How often a worker was hurt in the middle of calls.
        lost_state: Whether the state store lost what it held.
        at_rest: What one agent of each kind holds when nothing is to be done; empty if nobody measured it.
    """

    settings: Settings
    platform: Platform
    topics: Sequence[Topic]
    catalogue: Catalogue
    provider: Provider
    folder: Path
    tail: Tail
    sent: list[Sent] = field(default_factory=list)
    poison: set[str] = field(default_factory=set)
    agents: dict[str, ChildProcess] = field(default_factory=dict)
    crashes: int = 0
    lost_state: bool = False
    at_rest: Mapping[str, Resources] = field(default_factory=dict)
    went_back: list[str] = field(default_factory=list)
    _highest: dict[tuple[str, TP], int] = field(default_factory=dict)
    _seen: Sorted = field(default_factory=Sorted)
    _read: int = 0
    _looking: threading.Lock = field(default_factory=threading.Lock)

    @property
    def prefix(self) -> str:
        """Of topics, groups and labels."""
        return self.settings.topics.prefix

    @property
    def partitions(self) -> list[TP]:
        """All partitions of all topics of the flow."""
        return partitions_of(self.topics, self.platform)

    # -- processes -----------------------------------------------------------------------------------------------------

    async def start(
        self,
        kind: str,
        tier: str = "",
        *,
        name: str = "first",
        plan: Sequence[Fault] = (),
        settings: Settings | None = None,
        without: str = "",
    ) -> ChildProcess:
        """Start an agent as ``tierflow run`` does.

        Args:
            kind: Kind of agent.
            tier: Of a worker; ``fast`` if empty.
            name: Its instance, which lasts over restarts.
            plan: Faults.
            settings: Others than the world's.
            without: A safeguard to switch off (see ``tests.faults.sabotage``).
        """
        chosen = settings or self.settings
        (program,) = programs(
            [(AgentKind(kind), (tier or "fast") if kind == "worker" else "", 1)],
            environment=lambda which, _: environment_of(
                chosen, endpoints=which is AgentKind.WORKER or bool(chosen.classifier.llm.model)
            ),
            logs=self.folder,
            identity=name,
            log_level="info",
            loop=chosen.loop,
        )
        environment = dict(program.env())
        if plan:
            environment[faults.VARIABLE] = faults.written(plan)
        label, argv = f"{program.group}-{name}", list(program.argv)
        if without:
            at = argv.index("tierflow")
            argv[at : at + 1] = ["tests.faults.sabotage", without]
        child = ChildProcess(name=label, argv=argv, log=self.folder / f"{label}.log", env=environment, cwd=self.folder)
        await child.start()
        self.agents[label] = child
        log.info("%s runs as %d", label, child.pid)
        return child

    async def start_flow(
        self, plans: Mapping[str, Sequence[Fault]] | None = None, *, without: Mapping[str, str] | None = None
    ) -> None:
        """Start one of each agent, with what is planned for (or taken from) each kind."""
        for kind in FLOW:
            await self.start(kind, plan=(plans or {}).get(kind, ()), without=(without or {}).get(kind, ""))

    def agent(self, kind: str, name: str = "first") -> ChildProcess:
        """A process by kind and instance."""
        return self.agents[f"{'worker-fast' if kind == 'worker' else kind}-{name}"]

    def marker(self, kind: str) -> Path:
        """Where an agent writes down that a fault happened."""
        return self.folder / f"struck-{kind}"

    async def struck(self, kind: str, within_s: float = 45) -> None:
        """Wait until a planned fault happened."""
        async with asyncio.timeout(within_s):
            while not self.marker(kind).exists():
                await asyncio.sleep(0.05)
        log.info("struck: %s", self.marker(kind).read_text().strip())

    @staticmethod
    async def moment() -> None:
        """Let a second pass, in which a case looks at nothing."""
        await asyncio.sleep(1)

    async def gone(self, kind: str, name: str = "first", within_s: float = 45) -> int:
        """Wait until an agent is dead, and say how it ended."""
        return await self.agent(kind, name).wait(within=timedelta(seconds=within_s))

    async def stop(self, kind: str, name: str = "first") -> None:
        """SIGTERM, and wait for the end; it drains."""
        await self.agent(kind, name).stop(grace=timedelta(seconds=30))

    def terminate(self, kind: str, name: str = "first") -> None:
        """SIGTERM, and no waiting."""
        os.kill(self.agent(kind, name).pid, signal.SIGTERM)

    def resources(self, kind: str, name: str = "first") -> Resources:
        """What an agent holds now."""
        return _held(self.agent(kind, name))

    async def disturb(self, stage: str, for_s: float) -> None:
        """Join a stage's group as a member that takes partitions, reads nothing and leaves: two rebalances."""
        connection, names = self.platform.connection, self.platform.names
        inputs = [names.topic(topic.name) for topic in self.topics if stage in topic.consumers]
        consumer = AIOKafkaConsumer(
            *inputs, **connection.consumer_arguments(names.group(stage), self.platform.capabilities.kind)
        )
        await consumer.start()
        try:
            await asyncio.sleep(for_s)
        finally:
            await consumer.stop()

    # -- load ----------------------------------------------------------------------------------------------------------

    def send(
        self,
        count: int,
        *,
        keys: int = 8,
        trick: Trick = Trick.NONE,
        slow_ms: int = 0,
        partitioner: str = "murmur2_random",
        question: str = "How many are three and four?",
        **request: Any,
    ) -> list[str]:
        """Send requests through another client, several a key; their ids."""
        producer = self._producer(partitioner=partitioner)
        ids = []
        for _ in range(count):
            number = len(self.sent)
            request_id = f"{self.prefix}{number:04d}"
            made = make_record(
                prompt(request_id, slow_ms=slow_ms, trick=trick, question=question),
                request_id=request_id,
                **{"key": f"key-{number % keys}", **request},
            )
            self.sent.append(Sent(request_id, made.key, made.value, made.headers))
            self._produce(producer, REQUESTS, made.key, made.value, made.headers)
            ids.append(request_id)
        assert producer.flush(20) == 0, "the requests could not be sent"
        return ids

    def send_again(self, request_id: str, *, partition: int = -1) -> None:
        """Send the same request once more, to any partition."""
        sent = next(each for each in self.sent if each.request_id == request_id)
        producer = self._producer()
        self._produce(producer, REQUESTS, sent.key, sent.value, sent.headers, partition=partition)
        assert producer.flush(20) == 0, "the request could not be sent again"

    def _producer(self, **config: str) -> Producer:
        return Producer({"bootstrap.servers": self.platform.connection.kafka.bootstrap, **QUIET, **config})

    def _produce(
        self,
        producer: Producer,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
        partition: int = -1,
    ) -> None:
        producer.produce(self.platform.names.topic(topic), value, key, partition=partition, headers=list(headers))
        producer.poll(0)

    def send_many(self, records: Sequence[tuple[bytes, bytes, Sequence[tuple[str, bytes]]]], *, topic: str) -> None:
        """Send keys, values and headers to a topic."""
        producer = self._producer()
        for key, value, headers in records:
            self._produce(producer, topic, key, value, headers)
        assert producer.flush(20) == 0, "the records could not be sent"

    def send_raw(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
        *,
        topic: str = REQUESTS,
    ) -> str:
        """Send anything to the intake topic, or elsewhere; its coordinates."""
        places: list[str] = []
        producer = self._producer()
        producer.produce(
            self.platform.names.topic(topic),
            value,
            key,
            headers=list(headers),
            on_delivery=lambda _, message: places.append(f"{message.topic()}/{message.partition()}/{message.offset()}"),
        )
        assert producer.flush(20) == 0, "the record could not be sent"
        return places[0]

    def configure(self, topic: str, **config: str) -> None:
        """Change a topic's configuration at the broker; names take underscores for dots."""
        entries = [
            ConfigEntry(name.replace("_", "."), value, incremental_operation=AlterConfigOpType.SET)
            for name, value in config.items()
        ]
        resource = ConfigResource(ResourceType.TOPIC, self.platform.names.topic(topic), incremental_configs=entries)
        admin = AdminClient({"bootstrap.servers": self.platform.connection.kafka.bootstrap, **QUIET})
        for future in admin.incremental_alter_configs([resource]).values():
            future.result(20)

    # -- verdict -------------------------------------------------------------------------------------------------------

    @property
    def accepted(self) -> frozenset[str]:
        """Ids that must end."""
        return frozenset(each.request_id for each in self.sent)

    def ended(self, ids: frozenset[str] | None = None) -> bool:
        """Whether each accepted request (or each of these) has its result, its story's end, and each poison its
        dead letter, as far as the tail has read."""
        wanted = self.accepted if ids is None else ids
        seen, new = self._seen, self.tail.records[self._read :]
        seen.add(new, self.platform.names)
        self._read += len(new)
        return (
            wanted <= seen.result_ids.keys()
            and wanted <= seen.ended_ids
            and self.poison <= seen.dead_places.keys() | seen.result_places.keys()
        )

    async def settled(self, ids: frozenset[str] | None = None, within_s: float = SETTLED_WITHIN_S) -> bool:
        """Wait for that."""
        return await self.tail.until(lambda _: self.ended(ids), within_s)

    def look_at_offsets(self) -> None:
        """Note committed offsets; one that is lower than before is written down."""
        groups: dict[str, list[TP]] = {}
        for topic in self.topics:
            for stage in topic.consumers:
                if stage != "archive":
                    groups.setdefault(self.platform.names.group(stage), []).extend(
                        TP(self.platform.names.topic(topic.name), number) for number in range(topic.partitions)
                    )
        with self._looking:  # what was asked for first must be noted first
            for place, offset in committed(self.platform.connection.kafka.bootstrap, groups).items():
                before = self._highest.get(place, 0)
                if 0 <= offset < before:
                    self.went_back.append(f"group {place[0]} went back to {offset} on {place[1]} from {before}")
                self._highest[place] = max(offset, before)

    async def keep_looking(self, stop: asyncio.Event) -> None:
        """Look every two seconds until ``stop``; a broker that is away is looked for again.

        Wait for its end, and don't cancel it: the thread of a look would go on while the broker is taken down.
        """
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), timeout=2)
            if stop.is_set():
                return
            with contextlib.suppress(KafkaException, TimeoutError):
                await asyncio.to_thread(self.look_at_offsets)

    async def _resources_now(self) -> dict[str, tuple[Resources, Resources]]:
        """What running agents hold beside one at rest, as soon as it is within the margin, or after ten seconds."""
        found: dict[str, tuple[Resources, Resources]] = {}
        for _ in range(20):
            for label, child in self.agents.items():
                rest = self.at_rest.get(label.split("-", 1)[0])
                if rest is not None and child.state is ChildState.RUNNING:
                    found[label] = _held(child), rest
            if all(within_margin(now, rest) for now, rest in found.values()):
                break
            await asyncio.sleep(0.5)
        return found

    async def evidence(self) -> Evidence:
        """Everything that can be known now, read anew from the beginning."""
        bootstrap = self.platform.connection.kafka.bootstrap
        transactions = self.platform.capabilities.transactions
        if transactions:
            await asyncio.to_thread(self.look_at_offsets)
            await self._closed(bootstrap)
        return Evidence(
            names=self.platform.names,
            mode=self.platform.capabilities.mode,
            sent=tuple(self.sent),
            poison=frozenset(self.poison),
            records=await asyncio.to_thread(read_all, bootstrap, self.partitions),
            tailed=tuple(self.tail.records),
            ends=await asyncio.to_thread(ends, bootstrap, self.partitions) if transactions else {},
            calls=tuple(self.provider.calls(self.prefix)),
            crashes=self.crashes,
            in_flight=CONCURRENCY,
            lost_state=self.lost_state,
            went_back=tuple(self.went_back),
            resources=await self._resources_now(),
        )

    async def _closed(self, bootstrap: str) -> None:
        """Give the broker the time in which it must abort what dead processes left open."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TRANSACTION.total_seconds() + 5):
                while True:
                    found = await asyncio.to_thread(ends, bootstrap, self.partitions)
                    still_open = [tp for tp, end in found.items() if end.stable < end.high]
                    if not still_open:
                        return
                    log.info("transactions are open on %s", still_open)
                    await asyncio.sleep(0.3)

    async def verdict(self, *, within_s: float = SETTLED_WITHIN_S) -> Evidence:
        """Wait until everything ended, and judge.

        Raises:
            AssertionError: Lists what is wrong.
        """
        in_time = await self.settled(within_s=within_s)
        log.info("settled" if in_time else "not settled in time")
        found = await self.evidence()
        log.info("%d records read", len(found.records))
        problems = judge(found)
        assert not problems, (
            f"{len(problems)} problems{'' if in_time else ' (not settled in time)'}:\n  " + "\n  ".join(problems[:20])
        )
        return found


def _held(child: ChildProcess) -> Resources:
    process = psutil.Process(child.pid)
    with process.oneshot():
        return Resources(
            descriptors=process.num_fds(),
            sockets=len(process.net_connections()),
            threads=process.num_threads(),
            mebibytes=process.memory_info().rss >> 20,
        )


async def measure_at_rest(world: World) -> dict[str, Resources]:
    """Run a flow undisturbed, and see what its agents hold when everything has ended."""
    await world.start_flow()
    assert await world.settled(frozenset(world.send(12)))
    await asyncio.sleep(2)
    return {kind: world.resources(kind) for kind in FLOW}


def partitions_of(topics: Sequence[Topic], platform: Platform) -> list[TP]:
    return [
        TP(platform.names.topic(topic.name), number)
        for topic in topics
        if topic.name not in {REGISTRY, LEARNED}  # no records of the flow
        for number in range(topic.partitions)
    ]


@asynccontextmanager
async def open_world(
    bootstrap: str,
    state_url: str,
    provider: Provider,
    folder: Path,
    *,
    rules: Path = CATALOGUE,
    at_rest: Mapping[str, Resources] | None = None,
    watched: bool = True,
    **sections: Any,
) -> AsyncIterator[World]:
    """Topics, rules and a reader under a new prefix; agents are started by the case.

    Committed offsets are looked at all the time if ``watched``: not where brokers die, which took the test's own
    process down once, inside librdkafka's admin client or beside it.
    """
    prefix = f"f{uuid.uuid4().hex[:6]}-"
    settings = faulty_settings(bootstrap, state_url, provider.base_url, prefix, **sections)
    platform = await find_platform(settings)
    if platform.capabilities.transactions:
        settings = with_section(settings, "kafka", delivery="exactly_once")
    catalogue = load_catalogue(rules, retention=settings.topics.retention)
    topics = topics_of(catalogue, settings.topics)
    await create_topics(platform.connection, topics, platform.names, settings.topics, kind=platform.capabilities.kind)
    async with snapshot_log(platform) as log:
        await publish_if_changed(log, catalogue, now_ms=SystemClock().now_ms(), author="faults")
    with tailing(bootstrap, partitions_of(topics, platform)) as tail:
        world = World(
            settings=settings,
            platform=platform,
            topics=topics,
            catalogue=catalogue,
            provider=provider,
            folder=folder,
            tail=tail,
            at_rest=at_rest or {},
        )
        enough = asyncio.Event()
        watched = watched and platform.capabilities.transactions
        looking = asyncio.create_task(world.keep_looking(enough)) if watched else None
        try:
            yield world
        finally:
            enough.set()
            await asyncio.gather(*(child.kill() for child in world.agents.values()))
            if looking is not None:
                await looking
    if platform.capabilities.transactions:
        async with admin_client(platform.connection) as client:
            await client.delete_topics([platform.names.topic(topic.name) for topic in topics])
