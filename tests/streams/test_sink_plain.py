"""At-least-once commits: records first, offsets after, on both brokers."""

import pytest

from schemas.delivery import DeliveryMode
from streams._aiokafka import LinkError, Membership, Wire
from streams.connection import BrokerKind, KafkaConnection
from streams.errors import (
    BrokerUnavailableError,
    CommitUnknownError,
    OutputRefusedError,
    StaleMemberError,
    TopicMissingError,
)
from streams.offsets import committed_offsets
from streams.records import TP, OffsetCommit
from streams.sink import AtLeastOnceSink, Sink
from tests.streams.kafka_world import (
    Fixed,
    make_group,
    make_topic,
    member_of,
    nobody,
    nothing_committed,
    out,
    read_committed,
    take,
    tps_of,
    values,
)


@pytest.fixture
def kafka(kafka_broker: str) -> KafkaConnection:
    return KafkaConnection.at(kafka_broker)


@pytest.fixture
def embedded(embedded_broker: str) -> KafkaConnection:
    return KafkaConnection.at(embedded_broker)


class TestAtLeastOnce:
    async def test_on_kafka(self, kafka: KafkaConnection) -> None:
        topic, target = await make_topic(kafka), await make_topic(kafka)
        group = await make_group(kafka, topic)
        async with member_of(kafka, group, topic) as source:
            sink = AtLeastOnceSink(kafka, source)
            assert sink.mode is DeliveryMode.AT_LEAST_ONCE
            commits = {tp: OffsetCommit(tp.partition + 1, "m" * 3000) for tp in tps_of(topic)}
            await sink.commit(out(target, b"1", b"2"), commits)
            assert await source.committed(tps_of(topic)) == commits
            await _refuses_strangers(sink, AtLeastOnceSink(kafka, _stale(source.membership)), topic)
            await sink.stop()
        assert values(await read_committed(kafka.kafka.bootstrap, target)) == [b"1", b"2"]

    async def test_on_the_embedded_broker(self, embedded: KafkaConnection) -> None:
        topic, target = await make_topic(embedded), await make_topic(embedded)
        group = await make_group(embedded, topic)
        async with member_of(embedded, group, topic, kind=BrokerKind.EMBEDDED) as source:
            sink = AtLeastOnceSink(embedded, source)
            await sink.commit(out(topic, b"a", b"b"), {})
            records = await take(source, 2)
            tp = records[0].tp
            await sink.commit(out(target, b"1", b"2"), {tp: OffsetCommit(2, "m" * 3000)})
            # This broker takes metadata and forgets it: what is done beyond the offset is done again after a restart.
            assert (await source.committed([tp]))[tp] == OffsetCommit(2, "")
            await _refuses_strangers(sink, AtLeastOnceSink(embedded, _stale(source.membership)), topic)
            await sink.stop()
        assert values(await read_committed(embedded.kafka.bootstrap, target)) == [b"1", b"2"]

    async def test_no_offset_without_the_records(self, embedded: KafkaConnection) -> None:
        topic = await make_topic(embedded)
        group = await make_group(embedded, topic)
        sink = AtLeastOnceSink(embedded, nobody(group))
        offsets = {TP(topic, 0): OffsetCommit(1)}
        with pytest.raises(OutputRefusedError) as refused:
            await sink.commit(out(topic, b"a", bytes(embedded.max_message_bytes)), offsets)
        assert refused.value.index == 1
        with pytest.raises(TopicMissingError):
            await sink.commit(out("no-such-topic", b"a"), offsets)
        await nothing_committed(embedded, group, topic)
        await sink.commit(out(topic, b"a"), offsets)
        await sink.stop()
        assert (await committed_offsets(embedded, group, [TP(topic, 0)]))[TP(topic, 0)] == OffsetCommit(1)

    async def test_lost_answers(self, embedded: KafkaConnection, monkeypatch: pytest.MonkeyPatch) -> None:
        topic = await make_topic(embedded)
        group = await make_group(embedded, topic)
        sink = AtLeastOnceSink(embedded, nobody(group))

        async def lose(*_: object, **__: object) -> None:
            raise LinkError("lost")

        with monkeypatch.context() as patched:
            patched.setattr(Wire, "offset_commit", lose)
            with pytest.raises(CommitUnknownError):
                await sink.commit(out(topic, b"a"), {TP(topic, 0): OffsetCommit(1)})
        await sink.commit([], {TP(topic, 0): OffsetCommit(1)})
        await sink.stop()
        assert values(await read_committed(embedded.kafka.bootstrap, topic)) == [b"a"]

    async def test_nobody_there(self) -> None:
        sink = AtLeastOnceSink(KafkaConnection.at("127.0.0.1:1"), nobody("g"))
        with pytest.raises(BrokerUnavailableError, match="no offset was committed"):
            await sink.commit([], {TP("t", 0): OffsetCommit(1)})
        await sink.stop()


async def _refuses_strangers(sink: Sink, stranger: Sink, topic: str) -> None:
    with pytest.raises(StaleMemberError):
        await stranger.commit([], {TP(topic, 0): OffsetCommit(99)})
    await stranger.stop()
    await sink.commit([], {TP(topic, 0): OffsetCommit(2)})


def _stale(member: Membership | None) -> Fixed:
    assert member is not None
    return Fixed(member._replace(generation=member.generation + 1))
