"""Reading topics from outside the flow: no group, no offsets, from somewhere to the present end."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Final

from aiokafka import AIOKafkaConsumer, ConsumerRecord

from streams.clients import partitions_of, reader
from streams.connection import BrokerKind, KafkaConnection
from streams.errors import BrokerUnavailableError, TopicMissingError
from streams.records import TP, InRecord

QUIET: Final = timedelta(milliseconds=300)
"""An empty answer after this ends a read: a broker may name an end that lies a batch before the last record."""
PATIENCE: Final = timedelta(seconds=20)
"""How long a read may make no progress before the end that the broker named."""
_BATCH: Final = 500


async def read_newest(connection: KafkaConnection, topic: str, limit: int, kind: BrokerKind) -> list[InRecord]:
    """The newest records of a topic by timestamp, oldest of them first.

    Args:
        connection: Where.
        topic: Physical topic.
        limit: Most records to return; at most so many offsets of each partition are read.
        kind: What answers.

    Raises:
        TopicMissingError: There is no such topic.
        BrokerUnavailableError: No answer, or none any more before the end.
    """
    partitions = await _partitions(connection, topic)
    async with reader(connection, kind) as consumer:
        starts = await consumer.beginning_offsets(partitions)
        ends = await consumer.end_offsets(partitions)
        consumer.assign(partitions)
        for tp in partitions:
            consumer.seek(tp, max(starts[tp], ends[tp] - limit))
        found: list[InRecord] = []
        async for records in _to_end(consumer, ends):
            found += records
            found.sort(key=lambda record: (record.timestamp_ms, record.partition, record.offset))
            del found[:-limit]
        return found


async def read_one(
    connection: KafkaConnection, topic: str, partition: int, offset: int, kind: BrokerKind
) -> InRecord | None:
    """One record; None if the log has none at this offset (any more).

    Raises:
        TopicMissingError: There is no such topic or partition.
        BrokerUnavailableError: No answer.
    """
    tp = TP(topic, partition)
    if tp not in await _partitions(connection, topic):
        raise TopicMissingError(f"topic {topic} has no partition {partition}")
    async with reader(connection, kind) as consumer:
        start = (await consumer.beginning_offsets([tp]))[tp]
        if offset < start:
            return None
        consumer.assign([tp])
        consumer.seek(tp, offset)
        end = (await consumer.end_offsets([tp]))[tp]
        async for records in _to_end(consumer, {tp: end}):
            for record in records:
                return record if record.offset == offset else None
        return None


async def _partitions(connection: KafkaConnection, topic: str) -> list[TP]:
    found = await partitions_of(connection, [topic])
    if topic not in found:
        raise TopicMissingError(f"topic {topic} does not exist: create it, or correct the name or prefix")
    return found[topic]


async def _to_end(consumer: AIOKafkaConsumer, ends: dict[TP, int]) -> AsyncIterator[Sequence[InRecord]]:
    """Batches until every partition is at its end and the broker has nothing more."""
    loop = asyncio.get_running_loop()
    progress = loop.time()
    while True:
        fetched = await consumer.getmany(timeout_ms=int(QUIET.total_seconds() * 1000), max_records=_BATCH)
        if fetched:
            progress = loop.time()
            yield [as_record(raw) for raws in fetched.values() for raw in raws]
            continue
        # Positions, not records: the last offsets of a log may be transaction markers.
        behind = [tp for tp, end in ends.items() if await consumer.position(tp) < end]
        if not behind:
            return
        if loop.time() - progress > PATIENCE.total_seconds():
            raise BrokerUnavailableError(f"no records for {PATIENCE.total_seconds():g} s before the end of {behind}")


def as_record(raw: ConsumerRecord) -> InRecord:
    """The client's record as ours; a null header value reads as empty bytes."""
    headers = tuple((name, value or b"") for name, value in raw.headers)
    return InRecord(
        raw.topic, raw.partition, raw.offset, raw.timestamp, raw.timestamp_type, raw.key, raw.value, headers
    )
