"""A topic of one partition as an append-only log of bytes: the registry's, and that of what was learnt.

What the bytes mean, and who wins when two write at once, is decided by readers from the log's order; nothing here
depends on transactions, so it works on any broker.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Self

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import (
    AuthenticationFailedError,
    ClusterAuthorizationFailedError,
    KafkaError,
    MessageSizeTooLargeError,
    OffsetOutOfRangeError,
    RecordTooLargeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)

from schemas.ports import LogEntry
from streams._aiokafka_consumer import stop_client
from streams.connection import BATCH_OVERHEAD, BrokerKind, KafkaConnection
from streams.errors import (
    BrokerUnavailableError,
    DeliveryError,
    NotPermittedError,
    OffsetsLostError,
    OutputRefusedError,
    TopicMissingError,
)
from streams.records import TP

FETCH_WAIT: Final = timedelta(milliseconds=500)
"""Longest wait of a fetch at the broker. Kafka ends it when something is written. The embedded broker does not; then
a snapshot is noticed up to half of this late. Shorter would cost CPU all day for news that come once in it."""
_STEP: Final = timedelta(milliseconds=500)
_NOT_PERMITTED: Final = (AuthenticationFailedError, ClusterAuthorizationFailedError, TopicAuthorizationFailedError)


class KafkaOrderedLog:
    """Appends to and reads a topic of one partition. An async context manager, or ``start`` and ``stop``.

    One reader at a time: a second waits for the first. Who follows the log with ``poll`` and publishes too takes two.

    Args:
        connection: Where the broker is.
        topic: Physical topic; it must exist.
        kind: What answers at the address.
    """

    def __init__(self, connection: KafkaConnection, *, topic: str, kind: BrokerKind = BrokerKind.UNKNOWN) -> None:
        self._connection = connection
        self._kind = kind
        self._tp = TP(topic, 0)
        self._limit_s = connection.kafka.request_timeout.total_seconds()
        self._consumer: AIOKafkaConsumer | None = None
        self._producer: AIOKafkaProducer | None = None
        self._next = -1
        self._reading = asyncio.Lock()
        self._connecting = asyncio.Lock()

    async def start(self) -> None:
        """Connect.

        Raises:
            BrokerUnavailableError: No broker answers.
            TopicMissingError: There is no such topic.
            NotPermittedError: Credentials or rights.
        """
        arguments = self._connection.consumer_arguments(None, self._kind)
        arguments["fetch_max_wait_ms"] = _ms(FETCH_WAIT)
        consumer = AIOKafkaConsumer(**arguments)
        try:
            await consumer.start()
            topics = await consumer.topics()
        except KafkaError as error:
            await stop_client(consumer)
            raise self._translated(error) from error
        except BaseException:
            await stop_client(consumer)
            raise
        if self._tp.topic not in topics:
            await stop_client(consumer)
            raise TopicMissingError(
                f"no topic {self._tp.topic} at {self._connection.kafka.bootstrap}: create the topics first"
            )
        consumer.assign([self._tp])
        self._consumer = consumer

    async def stop(self) -> None:
        """Close the connections."""
        producer, self._producer = self._producer, None
        consumer, self._consumer = self._consumer, None
        if producer is not None:
            await stop_client(producer)
        if consumer is not None:
            await stop_client(consumer)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def append(self, key: bytes, value: bytes) -> int:
        """Write a record, and return its offset when all replicas in sync have it.

        Raises:
            BrokerUnavailableError: No answer in time; whether it was written is open.
            OutputRefusedError: It is larger than the topic takes.
            NotPermittedError: The right to write is missing.
        """
        try:
            producer = await self._writer()
            async with asyncio.timeout(self._limit_s):
                written = await producer.send_and_wait(self._tp.topic, value, key=key, partition=self._tp.partition)
        except KafkaError as error:
            raise self._translated(error) from error
        except TimeoutError as error:
            raise self._silent(f"append to {self._tp.topic}") from error
        return int(written.offset)

    async def read(self, position: int = 0, *, through: int = -1) -> Sequence[LogEntry]:
        """All records from an offset to the end as it is now.

        Args:
            position: First offset.
            through: An offset that exists and must be among what is returned, if it is not before ``position``.

        Raises:
            BrokerUnavailableError: No answer in time.
            OffsetsLostError: The log does not reach that far any more.
        """
        entries: list[LogEntry] = []
        try:
            async with asyncio.timeout(self._limit_s), self._reading:
                ends = await self._started().end_offsets([self._tp])
                # The embedded broker answers the place behind the first record of the last batch. A batch comes whole,
                # so going there brings all of it.
                end = max(ends[self._tp], through + 1)
                at = position
                while at < end:
                    entries += await self._fetch(at, _STEP)
                    at = self._next
        except KafkaError as error:
            raise self._translated(error) from error
        except TimeoutError as error:
            raise self._silent(f"read {self._tp.topic} from {position}") from error
        return entries

    async def last(self, count: int = 1) -> Sequence[LogEntry]:
        """The last records, at least ``count`` of them where there are so many.

        Raises:
            DeliveryError: As ``read`` does.
        """
        try:
            async with asyncio.timeout(self._limit_s):
                ends = await self._started().end_offsets([self._tp])
                begins = await self._started().beginning_offsets([self._tp])
        except KafkaError as error:
            raise self._translated(error) from error
        except TimeoutError as error:
            raise self._silent(f"read the end of {self._tp.topic}") from error
        return await self.read(max(begins[self._tp], ends[self._tp] - count))

    async def poll(self, position: int, wait: timedelta) -> Sequence[LogEntry]:
        """Records from an offset on, waiting for the first of them; empty when none came.

        Raises:
            DeliveryError: As ``read`` does.
        """
        try:
            async with self._reading:
                return await self._fetch(position, wait)
        except KafkaError as error:
            raise self._translated(error) from error

    async def _fetch(self, position: int, wait: timedelta) -> list[LogEntry]:
        consumer = self._started()
        if position != self._next:
            consumer.seek(self._tp, position)
            self._next = position
        try:
            found = await consumer.getmany(self._tp, timeout_ms=_ms(wait))
            entries = [LogEntry(raw.offset, raw.key, raw.value) for raw in found.get(self._tp, ())]
            # Not the last record's offset plus one: markers and what compaction took away are passed over as well.
            self._next = await consumer.position(self._tp)
        except BaseException:
            self._next = -1  # where the client stands is unknown now
            raise
        return entries

    async def _writer(self) -> AIOKafkaProducer:
        async with self._connecting:
            if self._producer is None:
                self._started()
                self._producer = await self._new_writer()
            return self._producer

    async def _new_writer(self) -> AIOKafkaProducer:
        arguments: dict[str, Any] = self._connection.client_arguments(self._tp.topic) | {
            "acks": "all",
            "max_request_size": self._connection.max_message_bytes + BATCH_OVERHEAD,
            # A repeat inside the client would write the record twice. The embedded broker has no way to tell.
            "enable_idempotence": self._kind is BrokerKind.KAFKA,
        }
        producer = AIOKafkaProducer(**arguments)
        try:
            await producer.start()
        except BaseException:
            await stop_client(producer)
            raise
        return producer

    def _started(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            raise BrokerUnavailableError(f"the log {self._tp.topic} was not started")
        return self._consumer

    def _silent(self, what: str) -> BrokerUnavailableError:
        return BrokerUnavailableError(
            f"{self._connection.kafka.bootstrap}: no answer within {self._limit_s:g} s ({what})"
        )

    def _translated(self, error: KafkaError) -> DeliveryError:
        where = f"{self._connection.kafka.bootstrap}, topic {self._tp.topic}"
        if isinstance(error, _NOT_PERMITTED):
            return NotPermittedError(f"{where}: {error}")
        if isinstance(error, UnknownTopicOrPartitionError):
            return TopicMissingError(f"{where}: {error}: create the topics first")
        if isinstance(error, OffsetOutOfRangeError):
            return OffsetsLostError(f"{where}: the log was cut or made anew ({error}): start the agents again")
        if isinstance(error, MessageSizeTooLargeError | RecordTooLargeError):
            return OutputRefusedError(0, f"larger than the topic takes: {error}")
        return BrokerUnavailableError(f"{where}: {error}")


def _ms(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1000)
