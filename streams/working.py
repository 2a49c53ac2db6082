"""Hands records to the stage: in order of arrival, or one task a key."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Generic, TypeVar

from msgspec.structs import replace

from schemas.errors import StateStoreError, TierflowError
from schemas.ports import Clock
from schemas.settings import LoopSettings
from streams.committer import Sink
from streams.effects import Counters, Effects, Stage, View
from streams.flight import Flight
from streams.partition import Work, place
from streams.polling import Polling
from streams.records import InRecord
from streams.telemetry import Telemetry

if TYPE_CHECKING:
    from streams.tracing import Hop

log = logging.getLogger(__name__)

R = TypeVar("R")

BATCH = 256
"""Most records prepared together."""

TURN = 64
"""Synchronous handlers give the event loop (heartbeats, fetches) a turn after so many records."""

_NO_SPAN: "AbstractContextManager[Hop | None]" = nullcontext()

WAIT = Effects(done=False)
"""Nothing follows yet; the record is offered again."""


class Working(Generic[R]):
    """The loop's work task.

    Args:
        stage: What decides.
        flight: What the loop holds.
        polling: Leaves partitions alone that are not due.
        sink: Knows the delivery mode.
        rules: Returns the snapshot that rules now; asked once for a batch or record, never within one.
        settings: Pauses.
        clock: Wall and monotonic clock.
        counters: What the loop did.
        telemetry: Spans and metrics; None for none.
    """

    def __init__(
        self,
        *,
        stage: Stage[R],
        flight: Flight,
        polling: Polling,
        sink: Sink,
        rules: Callable[[], R],
        settings: LoopSettings,
        clock: Clock,
        counters: Counters,
        telemetry: Telemetry | None,
    ) -> None:
        self.running: set[asyncio.Task[None]] = set()
        self._stage = stage
        self._flight = flight
        self._polling = polling
        self._sink = sink
        self._rules = rules
        self._back_off_s = settings.back_off.total_seconds()
        self._clock = clock
        self._counters = counters
        self._telemetry = telemetry
        self._failure: BaseException | None = None

    async def run(self) -> None:
        """Work until the loop drains."""
        flight = self._flight
        concurrency = self._stage.concurrency
        while not flight.draining:
            await flight.intake_filled.wait()
            if self._failure is not None:
                raise self._failure
            limit = BATCH if concurrency == 0 else min(BATCH, concurrency - len(self.running))
            if limit <= 0:
                await asyncio.wait(set(self.running), return_when=asyncio.FIRST_COMPLETED)
                continue
            batch = flight.next_batch(limit)
            if not batch:
                continue
            view = View(self._clock.now_ms(), self._rules(), self._sink.mode)
            batch = await self._prepare(batch, view)
            if not batch or flight.draining:
                continue
            if concurrency == 0:
                began = self._clock.monotonic()
                await self._handle_now(batch, view)
                if self._telemetry is not None:
                    self._telemetry.record_batch(len(batch), self._clock.monotonic() - began)
            else:
                self._start(batch)

    async def finish(self, grace: timedelta) -> None:
        """Wait for the tasks that run, at most ``grace``."""
        until = self._clock.monotonic() + grace.total_seconds()
        while self.running and self._clock.monotonic() < until:
            await asyncio.wait(set(self.running), timeout=max(0.0, until - self._clock.monotonic()))

    async def _prepare(self, batch: list[Work], view: View[R]) -> list[Work]:
        """Look-ups for a batch: what can be handled. When the state store is away the batch goes back and waits."""
        try:
            prepared = await self._stage.prepare([work.record for work in batch], view)
        except StateStoreError as error:
            await self._wait_for_store(batch, error)
            return []
        except Exception:
            # One record must not end the process, and each that gets it afterwards: it is found, and ends by itself.
            log.exception("%s could not prepare %d records, each is prepared by itself", self._stage.name, len(batch))
            return await self._prepare_each(batch, view)
        if prepared is not None:
            for work, found in zip(batch, prepared, strict=True):
                work.prepared = found
        return batch

    async def _prepare_each(self, batch: list[Work], view: View[R]) -> list[Work]:
        ready: list[Work] = []
        for index, work in enumerate(batch):
            try:
                prepared = await self._stage.prepare([work.record], view)
            except StateStoreError as error:
                await self._wait_for_store(batch[index:], error)
                break
            except Exception as error:  # noqa: BLE001 - as in _decide
                self._flight.finish(work, self._give_up(work, view, error))
            else:
                work.prepared = None if prepared is None else prepared[0]
                ready.append(work)
        return ready

    async def _wait_for_store(self, batch: list[Work], error: StateStoreError) -> None:
        log.warning("%s waits for the state store: %s", self._stage.name, error)
        await asyncio.sleep(self._back_off_s)
        self._flight.give_back(batch)

    async def _handle_now(self, batch: list[Work], view: View[R]) -> None:
        """Synchronous stages: in the order of arrival, no task a record."""
        flight = self._flight
        for index, work in enumerate(batch, 1):
            if not work.partition.holds(work):  # revoked; or behind a head that is not due, and read again when it is
                continue
            seen = view if work.prepared is None else View(view.now_ms, view.rules, view.mode, work.prepared)
            effects = self._decide(work, seen)
            if effects.done:
                flight.finish(work, effects)
            elif effects.not_before_ms:
                self._polling.leave_alone(work, effects.not_before_ms)
            else:
                asyncio.get_running_loop().call_later(self._back_off_s, flight.offer_again, work)
            if index % TURN == 0:
                await asyncio.sleep(0)

    def _decide(self, work: Work, view: View[R]) -> Effects:
        try:
            with self._span(work) as hop:
                effects = self._stage.handle(work.record, view)
        except StateStoreError as error:
            log.warning("%s waits for the state store: %s", self._stage.name, error)
            return WAIT
        except Exception as error:  # noqa: BLE001 - whatever a handler raises must end as a dead letter, not as a stall
            return self._give_up(work, view, error)
        if type(effects) is not Effects and isinstance(effects, Awaitable):
            raise TierflowError(f"stage {self._stage.name} says it is synchronous and returned an awaitable")
        return effects if hop is None else _following(effects, hop)

    def _start(self, batch: list[Work]) -> None:
        for work in batch:
            if work.partition.keys.offer(_key(work.record), work):
                self._spawn(work)

    def _spawn(self, work: Work) -> None:
        task = asyncio.create_task(self._run(work))
        self.running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A record's task ended; what went wrong in it outside of the handler ends the loop, or nobody would know."""
        self.running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = error
            self._flight.intake_filled.set()

    async def _run(self, work: Work) -> None:
        """Asynchronous stages: one task a key at a time."""
        partition = work.partition
        effects = await self._attend(work)
        if effects is None:
            return
        self._flight.finish(work, effects)
        following = partition.keys.finish(_key(work.record))
        if following is not None and not self._flight.draining:
            self._spawn(following)

    async def _attend(self, work: Work) -> Effects | None:
        """Handle until the stage says done; None if the partition went away while it waited."""
        while True:
            view = View(self._clock.now_ms(), self._rules(), self._sink.mode, work.prepared)
            try:
                with self._span(work) as hop:
                    pending = self._stage.handle(work.record, view)
                    effects = await pending if isinstance(pending, Awaitable) else pending
            except StateStoreError as error:
                log.warning("%s waits for the state store: %s", self._stage.name, error)
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                return self._give_up(work, view, error)  # nobody cancelled this task: it was somebody else's
            except Exception as error:  # noqa: BLE001 - as in _decide
                return self._give_up(work, view, error)
            else:
                if effects.done:
                    return effects if hop is None else _following(effects, hop)
            if not work.partition.alive or self._flight.draining:
                return None
            await asyncio.sleep(self._back_off_s)

    def _span(self, work: Work) -> "AbstractContextManager[Hop | None]":
        hop = None if self._telemetry is None else self._telemetry.hop(work.record)
        return _NO_SPAN if hop is None else hop

    def _give_up(self, work: Work, view: View[R], error: BaseException) -> Effects:
        self._counters.handler_errors += 1
        log.error("%s could not handle %s", self._stage.name, place(work.record), exc_info=error)
        known = (
            error
            if isinstance(error, TierflowError)
            else TierflowError(f"{type(error).__name__} in {self._stage.name}")
        )
        return self._stage.fail(work.record, view, known)


def _following(effects: Effects, hop: "Hop") -> Effects:
    """Effects whose records carry the span that they follow from."""
    outputs = [replace(emit, headers=hop.child_headers(emit.headers)) for emit in effects.outputs]
    return replace(effects, outputs=outputs)


def _key(record: InRecord) -> bytes | int:
    """What order is kept by; records without a key have none to keep."""
    return record.offset if record.key is None else record.key
