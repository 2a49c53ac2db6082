"""Clients for work beside the flow (tools, checks, reports): opened, closed, errors in our words."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from streams._aiokafka_consumer import stop_client
from streams.connection import BrokerKind, KafkaConnection
from streams.errors import BrokerUnavailableError
from streams.records import TP


@asynccontextmanager
async def admin_client(connection: KafkaConnection) -> AsyncIterator[AIOKafkaAdminClient]:
    """A started admin client.

    Raises:
        BrokerUnavailableError: No answer.
    """
    client = AIOKafkaAdminClient(**connection.client_arguments("admin"))
    try:
        await client.start()
        yield client
    except (KafkaError, TimeoutError) as error:
        raise BrokerUnavailableError(f"{connection.kafka.bootstrap}: {error!r}") from error
    finally:
        await client.close()


@asynccontextmanager
async def reader(
    connection: KafkaConnection, kind: BrokerKind = BrokerKind.UNKNOWN, *, committed: bool = True
) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer without a group.

    Args:
        connection: Where.
        kind: What answers.
        committed: Stop at open transactions and leave out aborted ones.

    Raises:
        BrokerUnavailableError: No answer.
    """
    arguments = connection.consumer_arguments(None, kind) | {"auto_offset_reset": "earliest"}
    if not committed:
        arguments["isolation_level"] = "read_uncommitted"
    consumer = AIOKafkaConsumer(**arguments)
    try:
        await consumer.start()
        yield consumer
    except KafkaError as error:
        raise BrokerUnavailableError(f"{connection.kafka.bootstrap}: {error!r}") from error
    finally:
        await stop_client(consumer)


async def described(client: AIOKafkaAdminClient, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What the broker says of those topics that exist, by physical name.

    Only what is listed is described: a broker may make a topic that is asked for by name.
    """
    listed = sorted(set(names) & set(await client.list_topics()))
    return {topic["topic"]: topic for topic in (await client.describe_topics(listed) if listed else ())}


async def partitions_of(connection: KafkaConnection, names: Iterable[str]) -> dict[str, list[TP]]:
    """The partitions of those topics that exist, in order.

    Raises:
        BrokerUnavailableError: No answer.
    """
    async with admin_client(connection) as client:
        found = await described(client, names)
    return {
        name: [TP(name, number) for number in sorted(part["partition"] for part in topic["partitions"])]
        for name, topic in found.items()
    }
