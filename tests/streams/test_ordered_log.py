"""An ordered log on real brokers: what the adapter promises beyond the behaviour of the port."""

import asyncio
from datetime import timedelta
from itertools import count

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from schemas.errors import BrokerUnavailableError
from streams.brokers.embedded import EmbeddedBroker
from streams.connection import BrokerKind, KafkaConnection
from streams.errors import OffsetsLostError, OutputRefusedError, TopicMissingError
from streams.ordered_log import KafkaOrderedLog

LONG = timedelta(seconds=20)
SHORT = timedelta(milliseconds=200)
_topics = count()


class Broker:
    """A broker and a fresh topic on it."""

    def __init__(self, address: str, kind: str) -> None:
        self.address = address
        self.kind = BrokerKind(kind)
        self.topic = f"registry-log-{next(_topics)}"

    async def create(self, **config: str) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.address)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(self.topic, 1, 1, topic_configs=config)])
            while self.topic not in await admin.list_topics():  # what the controller has made, brokers know soon
                await asyncio.sleep(0.02)
        finally:
            await admin.close()

    def log(self) -> KafkaOrderedLog:
        return KafkaOrderedLog(KafkaConnection.at(self.address), topic=self.topic, kind=self.kind)


@pytest.fixture(
    params=[
        pytest.param("embedded", marks=pytest.mark.embedded),
        pytest.param("kafka", marks=[pytest.mark.kafka, pytest.mark.xdist_group("kafka")]),
    ]
)
def broker(request: pytest.FixtureRequest) -> Broker:
    return Broker(request.getfixturevalue(f"{request.param}_broker"), request.param)


async def test_records_come_back_in_order_with_their_places(broker: Broker) -> None:
    await broker.create()
    async with broker.log() as log:
        assert await log.read() == []
        assert [await log.append(b"k%d" % n, b"v%d" % n) for n in range(3)] == [0, 1, 2]
        assert [tuple(each) for each in await log.read()] == [(n, b"k%d" % n, b"v%d" % n) for n in range(3)]
        assert [each.position for each in await log.read(1)] == [1, 2]
        assert await log.read(3) == []


async def test_a_writer_sees_its_own_record(broker: Broker) -> None:
    await broker.create()
    async with broker.log() as log:
        for _ in range(5):
            at = await log.append(b"k", b"v")
            assert (await log.read(through=at))[-1].position == at


async def test_a_waiting_reader_gets_what_another_writes(broker: Broker) -> None:
    await broker.create()
    async with broker.log() as reader, broker.log() as writer:
        assert list(await reader.poll(0, SHORT)) == []
        waiting = asyncio.create_task(reader.poll(0, LONG))
        await writer.append(b"k", b"one")
        assert [each.value for each in await waiting] == [b"one"]
        await writer.append(b"k", b"two")
        assert [each.value for each in await reader.poll(1, LONG)] == [b"two"]
        assert [each.value for each in await reader.poll(0, LONG)] == [b"one", b"two"]


async def test_a_missing_topic_is_named(broker: Broker) -> None:
    with pytest.raises(TopicMissingError, match=rf"no topic {broker.topic} at .*: create the topics first"):
        await broker.log().start()


async def test_an_unused_log_says_so() -> None:
    with pytest.raises(BrokerUnavailableError, match="was not started"):
        await KafkaOrderedLog(KafkaConnection.at("127.0.0.1:1"), topic="registry").read()


async def test_no_broker_is_told_with_its_address() -> None:
    with pytest.raises(BrokerUnavailableError, match=r"127\.0\.0\.1:1, topic registry"):
        await KafkaOrderedLog(KafkaConnection.at("127.0.0.1:1"), topic="registry").start()


@pytest.mark.kafka
async def test_a_snapshot_that_the_topic_does_not_take_is_refused(kafka_broker: str) -> None:
    broker = Broker(kafka_broker, "kafka")
    await broker.create(**{"max.message.bytes": "2000"})
    async with broker.log() as log:
        with pytest.raises(OutputRefusedError, match="larger than the topic takes"):
            await log.append(b"k", b"v" * 5000)
        assert await log.append(b"k", b"v") == 0


@pytest.mark.kafka
async def test_a_log_that_was_made_anew_is_noticed(kafka_broker: str) -> None:
    broker = Broker(kafka_broker, "kafka")
    await broker.create()
    async with broker.log() as log:
        await log.append(b"k", b"v")
        with pytest.raises(OffsetsLostError, match="start the agents again"):
            await log.poll(99, LONG)
        assert len(await log.read()) == 1  # and it goes on afterwards


@pytest.mark.embedded
async def test_it_can_be_closed_while_the_broker_is_away() -> None:
    try:
        embedded = EmbeddedBroker()
        await embedded.start()
    except Exception as error:  # noqa: BLE001
        pytest.skip(str(error))
    try:
        broker = Broker(embedded.address, "embedded")
        await broker.create()
        log = broker.log()
        await log.start()
        await log.append(b"k", b"v")
        await embedded.kill()
        assert list(await log.poll(1, SHORT)) == []
        await log.stop()
    finally:
        await embedded.stop()
