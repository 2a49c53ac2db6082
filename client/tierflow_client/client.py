"""The client: publish requests, wait for results, or watch all of them."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Self, Unpack

from aiokafka import AIOKafkaProducer

from tierflow_client.errors import ClientClosedError, NoResultError
from tierflow_client.feedback import Rater, make_feedback
from tierflow_client.kafka import start_producer, told
from tierflow_client.request import Record, RequestOptions, make_record
from tierflow_client.result import Result
from tierflow_client.stream import ResultStream
from tierflow_client.waiting import Waiting

PATIENCE: Final = timedelta(minutes=16)
"""How long ``ask`` waits for a request without a deadline of its own: a little longer than the deadline that Tierflow's
shipped rules give it (15 minutes), after which it ends as expired."""
MARGIN: Final = timedelta(seconds=30)
"""What ``ask`` waits beyond a request's own deadline: for the result that says it expired to arrive."""


class Handle:
    """A request that was sent; made by ``Client.start``. Dropping it is how to stop waiting.

    Attributes:
        id: Its request id.
    """

    def __init__(self, request_id: str, future: asyncio.Future[Result]) -> None:
        self.id = request_id
        self._future = future

    @property
    def done(self) -> bool:
        """Whether the result is here."""
        return self._future.done()

    async def result(self, timeout: timedelta | None = None) -> Result:  # noqa: ASYNC109 - part of the question
        """How the request ended; may be asked for several times, by several tasks.

        Args:
            timeout: How long to wait; None waits until there is a result.

        Raises:
            NoResultError: None came in time. It may come yet: ask again.
            UnreadableResultError: The result is no JSON of ours.
            ClientClosedError: The client was closed meanwhile.
        """
        try:
            async with asyncio.timeout(None if timeout is None else timeout.total_seconds()):
                return await asyncio.shield(self._future)
        except TimeoutError:
            seconds = timeout.total_seconds() if timeout is not None else 0
            raise NoResultError(f"request {self.id} has no result after {seconds:g} s") from None


class Client:
    """Asks Tierflow over Kafka. An async context manager.

    Args:
        bootstrap: ``host:port`` of a broker, several with commas between.
        prefix: Of the installation's topics.
        intake: Intake topic, without the prefix.
        results: Results topic, without the prefix.
        tenant: Who asks, where a call does not say; the intake topic's tenant if empty.
        kafka: Passed on to aiokafka's producer and consumers: ``security_protocol``, ``ssl_context``,
            ``sasl_mechanism``, ``sasl_plain_username``, ``sasl_plain_password``, ``client_id``, ``request_timeout_ms``.
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        prefix: str = "",
        intake: str = "requests",
        results: str = "results",
        tenant: str = "",
        **kafka: Any,
    ) -> None:
        self._bootstrap = bootstrap
        self._intake = prefix + intake
        self._results = prefix + results
        self._feedback = prefix + "feedback"
        self._tenant = tenant
        self._kafka: Mapping[str, Any] = {"client_id": "tierflow-client", **kafka}
        self._producer: AIOKafkaProducer | None = None
        self._waiting = Waiting(bootstrap, self._results, dict(self._kafka))
        self._streams: list[ResultStream] = []

    async def open(self) -> None:
        """Connect.

        Raises:
            BrokerError: No answer.
        """
        if self._producer is None:
            self._producer = await start_producer(self._bootstrap, dict(self._kafka))

    async def aclose(self) -> None:
        """Disconnect; who waits for a result gets a ``ClientClosedError``, streams end."""
        producer, self._producer = self._producer, None
        try:
            for stream in self._streams:
                await stream.aclose()
            await self._waiting.close()
        finally:
            if producer is not None:
                await producer.stop()

    async def __aenter__(self) -> Self:
        """Connect."""
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect."""
        await self.aclose()

    async def send(self, prompt: str | None = None, **request: Unpack[RequestOptions]) -> str:
        """Publish a request and don't wait for its result.

        Args:
            prompt: What to ask, as one user message; or give ``messages``.
            **request: See ``RequestOptions``.

        Returns:
            The request id. The brokers have the record then; a second call with the same ``request_id`` is dropped as
            a duplicate, so that is how to try again after a ``BrokerError``.

        Raises:
            InvalidRequestError: An argument makes no request; nothing was sent.
            BrokerError: Kafka did not take the record, or perhaps did.
            ClientClosedError: The client is not open.
        """
        record = self._record(prompt, request)
        await self._publish(record)
        return record.request_id

    async def start(self, prompt: str | None = None, **request: Unpack[RequestOptions]) -> Handle:
        """Publish a request and return a handle of its result. Arguments and errors as for ``send``."""
        return await self._start(self._record(prompt, request))

    async def ask(
        self,
        prompt: str | None = None,
        *,
        timeout: timedelta | None = None,  # noqa: ASYNC109 - part of the question
        **request: Unpack[RequestOptions],
    ) -> Result:
        """Publish a request and wait for its result. Arguments and errors are those of ``send``, and these.

        Args:
            prompt: As for ``send``.
            timeout: How long to wait; if None until a little after the request's deadline, where each request has
                ended.
            **request: As for ``send``.

        Raises:
            NoResultError: None came in time.
            UnreadableResultError: The result is no JSON of ours.
        """
        record = self._record(prompt, request)
        handle = await self._start(record)
        return await handle.result(_patience(record) if timeout is None else timeout)

    async def feedback(
        self,
        request_id: str,
        score: float | None = None,
        *,
        by: Rater = "human",
        task_class: str = "",
        comment: str = "",
        author: str = "",
        preferred: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Say how good an answer was, so that routing can learn from it.

        Args:
            request_id: Whose answer.
            score: 0 (bad) to 1 (good).
            by: Who says so. Of several the surest counts, a program's word most, and of one kind the first.
            task_class: What the request really was, where that is known.
            comment: Why.
            author: Pseudonym of who says it.
            preferred: What would have been right.
            metadata: Your own words.

        Raises:
            InvalidRequestError: An argument makes no feedback; nothing was sent.
            BrokerError: Kafka did not take the record, or perhaps did; saying it again is harmless.
            ClientClosedError: The client is not open.
        """
        record = make_feedback(
            request_id,
            score,
            by=by,
            task_class=task_class,
            comment=comment,
            author=author,
            preferred=preferred,
            tenant=self._tenant,
            metadata=metadata,
        )
        producer = self._opened()
        async with told(f"publishing feedback on {request_id}"):
            await producer.send_and_wait(
                self._feedback, value=record.value, key=record.key, headers=list(record.headers)
            )

    def results(
        self, *, group: str | None = None, from_beginning: bool = False, remember: int = 100_000
    ) -> ResultStream:
        """All results as they come, each request's once: ``async for result in client.results(): ...``.

        Args:
            group: Consumer group: its members share the results, and its place survives a restart. None reads on its
                own and commits nothing.
            from_beginning: Begin with what is there already; in a group only where it has no place yet.
            remember: How many requests are remembered to drop repeats.
        """
        stream = ResultStream(
            self._bootstrap,
            self._results,
            dict(self._kafka),
            group=group,
            from_beginning=from_beginning,
            remember=remember,
        )
        self._streams = [each for each in self._streams if not each.closed]
        self._streams.append(stream)
        return stream

    def _record(self, prompt: str | None, request: RequestOptions) -> Record:
        if self._tenant and not request.get("tenant"):
            request["tenant"] = self._tenant
        return make_record(prompt, **request)

    async def _start(self, record: Record) -> Handle:
        self._opened()
        await self._waiting.open()
        future = self._waiting.expect(record.request_id)
        await self._publish(record)
        return Handle(record.request_id, future)

    async def _publish(self, record: Record) -> None:
        producer = self._opened()
        async with told(f"publishing request {record.request_id} to {self._intake}"):
            await producer.send_and_wait(self._intake, value=record.value, key=record.key, headers=list(record.headers))

    def _opened(self) -> AIOKafkaProducer:
        if self._producer is None:
            raise ClientClosedError("the client is not open: use it in 'async with Client(...) as client'")
        return self._producer


def _patience(record: Record) -> timedelta:
    return PATIENCE if record.lifetime is None else max(record.lifetime, timedelta(0)) + MARGIN
