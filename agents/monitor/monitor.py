"""The conservation monitor: reads the flow along, keeps the books, and raises the alarm with names.

It belongs to no group and commits nothing. When it starts, it reads from as far back as a request can live, so a
restart finds again what is in flight, and what was alarmed about already.
"""

import asyncio
import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from msgspec.structs import asdict

from agents.monitor.alerts import Alert
from agents.monitor.core import Ledger
from schemas.catalogue import Catalogue
from schemas.codec import Codec
from schemas.delivery import DeliveryMode
from schemas.edges import Result
from schemas.enums import EventType
from schemas.errors import BrokerUnavailableError, TierflowError
from schemas.flow import Assignment, ProvenanceEvent
from schemas.headers import AVRO, Name
from schemas.ids import coordinates
from schemas.ports import Clock
from streams import semconv
from streams.log_reader import open_log
from streams.records import TP, InRecord, OutRecord
from streams.retry import Schedule
from streams.runtime import Platform
from streams.sink import AtLeastOnceSink
from streams.telemetry import Telemetry
from streams.topics import (
    ALERTS,
    COMPLETIONS,
    DEAD_LETTERS,
    PROVENANCE,
    RESULTS,
    STAGES,
    TIER_PREFIX,
    dead_letter_topic,
)

log = logging.getLogger(__name__)

MEMORY: Final = timedelta(minutes=30)
"""How long an end is remembered: a second result comes within a redelivery or never."""
LOOK: Final = timedelta(seconds=1)
"""How often the books are checked."""
SAY: Final = timedelta(seconds=30)
"""How often the sums are logged."""
BACK_OFF: Final = timedelta(seconds=1)
_POLL_RECORDS: Final = 2_000


class _Nobody:
    """Writes without being a member of a group."""

    membership = None


class Monitor:
    """Keeps the books of an installation.

    Args:
        platform: Broker and names.
        codec: Reads records.
        catalogue: Names tiers and intake topics, and says how long a request may live.
        clock: Wall clock.
        telemetry: Exports the sums as metrics.
    """

    def __init__(
        self, platform: Platform, codec: Codec, catalogue: Catalogue, clock: Clock, telemetry: Telemetry
    ) -> None:
        grace = platform.settings.monitor.grace
        self._platform = platform
        self._names = platform.names
        self._codec = codec
        self._clock = clock
        self._intake = frozenset(each.topic for each in catalogue.intake)
        self._topics = [
            *sorted(self._intake),
            *(f"{TIER_PREFIX}{tier.id}" for tier in catalogue.tiers),
            *Schedule.of(platform.settings.topics).topics,
            COMPLETIONS,
            RESULTS,
            PROVENANCE,
            *(dead_letter_topic(stage) for stage in STAGES),
            ALERTS,
        ]
        longest = max((each.max_deadline for each in catalogue.intake), default=timedelta(0))
        self._since_ms = clock.now_ms() - (longest + grace) // timedelta(milliseconds=1)
        self.ledger = Ledger(
            since_ms=self._since_ms,
            grace=grace,
            memory=MEMORY,
            exact=platform.capabilities.mode is DeliveryMode.EXACTLY_ONCE,
        )
        self._positions: dict[TP, int] = {}
        self._untold: list[Alert] = []
        self._sink = AtLeastOnceSink(platform.connection, _Nobody())
        self._export(telemetry)

    async def run(self, stop: asyncio.Event) -> None:
        """Watch until ``stop`` is set.

        Raises:
            TopicMissingError: The topics were not created.
            OffsetsLostError: A topic no longer holds what should be read next.
        """
        try:
            while not stop.is_set():
                try:
                    await self._watch(stop)
                except BrokerUnavailableError as error:
                    log.warning("monitor waits for the broker: %s", error)
                    await asyncio.sleep(BACK_OFF.total_seconds())
        finally:
            await self._sink.stop()

    async def _watch(self, stop: asyncio.Event) -> None:
        physical = [self._names.topic(topic) for topic in self._topics]
        connection, kind = self._platform.connection, self._platform.capabilities.kind
        begun, since_ms = self._positions, self._since_ms
        async with open_log(connection, physical, kind=kind, offsets=begun, since_ms=since_ms) as reader:
            said = self._clock.monotonic()
            unread = dict(await reader.ends())
            while not stop.is_set():
                self.take(await reader.poll(LOOK, _POLL_RECORDS))
                unread = {tp: end for tp, end in unread.items() if await reader.position(tp) < end}
                if unread:  # what one topic seems to lack may stand in another that was not read yet
                    continue
                await self._alarm()
                if self._clock.monotonic() - said >= SAY.total_seconds():
                    said = self._clock.monotonic()
                    log.info("%s", self.sums())
            log.info("%s", self.sums())

    def sums(self) -> str:
        """The books in one line."""
        totals = self.ledger.totals
        sign = "=" if totals.balanced else "is not"
        return (
            f"accepted {totals.accepted} {sign} ended {totals.ended} + in flight {totals.in_flight}; "
            f"{sum(totals.offences.values())} offences, {totals.repeats} repeats"
        )

    def take(self, records: Sequence[InRecord]) -> None:
        """Enter what was read."""
        for record in records:
            self._positions[record.tp] = record.offset + 1
            try:
                self._enter(record, self._names.logical(record.topic), dict(record.headers))
            except TierflowError as error:
                log.error("%s/%d/%d can't be read: %s", *record[:3], error)  # noqa: TRY400 - no bug

    def _enter(self, record: InRecord, topic: str, headers: dict[str, bytes]) -> None:
        ledger, now_ms = self.ledger, self._clock.now_ms()
        if topic in self._intake:
            ledger.arrived(coordinates(*record[:3]), now_ms)  # its timestamp is whatever its producer gave it
        elif topic == PROVENANCE:
            event = self._codec.decode(ProvenanceEvent, record.value or b"", _content_type(headers))
            if event.event_type is EventType.REQUEST_DUPLICATE:
                place = coordinates(self._names.topic(event.src_topic), event.src_partition, event.src_offset)
                ledger.followed(place, now_ms)
            elif event.request_id:
                ledger.told(asdict(event), now_ms)
        elif topic == RESULTS:
            result = self._codec.decode(Result, record.value or b"", _content_type(headers))
            ledger.followed(result.source, now_ms)
            ledger.ended(
                result.request_id,
                record_id=_text(headers, Name.CE_ID),
                accepted_ms=result.accepted_at_ms,
                at_intake=result.steps == 0,
                now_ms=now_ms,
            )
        elif topic == ALERTS:
            alert = Alert.decode(record.value or b"")
            ledger.known(alert.kind, alert.subject, now_ms)
        elif topic.startswith(DEAD_LETTERS):
            names = (Name.CONNECT_TOPIC, Name.CONNECT_PARTITION, Name.CONNECT_OFFSET)
            ledger.followed("/".join(_text(headers, name) for name in names), now_ms)
        elif topic.startswith(TIER_PREFIX) and Name.ATTEMPT.value not in headers:
            self._handed_out(record, topic, headers, now_ms)
        else:
            ledger.moved(_text(headers, Name.REQUEST_ID), topic)

    def _handed_out(self, record: InRecord, topic: str, headers: dict[str, bytes], now_ms: int) -> None:
        assignment = self._codec.decode(Assignment, record.value or b"", _content_type(headers))
        if assignment.step_index:
            self.ledger.moved(assignment.request_id, topic)
            return
        self.ledger.followed(assignment.source, now_ms)
        self.ledger.accepted(
            assignment.request_id, at_ms=assignment.accepted_at_ms, deadline_ms=assignment.deadline_ms, where=topic
        )

    async def _alarm(self) -> None:
        """Tell what was found: people by the log, programs by a topic. What could not be written is written later."""
        now_ms = self._clock.now_ms()
        for offence in self.ledger.check(now_ms):
            log.error("ALARM %s: %s: %s", offence.kind, offence.subject, offence.text)
            self._untold.append(Alert.of(offence, now_ms))
        if self._untold:
            topic = self._names.topic(ALERTS)
            await self._sink.commit(
                [OutRecord(topic, alert.key, alert.encode(), alert.headers) for alert in self._untold], {}
            )
            self._untold.clear()

    def _export(self, telemetry: Telemetry) -> None:
        totals = self.ledger.totals

        def oldest_s() -> float:
            oldest_ms = totals.oldest_ms
            return 0.0 if oldest_ms is None else max(0.0, (self._clock.now_ms() - oldest_ms) / 1000)

        telemetry.counter(semconv.TIERFLOW_ACCEPTED, lambda: totals.accepted, "{request}", "Requests accepted.")
        telemetry.counter(semconv.TIERFLOW_ENDED, lambda: totals.ended, "{request}", "Requests ended.")
        telemetry.counter(
            semconv.TIERFLOW_OFFENCES,
            lambda: totals.offences,
            "{offence}",
            "What the monitor found wrong.",
            by=semconv.TIERFLOW_OFFENCE,
        )
        telemetry.gauge(
            semconv.TIERFLOW_UNFINISHED, lambda: float(totals.in_flight), description="Accepted, and not ended."
        )
        telemetry.gauge(
            semconv.TIERFLOW_OLDEST, oldest_s, unit="s", description="Age of the oldest request that has not ended."
        )


def _text(headers: dict[str, bytes], name: Name) -> str:
    return headers.get(name.value, b"").decode(errors="replace")


def _content_type(headers: dict[str, bytes]) -> str:
    return headers.get(Name.CONTENT_TYPE.value, AVRO.encode()).decode()
