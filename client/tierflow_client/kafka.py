"""The Kafka clients underneath, with the defaults that matter here set right."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
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


async def partitions_of(bootstrap: str, options: dict[str, Any], topic: str) -> list[TopicPartition]:
    """All partitions of a topic. A consumer that is subscribed to nothing does not know them.

    Raises:
        BrokerError: There is no such topic, or no answer.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, **options)
    async with told(f"asking for {topic}"):
        try:
            await admin.start()
            # All topics are listed first: asking for one by name could make it.
            if topic not in await admin.list_topics():
                raise BrokerError(f"there is no topic {topic}: is the prefix right?")
            (found,) = await admin.describe_topics([topic])
        finally:
            await admin.close()
    return [TopicPartition(topic, number) for number in sorted(part["partition"] for part in found["partitions"])]


async def assign_all(consumer: AIOKafkaConsumer, partitions: list[TopicPartition], *, beginning: bool) -> None:
    """Assign partitions, and fix where reading starts before anything else happens.

    Raises:
        BrokerError: No answer.
    """
    async with told("finding where to read"):
        consumer.assign(partitions)
        ask = consumer.beginning_offsets if beginning else consumer.end_offsets
        for partition, offset in (await ask(partitions)).items():
            consumer.seek(partition, offset)
