"""Reading topics on one's own: no group, no commits, all partitions, from where the caller says.

For readers that keep their own place (the archive) or none (a person at a terminal).
"""

import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from enum import StrEnum

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from streams._aiokafka_consumer import FetchPace, positions_of, stop_client
from streams._aiokafka_records import read_around
from streams.clients import partitions_of
from streams.connection import BrokerKind, KafkaConnection
from streams.errors import BrokerUnavailableError, OffsetsLostError, TopicMissingError
from streams.reading import as_record
from streams.records import TP, InRecord


class Start(StrEnum):
    """Where a partition without a given offset begins."""

    EARLIEST = "earliest"
    LATEST = "latest"


class LogReader:
    """An open reader; made by ``open_log``."""

    def __init__(self, consumer: AIOKafkaConsumer, positions: Mapping[TP, int], pace: FetchPace) -> None:
        self._consumer = consumer
        self._pace = pace
        self._partitions = tuple(positions)
        self._positions = dict(positions)  # behind what was returned; the client's are ahead of it after an error

    @property
    def partitions(self) -> tuple[TP, ...]:
        """What is read."""
        return self._partitions

    async def poll(self, wait: timedelta, max_records: int | None = None) -> list[InRecord]:
        """Records that have arrived, waiting for the first; in offset order within a partition.

        Raises:
            OffsetsLostError: The log no longer holds the position.
            BrokerUnavailableError: Reading failed.
        """
        try:
            try:
                fetched = await self._consumer.getmany(timeout_ms=self._pace.within_ms(wait), max_records=max_records)
            except UnicodeDecodeError:
                return await self._read_around()
        except OffsetOutOfRangeError as error:
            raise OffsetsLostError(f"the log no longer holds what should be read next: {error}") from error
        except KafkaError as error:
            raise BrokerUnavailableError(str(error)) from error
        self._pace.polled(self._consumer, sum(map(len, fetched.values())), time.monotonic())
        self._positions.update(positions_of(self._consumer, self._partitions))
        return [as_record(raw) for raws in fetched.values() for raw in raws]

    async def ends(self) -> Mapping[TP, int]:
        """Offsets behind the last record, asked now."""
        try:
            found: Mapping[TP, int] = await self._consumer.end_offsets(list(self._partitions))
        except KafkaError as error:
            raise BrokerUnavailableError(str(error)) from error
        return found

    async def begins(self) -> Mapping[TP, int]:
        """Offsets of the first records that are still there, asked now."""
        try:
            found: Mapping[TP, int] = await self._consumer.beginning_offsets(list(self._partitions))
        except KafkaError as error:
            raise BrokerUnavailableError(str(error)) from error
        return found

    async def position(self, tp: TP) -> int:
        """The next offset that will be read."""
        found: int = await self._consumer.position(tp)
        return found

    async def _read_around(self) -> list[InRecord]:
        """After a record with undecodable header names: read each partition once, in a way that lets it pass."""
        for tp, offset in self._positions.items():  # the client dropped what it had taken but not returned
            self._consumer.seek(tp, offset)
        found = await read_around(self._consumer, self._positions)
        for tp, (_, behind) in found.items():
            self._consumer.seek(tp, behind)
            self._positions[tp] = behind
        return [as_record(raw) for raws, _ in found.values() for raw in raws]


@asynccontextmanager
async def open_log(
    connection: KafkaConnection,
    topics: Collection[str],
    *,
    kind: BrokerKind,
    start: Start = Start.EARLIEST,
    offsets: Mapping[TP, int] | None = None,
    since_ms: int | None = None,
) -> AsyncIterator[LogReader]:
    """Open a reader of all partitions of ``topics``.

    Args:
        connection: Where.
        topics: Physical topics.
        kind: What answers at the address.
        start: Where partitions begin that ``offsets`` does not name.
        offsets: Where to go on.
        since_ms: Unix milliseconds; partitions that ``offsets`` does not name begin at the first record from then on.

    Raises:
        BrokerUnavailableError: No broker answered.
        TopicMissingError: A topic doesn't exist.
    """
    # Asked for by name: what a consumer without a subscription knows of partitions depends on when it connected.
    known = await partitions_of(connection, topics)
    missing = sorted(set(topics) - known.keys())
    if missing:
        raise TopicMissingError(f"no topic {', '.join(missing)} at {connection.kafka.bootstrap}: create it first")
    partitions = [tp for topic in topics for tp in known[topic]]
    consumer = AIOKafkaConsumer(**connection.consumer_arguments(None, kind))
    try:
        try:
            await consumer.start()
            consumer.assign(partitions)
            positions = await _starts(consumer, partitions, start, offsets or {}, since_ms)
        except KafkaError as error:
            raise BrokerUnavailableError(f"{connection.kafka.bootstrap}: {error!r}") from error
        for tp, offset in positions.items():
            consumer.seek(tp, offset)
        pace = FetchPace(connection.fetch_wait(kind), connection.fetch_wait_idle(kind))
        yield LogReader(consumer, positions, pace)
    finally:
        await stop_client(consumer)


async def _starts(
    consumer: AIOKafkaConsumer, partitions: Collection[TP], start: Start, given: Mapping[TP, int], since_ms: int | None
) -> dict[TP, int]:
    open_ended = [tp for tp in partitions if tp not in given]
    ask = consumer.beginning_offsets if start is Start.EARLIEST else consumer.end_offsets
    starts = await ask(open_ended) if open_ended else {}
    if since_ms is not None and open_ended:
        ends = await consumer.end_offsets(open_ended)
        found = await consumer.offsets_for_times(dict.fromkeys(open_ended, since_ms))
        starts = {tp: ends[tp] if at is None else at.offset for tp, at in found.items()}
    return {tp: given.get(tp, starts.get(tp, 0)) for tp in partitions}
