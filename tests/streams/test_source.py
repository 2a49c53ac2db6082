"""The consuming side on real brokers: nothing early, nothing lost, nothing stuck."""

import asyncio
from collections.abc import Collection, Mapping
from contextlib import AsyncExitStack, suppress
from datetime import timedelta

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.errors import KafkaError

from schemas.settings import KafkaSettings
from streams._aiokafka import TRANSACTION, Wire
from streams._aiokafka_records import read_leniently
from streams._codes import Code
from streams.connection import BrokerKind, KafkaConnection
from streams.errors import BrokerUnavailableError, DeliveryError, OffsetsLostError, TopicMissingError
from streams.offsets import commit_initial_offsets, committed_offsets, read_offsets
from streams.records import TP, OffsetCommit
from streams.sink import TransactionalSink
from streams.source import MissingOffsets, Source
from tests.streams.kafka_world import (
    SOON,
    Recorder,
    ended,
    make_group,
    make_topic,
    member_of,
    nobody,
    open_offsets,
    out,
    poll_for_ever,
    produce_raw,
    take,
    tps_of,
    wire_to,
)

NAP = timedelta(milliseconds=50)


@pytest.fixture
def kafka(kafka_broker: str) -> KafkaConnection:
    return KafkaConnection.at(kafka_broker)


@pytest.fixture
def embedded(embedded_broker: str) -> KafkaConnection:
    return KafkaConnection.at(embedded_broker)


async def fill(connection: KafkaConnection, topic: str, *contents: bytes) -> None:
    """Records without a key, all in partition 1."""
    sink = TransactionalSink(connection, nobody("unused"), transactional_id=f"fill-{topic}")
    await sink.commit([record._replace(partition=1) for record in out(topic, *contents)], {})
    await sink.stop()


async def _nothing() -> None:
    """Instead of leaving the group."""


class TestAssignment:
    async def test_nothing_comes_before_the_listener_is_done(self, kafka: KafkaConnection) -> None:
        topic = await make_topic(kafka)
        group = await make_group(kafka, topic)
        await fill(kafka, topic, b"a", b"b")
        entered, leave = asyncio.Event(), asyncio.Event()

        class Slow(Recorder):
            async def on_assigned(self, positions: Mapping[TP, OffsetCommit]) -> None:
                entered.set()
                await leave.wait()
                await super().on_assigned(positions)

        async with member_of(kafka, group, topic, Slow(), assigned=None) as source:
            early = []
            async with asyncio.timeout(SOON.total_seconds()):
                while not entered.is_set():
                    early += list(await source.poll(NAP))
            for _ in range(10):
                early += list(await source.poll(NAP))
            assert early == []
            leave.set()
            assert [record.value for record in await take(source, 2)] == [b"a", b"b"]

    async def test_goes_on_where_the_commit_was(self, kafka: KafkaConnection) -> None:
        topic = await make_topic(kafka)
        group = await make_group(kafka, topic)
        await fill(kafka, topic, b"a", b"b", b"c")
        tp = TP(topic, 1)
        await commit_initial_offsets(kafka, group, {tp: OffsetCommit(1, "map")}, overwrite=True)
        listener = Recorder()
        async with member_of(kafka, group, topic, listener) as source:
            assert listener.positions[tp] == OffsetCommit(1, "map")
            assert source.assigned == frozenset(tps_of(topic))
            assert [record.value for record in await take(source, 2)] == [b"b", b"c"]
            assert source.high_water(tp) == source.stable_end(tp) == 4  # three records and a marker
            assert await source.end_offsets([tp]) == {tp: 4}
            assert 3 <= source.position(tp) <= 4
            source.seek(tp, 0)
            assert (await take(source, 3))[0].value == b"a"

    async def test_open_transaction_holds_only_its_partition(self, kafka: KafkaConnection) -> None:
        """A crashed worker's pending offsets are waited for; the other partitions go on."""
        topic = await make_topic(kafka)
        group = await make_group(kafka, topic)
        await fill(kafka, topic, b"a")
        pending, listener = TP(topic, 2), Recorder()
        async with wire_to(kafka) as wire:
            producer = await open_offsets(wire, group, {pending: OffsetCommit(4, "pending")})
            async with member_of(kafka, group, topic, listener, assigned=2) as source:
                assert listener.calls == [frozenset({TP(topic, 0), TP(topic, 1)})]
                assert [record.value for record in await take(source, 1)] == [b"a"]
                node = await wire.coordinator(TRANSACTION, group)
                assert await wire.end_txn(node, group, producer, commit=True) == Code.OK
                await listener.assigned()
                assert listener.positions[pending] == OffsetCommit(4, "pending")

    async def test_a_transaction_that_stays_open_is_waited_for_however_long(
        self, kafka: KafkaConnection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The loop takes a broker's silence for something that passes: nothing may end with it but the wait."""
        topic = await make_topic(kafka)
        group = await make_group(kafka, topic)
        pending, listener, rounds = TP(topic, 2), Recorder(), 0

        async def impatient(wire: Wire, name: str, tps: Collection[TP], *, partial: bool) -> object:
            nonlocal rounds
            rounds += 1
            return await read_offsets(wire, name, tps, partial=partial, limit=NAP)

        monkeypatch.setattr("streams._restore.read_offsets", impatient)
        async with wire_to(kafka) as wire:
            producer = await open_offsets(wire, group, {pending: OffsetCommit(4, "pending")})
            async with member_of(kafka, group, topic, listener, assigned=2) as source:
                async with asyncio.timeout(SOON.total_seconds()):
                    while rounds < 4:
                        with suppress(BrokerUnavailableError):  # as the loop does
                            await source.poll(NAP)
                node = await wire.coordinator(TRANSACTION, group)
                assert await wire.end_txn(node, group, producer, commit=True) == Code.OK
                await listener.assigned()
                assert listener.positions[pending] == OffsetCommit(4, "pending")

    async def test_rebalance_hands_over(self, kafka: KafkaConnection) -> None:
        topic = await make_topic(kafka)
        group = await make_group(kafka, topic)
        first, second = Recorder(), Recorder()
        async with member_of(kafka, group, topic, first) as one:
            one.pause(TP(topic, 0))
            polling = asyncio.create_task(poll_for_ever(one))
            async with member_of(kafka, group, topic, second, assigned=None) as two:
                polling_too = asyncio.create_task(poll_for_ever(two))
                await first.until(lambda: len(first.revocations) == 1)
                assert first.revocations == [(frozenset(tps_of(topic)), False)]
                await second.until(lambda: len(second.positions) > 0)
                await first.until(lambda: len(first.positions) + len(second.positions) == 3)
                assert not first.positions.keys() & second.positions.keys()
                await ended(polling_too)
            await first.assigned()
            await ended(polling)
            await fill(kafka, topic, b"a")
            sink = TransactionalSink(kafka, one, transactional_id=group)
            await sink.commit([out(topic, b"z")[0]._replace(partition=0)], {})
            await sink.stop()
            found = {record.value for record in await take(one, 2)}
            assert found == {b"a", b"z"}, "a pause outlived the rebalance"

    @pytest.mark.parametrize("another", [False, True])
    async def test_what_is_left_of_a_former_life_is_put_out(self, kafka_broker: str, *, another: bool) -> None:
        """A killed member leaves its place taken until its session ends: far later than these tests wait."""
        session = KafkaSettings(bootstrap=kafka_broker, session_timeout=4 * SOON, request_timeout=4 * SOON)
        kafka = KafkaConnection(kafka=session)
        topic = await make_topic(kafka)
        group = await make_group(kafka, topic)
        first, other = Recorder(), Recorder()
        async with AsyncExitStack() as stack:
            if another:  # who shares the work, and only learns of the change by a heartbeat
                beside = await stack.enter_async_context(member_of(kafka, group, topic, other, name="other"))
                polling = asyncio.create_task(poll_for_ever(beside))
            async with member_of(kafka, group, topic, first, assigned=None, name="one") as killed:
                await first.until(lambda: len(first.positions) > 0)
                killed._consumer._coordinator._maybe_leave_group = _nothing  # type: ignore[union-attr]
            again = Recorder()
            source = await stack.enter_async_context(member_of(kafka, group, topic, again, assigned=None, name="one"))
            await again.until(lambda: len(again.positions) > 0)
            assert source.membership is not None
            if another:
                await other.until(lambda: len(again.positions) + len(other.positions) == 3)
                await ended(polling)
            else:
                await again.assigned()

    async def test_a_twin_is_put_out_and_comes_back(self, kafka: KafkaConnection) -> None:
        topic = await make_topic(kafka)
        group = await make_group(kafka, topic)
        first, second = Recorder(), Recorder()
        async with member_of(kafka, group, topic, first, name="one") as one:
            polling = asyncio.create_task(poll_for_ever(one))
            async with member_of(kafka, group, topic, second, assigned=None, name="one") as two:
                polling_too = asyncio.create_task(poll_for_ever(two))
                await second.until(lambda: len(second.positions) > 0)
                await first.until(lambda: 0 < len(first.positions) < 3)
                await second.until(lambda: len(first.positions) + len(second.positions) == 3)
                await ended(polling_too)
            await first.assigned()
            await ended(polling)

    async def test_pause_and_resume(self, kafka: KafkaConnection) -> None:
        topic = await make_topic(kafka)
        group = await make_group(kafka, topic)
        async with member_of(kafka, group, topic) as source:
            source.pause(TP(topic, 1))
            await fill(kafka, topic, b"a")
            assert not any([await source.poll(NAP) for _ in range(6)])
            source.resume(TP(topic, 1))
            assert [record.value for record in await take(source, 1)] == [b"a"]


class TestMissingOffsets:
    async def test_refused(self, kafka: KafkaConnection) -> None:
        topic = await make_topic(kafka)
        async with member_of(kafka, f"g-{topic}", topic, assigned=None) as source:
            with pytest.raises(OffsetsLostError, match=rf"{topic}\[0\], {topic}\[1\], {topic}\[2\]"):
                await take(source, 1)

    @pytest.mark.parametrize(
        ("missing", "expected"), [(MissingOffsets.EARLIEST, [b"old", b"new"]), (MissingOffsets.LATEST, [b"new"])]
    )
    async def test_chosen(self, kafka: KafkaConnection, missing: MissingOffsets, expected: list[bytes]) -> None:
        topic = await make_topic(kafka)
        await fill(kafka, topic, b"old")
        async with member_of(kafka, f"g-{topic}", topic, missing=missing) as source:
            await fill(kafka, topic, b"new")
            assert [record.value for record in await take(source, len(expected))] == expected

    async def test_out_of_range(self, kafka: KafkaConnection) -> None:
        topic = await make_topic(kafka)
        group = await make_group(kafka, topic)
        await fill(kafka, topic, b"a", b"b", b"c")
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.kafka.bootstrap)
        await admin.start()
        await admin.delete_records({TP(topic, 1): RecordsToDelete(before_offset=2)})
        await admin.close()
        async with member_of(kafka, group, topic) as source:
            with pytest.raises(OffsetsLostError, match="no longer holds"):
                await take(source, 1)

    async def test_no_such_topic(self, kafka: KafkaConnection) -> None:
        source = Source(kafka, group="g", topics=["no-such-topic"], listener=Recorder())
        with pytest.raises(TopicMissingError, match="no-such-topic"):
            await source.start()

    async def test_nobody_there(self) -> None:
        source = Source(KafkaConnection.at("127.0.0.1:1"), group="g", topics=["t"], listener=Recorder())
        with pytest.raises(BrokerUnavailableError, match=r"127\.0\.0\.1:1"):
            await source.start()

    async def test_initial_offsets_are_given_once(self, kafka: KafkaConnection) -> None:
        topic = await make_topic(kafka)
        group, tps = f"g-{topic}", tps_of(topic)
        assert await committed_offsets(kafka, group, tps) == dict.fromkeys(tps)
        wanted = dict.fromkeys(tps, OffsetCommit(0, "first"))
        assert await commit_initial_offsets(kafka, group, wanted) == wanted
        assert await commit_initial_offsets(kafka, group, dict.fromkeys(tps, OffsetCommit(5))) == {}
        assert await committed_offsets(kafka, group, tps) == wanted


class TestTrouble:
    @pytest.mark.parametrize("method", ["on_assigned", "on_revoked"])
    async def test_listener_errors_are_raised(
        self, kafka: KafkaConnection, monkeypatch: pytest.MonkeyPatch, method: str
    ) -> None:
        topic = await make_topic(kafka)
        group = await make_group(kafka, topic)
        listener = Recorder()

        async def fail(*_: object, **__: object) -> None:
            raise ValueError("from the listener")

        monkeypatch.setattr(listener, method, fail)
        wanted = None if method == "on_assigned" else 3
        async with member_of(kafka, group, topic, listener, assigned=wanted) as source:
            if method == "on_revoked":
                await source.revoked()
            with pytest.raises(DeliveryError, match="from the listener"):
                await take(source, 1)

    async def test_dead_fetcher_is_noticed(self, kafka: KafkaConnection) -> None:
        topic = await make_topic(kafka)
        group = await make_group(kafka, topic)
        async with member_of(kafka, group, topic) as source:
            consumer = source._consumer
            assert consumer is not None
            consumer._fetcher._fetch_task.cancel()
            with pytest.raises(DeliveryError, match=group):
                await take(source, 1)

    async def test_an_error_loses_nothing(self, kafka: KafkaConnection, monkeypatch: pytest.MonkeyPatch) -> None:
        """The library forgets what it took from other partitions when one of them fails."""
        topic = await make_topic(kafka)
        group = await make_group(kafka, topic)
        await fill(kafka, topic, b"a", b"b")
        async with member_of(kafka, group, topic) as source:
            consumer = source._consumer
            assert consumer is not None
            taken: list[object] = []
            real = consumer.getmany

            async def take_and_fail(**options: object) -> object:
                fetched = await real(**options)
                if fetched and not taken:
                    taken.append(fetched)
                    raise KafkaError("another partition failed")
                return fetched

            monkeypatch.setattr(consumer, "getmany", take_and_fail)
            with pytest.raises(BrokerUnavailableError, match="another partition"):
                await take(source, 2)
            assert [record.value for record in await take(source, 2)] == [b"a", b"b"]

    async def test_stop_ends_a_waiting_poll(self, kafka: KafkaConnection) -> None:
        topic = await make_topic(kafka)
        group = await make_group(kafka, topic)
        async with member_of(kafka, group, topic) as source:
            polling = asyncio.create_task(source.poll(timedelta(minutes=5)))
            await asyncio.sleep(0.1)
            await source.stop()
            assert await polling == {}

    @pytest.mark.parametrize("compressed", [False, True])
    async def test_undecodable_header_names(self, kafka: KafkaConnection, *, compressed: bool) -> None:
        """Kafka takes any bytes as a header's name. No record of any partition is lost over it, and none is stuck."""
        topic = await make_topic(kafka)
        group = await make_group(kafka, topic)
        async with wire_to(kafka) as wire:
            await wire.partitions(topic)
            for tp in tps_of(topic):
                await produce_raw(wire, tp, compressed=compressed, poisoned=tp.partition == 1)
        async with member_of(kafka, group, topic) as source:
            found = await take(source, 9)
            assert sorted((record.partition, record.offset) for record in found) == [
                (partition, offset) for partition in range(3) for offset in range(3)
            ]
            (poisoned,) = [record for record in found if (record.partition, record.offset) == (1, 1)]
            assert poisoned.headers == (("\\xff\\xfe", b"1"), ("null", b""))
            assert (poisoned.key, poisoned.value, poisoned.timestamp_ms) == (b"k", b"1" * 100, 1_700_000_000_001)
            await fill(kafka, topic, b"after")
            assert [record.value for record in await take(source, 1)] == [b"after"]

    async def test_undecodable_header_names_in_an_aborted_transaction(self, kafka: KafkaConnection) -> None:
        topic = await make_topic(kafka)
        group = await make_group(kafka, topic)
        tp = TP(topic, 1)
        async with wire_to(kafka) as wire:
            await wire.partitions(topic)
            producer = await open_offsets(wire, group, {TP(topic, 0): OffsetCommit(3)})
            node = await wire.coordinator(TRANSACTION, group)
            assert set(await wire.add_partitions(node, group, producer, [tp])) == {Code.OK}
            await produce_raw(wire, tp, poisoned=True, transaction=(group, *producer))
            await produce_raw(wire, TP(topic, 2), poisoned=True)
            assert await wire.end_txn(node, group, producer, commit=False) == Code.OK
        await fill(kafka, topic, b"after")
        async with member_of(kafka, group, topic) as source:
            found = sorted((record.partition, record.value) for record in await take(source, 4))
            assert found == [(1, b"after"), *((2, b"%d" % number * 100) for number in range(3))]

    async def test_a_partition_that_fails_takes_nothing_of_others_with_it(
        self, kafka: KafkaConnection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Reading around a record is a fetch for each partition, and any of them may fail."""
        topic = await make_topic(kafka)
        group = await make_group(kafka, topic)
        async with wire_to(kafka) as wire:
            await wire.partitions(topic)
            for tp in tps_of(topic):
                await produce_raw(wire, tp, poisoned=True)
        asked: list[TP] = []

        async def fail_last(consumer: AIOKafkaConsumer, tp: TP, offset: int) -> object:
            asked.append(tp)
            assert [source.position(each) for each in asked] == [0] * len(asked), "a commit would pass them"
            if len(asked) == 3:
                monkeypatch.undo()
                raise KafkaError("the leader moved")
            return await read_leniently(consumer, tp, offset)

        async with member_of(kafka, group, topic) as source:
            monkeypatch.setattr("streams._aiokafka_records.read_leniently", fail_last)
            assert len(await take(source, 9)) == 9
        assert len(asked) == 3

    async def test_a_partition_sent_back_meanwhile_is_read_from_there(
        self, kafka: KafkaConnection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A failed commit sends partitions back at any moment."""
        topic = await make_topic(kafka)
        group = await make_group(kafka, topic)
        tp = TP(topic, 1)
        async with wire_to(kafka) as wire:
            await wire.partitions(topic)
            await produce_raw(wire, tp, poisoned=True)

        async def send_back(consumer: AIOKafkaConsumer, which: TP, offset: int) -> object:
            found = await read_leniently(consumer, which, offset)
            if which == tp:
                monkeypatch.undo()
                source.seek(tp, 0)
            return found

        async with member_of(kafka, group, topic) as source:
            source.seek(tp, 1)
            monkeypatch.setattr("streams._aiokafka_records.read_leniently", send_back)
            assert [record.offset for record in await take(source, 3)] == [0, 1, 2]


class TestEmbedded:
    async def test_reads_commits_and_leaves(self, embedded: KafkaConnection) -> None:
        topic = await make_topic(embedded)
        group = await make_group(embedded, topic)
        for _ in range(2):  # the second member would wait for the first's session if that had not left
            listener = Recorder()
            async with member_of(embedded, group, topic, listener, kind=BrokerKind.EMBEDDED) as source:
                assert listener.positions == dict.fromkeys(tps_of(topic), OffsetCommit(0))
                assert source.membership is not None
                assert (await source.poll(NAP)) == {}
