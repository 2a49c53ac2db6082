"""Publishing requests, and waiting for what becomes of them."""

import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from schemas.codec import Codec
from schemas.edges import Result
from schemas.errors import OutputRefusedError, TierflowError
from schemas.headers import JSON, Header, Name, value_of
from streams.deadletters import ParkedRecord, parse_dead_letter
from streams.log_reader import LogReader, Start, open_log
from streams.records import InRecord, OutRecord
from streams.runtime import Platform
from streams.sink import AtLeastOnceSink
from streams.topics import REQUESTS, RESULTS, dead_letter_topic
from tierflow.requests_file import RequestLine

BATCH: Final = 200
"""Records that go out together."""
LARGE: Final = 256 * 1024
"""Bytes from which a record goes out alone: one that the broker refuses then refuses nothing else."""
_POLL: Final = timedelta(milliseconds=500)
_CLASSIFIER: Final = "classifier"


class _Nobody:
    """Writes without being a member of a group."""

    membership = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """Headers for lines that don't name them.

    Attributes:
        topic: Logical intake topic.
        headers: Name and value.
        lifetime: How long a request may live; None leaves that to the rules.
    """

    topic: str = REQUESTS
    headers: Sequence[tuple[str, str]] = ()
    lifetime: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A line, ready to be published.

    Attributes:
        line: Where it came from.
        request_id: Its id; empty if the line wants none, so that it is derived from the record's place.
        record: What to write, ``line.repeat`` times.
    """

    line: RequestLine
    request_id: str
    record: OutRecord


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of publishing a line.

    Attributes:
        prepared: What was published.
        error: Why the broker refused it; None if it took it.
    """

    prepared: Prepared
    error: OutputRefusedError | None = None


def prepare(line: RequestLine, topic: str, defaults: Defaults, *, now_ms: int, new_id: str) -> Prepared:
    """The record that publishes a line.

    Args:
        line: Of a file, or made from options.
        topic: Physical intake topic.
        defaults: Headers for lines that don't name them.
        now_ms: Unix milliseconds; lifetimes count from here.
        new_id: Request id for a line that names none.
    """
    headers: dict[str, str | None] = {Name.REQUEST_ID.value: new_id, Name.CONTENT_TYPE.value: JSON}
    headers.update(defaults.headers)
    lifetime = line.lifetime or defaults.lifetime
    if lifetime is not None:
        headers[Name.DEADLINE.value] = str(now_ms + lifetime // timedelta(milliseconds=1))
    headers.update(line.headers)
    request_id = headers[Name.REQUEST_ID.value] or ""
    session = line.value.get("session") if line.value is not None else None
    key = line.key if line.keyed else (session if isinstance(session, str) and session else request_id or None)
    pairs: list[Header] = [(name, value.encode()) for name, value in headers.items() if value is not None]
    return Prepared(line, request_id, OutRecord(topic, None if key is None else key.encode(), line.payload, pairs))


@asynccontextmanager
async def open_sender(platform: Platform) -> AsyncIterator[AtLeastOnceSink]:
    """A connection to write with.

    Raises:
        DeliveryError: The broker does not answer or lets us not in.
    """
    sink = AtLeastOnceSink(platform.connection, _Nobody())
    await sink.start()
    try:
        yield sink
    finally:
        await sink.stop()


async def publish(sink: AtLeastOnceSink, prepared: Iterable[Prepared]) -> AsyncIterator[list[Sent]]:
    """Write requests in their order and tell of each batch once it can't be lost.

    Raises:
        DeliveryError: The broker does not take records any more; batches that were told are written.
    """
    for batch in _batches(prepared):
        records = [each.record for each in batch for _ in range(each.line.repeat)]
        try:
            await sink.commit(records, {})
        except OutputRefusedError as error:
            if len(batch) > 1:
                raise
            yield [Sent(batch[0], error)]
        else:
            yield [Sent(each) for each in batch]


def _batches(prepared: Iterable[Prepared]) -> Iterator[list[Prepared]]:
    batch: list[Prepared] = []
    count = 0
    for each in prepared:
        large = len(each.record.value or b"") >= LARGE
        if batch and (large or count + each.line.repeat > BATCH):
            yield batch
            batch, count = [], 0
        batch.append(each)
        count += each.line.repeat
        if large:
            yield batch
            batch, count = [], 0
    if batch:
        yield batch


@dataclass(frozen=True, slots=True)
class Ended:
    """How a request ended, as far as its producer sees it.

    Attributes:
        request_id: Which.
        result: Its result; None if it ended as a dead letter.
        parked: Its dead letter; None if it has a result.
        after: From publication to the record's arrival here.
    """

    request_id: str
    result: Result | None
    parked: ParkedRecord | None
    after: timedelta


@dataclass(eq=False)
class Waiter:
    """Waits for results and dead letters of requests; open it before they are published."""

    reader: LogReader
    codec: Codec
    results_topic: str
    unreadable: list[str] = field(default_factory=list)
    _sent: dict[str, float] = field(default_factory=dict)

    def expect(self, request_id: str) -> None:
        """A request was, or is just being, published. The clock of its ``after`` starts."""
        if request_id:
            self._sent.setdefault(request_id, time.monotonic())

    def forget(self, request_id: str) -> None:
        """It was not published after all."""
        self._sent.pop(request_id, None)

    @property
    def waiting(self) -> int:
        """How many have not ended."""
        return len(self._sent)

    @property
    def missing(self) -> list[str]:
        """Those that have not ended."""
        return list(self._sent)

    async def ended(self, within: timedelta) -> AsyncIterator[Ended]:
        """Requests as they end, each once, until all have or the time is over.

        Raises:
            DeliveryError: The broker does not answer.
        """
        until = time.monotonic() + within.total_seconds()
        while self._sent and time.monotonic() < until:
            for record in await self.reader.poll(_POLL):
                if (found := self._found(record)) is not None:
                    yield found

    def _found(self, record: InRecord) -> Ended | None:
        result: Result | None = None
        parked: ParkedRecord | None = None
        try:
            if record.topic == self.results_topic:
                request_id = value_of(record.headers, Name.REQUEST_ID) or ""
                if request_id not in self._sent:
                    return None
                content_type = value_of(record.headers, Name.CONTENT_TYPE) or ""
                result = self.codec.decode(Result, record.value or b"", content_type)
            else:
                parked = parse_dead_letter(record)
                request_id = parked.request_id
        except TierflowError as error:
            self.unreadable.append(f"{record.topic}/{record.partition}/{record.offset}: {error}")
            return None
        started = self._sent.pop(request_id, None)
        if started is None:
            return None
        return Ended(request_id, result, parked, timedelta(seconds=time.monotonic() - started))


@asynccontextmanager
async def open_waiter(platform: Platform, codec: Codec) -> AsyncIterator[Waiter]:
    """A waiter that sees everything from now on.

    Raises:
        DeliveryError: The broker does not answer, or has no such topics.
    """
    results = platform.names.topic(RESULTS)
    topics = [results, platform.names.topic(dead_letter_topic(_CLASSIFIER))]
    async with open_log(platform.connection, topics, kind=platform.capabilities.kind, start=Start.LATEST) as reader:
        yield Waiter(reader, codec, results)
