"""An installation on this machine: servers, topics, rules, local models and agents, brought up in order and drained.

``bring_up`` is what ``tierflow up`` and the demonstration share.
"""

import asyncio
import getpass
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

import psutil

from agents.worker.local.fetch import Progress
from registry.adjust import with_model_names
from registry.load import load_catalogue
from registry.log import publish_if_changed
from registry.snapshot import Snapshot
from schemas.catalogue import Catalogue
from schemas.errors import ConfigurationError, ProcessError, TierflowError
from schemas.settings import Settings
from streams.admin import create_topics
from streams.brokers.locks import FileLock
from streams.runtime import Platform, find_platform
from streams.topic_check import Severity, check_topics
from streams.topics import Topic
from tierflow.choices import AgentKind, BrokerChoice, StateChoice
from tierflow.environment import bound_worker, classifiers, environment_of, require_bound, with_section
from tierflow.installation import Agent, Installation, process_created
from tierflow.local_models import LocalServers, apart, ensure_weights, local_models
from tierflow.processes import Change, MemberStatus, ProcessTree, Program, Restarts
from tierflow.reach import longest_deadline, rules_in_force, snapshot_log, topics_of
from tierflow.servers import Servers, servers
from tierflow.settle import in_flight, settle_archive, settle_group
from tierflow.team import drain_order, identity_of, programs, team, worker_names

DEFAULT_CATALOGUE: Final = "local"
_LOOK_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class UpOptions:
    """What to bring up.

    Attributes:
        folder: Where the installation keeps its things.
        broker: Which broker.
        state: Which state store.
        catalogue: Name, file or folder; None takes what the registry holds, else the catalogue of the embedded run.
        models: Other models behind the catalogue's model ids, by id.
        workers: Worker processes by tier; one where it says nothing.
        archive: Folder of the archive; one below ``folder`` if None.
        threads: Threads of each local model's server; a fair share of the cores if None.
        log_level: Of the agents.
        restarts: How agents that died come back.
    """

    folder: Path
    broker: BrokerChoice = BrokerChoice.EMBEDDED
    state: StateChoice = StateChoice.EMBEDDED
    catalogue: str | None = None
    models: Mapping[str, str] = field(default_factory=dict)
    workers: Mapping[str, int] = field(default_factory=dict)
    archive: Path | None = None
    threads: int | None = None
    log_level: str = "info"
    restarts: Restarts = field(default_factory=Restarts)


class Reporter(Protocol):
    """Who is told what happens."""

    def say(self, text: str) -> None:
        """A step was done, or something needs a look."""
        ...

    def fetching(self, progress: Progress) -> None:
        """Weights arrive. Called from another thread."""
        ...

    def changed(self, change: Change) -> None:
        """Something happened to an agent."""
        ...


@dataclass(eq=False, kw_only=True)
class Running:
    """An installation that runs; made by ``bring_up``.

    Attributes:
        settings: What agents run with, addresses included.
        platform: The broker, and what it can do.
        topics: The topic table.
        snapshot: What ruled at the start.
        tree: The agents.
        models: The local models.
        archive: Folder of the archive.
        logs: Folder of the logs.
    """

    options: UpOptions
    settings: Settings
    platform: Platform
    topics: tuple[Topic, ...]
    snapshot: Snapshot
    tree: ProcessTree
    models: LocalServers
    archive: Path
    logs: Path
    reporter: Reporter
    started: Servers
    _drained: bool = False

    def statuses(self) -> tuple[MemberStatus, ...]:
        """The agents as they are now."""
        return self.tree.statuses()

    async def run_until(self, stop: asyncio.Event) -> None:
        """Return when ``stop`` is set.

        Raises:
            ProcessError: A server died, or an agent in a way that no restart mends.
        """
        asked = asyncio.create_task(stop.wait())
        broken = asyncio.create_task(self.tree.broken())
        watch = asyncio.create_task(self.models.watch(self._models_changed, self.options.restarts))
        tasks = {asked, broken, watch}
        try:
            while not asked.done():
                await asyncio.wait(tasks, timeout=_LOOK_S, return_when=asyncio.FIRST_COMPLETED)
                if broken.done():
                    raise broken.result()
                if watch.done():
                    watch.result()
                if not asked.done() and (name := self.started.dead()):
                    self._drained = True
                    await self.tree.kill()  # without it no agent can finish anything; waiting would only take time
                    raise ProcessError(f"{name} died; nothing can go on without it")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def drain(self) -> None:
        """Stop the agents in order: nothing new comes in, what was begun is finished, and its story is told."""
        if self._drained:
            return
        self._drained = True
        ours = self.started.broker is not BrokerChoice.EXTERNAL  # else others may go on writing for ever
        await self.tree.stop(drain_order(self.snapshot.catalogue), before=self._settle if ours else None)

    async def unfinished(self) -> int:
        """About how many requests have not ended."""
        return await in_flight(self.platform, self.topics)

    async def _settle(self, group: str) -> None:
        try:
            if group == AgentKind.AUDIT.value:
                await settle_group(self.platform, self.topics, group)
            elif group == AgentKind.ARCHIVE.value:
                await settle_archive(self.archive)
        except TierflowError as error:
            self.reporter.say(f"{group} may not have seen everything: {error}")

    async def _models_changed(self) -> None:
        for tier in self.snapshot.catalogue.tiers:
            await self.tree.restart_group(f"worker-{tier.id}")


@asynccontextmanager
async def bring_up(options: UpOptions, settings: Settings, reporter: Reporter) -> AsyncIterator[Running]:
    """Bring an installation up; leaving the context drains it and stops what was started.

    Args:
        options: What to bring up.
        settings: Where external servers are, and everything else.
        reporter: Is told what happens.

    Raises:
        ConfigurationError: Settings, catalogue or folder; nothing is left running.
        ProcessError: A server or agent did not start.
        WeightsError: A local model can't be had.
        DeliveryError: The broker does not do what is asked of it.
    """
    lock = FileLock(options.folder / "up.lock")
    if not lock.try_acquire():
        raise ConfigurationError(f"an installation runs in {options.folder} already: stop it, or choose another --dir")
    try:
        catalogue = _named_catalogue(options, settings)
        async with AsyncExitStack() as stack:
            home = _home(options)
            logs = home / "logs"
            archive = _archive_folder(options, home)
            started = await stack.enter_async_context(
                servers(settings, broker=options.broker, state=options.state, folder=options.folder, logs=logs)
            )
            platform = await find_platform(started.settings)
            _say_platform(reporter, platform, started)
            if catalogue is None:
                catalogue = await _ruling_catalogue(platform, settings)
            models = await _local_servers(options, catalogue, logs, reporter)
            settings = _worker_settings(started.settings, catalogue, models, archive)
            topics = await _make_topics(platform, catalogue, settings)
            snapshot = await _publish(platform, catalogue)
            reporter.say(f"catalogue {catalogue.name}: snapshot {snapshot.number} ({snapshot.hash[:12]})")
            await stack.enter_async_context(models)
            _say_models(reporter, models)
            tree = await stack.enter_async_context(ProcessTree(restarts=options.restarts, tell=reporter.changed))
            running = Running(
                options=options,
                settings=settings,
                platform=platform,
                topics=topics,
                snapshot=snapshot,
                tree=tree,
                models=models,
                archive=archive,
                logs=logs,
                reporter=reporter,
                started=started,
            )
            await tree.start(_programs(running))
            note = _note(running)
            note.save(options.folder)
            try:
                yield running
            finally:
                await running.drain()
                note.ended().save(options.folder)
    finally:
        lock.release()


def _named_catalogue(options: UpOptions, settings: Settings) -> Catalogue | None:
    """The catalogue that was asked for; None if the registry shall say. Wrong ones are found before anything starts."""
    if options.catalogue is None and options.broker is not BrokerChoice.EMBEDDED and not options.models:
        return None
    catalogue = load_catalogue(options.catalogue or DEFAULT_CATALOGUE, retention=settings.topics.retention)
    if options.models:
        catalogue = with_model_names(catalogue, options.models)
    team(catalogue, options.workers)
    return catalogue


async def _ruling_catalogue(platform: Platform, settings: Settings) -> Catalogue:
    """What the registry holds; the default catalogue if it holds nothing."""
    snapshot = await rules_in_force(platform)
    if snapshot is not None:
        return snapshot.catalogue
    return load_catalogue(DEFAULT_CATALOGUE, retention=settings.topics.retention)


def _home(options: UpOptions) -> Path:
    """Where logs and archive go: with the embedded broker anew each time, as an archive must not span two brokers."""
    if options.broker is not BrokerChoice.EMBEDDED:
        return options.folder.resolve()
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    home = options.folder.resolve() / "runs" / stamp
    number = 1
    while home.exists():
        number += 1
        home = home.with_name(f"{stamp}-{number}")
    return home


def _archive_folder(options: UpOptions, home: Path) -> Path:
    archive = (options.archive or home / "archive").resolve()
    used = any((archive / name).exists() for name in ("manifest.jsonl", "open.jsonl"))
    if options.broker is BrokerChoice.EMBEDDED and used:
        raise ConfigurationError(
            f"the archive in {archive} is of an earlier broker, and the embedded one begins anew: choose another folder"
        )
    return archive


async def _local_servers(options: UpOptions, catalogue: Catalogue, logs: Path, reporter: Reporter) -> LocalServers:
    wanted = local_models(catalogue)
    files = await ensure_weights((model.weights for model in wanted), reporter.fetching)
    workers = worker_names(catalogue, options.workers)
    wanted = apart(wanted, catalogue, files, workers=workers, available=psutil.virtual_memory().available)
    return LocalServers(wanted, files, logs=logs, tell=reporter.say, threads=options.threads)


def _worker_settings(settings: Settings, catalogue: Catalogue, models: LocalServers, archive: Path) -> Settings:
    worker = bound_worker(settings.worker, catalogue, os.environ)
    settings = with_section(settings, "worker", **{name: getattr(worker, name) for name in ("endpoints", "executors")})
    local = {**worker.endpoints, **models.addresses()}
    require_bound(worker.model_copy(update={"endpoints": local}), catalogue)
    return with_section(settings, "archive", directory=archive)


async def _make_topics(platform: Platform, catalogue: Catalogue, settings: Settings) -> tuple[Topic, ...]:
    topics = topics_of(catalogue, settings.topics)
    kind = platform.capabilities.kind
    await create_topics(platform.connection, topics, platform.names, settings.topics, kind=kind, adopt=False)
    longest = longest_deadline(catalogue)
    findings = await check_topics(
        platform.connection, topics, platform.names, settings.topics, longest_deadline=longest
    )
    errors = [finding for finding in findings if finding.severity is Severity.ERROR]
    if errors:
        lines = "; ".join(f"{each.subject} {each.what} ({each.do})" for each in errors)
        raise ConfigurationError(f"the topics are not as they must be: {lines}")
    return topics


async def _publish(platform: Platform, catalogue: Catalogue) -> Snapshot:
    async with snapshot_log(platform) as log:
        return await publish_if_changed(log, catalogue, now_ms=time.time_ns() // 1_000_000, author=author())


def author() -> str:
    """Who publishes, where nobody says: the user of this process."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return f"uid {os.getuid()}"


def _programs(running: Running) -> list[Program]:
    settings, options = running.settings, running.options

    def environment(kind: AgentKind, name: str) -> Mapping[str, str]:
        if kind is AgentKind.CLASSIFIER and settings.classifier.llm.model:
            return environment_of(classifiers(settings, running.snapshot, running.models.endpoints()), endpoints=True)
        if kind is not AgentKind.WORKER:
            return environment_of(settings, endpoints=False)
        endpoints = {**settings.worker.endpoints, **running.models.endpoints(name)}
        return environment_of(with_section(settings, "worker", endpoints=endpoints), endpoints=True)

    return programs(
        team(running.snapshot.catalogue, options.workers),
        environment=environment,
        logs=running.logs,
        identity=identity_of(options.folder),
        log_level=options.log_level,
        loop=settings.loop,
    )


def _note(running: Running) -> Installation:
    members = running.tree.statuses()
    return Installation(
        pid=os.getpid(),
        created=process_created(os.getpid()),
        started_ms=time.time_ns() // 1_000_000,
        broker=running.options.broker.value,
        bootstrap=running.settings.kafka.bootstrap,
        cluster_id=running.platform.capabilities.cluster_id,
        state=running.options.state.value,
        state_url=running.started.state_url,
        prefix=running.settings.topics.prefix,
        mode=running.platform.capabilities.mode.value,
        catalogue=running.snapshot.catalogue.name,
        registry_number=running.snapshot.number,
        archive=str(running.archive),
        logs=str(running.logs),
        agents=tuple(Agent(name=m.name, group=m.group, pid=m.pid, log=str(m.log)) for m in members),
    )


def _say_platform(reporter: Reporter, platform: Platform, started: Servers) -> None:
    found = platform.capabilities
    why = f" ({found.reason})" if found.reason else ""
    reporter.say(f"broker: {found.broker} at {started.settings.kafka.bootstrap}, {found.mode.value}{why}")
    if started.state_url:
        reporter.say(f"state store: embedded, {started.state_url}")


def _say_models(reporter: Reporter, models: LocalServers) -> None:
    for name, server in models.servers.items():
        reporter.say(f"local model {name}: {server.base_url}, process {server.pid}")
