"""The Kafka clients underneath, with the defaults that matter here set right."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from tierflow_client.errors import BrokerError

FETCH_WAIT_MS: Final = 100
"""Longest wait of a fetch at the broker. Kafka answers earlier when there is something; Tierflow's embedded broker does
not, and then this bounds how late a result is noticed."""


@asynccontextmanager
async def told(doing: str) -> AsyncIterator[None]:
    """Turns Kafka's errors into ours.

    Raises:
        BrokerError: What was being done, and what Kafka said.
    """
    try:
        yield
    except (KafkaError, OSError) as error:
        raise BrokerError(f"{doing}: {error!r}") from error


async def start_producer(bootstrap: str, options: dict[str, Any]) -> AIOKafkaProducer:
    """A producer that waits for all replicas. Its partitioner is that of Kafka's Java client."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", **options)
    async with told(f"connecting to {bootstrap}"):
        try:
            await producer.start()
        except BaseException:
            await producer.stop()
            raise
    return producer


async def start_consumer(
    bootstrap: str, options: dict[str, Any], *, group: str | None, beginning: bool
) -> AIOKafkaConsumer:
    """A consumer of committed records that commits only when it is told to."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=group,
        enable_auto_commit=False,
        isolation_level="read_committed",
        auto_offset_reset="earliest" if beginning else "latest",
        fetch_max_wait_ms=FETCH_WAIT_MS,
        **options,
    )
    async with told(f"connecting to {bootstrap}"):
        try:
            await consumer.start()
        except BaseException:
            await consumer.stop()
            raise
    return consumer


async def assign_all(consumer: AIOKafkaConsumer, topic: str, *, beginning: bool) -> None:
    """Assign all partitions of a topic, and fix where reading starts before anything else happens.

    Raises:
        BrokerError: There is no such topic, or no answer.
    """
    async with told(f"reading {topic}"):
        # All topics are asked for: asking for one by name could make it.
        if topic not in await consumer.topics():
            raise BrokerError(f"there is no topic {topic}: is the prefix right?")
        partitions = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]
        consumer.assign(partitions)
        ask = consumer.beginning_offsets if beginning else consumer.end_offsets
        for partition, offset in (await ask(partitions)).items():
            consumer.seek(partition, offset)
