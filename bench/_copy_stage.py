"""This project's loop with a stage that does nothing but copy: what a hop costs before an agent decides anything."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from schemas.clock import SystemClock
from schemas.delivery import DeliveryMode
from schemas.errors import TierflowError
from schemas.settings import KafkaSettings, LoopSettings
from streams.committer import Sink
from streams.connection import BrokerKind, KafkaConnection
from streams.effects import DeadLetter, Disposition, Effects, Emit, View
from streams.loop import Loop
from streams.records import InRecord
from streams.runtime import stop_on_signals
from streams.sink import AtLeastOnceSink, TransactionalSink
from streams.source import Listener, MissingOffsets, Source
from streams.topics import Names

KEPT = 4
"""Headers of 13 that are handed on: the loop adds nine of its own."""
CLEAR = 0.9
"""Share of the transaction's time that a commit may take."""


class CopyStage:
    """Copies each record.

    Args:
        source: Topic to read.
        target: Topic to write.
    """

    name = "copy"
    concurrency = 0

    def __init__(self, source: str, target: str) -> None:
        self.inputs: Sequence[str] = (source,)
        self._target = target

    async def start(self) -> None:
        """Nothing to open."""

    async def stop(self) -> None:
        """Nothing to close."""

    async def prepare(self, records: Sequence[InRecord], view: View[None]) -> None:
        """Nothing to look up."""

    def handle(self, record: InRecord, view: View[None]) -> Effects:
        """The same record."""
        del view
        made = Emit(
            self._target, record.key, record.value or b"", "copy", f"{record.partition}-{record.offset}",
            record.headers[:KEPT],
        )  # fmt: skip
        return Effects((made,))

    def fail(self, record: InRecord, view: View[None], error: TierflowError) -> Effects:
        """A dead letter, for which there is no topic: loud."""
        del record, view
        return Effects(dead_letters=(DeadLetter(error.code, str(error), Disposition.POISON),))


async def run(
    bootstrap: str,
    mode: DeliveryMode,
    source_topic: str,
    target: str,
    *,
    linger: timedelta,
    kind: BrokerKind,
    name: str,
    session: timedelta,
    transaction: timedelta,
) -> None:
    """Copy until SIGTERM.

    Args:
        bootstrap: Broker address.
        mode: With a transaction a commit, or without.
        source_topic: Topic to read.
        target: Topic to write.
        linger: Longest wait for more under load.
        kind: What answers there.
        name: Of this process, for its transactional id.
        session: When the group gives a silent member up.
        transaction: When the broker ends an abandoned transaction.
    """
    settings = LoopSettings(linger=linger, transaction_timeout=transaction, commit_timeout=transaction * CLEAR)
    connection = KafkaConnection(
        kafka=KafkaSettings(bootstrap=bootstrap, session_timeout=session, heartbeat_interval=session / 4),
        loop=settings,
    )
    stage = CopyStage(source_topic, target)
    group = f"g-{source_topic}"

    def link(listener: Listener) -> tuple[Source, Sink]:
        source = Source(
            connection, group=group, topics=[source_topic], listener=listener, kind=kind,
            missing=MissingOffsets.EARLIEST,
        )  # fmt: skip
        if mode is DeliveryMode.EXACTLY_ONCE:
            return source, TransactionalSink(connection, source, transactional_id=f"{group}.{name}")
        return source, AtLeastOnceSink(connection, source)

    loop = Loop(stage=stage, link=link, names=Names(), rules=lambda: None, settings=settings, clock=SystemClock())
    stop = asyncio.Event()
    stop_on_signals(stop)
    await loop.run(stop)
