"""Commits on real brokers: all or nothing, fenced, and clear about doubt."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from datetime import timedelta

import psutil
import pytest
from confluent_kafka import Producer

from schemas.delivery import DeliveryMode
from schemas.settings import LoopSettings
from streams._aiokafka import GROUP, TRANSACTION, LinkError, ProducerId, Wire
from streams._codes import Code
from streams.connection import BATCH_BYTES, KafkaConnection
from streams.errors import (
    BrokerUnavailableError,
    CommitUnknownError,
    FencedError,
    MetadataTooLargeError,
    OutputRefusedError,
    StaleMemberError,
    TopicMissingError,
)
from streams.offsets import committed_offsets
from streams.records import TP, OffsetCommit, OutRecord
from streams.sink import TransactionalSink
from tests.faults.reading import committed
from tests.streams.kafka_world import (
    Fixed,
    Recorder,
    ended,
    make_group,
    make_topic,
    member_of,
    nobody,
    nothing_committed,
    open_offsets,
    out,
    poll_for_ever,
    read_committed,
    take,
    tps_of,
    values,
    wire_to,
)

SHORT = LoopSettings(commit_timeout=timedelta(seconds=2), transaction_timeout=timedelta(seconds=3))


@pytest.fixture
def kafka(kafka_broker: str) -> KafkaConnection:
    return KafkaConnection.at(kafka_broker)


class TestExactlyOnce:
    async def test_records_and_offsets_together(self, kafka: KafkaConnection) -> None:
        topic, target = await make_topic(kafka), await make_topic(kafka)
        group = await make_group(kafka, topic)
        async with member_of(kafka, group, topic) as source:
            sink = TransactionalSink(kafka, source, transactional_id=group)
            assert sink.mode is DeliveryMode.EXACTLY_ONCE
            await sink.start()
            await sink.commit(out(topic, b"a", b"b", b"c"), {})
            records = await take(source, 3)
            assert [(record.value, record.key, record.headers) for record in records] == [
                (value, b"k", (("n", b"1"),)) for value in (b"a", b"b", b"c")
            ]
            tp, metadata = records[0].tp, "m" * 3000
            await sink.commit(out(target, b"1", b"2"), {tp: OffsetCommit(records[-1].offset + 1, metadata)})
            assert (await source.committed([tp]))[tp] == OffsetCommit(3, metadata)
            await sink.stop()
        assert values(await read_committed(kafka.kafka.bootstrap, target)) == [b"1", b"2"]

    async def test_two_producers_take_turns_and_offsets_only_rise(self, kafka: KafkaConnection) -> None:
        """The next commit begins while the broker still writes the last one's markers."""
        topic, target = await make_topic(kafka), await make_topic(kafka, partitions=1)
        group, seen = await make_group(kafka, topic), []
        async with member_of(kafka, group, topic) as source:
            sink = TransactionalSink(kafka, source, transactional_id=group)
            tp = TP(topic, 0)
            for number in range(1, 61):
                await sink.commit(out(target, b"%d" % number), {tp: OffsetCommit(number)})
                if number % 7 == 0:
                    found = await asyncio.to_thread(committed, kafka.kafka.bootstrap, {group: [tp]})
                    seen.append(found[group, tp])
            assert (await source.committed([tp]))[tp] == OffsetCommit(60)
            assert sink.resets == 0
            await sink.stop()
        assert seen == sorted(seen)
        written = [value for _, value in await read_committed(kafka.kafka.bootstrap, target, 1)]
        assert written == [b"%d" % number for number in range(1, 61)]

    async def test_offsets_alone_and_records_alone(self, kafka: KafkaConnection) -> None:
        topic = await make_topic(kafka)
        group = await make_group(kafka, topic)
        sink = TransactionalSink(kafka, nobody(group), transactional_id=group)
        await sink.commit([], {})
        for offset in range(1, 4):
            await sink.commit([], {TP(topic, 0): OffsetCommit(offset)})
        await sink.commit(out(topic, b"x"), {})
        await sink.stop()
        assert (await committed_offsets(kafka, group, [TP(topic, 0)]))[TP(topic, 0)] == OffsetCommit(3)
        assert values(await read_committed(kafka.kafka.bootstrap, topic)) == [b"x"]

    async def test_order_and_more_than_a_batch(self, kafka: KafkaConnection) -> None:
        target = await make_topic(kafka)
        sink = TransactionalSink(kafka, nobody("unused"), transactional_id=target)
        contents = [b"%06d" % number + bytes(20_000) for number in range(100)]  # four batches
        assert sum(map(len, contents)) > 3 * BATCH_BYTES
        await sink.commit(out(target, *contents), {})
        await sink.commit(out(target, b"last"), {})
        await sink.stop()
        rows = await read_committed(kafka.kafka.bootstrap, target)
        assert [value for _, value in rows] == [*contents, b"last"]
        assert len({partition for partition, _ in rows}) == 1

    async def test_keys_go_where_java_puts_them(self, kafka: KafkaConnection) -> None:
        ours, theirs = await make_topic(kafka, partitions=7), await make_topic(kafka, partitions=7)
        keys = [b"", b"a", "Grüße".encode(), *(b"key-%d" % number for number in range(200))]
        sink = TransactionalSink(kafka, nobody("unused"), transactional_id=ours)
        await sink.commit([OutRecord(ours, key, b"%d" % number) for number, key in enumerate(keys)], {})
        await sink.stop()
        producer = Producer({"bootstrap.servers": kafka.kafka.bootstrap, "partitioner": "murmur2"})
        for number, key in enumerate(keys):
            producer.produce(theirs, b"%d" % number, key)
        assert await asyncio.to_thread(producer.flush, 30) == 0
        bootstrap = kafka.kafka.bootstrap
        assert await read_committed(bootstrap, ours, 7) == await read_committed(bootstrap, theirs, 7)

    async def test_chosen_partition_and_time(self, kafka: KafkaConnection) -> None:
        topic = await make_topic(kafka)
        group = await make_group(kafka, topic)
        async with member_of(kafka, group, topic) as source:
            sink = TransactionalSink(kafka, source, transactional_id=group)
            await sink.commit([OutRecord(topic, b"k", None, partition=2, timestamp_ms=1_700_000_000_123)], {})
            (record,) = await take(source, 1)
            assert (record.partition, record.timestamp_ms, record.timestamp_type) == (2, 1_700_000_000_123, 0)
            assert (record.key, record.value, record.headers) == (b"k", None, ())
            await sink.stop()


class TestFencing:
    async def test_zombie(self, kafka: KafkaConnection) -> None:
        """A worker that was away while its partitions moved can't answer what the new owner has answered."""
        topic, target = await make_topic(kafka), await make_topic(kafka)
        group = await make_group(kafka, topic)
        tp, zombies = TP(topic, 0), TransactionalSink(kafka, Fixed(None), transactional_id=f"{group}-zombie")
        async with member_of(kafka, group, topic) as frozen:
            old = frozen.membership
            assert old is not None
        zombie = TransactionalSink(kafka, Fixed(old), transactional_id=f"{group}-zombie")
        await zombie.start()
        async with member_of(kafka, group, topic) as owner:
            sink = TransactionalSink(kafka, owner, transactional_id=f"{group}-owner")
            await sink.commit(out(target, b"owner's"), {tp: OffsetCommit(5, "owner's")})
            with pytest.raises(StaleMemberError):
                await zombie.commit(out(target, b"zombie's"), {tp: OffsetCommit(2, "zombie's")})
            with pytest.raises(StaleMemberError):
                await zombies.commit([], {tp: OffsetCommit(2)})
            assert (await owner.committed([tp]))[tp] == OffsetCommit(5, "owner's")
            await sink.stop()
        await zombie.stop()
        assert values(await read_committed(kafka.kafka.bootstrap, target)) == [b"owner's"]

    @pytest.mark.parametrize("lag", [1, -1])
    async def test_wrong_generation_of_a_live_member(self, kafka: KafkaConnection, lag: int) -> None:
        topic = await make_topic(kafka)
        group = await make_group(kafka, topic)
        async with member_of(kafka, group, topic) as source:
            member = source.membership
            assert member is not None
            stale = Fixed(member._replace(generation=member.generation - lag))
            sink = TransactionalSink(kafka, stale, transactional_id=group)
            with pytest.raises(StaleMemberError, match="ILLEGAL_GENERATION"):
                await sink.commit([], {TP(topic, 0): OffsetCommit(1)})
            assert (await source.committed([TP(topic, 0)]))[TP(topic, 0)] == OffsetCommit(0)
            await sink.stop()

    async def test_membership_of_the_assignment_counts(self, kafka: KafkaConnection) -> None:
        """Commits are accepted until the revocation ends, and use the generation of the work they commit."""
        topic = await make_topic(kafka)
        group = await make_group(kafka, topic)

        class Committing(Recorder):
            async def on_revoked(self, partitions: frozenset[TP], *, lost: bool) -> None:
                assert not lost
                await sink.commit([], {tp: OffsetCommit(0, "handed over") for tp in partitions})
                await super().on_revoked(partitions, lost=lost)

        listener = Committing()
        async with member_of(kafka, group, topic, listener) as first:
            sink = TransactionalSink(kafka, first, transactional_id=group)
            await sink.start()
            before = first.membership
            polling = asyncio.create_task(poll_for_ever(first))
            other = Recorder()
            async with member_of(kafka, group, topic, other, assigned=None) as second:
                polling_too = asyncio.create_task(poll_for_ever(second))
                await other.until(lambda: len(other.positions) > 0)
                await listener.until(lambda: len(listener.positions) + len(other.positions) == 3)
                assert set((listener.positions | other.positions).values()) == {OffsetCommit(0, "handed over")}
                assert before is not None
                assert first.membership == before._replace(generation=before.generation + 1)
                await ended(polling_too)
            await ended(polling)
            await sink.stop()

    async def test_same_transactional_id_twice(self, kafka: KafkaConnection) -> None:
        target = await make_topic(kafka)
        first, second = (TransactionalSink(kafka, nobody("unused"), transactional_id=target) for _ in range(2))
        await first.commit(out(target, b"1"), {})
        await second.start()
        with pytest.raises(FencedError):
            await first.commit(out(target, b"2"), {})
        await first.commit(out(target, b"3"), {})
        await first.stop()
        await second.stop()
        assert values(await read_committed(kafka.kafka.bootstrap, target)) == [b"1", b"3"]


class TestRefusals:
    async def test_too_large_for_the_settings(self, kafka: KafkaConnection) -> None:
        topic = await make_topic(kafka)
        group = await make_group(kafka, topic)
        sink = TransactionalSink(kafka, nobody(group), transactional_id=group)
        with pytest.raises(OutputRefusedError, match="2097152") as refused:
            await sink.commit(
                out(topic, b"a", bytes(kafka.max_message_bytes), b"b"), {TP(topic, 0): OffsetCommit(1, "never")}
            )
        assert refused.value.index == 1
        await nothing_committed(kafka, group, topic)
        await sink.stop()

    @pytest.mark.parametrize("sizes", [(20_000,), (10, 20_000, 10), (10, 10, 20_000)])
    async def test_too_large_for_the_topic(self, kafka: KafkaConnection, sizes: tuple[int, ...]) -> None:
        topic = await make_topic(kafka, config={"max.message.bytes": "10000"})
        group = await make_group(kafka, topic)
        sink = TransactionalSink(kafka, nobody(group), transactional_id=group)
        with pytest.raises(OutputRefusedError) as refused:
            await sink.commit(out(topic, *map(bytes, sizes)), {TP(topic, 0): OffsetCommit(1, "never")})
        assert refused.value.index == sizes.index(20_000)
        await nothing_committed(kafka, group, topic)
        await sink.commit(out(topic, b"fits"), {TP(topic, 0): OffsetCommit(1)})
        await sink.stop()
        assert values(await read_committed(kafka.kafka.bootstrap, topic)) == [b"fits"]

    async def test_batch_too_large_but_no_record(self, kafka: KafkaConnection) -> None:
        topic = await make_topic(kafka, config={"max.message.bytes": "10000"})
        sink = TransactionalSink(kafka, nobody("unused"), transactional_id=topic)
        contents = [b"%03d" % number + bytes(997) for number in range(50)]
        await sink.commit(out(topic, *contents), {})
        resets = sink.resets
        await sink.commit(out(topic, *contents), {})
        await sink.stop()
        rows = await read_committed(kafka.kafka.bootstrap, topic)
        assert [value for _, value in rows] == contents * 2
        assert sink.resets == resets, "the smaller batch was not remembered"

    async def test_record_that_breaks_a_rule_of_its_topic(self, kafka: KafkaConnection) -> None:
        topic = await make_topic(kafka, partitions=1, config={"cleanup.policy": "compact"})
        group = await make_group(kafka, topic, 1)
        sink = TransactionalSink(kafka, nobody(group), transactional_id=group)
        outputs = [*out(topic, b"a", b"b"), *out(topic, b"no key", key=None), *out(topic, b"c")]
        with pytest.raises(OutputRefusedError, match="key") as refused:
            await sink.commit(outputs, {TP(topic, 0): OffsetCommit(1, "never")})
        assert refused.value.index == 2
        await nothing_committed(kafka, group, topic, 1)
        await sink.stop()

    async def test_missing_topic_and_partition(self, kafka: KafkaConnection) -> None:
        topic = await make_topic(kafka)
        group = await make_group(kafka, topic)
        sink = TransactionalSink(kafka, nobody(group), transactional_id=group)
        with pytest.raises(TopicMissingError, match="no-such-topic"):
            await sink.commit(out("no-such-topic", b"x"), {TP(topic, 0): OffsetCommit(1)})
        with pytest.raises(OutputRefusedError, match="3 partitions") as refused:
            await sink.commit([OutRecord(topic, None, b"x", partition=3)], {TP(topic, 0): OffsetCommit(1)})
        assert refused.value.index == 0
        await nothing_committed(kafka, group, topic)
        await sink.stop()

    async def test_metadata_too_large(self, kafka: KafkaConnection) -> None:
        topic = await make_topic(kafka)
        sink = TransactionalSink(kafka, nobody("unused"), transactional_id=topic)
        with pytest.raises(MetadataTooLargeError, match="4098"):
            await sink.commit([], {TP(topic, 0): OffsetCommit(1, "é" * 2049)})
        await sink.stop()

    async def test_nobody_there(self) -> None:
        sink = TransactionalSink(KafkaConnection.at("127.0.0.1:1"), nobody("g"), transactional_id="x")
        with pytest.raises(BrokerUnavailableError, match=r"127\.0\.0\.1:1"):
            await sink.start()
        with pytest.raises(BrokerUnavailableError):
            await sink.commit([], {TP("t", 0): OffsetCommit(1)})
        await sink.stop()


class TestDoubt:
    """The answer to the end of a transaction gets lost."""

    @pytest.mark.parametrize("arrives", [True, False])
    async def test_committed_offset_tells(
        self, kafka: KafkaConnection, monkeypatch: pytest.MonkeyPatch, *, arrives: bool
    ) -> None:
        topic, target = await make_topic(kafka), await make_topic(kafka)
        group = await make_group(kafka, topic)
        tp, sink = TP(topic, 0), TransactionalSink(kafka, nobody(group), transactional_id=group)
        await sink.commit(out(target, b"before"), {tp: OffsetCommit(1, "before")})
        tasks, sockets = len(asyncio.all_tasks()), _sockets()

        async def lose(wire: Wire, node: int, name: str, producer: ProducerId, *, commit: bool) -> int:
            if arrives:
                assert await real(wire, node, name, producer, commit=commit) == Code.OK
            raise LinkError("the answer got lost")

        real: Callable[..., Awaitable[int]] = Wire.end_txn
        with monkeypatch.context() as patched:
            patched.setattr(Wire, "end_txn", lose)
            with pytest.raises(CommitUnknownError):
                await sink.commit(out(target, b"doubtful"), {tp: OffsetCommit(2, "doubtful")})
        assert sink.resets == 1
        assert (len(asyncio.all_tasks()), _sockets()) == (tasks, sockets), "the old producer left something behind"
        told = (await committed_offsets(kafka, group, [tp]))[tp]
        assert told == (OffsetCommit(2, "doubtful") if arrives else OffsetCommit(1, "before"))
        await sink.commit(out(target, b"after"), {tp: OffsetCommit(3, "after")})
        await sink.stop()
        expected = [b"after", b"before", b"doubtful"] if arrives else [b"after", b"before"]
        assert values(await read_committed(kafka.kafka.bootstrap, target)) == expected

    async def test_an_answer_that_says_nothing_leaves_doubt(
        self, kafka: KafkaConnection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A broker that fails after it logged the decision answers UNKNOWN_SERVER_ERROR: a repeat would write twice."""
        topic, target = await make_topic(kafka), await make_topic(kafka)
        group = await make_group(kafka, topic)
        tp, sink = TP(topic, 0), TransactionalSink(kafka, nobody(group), transactional_id=group)
        real: Callable[..., Awaitable[int]] = Wire.end_txn

        async def fail(*given: object, **more: object) -> int:
            assert await real(*given, **more) == Code.OK
            return -1

        with monkeypatch.context() as patched:
            patched.setattr(Wire, "end_txn", fail)
            with pytest.raises(CommitUnknownError):
                await sink.commit(out(target, b"once"), {tp: OffsetCommit(1)})
        await sink.stop()
        assert (await committed_offsets(kafka, group, [tp]))[tp] == OffsetCommit(1)
        assert values(await read_committed(kafka.kafka.bootstrap, target)) == [b"once"]

    async def test_late_end_is_fenced(self, kafka: KafkaConnection, monkeypatch: pytest.MonkeyPatch) -> None:
        """An end that was thought lost and arrives later must not end the next transaction (KIP-890)."""
        target = await make_topic(kafka)
        sink, late = TransactionalSink(kafka, nobody("unused"), transactional_id=target), []

        async def delay(wire: Wire, node: int, name: str, producer: ProducerId, *, commit: bool) -> int:
            late.append((node, name, producer, commit))
            raise LinkError("on its way")

        with monkeypatch.context() as patched:
            patched.setattr(Wire, "end_txn", delay)
            with pytest.raises(CommitUnknownError):
                await sink.commit(out(target, b"doubtful"), {})
        await sink.commit(out(target, b"next"), {})
        (node, name, producer, commit) = late[0]
        async with wire_to(kafka) as wire:
            assert await wire.end_txn(node, name, producer, commit=commit) in {
                Code.INVALID_PRODUCER_EPOCH,
                Code.PRODUCER_FENCED,
            }
        await sink.stop()
        assert values(await read_committed(kafka.kafka.bootstrap, target)) == [b"next"]

    async def test_no_answer_before_the_end(self, kafka: KafkaConnection, monkeypatch: pytest.MonkeyPatch) -> None:
        """Then there is no doubt: nothing was committed, and the same commit may be tried again."""
        topic = await make_topic(kafka)
        group = await make_group(kafka, topic)
        tp = TP(topic, 0)
        sink = TransactionalSink(KafkaConnection(kafka=kafka.kafka, loop=SHORT), nobody(group), transactional_id=group)
        await sink.start()

        async def hang(*_: object, **__: object) -> None:
            await asyncio.Event().wait()

        with monkeypatch.context() as patched:
            patched.setattr(Wire, "txn_offset_commit", hang)
            with pytest.raises(BrokerUnavailableError, match="nothing was committed"):
                await sink.commit(out(topic, b"x"), {tp: OffsetCommit(1)})
        await sink.commit(out(topic, b"x"), {tp: OffsetCommit(1)})
        await sink.stop()
        assert (await committed_offsets(kafka, group, [tp]))[tp] == OffsetCommit(1)
        assert values(await read_committed(kafka.kafka.bootstrap, topic)) == [b"x"]

    async def test_cancelled(self, kafka: KafkaConnection, monkeypatch: pytest.MonkeyPatch) -> None:
        target = await make_topic(kafka)
        sink, reached = TransactionalSink(kafka, nobody("unused"), transactional_id=target), asyncio.Event()

        async def hang(*_: object, **__: object) -> None:
            reached.set()
            await asyncio.Event().wait()

        with monkeypatch.context() as patched:
            patched.setattr(Wire, "end_txn", hang)
            committing = asyncio.create_task(sink.commit(out(target, b"cancelled"), {}))
            await reached.wait()
            await ended(committing)
        await sink.commit(out(target, b"next"), {})
        await sink.stop()
        assert values(await read_committed(kafka.kafka.bootstrap, target)) == [b"next"]

    async def test_stop_aborts_what_is_open(self, kafka: KafkaConnection, monkeypatch: pytest.MonkeyPatch) -> None:
        target = await make_topic(kafka)
        sink, reached = TransactionalSink(kafka, nobody("unused"), transactional_id=target), asyncio.Event()

        async def hang(*_: object, **__: object) -> None:
            reached.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(Wire, "end_txn", hang)
        committing = asyncio.create_task(sink.commit(out(target, b"cancelled"), {}))
        await reached.wait()
        await ended(committing)
        await sink.stop()
        monkeypatch.undo()
        # An open transaction would hide what comes after it until its time-out.
        other = TransactionalSink(kafka, nobody("unused"), transactional_id=f"{target}-other")
        await other.commit(out(target, b"later"), {})
        await other.stop()
        assert values(await read_committed(kafka.kafka.bootstrap, target)) == [b"later"]


class TestPendingOffsets:
    async def test_reading_waits_for_an_open_transaction(self, kafka: KafkaConnection) -> None:
        topic = await make_topic(kafka)
        group = await make_group(kafka, topic)
        tp = TP(topic, 0)
        async with wire_to(kafka) as wire:
            producer = await open_offsets(wire, group, {tp: OffsetCommit(9, "pending")})
            node = await wire.coordinator(GROUP, group)
            _, found = await wire.offset_fetch(node, group, tps_of(topic))
            assert found[tp][0] == Code.UNSTABLE_OFFSET_COMMIT
            assert found[TP(topic, 1)] == (Code.OK, OffsetCommit(0))
            reading = asyncio.create_task(committed_offsets(kafka, group, [tp]))
            await asyncio.sleep(0.2)
            assert not reading.done()
            coordinator = await wire.coordinator(TRANSACTION, group)
            assert await wire.end_txn(coordinator, group, producer, commit=True) == Code.OK
            assert await reading == {tp: OffsetCommit(9, "pending")}


def _sockets() -> int:
    """Open TCP connections of this process, without those that only wait to be forgotten."""
    found = psutil.Process(os.getpid()).net_connections("tcp")
    return sum(connection.status == psutil.CONN_ESTABLISHED for connection in found)
