"""Results as they come, each request's once."""

import asyncio
import logging
from collections import deque
from types import TracebackType
from typing import Any, Self

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from tierflow_client import headers
from tierflow_client.errors import BrokerError, ClientClosedError, UnreadableResultError
from tierflow_client.kafka import assign_all, partitions_of, start_consumer, told
from tierflow_client.result import Result
from tierflow_client.seen import Seen, Sight

log = logging.getLogger(__name__)

_POLL_MS = 500


class ResultStream:
    """An asynchronous iterator over results; made by ``Client.results``, closed with its client or by ``aclose``.

    In a group, the place in the topic is committed once the caller has asked for what comes after a result: a result
    whose handling was cut off comes again. Without a group nothing is committed.

    Attributes:
        repeats: Results that came once more and were dropped.
        conflicts: Of these, how many said something else than the first one, which counts.
        skipped: Records that are no JSON (results of requests sent as Avro) or can't be read.
    """

    def __init__(
        self,
        bootstrap: str,
        topic: str,
        options: dict[str, Any],
        *,
        group: str | None,
        from_beginning: bool,
        remember: int,
    ) -> None:
        self.repeats = 0
        self.conflicts = 0
        self.skipped = 0
        self._bootstrap = bootstrap
        self._topic = topic
        self._options = options
        self._group = group
        self._from_beginning = from_beginning
        self._seen = Seen(remember)
        self._consumer: AIOKafkaConsumer | None = None
        self._opening = asyncio.Lock()
        self._waiting: deque[ConsumerRecord] = deque()
        self._done: dict[TopicPartition, int] = {}
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    async def open(self) -> None:
        """Connect, and fix where reading starts. The first ``async for`` does it, too.

        Raises:
            BrokerError: No answer, or no such topic.
            ClientClosedError: It was closed.
        """
        async with self._opening:
            if self._closed:
                raise ClientClosedError("the stream is closed")
            if self._consumer is not None:
                return
            consumer = await start_consumer(
                self._bootstrap, self._options, group=self._group, beginning=self._from_beginning
            )
            try:
                if self._group is None:
                    partitions = await partitions_of(self._bootstrap, self._options, self._topic)
                    await assign_all(consumer, partitions, beginning=self._from_beginning)
                else:
                    consumer.subscribe([self._topic])
            except BaseException:
                await consumer.stop()
                raise
            self._consumer = consumer

    async def __anext__(self) -> Result:
        """The next result; waits for it.

        Raises:
            BrokerError: Kafka does not answer.
            StopAsyncIteration: The stream was closed.
        """
        if self._consumer is None and not self._closed:
            await self.open()
        while not self._closed:
            while self._waiting:
                record = self._waiting.popleft()
                # Asked for the next one: what was given before is dealt with.
                self._done[TopicPartition(record.topic, record.partition)] = record.offset
                if (result := self._taken(record)) is not None:
                    return result
            await self._fetch()
        raise StopAsyncIteration

    def __aiter__(self) -> Self:
        """Itself."""
        return self

    async def aclose(self) -> None:
        """Commit what was dealt with, and disconnect."""
        if self._closed:
            return
        self._closed = True
        async with self._opening:
            consumer, self._consumer = self._consumer, None
            if consumer is not None:
                try:
                    await self._commit(consumer)
                finally:
                    await consumer.stop()

    async def __aenter__(self) -> Self:
        """Connect."""
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect."""
        await self.aclose()

    async def _fetch(self) -> None:
        consumer = self._consumer
        if consumer is None:
            return
        for partition in self._done:
            self._done[partition] += 1  # the last one given is dealt with now
        await self._commit(consumer)
        try:
            async with told(f"reading {self._topic}"):
                fetched = await consumer.getmany(timeout_ms=_POLL_MS)
        except BrokerError:
            if self._closed:  # by another task, under our feet
                return
            raise
        for records in fetched.values():
            self._waiting.extend(records)

    async def _commit(self, consumer: AIOKafkaConsumer) -> None:
        done, self._done = self._done, {}
        if self._group is None or not done:
            return
        try:
            await consumer.commit(done)
        except KafkaError as error:
            # The partitions moved to another member of the group, which gets these results again; or the broker is
            # away, and the next commit says the same and more.
            log.info("place in %s not committed: %r", self._topic, error)

    def _taken(self, record: ConsumerRecord) -> Result | None:
        if headers.value_of(record.headers, headers.CONTENT_TYPE) not in {"", headers.JSON}:
            self.skipped += 1
            return None
        try:
            result = Result.from_json(record.value or b"")
        except UnreadableResultError:
            self.skipped += 1
            return None
        said = (result.status, result.error_code, result.output, result.output_dataref, result.duplicate_of)
        sight = self._seen.look(result.request_id, hash(said))
        if sight is Sight.NEW:
            return result
        self.repeats += 1
        self.conflicts += sight is Sight.CONFLICT
        return None
