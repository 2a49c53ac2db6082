"""Consume, work, transact: the loop that runs every agent.

Three tasks share one event loop: *poll* takes records as long as there is room, *work* hands them to the stage (ordered
by key within a partition), *commit* makes finished effects visible together with the offsets. Nothing is committed that
was not handled, nothing handled is forgotten, and whatever fails in between is done again from the committed offset.

Memory is bounded: at most ``max_in_flight`` records and, but for one poll more, ``max_in_flight_bytes`` are held,
beside what the client prefetches (one fetch a broker).
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from msgspec.structs import replace

from schemas.errors import (
    BrokerUnavailableError,
    CommitRejectedError,
    CommitUnknownError,
    DeliveryError,
    OffsetsLostError,
    StateStoreError,
    TierflowError,
)
from schemas.ports import Clock
from schemas.settings import LoopSettings, TopicSettings
from streams import faults
from streams.committer import Committer, Sink, mark
from streams.effects import Counters, Effects, Stage, View
from streams.errors import FencedError, MetadataTooLargeError
from streams.pace import Pace
from streams.partition import Partition, Work, open_partition, place, work_size
from streams.records import TP, InRecord, OffsetCommit
from streams.source import Listener
from streams.telemetry import Telemetry
from streams.topics import Names

if TYPE_CHECKING:
    from streams.tracing import Hop

log = logging.getLogger(__name__)

R = TypeVar("R")

POLL_RECORDS = 500
"""Most records of one poll: keeps the time between two turns of the event loop short."""

POLL_WAIT = timedelta(milliseconds=250)
"""How long a poll waits for the first record. It only bounds how fast the loop notices that it should stop."""

HOLD = timedelta(seconds=20)
"""How long a full loop may leave the consumer unpolled. Pausing throws prefetched records away, so short waits don't
pause; a consumer unpolled for 300 s is put out of its group, so long ones do."""

BATCH = 256
"""Most records prepared together."""

LOOK = timedelta(seconds=1)
"""How often partitions are looked at whose head is not due yet: what is due waits half of it on average."""

TURN = 64
"""Synchronous handlers give the event loop (heartbeats, fetches) a turn after so many records."""


_NO_SPAN: "AbstractContextManager[Hop | None]" = nullcontext()

WAIT = Effects(done=False)
"""Nothing follows yet; the record is offered again."""


class Source(Protocol):
    """The consumer side of the loop; ``streams.source`` has the real one, ``streams.memory`` the fake."""

    async def start(self) -> None:
        """Join the group; rebalances call the listener's ``on_revoked`` and ``on_assigned``."""
        ...

    async def stop(self) -> None:
        """Leave the group."""
        ...

    async def poll(self, timeout: timedelta, max_records: int | None = None) -> Mapping[TP, Sequence[InRecord]]:  # noqa: ASYNC109 - waited for without a task
        """Records of partitions that are not paused."""
        ...

    async def committed(self, partitions: Collection[TP]) -> Mapping[TP, OffsetCommit | None]:
        """Committed offsets with metadata, once no transaction on them is open."""
        ...

    def seek(self, tp: TP, offset: int) -> None:
        """Read on from ``offset``; takes effect before the next poll returns."""
        ...

    def position(self, tp: TP) -> int:
        """Offset behind the last record that was returned."""
        ...

    def pause(self, *partitions: TP) -> None:
        """Stop reading."""
        ...

    def resume(self, *partitions: TP) -> None:
        """Read again."""
        ...


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
        self._names = names
        self._rules = rules
        self._settings = settings
        self._clock = clock
        self._telemetry = telemetry if telemetry is not None and telemetry.enabled else None
        if self._telemetry is not None:
            self._telemetry.observe(lambda: self.counters)
            self._telemetry.gauge(
                "tierflow.in_flight", lambda: float(self.in_flight), description="Taken, not committed."
            )
        self._committer = Committer(
            stage=stage.name,
            group=names.group(stage.name),
            sink=self._sink,
            source=self._source,
            names=names,
            clock=clock,
            counters=self.counters,
            max_bytes=max_bytes,
        )
        self._pace = Pace(settings.linger)
        self._partitions: dict[TP, Partition] = {}
        self._intake: deque[Work] = deque()
        self._ready: list[Work] = []
        self._running: set[asyncio.Task[None]] = set()
        self._intake_filled = asyncio.Event()
        self._ready_filled = asyncio.Event()
        self._room = asyncio.Event()
        self._commit_lock = asyncio.Lock()
        self._draining = False
        self._failure: asyncio.Future[None] | None = None
        self._full: set[TP] = set()
        self._looking: asyncio.TimerHandle | None = None

    # -- life ----------------------------------------------------------------------------------------------------------

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
                asyncio.create_task(self._poll_loop(), name="poll"),
                asyncio.create_task(self._work_loop(), name="work"),
                asyncio.create_task(self._commit_loop(), name="commit"),
            ]
            stopped = asyncio.ensure_future(stop.wait())
            waiters: list[asyncio.Future[Any]] = [stopped, self._failure, *tasks]
            await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if not self._failure.done() and all(not task.done() for task in tasks):
                await self._drain()
        finally:
            if self._looking is not None:
                self._looking.cancel()
            for task in (*tasks, *self._running):
                task.cancel()
            await asyncio.gather(*tasks, *self._running, return_exceptions=True)
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
        self._draining = True
        self._source.pause(*self._partitions)
        self._room.set()
        until = self._clock.monotonic() + self._settings.drain_grace.total_seconds()
        while self._running and self._clock.monotonic() < until:
            await asyncio.wait(set(self._running), timeout=max(0.0, until - self._clock.monotonic()))
        async with self._commit_lock:
            await self._commit_ready()

    def _fail(self, error: BaseException) -> None:
        if self._failure is not None and not self._failure.done():
            self._failure.set_exception(error)

    # -- assignment ----------------------------------------------------------------------------------------------------

    async def on_assigned(self, positions: Mapping[TP, OffsetCommit]) -> None:
        """Partitions are ours from these positions on; the source reads on when this returns."""
        try:
            self._open(positions)
        except DeliveryError as error:
            self._fail(error)

    async def on_revoked(self, partitions: frozenset[TP], *, lost: bool) -> None:
        """Partitions go away: finish the open commit and one more, within the budget. Running calls go on."""
        if lost:
            self._forget(partitions)
            return
        try:
            async with asyncio.timeout(self._settings.revoke_budget.total_seconds()), self._commit_lock:
                await self._commit_ready()
        except TimeoutError:
            log.warning("revocation took longer than %s; what is left is done again", self._settings.revoke_budget)
        except DeliveryError as error:
            log.warning("last commit before a revocation failed (%s); its records are done again", error)
        finally:
            self._forget(partitions)

    def _open(self, positions: Mapping[TP, OffsetCommit]) -> None:
        """Start partitions at what is committed. Synchronous: no poll can slip in between."""
        now_ms = self._clock.now_ms()
        self._forget(positions)
        for tp, committed in positions.items():
            self._partitions[tp] = open_partition(
                tp, committed, stage=self._stage.name, logical_topic=self._names.logical(tp.topic), now_ms=now_ms
            )
        if self._draining:
            self._source.pause(*positions)
        self._room.set()

    def _forget(self, partitions: Iterable[TP]) -> None:
        for tp in partitions:
            partition = self._partitions.pop(tp, None)
            if partition is not None:
                partition.alive = False
                partition.keys.clear()
            self._full.discard(tp)
        self._intake = deque(work for work in self._intake if work.partition.alive)
        self._ready = [work for work in self._ready if work.partition.alive]
        self._room.set()

    async def _reset(self, reason: Exception) -> None:
        """Forget everything in flight and start again from what the broker says is committed."""
        self.counters.resets += 1
        log.warning("starting again from the committed offsets: %s", reason)
        before = dict(self._partitions)
        for partition in before.values():
            partition.alive = False
        while True:
            await asyncio.sleep(self._settings.back_off.total_seconds())
            before = {tp: partition for tp, partition in before.items() if self._partitions.get(tp) is partition}
            try:
                committed = await self._source.committed(tuple(before))
            except BrokerUnavailableError as error:
                log.warning("can't read committed offsets: %s", error)
                continue
            # A rebalance may have come and gone meanwhile; what it opened is newer than what was read here.
            self._open_again({tp: committed[tp] for tp, old in before.items() if self._partitions.get(tp) is old})
            return

    def _open_again(self, positions: Mapping[TP, OffsetCommit | None]) -> None:
        known = {tp: found for tp, found in positions.items() if found is not None}
        if len(known) < len(positions):
            raise OffsetsLostError(f"committed offsets vanished: {sorted(set(positions) - set(known))}")
        self._open(known)
        for tp, found in known.items():
            self._source.seek(tp, found.offset)
        if not self._draining:
            self._source.resume(*known)

    # -- poll ----------------------------------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Records taken and not yet committed."""
        return sum(partition.in_flight for partition in self._partitions.values())

    @property
    def bytes_in_flight(self) -> int:
        """Size of the records taken and not yet committed."""
        return sum(partition.bytes_in_flight for partition in self._partitions.values())

    def _free(self) -> int:
        if self._draining or self.bytes_in_flight >= self._settings.max_in_flight_bytes:
            return 0
        return max(0, self._settings.max_in_flight - self.in_flight)

    async def _poll_loop(self) -> None:
        while True:
            free = self._free()
            if free == 0:
                await self._wait_for_room()
                continue
            try:
                polled = await self._source.poll(POLL_WAIT, min(free, POLL_RECORDS))
            except BrokerUnavailableError as error:
                log.warning("can't read: %s", error)
                await asyncio.sleep(self._settings.back_off.total_seconds())
                continue
            for tp, records in polled.items():
                partition = self._partitions.get(tp)
                if partition is not None:
                    self._take(partition, records)
            if faults.armed and polled:
                await faults.reach(faults.Point.AFTER_FETCH)

    def _take(self, partition: Partition, records: Sequence[InRecord]) -> None:
        tracker = partition.tracker
        for record in records:
            if tracker.take(record.offset):
                work = Work(record, partition, work_size(record), reading=partition.reading)
                partition.hold(work)
                self._intake.append(work)
                self.counters.taken += 1
        if tracker.full:
            self._source.pause(partition.tp)
            self._full.add(partition.tp)
        if self._intake:
            self._intake_filled.set()

    async def _wait_for_room(self) -> None:
        """Full: wait without polling for a while, then keep membership by polling paused partitions."""
        self._room.clear()
        try:
            async with asyncio.timeout(HOLD.total_seconds()):
                await self._room.wait()
        except TimeoutError:
            paused = tuple(self._partitions)
            self._source.pause(*paused)
            await self._source.poll(timedelta(0), 1)
            self._resume_after_hold(paused)

    def _resume_after_hold(self, paused: Sequence[TP]) -> None:
        if not self._draining:
            self._source.resume(*(tp for tp in paused if self._may_read(tp)))

    def _may_read(self, tp: TP) -> bool:
        partition = self._partitions.get(tp)
        return partition is not None and tp not in self._full and not partition.due_ms

    # -- work ----------------------------------------------------------------------------------------------------------

    async def _work_loop(self) -> None:
        concurrency = self._stage.concurrency
        while True:
            await self._intake_filled.wait()
            limit = BATCH if concurrency == 0 else min(BATCH, concurrency - len(self._running))
            if limit <= 0:
                await asyncio.wait(set(self._running), return_when=asyncio.FIRST_COMPLETED)
                continue
            batch = self._next_batch(limit)
            if not batch:
                continue
            view = View(self._clock.now_ms(), self._rules(), self._sink.mode)
            if not await self._prepare(batch, view):
                continue
            if concurrency == 0:
                began = self._clock.monotonic()
                await self._handle_now(batch, view)
                if self._telemetry is not None:
                    self._telemetry.record_batch(len(batch), self._clock.monotonic() - began)
            else:
                self._start_work(batch)

    def _next_batch(self, limit: int) -> list[Work]:
        batch: list[Work] = []
        while self._intake and len(batch) < limit:
            work = self._intake.popleft()
            if work.partition.alive:
                batch.append(work)
        if not self._intake:
            self._intake_filled.clear()
        return batch

    async def _prepare(self, batch: list[Work], view: View[R]) -> bool:
        """Look-ups for a batch; when the state store is away the batch goes back and waits."""
        try:
            prepared = await self._stage.prepare([work.record for work in batch], view)
        except StateStoreError as error:
            log.warning("%s waits for the state store: %s", self._stage.name, error)
            await asyncio.sleep(self._settings.back_off.total_seconds())
            self._intake.extendleft(reversed([work for work in batch if work.partition.alive]))
            if self._intake:
                self._intake_filled.set()
            return False
        if prepared is not None:
            for work, found in zip(batch, prepared, strict=True):
                work.prepared = found
        return True

    async def _handle_now(self, batch: list[Work], view: View[R]) -> None:
        """Synchronous stages: in the order of arrival, no task a record."""
        for index, work in enumerate(batch, 1):
            if not work.partition.alive:
                continue
            if work.reading != work.partition.reading:  # behind a head that is not due: read again when it is
                work.partition.release(work)
                continue
            seen = view if work.prepared is None else View(view.now_ms, view.rules, view.mode, work.prepared)
            effects = self._decide(work, seen)
            if effects.done:
                self._finish(work, effects)
            elif effects.not_before_ms:
                self._leave_alone(work, effects.not_before_ms)
            else:
                asyncio.get_running_loop().call_later(self._settings.back_off.total_seconds(), self._offer_again, work)
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
        if isinstance(effects, Awaitable):
            raise TierflowError(f"stage {self._stage.name} says it is synchronous and returned an awaitable")
        return effects if hop is None else _following(effects, hop)

    def _offer_again(self, work: Work) -> None:
        if work.partition.alive and work.reading == work.partition.reading:
            self._intake.appendleft(work)
            self._intake_filled.set()

    def _leave_alone(self, work: Work, due_ms: int) -> None:
        """Give back a record that is not due, and what was taken behind it; its partition is read again when it is."""
        partition, offset = work.partition, work.record.offset
        partition.due_ms = due_ms
        partition.reading += 1
        partition.release(work)
        for behind in self._intake:
            if behind.partition is partition:
                partition.release(behind)
        self._intake = deque(each for each in self._intake if each.partition is not partition)
        partition.tracker.rewind(offset)
        self._source.pause(partition.tp)
        self._source.seek(partition.tp, offset)
        self._room.set()
        if self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(LOOK.total_seconds(), self._look)

    def _look(self) -> None:
        """Read partitions again whose head is due."""
        now_ms = self._clock.now_ms()
        for tp, partition in self._partitions.items():
            if partition.due_ms and partition.due_ms <= now_ms:
                partition.due_ms = 0
                if not self._draining and self._may_read(tp):
                    self._source.resume(tp)
        waiting = any(partition.due_ms for partition in self._partitions.values())
        later = asyncio.get_running_loop().call_later
        self._looking = later(LOOK.total_seconds(), self._look) if waiting else None

    def _start_work(self, batch: list[Work]) -> None:
        for work in batch:
            if work.partition.keys.offer(_key(work.record), work):
                self._spawn(work)

    def _spawn(self, work: Work) -> None:
        task = asyncio.create_task(self._run(work))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run(self, work: Work) -> None:
        """Asynchronous stages: one task a key at a time."""
        partition = work.partition
        effects = await self._attend(work)
        if effects is None:
            return
        self._finish(work, effects)
        following = partition.keys.finish(_key(work.record))
        if following is not None and not self._draining:
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
            except Exception as error:  # noqa: BLE001 - as in _decide
                return self._give_up(work, view, error)
            else:
                if effects.done:
                    return effects if hop is None else _following(effects, hop)
            if not work.partition.alive or self._draining:
                return None
            await asyncio.sleep(self._settings.back_off.total_seconds())

    def _span(self, work: Work) -> "AbstractContextManager[Hop | None]":
        hop = None if self._telemetry is None else self._telemetry.hop(work.record)
        return _NO_SPAN if hop is None else hop

    def _give_up(self, work: Work, view: View[R], error: Exception) -> Effects:
        self.counters.handler_errors += 1
        log.error("%s could not handle %s", self._stage.name, place(work.record), exc_info=error)
        known = (
            error
            if isinstance(error, TierflowError)
            else TierflowError(f"{type(error).__name__} in {self._stage.name}")
        )
        return self._stage.fail(work.record, view, known)

    def _finish(self, work: Work, effects: Effects) -> None:
        if work.partition.alive:
            mark(work, effects)
            self._ready.append(work)
            self._ready_filled.set()

    # -- commit --------------------------------------------------------------------------------------------------------

    async def _commit_loop(self) -> None:
        while True:
            await self._ready_filled.wait()
            wait = self._pace.wait_s()
            if wait and not self._draining and len(self._ready) < self._settings.max_in_flight // 2:
                await asyncio.sleep(wait)
            async with self._commit_lock:
                await self._commit_ready()

    async def _commit_ready(self) -> None:
        """Commit what is ready. Ends with everything visible, or with a reset."""
        batch: list[Work] = []
        try:
            while True:
                # Whatever is done by now counts in the offsets of a commit, also of one that is tried again: its
                # effects must be part of the same commit, or a crash after it would lose them.
                batch = [work for work in (*batch, *self._ready) if work.partition.alive]
                self._ready = []
                self._ready_filled.clear()
                if not batch or await self._commit_once(batch):
                    break
        except MetadataTooLargeError:
            raise
        except (CommitRejectedError, CommitUnknownError) as error:
            await self._reset(error)
        for tp in [tp for tp in self._full if not self._partitions[tp].tracker.full]:
            self._full.discard(tp)
            if self._may_read(tp):
                self._source.resume(tp)
        self._room.set()

    async def _commit_once(self, batch: list[Work]) -> bool:
        """One try; False if the same work should be tried again."""
        try:
            refused = await self._committer.commit(batch)
        except (BrokerUnavailableError, FencedError) as error:
            log.warning("commit of %d records failed, trying again: %s", len(batch), error)
            # Drawn: two processes under one transactional id would else fence each other in step for ever.
            await asyncio.sleep(self._settings.back_off.total_seconds() * random.uniform(0.5, 3))
            return False
        if refused is None:
            self._pace.note(len(batch), self._clock.monotonic())
            if self._telemetry is not None:
                now_ms = self._clock.now_ms()
                for done in batch:
                    self._telemetry.record_age((now_ms - done.record.timestamp_ms) / 1000)
            return True
        work = batch[refused.index]
        view = View(self._clock.now_ms(), self._rules(), self._sink.mode, work.prepared)
        log.error("an output of %s can't be written: %s", place(work.record), refused.reason)
        work.effects = self._stage.fail(work.record, view, refused)
        # The dead letter itself may be what is refused: then nothing is committed, loudly, until somebody mends it.
        await asyncio.sleep(self._settings.back_off.total_seconds() if work.refused else 0)
        work.refused = True
        return False


def _following(effects: Effects, hop: "Hop") -> Effects:
    """Effects whose records carry the span that they follow from."""
    outputs = [replace(emit, headers=hop.child_headers(emit.headers)) for emit in effects.outputs]
    return replace(effects, outputs=outputs)


def _key(record: InRecord) -> bytes | int:
    """What order is kept by; records without a key have none to keep."""
    return record.offset if record.key is None else record.key
