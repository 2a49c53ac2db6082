"""Puts a stage on a real broker: what it can do decides the sink, nothing else differs."""

import asyncio
import logging
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from schemas.errors import ConfigurationError
from schemas.ports import Clock
from schemas.settings import Settings
from streams import ports
from streams.committer import Sink
from streams.connection import KafkaConnection
from streams.effects import Stage
from streams.loop import Loop
from streams.probe import PROBE_ID, Capabilities, probe
from streams.sink import AtLeastOnceSink, TransactionalSink
from streams.source import Listener, Source
from streams.telemetry import Telemetry
from streams.topics import Names

log = logging.getLogger(__name__)

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Platform:
    """A broker that was found and asked what it can do.

    Attributes:
        settings: All settings.
        connection: Where the broker is.
        capabilities: What it can do.
        names: Physical names.
    """

    settings: Settings
    connection: KafkaConnection
    capabilities: Capabilities
    names: Names


async def find_platform(settings: Settings) -> Platform:
    """Ask the broker.

    Raises:
        BrokerUnavailableError: Nobody answers.
        NotPermittedError: Credentials or rights.
        ConfigurationError: Settings contradict each other; or they demand exactly once, and the broker can't.
    """
    connection = KafkaConnection(
        kafka=settings.kafka, loop=settings.loop, max_message_bytes=settings.topics.max_message_bytes
    )
    wanted = settings.kafka.delivery
    capabilities = await probe(
        connection, transactional_id=f"{settings.topics.prefix}{PROBE_ID}", transactions=wanted != "at_least_once"
    )
    if wanted == "exactly_once" and not capabilities.transactions:
        raise ConfigurationError(
            f"kafka.delivery is exactly_once, and {capabilities.broker} can't do that: {capabilities.reason}; "
            "name another broker, or say auto if at least once will do"
        )
    log.info("%s: %s", capabilities.broker, capabilities.mode.value)
    return Platform(settings, connection, capabilities, Names(settings.topics.prefix))


def link(
    platform: Platform, *, stage: str, inputs: Sequence[str], instance: str
) -> Callable[[Listener], tuple[ports.Source, Sink]]:
    """Source and sink of a stage, for ``Loop``.

    Args:
        platform: Broker.
        stage: Name of the stage; its group reads.
        inputs: Logical topics.
        instance: Name of this process among those of the stage, stable over its restarts.
    """
    group = platform.names.group(stage)

    def make(listener: Listener) -> tuple[ports.Source, Sink]:
        source = Source(
            platform.connection,
            group=group,
            topics=[platform.names.topic(topic) for topic in inputs],
            listener=listener,
            kind=platform.capabilities.kind,
            name=instance,
        )
        if platform.capabilities.transactions:
            return source, TransactionalSink(platform.connection, source, transactional_id=f"{group}/{instance}")
        return source, AtLeastOnceSink(platform.connection, source)

    return make


def make_loop(
    platform: Platform,
    stage: Stage[R],
    *,
    rules: Callable[[], R],
    clock: Clock,
    instance: str,
    telemetry: Telemetry | None = None,
) -> Loop[R]:
    """The loop that runs ``stage``."""
    return Loop(
        stage=stage,
        link=link(platform, stage=stage.name, inputs=stage.inputs, instance=instance),
        names=platform.names,
        rules=rules,
        settings=platform.settings.loop,
        clock=clock,
        telemetry=telemetry,
        max_bytes=platform.connection.max_message_bytes,
    )


def stop_on_signals(stop: asyncio.Event) -> None:
    """SIGTERM and SIGINT ask for a drain; a second one ends the process at once.

    That is safe: nothing half-done was committed.
    """
    running = asyncio.get_running_loop()

    def ask(number: int) -> None:
        if stop.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        log.info("draining after %s", signal.Signals(number).name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        running.add_signal_handler(number, ask, number)
