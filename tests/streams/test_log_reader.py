"""Reading a whole topic on one's own, on both brokers."""

import uuid
from datetime import timedelta

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from schemas.settings import KafkaSettings, Settings
from streams.errors import TopicMissingError
from streams.log_reader import Start, open_log
from streams.records import TP, InRecord
from streams.runtime import Platform, find_platform

WAIT = timedelta(milliseconds=300)
PARTITIONS = 3


@pytest.fixture
async def platform(any_broker: str) -> Platform:
    return await find_platform(Settings(kafka=KafkaSettings(bootstrap=any_broker)))


@pytest.fixture
async def topic(platform: Platform) -> str:
    name = f"log-{uuid.uuid4().hex[:8]}"
    admin = AIOKafkaAdminClient(bootstrap_servers=platform.settings.kafka.bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, PARTITIONS, 1)])
    finally:
        await admin.close()
    return name


async def write(platform: Platform, topic: str, *values: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=platform.settings.kafka.bootstrap, acks="all") as producer:
        for number, value in enumerate(values):
            await producer.send_and_wait(topic, value, partition=number % PARTITIONS)


async def read(reader, count: int) -> list[InRecord]:
    found: list[InRecord] = []
    for _ in range(40):
        found += await reader.poll(WAIT)
        if len(found) >= count:
            break
    return found


async def test_everything_there_is_and_what_comes_later(platform, topic):
    await write(platform, topic, b"a", b"b", b"c", b"d")
    async with open_log(platform.connection, [topic], kind=platform.capabilities.kind) as reader:
        assert reader.partitions == tuple(TP(topic, number) for number in range(PARTITIONS))
        assert {record.value for record in await read(reader, 4)} == {b"a", b"b", b"c", b"d"}
        assert await reader.ends() == {TP(topic, 0): 2, TP(topic, 1): 1, TP(topic, 2): 1}
        for _ in range(8):
            assert await reader.poll(timedelta(milliseconds=50)) == []  # long enough to ask seldom
        await write(platform, topic, b"e")
        assert [record.value for record in await read(reader, 1)] == [b"e"]
        assert await reader.position(TP(topic, 0)) == 3


async def test_from_the_end_or_from_given_offsets(platform, topic):
    await write(platform, topic, b"a", b"b", b"c", b"d")
    kind = platform.capabilities.kind
    async with open_log(platform.connection, [topic], kind=kind, start=Start.LATEST) as reader:
        await write(platform, topic, b"new")
        assert [record.value for record in await read(reader, 1)] == [b"new"]
    offsets = {TP(topic, 0): 1, TP(topic, 1): 1, TP(topic, 2): 0}
    async with open_log(platform.connection, [topic], kind=kind, offsets=offsets) as reader:
        assert {record.value for record in await read(reader, 3)} == {b"d", b"c", b"new"}


async def test_a_topic_that_is_not_there_is_named(platform):
    with pytest.raises(TopicMissingError, match="no topic nowhere"):
        async with open_log(platform.connection, ["nowhere"], kind=platform.capabilities.kind):
            pass
