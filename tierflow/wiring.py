"""Puts agents together: which parts each needs, opened and closed in order. Nothing else knows all rooms."""
# ruff: noqa: PLC0415 - each agent imports what it is made of: a restart after a crash must not wait for the others' parts

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from registry.holder import SnapshotHolder
from registry.snapshot import Snapshot
from schemas.catalogue import Catalogue
from schemas.clock import SystemClock
from schemas.codec import Codec
from schemas.codec import open_codec as read_codec
from schemas.errors import ConfigurationError
from schemas.ids import uuid7
from schemas.ports import StateStore
from schemas.settings import ClassifierSettings, CodecSettings, Settings
from streams.effects import Stage
from streams.ordered_log import KafkaOrderedLog
from streams.runtime import Platform, find_platform, make_loop
from streams.telemetry import Telemetry
from streams.topic_check import require_topics
from streams.topics import LEARNED, REGISTRY, worker_name
from tierflow.event_loop import settle_memory
from tierflow.reach import longest_deadline, topics_of

if TYPE_CHECKING:
    from agents.classifier.intake import SecondOpinion
    from agents.classifier.judge import Judge
    from agents.learner.published import LearnedHolder
    from agents.liveness import LiveTiers
    from agents.signals import Signals
    from agents.worker.stage import WorkerStage
    from streams.operations import Operations

log = logging.getLogger(__name__)

AGENTS: Final = ("classifier", "worker", "guardrail", "audit", "archive", "monitor", "learner")
"""Kinds of agents that ``run_agent`` knows."""

LEARNERS_TIME: Final = timedelta(minutes=1)
"""For the trained model on one batch, where nobody waits for it."""
FIRST_SNAPSHOT: Final = timedelta(seconds=60)
"""How long an agent waits for a first snapshot: enough for a catalogue to be published after agents started."""


@asynccontextmanager
async def open_codec(settings: CodecSettings) -> AsyncIterator[Codec]:
    """The codec that settings ask for; with a schema registry all ids are known before the first record.

    Raises:
        SchemaRegistryError: The registry is away.
        ConfigurationError: It refuses a schema of ours, or its URL is none.
    """
    made = await asyncio.to_thread(read_codec, settings)
    try:
        yield made
    finally:
        made.close()


@asynccontextmanager
async def open_state(settings: Settings) -> AsyncIterator[StateStore]:
    """The state store; its keys carry the installation's prefix."""
    from streams.state import ValkeyState

    store = ValkeyState(settings.state, prefix=f"{settings.topics.prefix}tierflow:")
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def open_snapshots(
    platform: Platform, stop: asyncio.Event, *, within: timedelta = FIRST_SNAPSHOT
) -> AsyncIterator[SnapshotHolder]:
    """The snapshot in force, followed in the background; ``stop`` is set should that end.

    Raises:
        RegistryBehindError: Nothing was published in time.
    """
    topic = platform.names.topic(REGISTRY)
    async with KafkaOrderedLog(platform.connection, topic=topic, kind=platform.capabilities.kind) as entries:
        holder = await SnapshotHolder.open(entries, within=within)
        log.info("snapshot %d (%s) rules", holder.current.number, holder.current.hash[:12])
        async with _background(holder.watch(entries), stop):
            yield holder


@asynccontextmanager
async def _background(work: Any, stop: asyncio.Event) -> AsyncIterator[None]:
    """Work beside the agent's own. Should it end by itself, the agent is drained, and its end says why.

    Without it an agent would go on under rules that are not followed any more, or unseen by others.
    """
    task = asyncio.create_task(work)
    task.add_done_callback(lambda _: stop.set())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def run_agent(
    kind: str, settings: Settings, *, stop: asyncio.Event, tier: str | None = None, instance: str = "0"
) -> None:
    """Run one agent until ``stop`` is set, then drain it.

    Args:
        kind: One of ``AGENTS``.
        settings: All settings.
        stop: Set to drain.
        tier: Of a worker.
        instance: Name of this process among those of its kind (and tier), stable over restarts.

    Raises:
        TierflowError: What went wrong; see its exit code.
    """
    if kind not in AGENTS:
        raise ConfigurationError(f"no agent {kind}: choose from {', '.join(AGENTS)}")
    platform = await find_platform(settings)
    async with AsyncExitStack() as parts:
        codec = await parts.enter_async_context(open_codec(settings.codec))
        if kind == "archive":
            from agents.audit.archiver import Archiver

            settle_memory()
            await Archiver(
                connection=platform.connection,
                kind=platform.capabilities.kind,
                names=platform.names,
                codec=codec,
                settings=settings.archive,
                clock=SystemClock(),
            ).run(stop)
            return
        holder = await parts.enter_async_context(open_snapshots(platform, stop))
        name = worker_name(tier) if kind == "worker" and tier else kind
        telemetry = Telemetry(settings.telemetry, name, names=platform.names, instance=instance)
        parts.push_async_callback(telemetry.shutdown)
        if kind == "monitor":
            from agents.monitor.monitor import Monitor

            settle_memory()
            await Monitor(platform, codec, holder.current.catalogue, SystemClock(), telemetry).run(stop)
            return
        if kind == "learner":
            settle_memory()
            await _learn(platform, codec, holder, stop)
            return
        catalogue = holder.current.catalogue
        read = [topic for topic in topics_of(catalogue, settings.topics) if name in topic.consumers]
        longest = longest_deadline(catalogue)
        await require_topics(platform.connection, read, platform.names, settings.topics, longest_deadline=longest)
        stage = await _stage(kind, tier, platform, codec, holder, telemetry, parts, stop)
        loop = make_loop(
            platform,
            stage,
            rules=lambda: holder.current,
            clock=SystemClock(),
            instance=instance,
            telemetry=telemetry,
        )
        settle_memory()
        await loop.run(stop)
        log.info("%s drained: %s", stage.name, loop.counters)


async def _stage(
    kind: str,
    tier: str | None,
    platform: Platform,
    codec: Codec,
    holder: SnapshotHolder,
    telemetry: Telemetry,
    parts: AsyncExitStack,
    stop: asyncio.Event,
) -> Stage[Snapshot]:
    settings, catalogue = platform.settings, holder.current.catalogue
    if kind == "guardrail":
        from agents.guardrail.stage import GuardrailStage
        from streams.retry import Schedule

        return GuardrailStage(codec=codec, retries=Schedule.of(settings.topics))
    if kind == "audit":
        from agents.audit.stage import AuditStage

        return AuditStage(codec, platform.names, [each.id for each in catalogue.tiers])
    store = await parts.enter_async_context(open_state(settings))
    await store.ping()
    if kind == "worker":
        return await _worker(tier, settings, codec, holder, store, parts, stop)
    from agents.classifier.stage import ClassifierStage
    from agents.liveness import LiveTiers
    from streams.receiver import Receiver

    learnt = await parts.enter_async_context(_learnt(platform, catalogue, stop))
    live = LiveTiers(store, [each.id for each in catalogue.tiers], SystemClock())
    await parts.enter_async_context(_background(live.keep_looking(), stop))
    return ClassifierStage(
        codec=codec,
        receiver=Receiver(store, settings.receiver.window),
        signals=_signals(live),
        intake=[each.topic for each in catalogue.intake],
        names=platform.names,
        exploration=settings.classifier.exploration,
        exploration_cap=settings.classifier.exploration_cap_micros,
        judge=_judge_with(trained_judge(settings.classifier, catalogue), learnt),
        experience=(lambda: None) if learnt is None else (lambda: learnt.experience),
        second=_second(settings, store, parts),
        trace=telemetry.root_traceparent if telemetry.enabled else None,
    )


def trained_judge(settings: ClassifierSettings, catalogue: Catalogue) -> "Judge | None":
    """The trained model as settings want it; None where it's bypassed.

    Raises:
        ConfigurationError: Its weights are missing or damaged.
    """
    if settings.learned == "bypass":
        return None
    from agents.classifier.judge import ModelJudge
    from agents.classifier.learned.store import load, shipped_path

    model = load(settings.weights or shipped_path())
    known = {each.ref for each in catalogue.models}
    return ModelJudge(
        model,
        outcomes=[name for name, outcomes in model.outcomes.items() if known.intersection(outcomes.models)],
        time_limit=settings.time_limit,
        applied=settings.learned == "apply",
    )


async def _learn(platform: Platform, codec: Codec, holder: SnapshotHolder, stop: asyncio.Event) -> None:
    from agents.learner.agent import LearnerAgent

    settings = platform.settings.classifier.model_copy(update={"time_limit": LEARNERS_TIME})
    catalogue, weights, view = holder.current.catalogue, "", None
    if settings.learned != "bypass":
        from agents.classifier.learned.store import load, shipped_path

        view = trained_judge(settings, catalogue)
        weights = load(settings.weights or shipped_path()).version
    async with learned_topic(platform) as topic:
        await LearnerAgent(
            platform,
            codec,
            rules=lambda: holder.current,
            topic=topic,
            view=view,
            weights=weights,
            clock=SystemClock(),
        ).run(stop)


def learned_topic(platform: Platform) -> KafkaOrderedLog:
    """The topic of what was learnt, to be opened."""
    return KafkaOrderedLog(platform.connection, topic=platform.names.topic(LEARNED), kind=platform.capabilities.kind)


@asynccontextmanager
async def _learnt(
    platform: Platform, catalogue: Catalogue, stop: asyncio.Event
) -> "AsyncIterator[LearnedHolder | None]":
    """What the learner publishes, followed in the background; None where learning is bypassed."""
    learning = platform.settings.classifier.learning
    if learning == "bypass":
        yield None
        return
    from agents.learner.published import LearnedHolder, follow

    holder = LearnedHolder(catalogue.name, applied=learning == "apply")
    async with _background(follow(holder, lambda: learned_topic(platform)), stop):
        yield holder


def _judge_with(judge: "Judge | None", learnt: "LearnedHolder | None") -> "Judge | None":
    if judge is None or learnt is None:
        return judge
    from agents.classifier.learning.judging import JudgeWithHeads

    return JudgeWithHeads(judge, lambda: learnt.state)


def _second(settings: Settings, store: StateStore, parts: AsyncExitStack) -> "SecondOpinion | None":
    """The stage that asks a language model; None where settings name none."""
    llm = settings.classifier.llm
    if not llm.model:
        return None
    from agents.classifier.llm import LlmStage
    from agents.classifier.paid import PaidCalls
    from agents.worker.journal import Journal
    from agents.worker.providers import LocalProviders

    providers, clock = LocalProviders(settings.worker), SystemClock()
    parts.push_async_callback(providers.close)
    operations, owner = _operations(settings, store, "classifier")
    journal = Journal(operations, clock=clock)
    calls = PaidCalls(journal, providers.of, clock, owner=owner, max_concurrency=llm.max_concurrency)
    parts.push_async_callback(calls.close)
    return LlmStage(llm, calls, clock)


def _operations(settings: Settings, store: StateStore, name: str) -> "tuple[Operations, str]":
    """Claims and journal of paid calls, and who claims: this run of this process."""
    from streams.operations import Operations

    owner, worker = f"{settings.kafka.client_id}-{name}-{uuid7()}", settings.worker
    made = Operations(store, owner=owner, lease=worker.lease, ttl=worker.journal_ttl, clock=SystemClock())
    return made, owner


def _signals(live: "LiveTiers") -> "Callable[[], Signals]":
    from agents.signals import Signals

    def now() -> Signals:
        return Signals(live_tiers=live.live)

    return now


async def _worker(
    tier: str | None,
    settings: Settings,
    codec: Codec,
    holder: SnapshotHolder,
    store: StateStore,
    parts: AsyncExitStack,
    stop: asyncio.Event,
) -> "WorkerStage":
    from agents.liveness import keep_marked
    from agents.worker.providers import LocalProviders, unbound
    from agents.worker.stage import WorkerStage

    snapshot = holder.current
    known = [each.id for each in snapshot.catalogue.tiers]
    if tier not in known:
        raise ConfigurationError(f"a worker needs --tier, one of {', '.join(known)}; it was given {tier or 'none'}")
    refs = {ref for plan in snapshot.catalogue.plans for step in plan.steps if step.tier == tier for ref in step.models}
    for line in unbound([snapshot.model(ref) for ref in sorted(refs)], settings.worker):
        log.warning("%s", line)
    operations, owner = _operations(settings, store, tier)
    await parts.enter_async_context(_background(keep_marked(store, tier), stop))
    providers, clock = LocalProviders(settings.worker), SystemClock()
    return WorkerStage(tier, codec, operations, providers, holder, settings.worker, clock, owner)
