"""Reading topics on one's own: all partitions of all topics, from a place or a time, on both brokers."""

import asyncio
from datetime import timedelta

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaTimeoutError

from streams.brokers import EmbeddedBroker
from streams.connection import BrokerKind, KafkaConnection
from streams.errors import BrokerUnavailableError, TopicMissingError
from streams.log_reader import LogReader, Start, open_log
from streams.probe import probe
from streams.records import TP
from streams.sink import AtLeastOnceSink
from streams.source import Source
from tests.streams.kafka_world import Recorder, make_group, make_topic, out, produce_raw, wire_to

SHORTLY = timedelta(milliseconds=100)
FAR_BACK_MS = 1_000_000_000_000


class _Nobody:
    membership = None


async def write(connection: KafkaConnection, topic: str, *contents: bytes) -> None:
    sink = AtLeastOnceSink(connection, _Nobody())
    await sink.start()
    for content in contents:
        await sink.commit(out(topic, content, key=content), {})
    await sink.stop()


async def values(reader: LogReader, count: int) -> list[bytes]:
    found: list[bytes] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            found += [record.value or b"" for record in await reader.poll(timedelta(milliseconds=200))]
    return sorted(found)


class TestOpenLog:
    @pytest.fixture
    def connection(self, any_broker: str) -> KafkaConnection:
        return KafkaConnection.at(any_broker)

    @pytest.fixture
    async def kind(self, connection: KafkaConnection) -> BrokerKind:
        return (await probe(connection)).kind

    async def test_reads_all_partitions_of_all_topics(self, connection: KafkaConnection, kind: BrokerKind) -> None:
        topics = [await make_topic(connection), await make_topic(connection)]
        for number, topic in enumerate(topics):
            await write(connection, topic, *(b"%d-%d" % (number, each) for each in range(6)))
        async with open_log(connection, topics, kind=kind) as reader:
            assert len(reader.partitions) == 6
            assert await values(reader, 12) == sorted(b"%d-%d" % (n, each) for n in range(2) for each in range(6))

    async def test_asks_seldom_while_nothing_comes_and_still_sees_what_does(
        self, connection: KafkaConnection, kind: BrokerKind
    ) -> None:
        topic = await make_topic(connection)
        async with open_log(connection, [topic], kind=kind) as reader:
            for _ in range(8):
                assert await reader.poll(timedelta(milliseconds=50)) == []
            await write(connection, topic, b"late")
            assert await values(reader, 1) == [b"late"]

    async def test_begins_where_it_is_told(self, connection: KafkaConnection, kind: BrokerKind) -> None:
        topic = await make_topic(connection, partitions=1)
        await write(connection, topic, b"0", b"1", b"2")
        async with open_log(connection, [topic], kind=kind, offsets={TP(topic, 0): 2}) as reader:
            assert await values(reader, 1) == [b"2"]
        if kind is BrokerKind.KAFKA:  # the embedded one tells the end late
            async with open_log(connection, [topic], kind=kind, start=Start.LATEST) as reader:
                await write(connection, topic, b"3")
                assert await values(reader, 1) == [b"3"]

    async def test_begins_at_a_time_also_while_there_is_nothing(
        self, connection: KafkaConnection, kind: BrokerKind
    ) -> None:
        topic = await make_topic(connection)
        async with open_log(connection, [topic], kind=kind, since_ms=FAR_BACK_MS) as reader:
            await write(connection, topic, b"a", b"b", b"c")
            assert await values(reader, 3) == [b"a", b"b", b"c"]
        async with open_log(connection, [topic], kind=kind, since_ms=FAR_BACK_MS) as reader:
            assert await values(reader, 3) == [b"a", b"b", b"c"]

    async def test_a_header_name_that_is_no_text_stops_nobody(
        self, connection: KafkaConnection, kind: BrokerKind
    ) -> None:
        topic = await make_topic(connection)
        async with wire_to(connection) as wire:
            await wire.partitions(topic)
            for number in range(3):
                await produce_raw(wire, TP(topic, number), poisoned=number == 1)
        async with open_log(connection, [topic], kind=kind) as reader:
            assert await values(reader, 9) == sorted([b"%d" % number * 100 for number in range(3)] * 3)
            await write(connection, topic, b"after")
            assert await values(reader, 1) == [b"after"]

    async def test_a_broker_that_goes_while_a_log_is_opened_is_away(
        self, connection: KafkaConnection, kind: BrokerKind, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Readers wait for one that is away, and end over everything else."""
        topic = await make_topic(connection)

        async def time_out(*_: object) -> None:
            await asyncio.sleep(0)
            raise KafkaTimeoutError

        monkeypatch.setattr(AIOKafkaConsumer, "beginning_offsets", time_out)
        with pytest.raises(BrokerUnavailableError, match=r"127\.0\.0\.1"):
            async with open_log(connection, [topic], kind=kind):
                pass

    async def test_a_missing_topic_is_named(self, connection: KafkaConnection, kind: BrokerKind) -> None:
        with pytest.raises(TopicMissingError, match="nowhere"):
            async with open_log(connection, ["nowhere"], kind=kind):
                pass


async def test_a_broker_that_went_takes_nobody_with_it_and_leaves_nothing_behind() -> None:
    """The client ends with the cancellation of its own tasks then, and whoever awaited that would seem cancelled."""
    at_rest = asyncio.all_tasks()
    async with EmbeddedBroker() as broker:
        connection = KafkaConnection.at(broker.address)
        topic = await make_topic(connection)
        group = await make_group(connection, topic)
        listener = Recorder()
        source = Source(connection, group=group, topics=[topic], listener=listener, kind=BrokerKind.EMBEDDED)
        await source.start()
        await listener.assigned()
        reading = open_log(connection, [topic], kind=BrokerKind.EMBEDDED)
        reader = await reading.__aenter__()
        await reader.poll(SHORTLY)
    for _ in range(5):
        await reader.poll(SHORTLY)
        await source.poll(SHORTLY)
    await reading.__aexit__(None, None, None)
    await source.stop()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() <= at_rest
