"""Waiting for the results of requests that this process sent."""

import asyncio
from contextlib import suppress
from typing import Any
from weakref import WeakValueDictionary

from aiokafka import AIOKafkaConsumer, ConsumerRecord

from tierflow_client import headers
from tierflow_client.errors import BrokerError, ClientClosedError, ClientError, UnreadableResultError
from tierflow_client.kafka import assign_all, partitions_of, start_consumer, told
from tierflow_client.result import Result

_POLL_MS = 500
_BACK_OFF_S = 1.0


class Waiting:
    """Reads the results topic from the moment it was opened, and hands results to those who wait for them.

    It reads all partitions: a result lies where its key says, and only the brokers know how many partitions the topic
    has. Records of other producers' requests are told by a header and not looked into.
    """

    def __init__(self, bootstrap: str, topic: str, options: dict[str, Any]) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        self._options = options
        # Weak: a future lives as long as the handle of its request, so nothing piles up.
        self._futures: WeakValueDictionary[str, asyncio.Future[Result]] = WeakValueDictionary()
        self._consumer: AIOKafkaConsumer | None = None
        self._task: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()

    async def open(self) -> None:
        """Connect. What is sent after this returned can't be missed.

        Raises:
            BrokerError: No answer, or no such topic.
        """
        async with self._opening:
            if self._consumer is not None:
                return
            consumer = await start_consumer(self._bootstrap, self._options, group=None, beginning=False)
            try:
                partitions = await partitions_of(self._bootstrap, self._options, self._topic)
                await assign_all(consumer, partitions, beginning=False)
            except BaseException:
                await consumer.stop()
                raise
            self._consumer = consumer
            self._task = asyncio.create_task(self._read(consumer), name="tierflow results")

    def expect(self, request_id: str) -> asyncio.Future[Result]:
        """The future of a result; the same one for the same request, as long as somebody holds it."""
        future = self._futures.get(request_id)
        if future is None:
            future = asyncio.get_running_loop().create_future()
            self._futures[request_id] = future
        return future

    async def close(self) -> None:
        """Disconnect; who still waits gets a ``ClientClosedError``."""
        async with self._opening:
            task, self._task = self._task, None
            consumer, self._consumer = self._consumer, None
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            self._fail(ClientClosedError("the client was closed before the result came"))
            if consumer is not None:
                await consumer.stop()

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        while True:
            try:
                async with told(f"reading {self._topic}"):
                    fetched = await consumer.getmany(timeout_ms=_POLL_MS)
            except BrokerError:
                # Whoever waits has a time limit of his own; the broker may be back before it.
                await asyncio.sleep(_BACK_OFF_S)
                continue
            for records in fetched.values():
                for record in records:
                    self._take(record)

    def _take(self, record: ConsumerRecord) -> None:
        future = self._futures.get(headers.value_of(record.headers, headers.REQUEST_ID))
        if future is None or future.done():
            return
        try:
            future.set_result(Result.from_json(record.value or b""))
        except UnreadableResultError as error:
            future.set_exception(error)
            future.exception()  # nobody may be waiting just now; it is not lost, the future keeps it

    def _fail(self, error: ClientError) -> None:
        for future in list(self._futures.values()):
            if not future.done():
                future.set_exception(error)
                future.exception()  # as above
        self._futures.clear()
