"""Makes what is done visible, soon or with more at once, again and again until it is or everything starts over."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Generic, TypeVar

from schemas.errors import (
    BrokerUnavailableError,
    CommitRejectedError,
    CommitUnknownError,
    DeliveryError,
)
from schemas.ports import Clock
from schemas.settings import LoopSettings
from streams.committer import Committer, Sink
from streams.effects import Counters, Stage, View
from streams.errors import FencedError, MetadataTooLargeError
from streams.flight import Flight
from streams.pace import Pace
from streams.partition import Work, place
from streams.polling import Polling
from streams.telemetry import Telemetry

log = logging.getLogger(__name__)

R = TypeVar("R")


class Committing(Generic[R]):
    """The loop's commit task.

    Args:
        stage: Says what follows when an output can't be written.
        flight: What the loop holds.
        committer: Builds and books commits.
        polling: Reads on where a commit made room.
        reset: Starts again from the committed offsets, given why.
        sink: Knows the delivery mode.
        rules: Returns the snapshot that rules now.
        settings: Linger and pauses.
        clock: Wall and monotonic clock.
        counters: What the loop did.
        telemetry: Metrics; None for none.
    """

    def __init__(
        self,
        *,
        stage: Stage[R],
        flight: Flight,
        committer: Committer,
        polling: Polling,
        reset: Callable[[Exception], Awaitable[None]],
        sink: Sink,
        rules: Callable[[], R],
        settings: LoopSettings,
        clock: Clock,
        counters: Counters,
        telemetry: Telemetry | None,
    ) -> None:
        self._stage = stage
        self._flight = flight
        self._committer = committer
        self._polling = polling
        self._reset = reset
        self._sink = sink
        self._rules = rules
        self._back_off_s = settings.back_off.total_seconds()
        self._enough = settings.max_in_flight // 2
        self._clock = clock
        self._counters = counters
        self._telemetry = telemetry
        self._pace = Pace(settings.linger)
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """Commit for ever."""
        flight = self._flight
        while True:
            await flight.ready_filled.wait()
            wait = self._pace.wait_s()
            if wait and not flight.draining and len(flight.ready) < self._enough:
                await asyncio.sleep(wait)
            await self.flush()

    async def flush(self) -> None:
        """Let the open commit end, and commit what is ready.

        Raises:
            DeliveryError: Something that another try does not mend.
        """
        async with self._lock:
            await self._commit_ready()

    async def flush_within(self, budget: timedelta) -> None:
        """``flush`` before partitions go away: what fails or takes longer is done again by whoever gets them."""
        try:
            async with asyncio.timeout(budget.total_seconds()):
                await self.flush()
        except TimeoutError:
            log.warning("revocation took longer than %s; what is left is done again", budget)
        except DeliveryError as error:
            log.warning("last commit before a revocation failed (%s); its records are done again", error)

    async def _commit_ready(self) -> None:
        """Commit what is ready. Ends with everything visible, or with a reset."""
        flight = self._flight
        batch: list[Work] = []
        try:
            while True:
                # Whatever is done by now counts in the offsets of a commit, also of one that is tried again: its
                # effects must be part of the same commit, or a crash after it would lose them.
                batch = [work for work in (*batch, *flight.ready) if work.partition.alive]
                flight.ready = []
                flight.ready_filled.clear()
                if not batch or await self._commit_once(batch):
                    break
        except MetadataTooLargeError:
            raise
        except (CommitRejectedError, CommitUnknownError) as error:
            self._counters.resets += 1
            await self._reset(error)
        self._polling.resume_with_room()

    async def _commit_once(self, batch: list[Work]) -> bool:
        """One try; False if the same work should be tried again."""
        try:
            refused = await self._committer.commit(batch)
        except (BrokerUnavailableError, FencedError) as error:
            log.warning("commit of %d records failed, trying again: %s", len(batch), error)
            # Drawn: two processes under one transactional id would else fence each other in step for ever.
            await asyncio.sleep(self._back_off_s * random.uniform(0.5, 3))
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
        await asyncio.sleep(self._back_off_s if work.refused else 0)
        work.refused = True
        return False
