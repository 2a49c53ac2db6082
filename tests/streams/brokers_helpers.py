"""What the tests of the brokers share."""

import asyncio
import uuid
from collections.abc import Sequence

import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic


def listens_on(pid: int) -> set[str]:
    """Every address on which a process listens, of any family."""
    connections = psutil.Process(pid).net_connections("inet")
    return {f"{c.laddr.ip}:{c.laddr.port}" for c in connections if c.status == psutil.CONN_LISTEN}


async def create_topic(bootstrap: str, *, replicas: int = 1) -> str:
    topic = f"brokers-{uuid.uuid4().hex}"
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=replicas)])
    finally:
        await admin.close()
    return topic


async def produce(bootstrap: str, topic: str, values: Sequence[str]) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all") as producer:
        for value in values:
            await producer.send_and_wait(topic, value.encode())


async def consume(bootstrap: str, topic: str, count: int) -> list[str]:
    """The first records of a topic, read without a group."""
    async with (
        asyncio.timeout(60),
        AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer,
    ):
        return [(await consumer.getone()).value.decode() for _ in range(count)]


async def round_trip(bootstrap: str, values: Sequence[str]) -> None:
    topic = await create_topic(bootstrap)
    await produce(bootstrap, topic, values)
    assert await consume(bootstrap, topic, len(values)) == list(values)
