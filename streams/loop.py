"""Consume, work, transact: the loop that runs every agent.

Three tasks share one event loop: *poll* takes records as long as there is room (``streams.polling``), *work* hands them
to the stage, ordered by key within a partition (``streams.working``), *commit* makes finished effects visible together
with the offsets (``streams.committing``). Nothing is committed that was not handled, nothing handled is forgotten, and
whatever fails in between is done again from the committed offset (``streams.assignment``).

Memory is bounded: at most ``max_in_flight`` records and, but for one poll more, ``max_in_flight_bytes`` are held
(``streams.flight``), beside what the client prefetches (one fetch a broker).
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from schemas.errors import DeliveryError
from schemas.ports import Clock
from schemas.settings import LoopSettings, TopicSettings
from streams.assignment import Assignment
from streams.committer import Committer, Sink
from streams.committing import Committing
from streams.effects import Counters, Stage
from streams.flight import Flight
from streams.polling import Polling
from streams.ports import Source
from streams.records import TP, OffsetCommit
from streams.source import Listener
from streams.telemetry import Telemetry
from streams.topics import Names
from streams.working import Working

log = logging.getLogger(__name__)

R = TypeVar("R")


class Loop(Generic[R]):
    """Runs one stage.

    Args:
        stage: What decides.
        link: Makes source and sink, given who listens to rebalances (this loop).
        names: Physical topic names.
        rules: Returns the snapshot that rules now; asked once for a batch or record, never within one.
        settings: Bounds and times.
        clock: Wall and monotonic clock.
        telemetry: Spans and metrics for operators; none when left out.
        max_bytes: Largest record that dead-letter topics take.
    """

    def __init__(
        self,
        *,
        stage: Stage[R],
        link: Callable[[Listener], tuple[Source, Sink]],
        names: Names,
        rules: Callable[[], R],
        settings: LoopSettings,
        clock: Clock,
        telemetry: Telemetry | None = None,
        max_bytes: int = TopicSettings().max_message_bytes,
    ) -> None:
        self.counters = Counters()
        self._stage = stage
        self._source, self._sink = link(self)
        self._settings = settings
        self._flight = Flight(settings)
        self._assignment = Assignment(
            flight=self._flight,
            source=self._source,
            stage=stage.name,
            names=names,
            back_off=settings.back_off,
            clock=clock,
        )
        self._polling = Polling(
            flight=self._flight,
            source=self._source,
            back_off=settings.back_off,
            clock=clock,
            counters=self.counters,
        )
        told = _observed(telemetry, self.counters, self._flight)
        self._working = Working(
            stage=stage,
            flight=self._flight,
            polling=self._polling,
            sink=self._sink,
            rules=rules,
            settings=settings,
            clock=clock,
            counters=self.counters,
            telemetry=told,
        )
        self._committing = Committing(
            stage=stage,
            flight=self._flight,
            committer=Committer(
                stage=stage.name,
                group=names.group(stage.name),
                sink=self._sink,
                source=self._source,
                names=names,
                clock=clock,
                counters=self.counters,
                max_bytes=max_bytes,
            ),
            polling=self._polling,
            reset=self._assignment.reset,
            sink=self._sink,
            rules=rules,
            settings=settings,
            clock=clock,
            counters=self.counters,
            telemetry=told,
        )
        self._failure: asyncio.Future[None] | None = None

    @property
    def in_flight(self) -> int:
        """Records taken and not yet committed."""
        return self._flight.records

    @property
    def bytes_in_flight(self) -> int:
        """Size of the records taken and not yet committed."""
        return self._flight.bytes

    async def run(self, stop: asyncio.Event) -> None:
        """Run until ``stop`` is set, then drain.

        Raises:
            TierflowError: Something that a restart alone does not mend, such as lost offsets or missing rights.
        """
        self._failure = asyncio.get_running_loop().create_future()
        await self._stage.start()
        tasks: list[asyncio.Task[None]] = []
        try:
            await self._sink.start()
            await self._source.start()
            tasks = [
                asyncio.create_task(self._polling.run(), name="poll"),
                asyncio.create_task(self._working.run(), name="work"),
                asyncio.create_task(self._committing.run(), name="commit"),
            ]
            stopped = asyncio.ensure_future(stop.wait())
            waiters: list[asyncio.Future[Any]] = [stopped, self._failure, *tasks]
            await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if not self._failure.done() and all(not task.done() for task in tasks):
                await self._drain()
        finally:
            self._polling.close()
            for task in (*tasks, *self._working.running):
                task.cancel()
            await asyncio.gather(*tasks, *self._working.running, return_exceptions=True)
            await self._source.stop()
            await self._sink.stop()
            await self._stage.stop()
        if self._failure.done():
            self._failure.result()
        self._failure.cancel()
        for task in tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _drain(self) -> None:
        """Finish what runs, within the grace; what was not started stays for the next owner."""
        self._flight.draining = True
        self._source.pause(*self._flight.partitions)
        self._flight.room.set()
        await self._working.finish(self._settings.drain_grace)
        try:
            async with asyncio.timeout(self._settings.transaction_timeout.total_seconds()):
                await self._committing.flush()
        except TimeoutError:
            log.warning("the last commit got no answer; what it held is done again by whoever gets its partitions")

    async def on_assigned(self, positions: Mapping[TP, OffsetCommit]) -> None:
        """Partitions are ours from these positions on; the source reads on when this returns."""
        try:
            self._assignment.open(positions)
        except DeliveryError as error:
            if self._failure is not None and not self._failure.done():
                self._failure.set_exception(error)

    async def on_revoked(self, partitions: frozenset[TP], *, lost: bool) -> None:
        """Partitions go away: finish the open commit and one more, within the budget. Running calls go on."""
        try:
            if not lost:
                await self._committing.flush_within(self._settings.revoke_budget)
        finally:
            self._flight.forget(partitions)


def _observed(telemetry: Telemetry | None, counters: Counters, flight: Flight) -> Telemetry | None:
    """Telemetry that watches a loop, or None if nobody wants any."""
    if telemetry is None or not telemetry.enabled:
        return None
    telemetry.observe(lambda: counters)
    telemetry.gauge("tierflow.in_flight", lambda: float(flight.records), description="Taken, not committed.")
    return telemetry
