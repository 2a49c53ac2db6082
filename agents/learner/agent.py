"""The learner: reads along what is decided, what comes of it and what people say, and publishes what it learns of it.

It belongs to no group and commits nothing: its place in the topics is part of what it publishes, in the same record as
the counters, so that a restart counts nothing twice and leaves nothing out, whenever it died.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Final

from agents.classifier.learning.heads import NOTHING
from agents.classifier.learning.joiner import Joiner
from agents.classifier.learning.learner import Learner, Mode
from agents.classifier.learning.packing import pack, unpack
from agents.classifier.learning.state import COMPARISONS, State
from agents.learner.core import Study, View
from agents.learner.published import LAST, newest
from registry.snapshot import Snapshot
from schemas.codec import Codec
from schemas.errors import BrokerUnavailableError, DeliveryError, OutputRefusedError, UndecodableError
from schemas.ports import Clock, OrderedLog
from streams.log_reader import LogReader, open_log
from streams.records import TP
from streams.runtime import Platform
from streams.topics import FEEDBACK, RESULTS, TIER_PREFIX

log = logging.getLogger(__name__)

LOOK: Final = timedelta(seconds=1)
"""Longest wait for records, and so for a stop."""
BACK_OFF: Final = timedelta(seconds=1)
_POLL_RECORDS: Final = 1_000
_QUIET: Final = 5
"""Looks that bring nothing, after which a place that was read before is taken to be lost."""


class LearnerAgent:
    """Learns from an installation's outcomes.

    Args:
        platform: Broker and names.
        codec: Reads records.
        rules: The snapshot in force.
        topic: Where states are published; open.
        view: The trained model; None where it is bypassed.
        weights: Its version.
        clock: Wall and monotonic clock.
    """

    def __init__(
        self,
        platform: Platform,
        codec: Codec,
        *,
        rules: Callable[[], Snapshot],
        topic: OrderedLog,
        view: View | None,
        weights: str,
        clock: Clock,
    ) -> None:
        self._platform = platform
        self._settings = platform.settings.learner
        self._mode = Mode(platform.settings.classifier.learning)
        self._codec = codec
        self._rules = rules
        self._topic = topic
        self._weights = weights
        self._view = view
        self._clock = clock
        catalogue = rules().catalogue
        self._catalogue = catalogue.name
        self._topics = [
            platform.names.topic(topic)
            for topic in (*(f"{TIER_PREFIX}{tier.id}" for tier in catalogue.tiers), RESULTS, FEEDBACK)
        ]
        self._positions: dict[TP, int] = {}
        self._number = 0
        self._published_at = float("-inf")
        self._told = 0
        self.study = self._begun(None)

    async def run(self, stop: asyncio.Event) -> None:
        """Learn until ``stop`` is set; then publish what is not published yet.

        Raises:
            TopicMissingError: The topics were not created.
            OffsetsLostError: A topic no longer holds what should be read next.
        """
        if self._mode is Mode.BYPASS:
            log.info("learning is bypassed (classifier.learning): nothing to do")
            await stop.wait()
            return
        recovered = False
        while not stop.is_set():
            try:
                if not recovered:
                    recovered = await self._recover(stop)
                else:
                    await self._follow(stop)
            except BrokerUnavailableError as error:
                log.warning("learner waits for the broker: %s", error)
                await asyncio.sleep(BACK_OFF.total_seconds())
        if recovered and self.study.changed:
            await self._publish()

    async def _recover(self, stop: asyncio.Event) -> bool:
        """Take up the last published state, and read again what may still be rated."""
        state = newest(await self._topic.last(LAST), self._catalogue)
        self.study = self._begun(state)
        known = {_place(place): offset for place, offset in state.positions.items()} if state is not None else {}
        since_ms = self._clock.now_ms() - self._settings.window // timedelta(milliseconds=1)
        connection, kind = self._platform.connection, self._platform.capabilities.kind
        async with open_log(connection, self._topics, kind=kind, since_ms=since_ms) as reader:
            starts = {tp: await reader.position(tp) for tp in reader.partitions}
            begins = await reader.begins()
            until = {tp: known[tp] for tp in starts if tp in known}
            await self._again(reader, {tp: end for tp, end in until.items() if starts[tp] < end}, stop)
        self._positions = {tp: max(until.get(tp, starts[tp]), begins[tp]) for tp in starts}
        if state is not None:
            log.info("goes on from %s: %d outcomes, %d requests wait", state.version, state.heard, self._waiting)
        return not stop.is_set()

    async def _again(self, reader: LogReader, until: Mapping[TP, int], stop: asyncio.Event) -> None:
        """Read what was counted before, to know what waits; nothing of it is counted."""
        unread, quiet = dict(until), 0
        while unread and quiet < _QUIET and not stop.is_set():
            records = await reader.poll(LOOK, _POLL_RECORDS)
            quiet = 0 if records else quiet + 1
            old = [record for record in records if record.offset < until.get(record.tp, 0)]
            await asyncio.to_thread(self.study.take, old, fresh=False)
            unread = {tp: end for tp, end in unread.items() if await reader.position(tp) < end}
        if unread and not stop.is_set():
            log.warning("%s no longer hold what was learnt from", ", ".join(f"{tp[0]}/{tp[1]}" for tp in unread))
        self.study.changed = False

    async def _follow(self, stop: asyncio.Event) -> None:
        connection, kind = self._platform.connection, self._platform.capabilities.kind
        async with open_log(connection, self._topics, kind=kind, offsets=self._positions) as reader:
            while not stop.is_set():
                records = await reader.poll(LOOK, _POLL_RECORDS)
                # In a thread: training takes seconds, and a stop should not have to wait for the next look.
                await asyncio.to_thread(self.study.take, records)
                for record in records:
                    self._positions[record.tp] = record.offset + 1
                due = self._clock.monotonic() - self._published_at >= self._settings.publish_every.total_seconds()
                if self.study.changed and due:
                    await self._publish()

    async def _publish(self) -> None:
        """Write the state. If that fails, the next one says the same and more."""
        state = self.state()
        try:
            await self._topic.append(state.catalogue.encode(), state.to_bytes())
        except (DeliveryError, OutputRefusedError) as error:
            log.warning("what was learnt could not be published: %s", error)
            return
        self._number = state.number
        self._published_at = self._clock.monotonic()
        self.study.changed = False
        learner = self.study.learner
        for number, found in learner.numbered[self._told :]:
            verdict = "is promoted" if found.promoted else "stays in the shadow"
            log.info(
                "heads %d %s: %d outcomes held out, foreseen better by %.1f standard errors, value %.3f against %.3f",
                *(number, verdict, found.outcomes, found.foreseen, found.candidate, found.current),
            )
        self._told = len(learner.numbered)
        log.info("published number %d: %d outcomes, %d requests wait", state.number, learner.heard, self._waiting)

    def state(self) -> State:
        """All that is known now, under the next number."""
        learner = self.study.learner
        return State(
            number=self._number + 1,
            catalogue=self._catalogue,
            weights=self._weights,
            heard=learner.heard,
            counters=tuple(learner.counters.rows()),
            calibration=learner.calibration.rows(),
            heads=pack(learner.heads),
            candidate=learner.candidate.version,
            comparisons=tuple(learner.numbered[-COMPARISONS:]),
            positions={f"{tp.topic}/{tp.partition}": offset for tp, offset in sorted(self._positions.items())},
        )

    @property
    def _waiting(self) -> int:
        return len(self.study.joiner)

    def _begun(self, state: State | None) -> Study:
        """The learner as a state left it; heads that read other columns are left behind."""
        learner = Learner({}, cost_weight=0.0, mode=self._mode)
        if state is not None:
            learner.counters, learner.calibration = state.restored()
            learner.heard = state.heard
            learner.numbered = list(state.comparisons)
            learner.candidate = replace(NOTHING, version=state.candidate)
            self._number, self._told = state.number, len(learner.numbered)
            if state.heads and state.weights == self._weights:
                try:
                    learner.heads = unpack(state.heads)
                except UndecodableError as error:
                    log.warning("the heads of %s are left behind: %s", state.version, error)
        return Study(
            learner,
            Joiner(self._settings.waiting),
            codec=self._codec,
            names=self._platform.names,
            rules=self._rules,
            view=self._view,
            memory=self._settings.memory,
        )


def _place(text: str) -> TP:
    topic, _, partition = text.rpartition("/")
    return TP(topic, int(partition))
