"""What tests of the Kafka layer share: topics of their own, a second client library as reader, recording listeners."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from streams._aiokafka import GROUP, TRANSACTION, Membership, ProducerId, Wire
from streams._codes import Code
from streams.connection import BrokerKind, KafkaConnection
from streams.offsets import commit_initial_offsets, committed_offsets
from streams.records import TP, InRecord, OffsetCommit, OutRecord
from streams.source import MissingOffsets, Source

PARTITIONS = 3
SOON = timedelta(seconds=30)


async def make_topic(
    connection: KafkaConnection, *, partitions: int = PARTITIONS, config: Mapping[str, str] | None = None
) -> str:
    """A new topic with a name of its own."""
    topic = f"t-{uuid.uuid4().hex[:12]}"
    admin = AIOKafkaAdminClient(bootstrap_servers=connection.kafka.bootstrap)
    await admin.start()
    try:
        answer = await admin.create_topics([NewTopic(topic, partitions, 1, topic_configs=dict(config or {}))])
        assert [error[1] for error in answer.topic_errors] == [0]
    finally:
        await admin.close()
    return topic


def tps_of(topic: str, partitions: int = PARTITIONS) -> list[TP]:
    return [TP(topic, number) for number in range(partitions)]


async def make_group(connection: KafkaConnection, topic: str, partitions: int = PARTITIONS) -> str:
    """A group that begins at the start of a topic."""
    group = f"g-{topic}"
    await commit_initial_offsets(connection, group, dict.fromkeys(tps_of(topic, partitions), OffsetCommit(0)))
    return group


async def read_committed(bootstrap: str, topic: str, partitions: int = PARTITIONS) -> list[tuple[int, bytes | None]]:
    """All committed records of a topic as librdkafka sees them: partition and value, in partition order."""
    return await asyncio.to_thread(_read_committed, bootstrap, topic, partitions)


def _read_committed(bootstrap: str, topic: str, partitions: int) -> list[tuple[int, bytes | None]]:
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"reader-{uuid.uuid4().hex}",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(partitions)])
    found: list[tuple[int, bytes | None]] = []
    ended: set[int | None] = set()
    try:
        while len(ended) < partitions:
            message = consumer.poll(10)
            assert message is not None, "the reader did not reach the end"
            if message.error() is None:
                found.append((message.partition() or 0, message.value()))
                ended.discard(message.partition())
            else:
                ended.add(message.partition())
    finally:
        consumer.close()
    return sorted(found, key=lambda row: row[0])


@dataclass
class Recorder:
    """A listener that writes down what it is told."""

    positions: dict[TP, OffsetCommit] = field(default_factory=dict)
    calls: list[frozenset[TP]] = field(default_factory=list)
    revocations: list[tuple[frozenset[TP], bool]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def on_assigned(self, positions: Mapping[TP, OffsetCommit]) -> None:
        self.positions.update(positions)
        self.calls.append(frozenset(positions))
        self.changed.set()

    async def on_revoked(self, partitions: frozenset[TP], *, lost: bool) -> None:
        for tp in partitions:
            self.positions.pop(tp, None)
        self.revocations.append((partitions, lost))
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(SOON.total_seconds()):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def assigned(self, count: int = PARTITIONS) -> None:
        await self.until(lambda: len(self.positions) == count)


@asynccontextmanager
async def member_of(
    connection: KafkaConnection,
    group: str,
    topic: str,
    listener: Recorder | None = None,
    *,
    kind: BrokerKind = BrokerKind.KAFKA,
    missing: MissingOffsets = MissingOffsets.REFUSE,
    assigned: int | None = PARTITIONS,
    name: str = "",
) -> AsyncIterator[Source]:
    """A started source; waits for its partitions unless told otherwise."""
    listener = listener or Recorder()
    source = Source(connection, group=group, topics=[topic], listener=listener, kind=kind, missing=missing, name=name)
    await source.start()
    try:
        if assigned is not None:
            await listener.assigned(assigned)
        yield source
    finally:
        await source.stop()


async def take(source: Source, count: int) -> list[InRecord]:
    """Poll until so many records came."""
    found: list[InRecord] = []
    async with asyncio.timeout(SOON.total_seconds()):
        while len(found) < count:
            for records in (await source.poll(timedelta(milliseconds=200))).values():
                found.extend(records)
    return found


@asynccontextmanager
async def wire_to(connection: KafkaConnection) -> AsyncIterator[Wire]:
    wire = Wire(connection.client_arguments("test"))
    await wire.open()
    try:
        yield wire
    finally:
        await wire.close()


@dataclass(frozen=True)
class Fixed:
    """A group member whose membership does not follow the group: a zombie, or nobody."""

    membership: Membership | None


def nobody(group: str) -> Fixed:
    """What may commit for a group without members."""
    return Fixed(Membership(group, -1, "", None))


def values(rows: Sequence[tuple[int, bytes | None]]) -> Collection[bytes | None]:
    return sorted((value for _, value in rows), key=lambda value: value or b"")


def out(topic: str, *contents: bytes, key: bytes | None = b"k") -> list[OutRecord]:
    return [OutRecord(topic, key, content, [("n", b"1")]) for content in contents]


async def open_offsets(wire: Wire, group: str, offsets: dict[TP, OffsetCommit]) -> ProducerId:
    """A transaction, named like the group, that has written offsets and is still open."""
    node = await wire.coordinator(TRANSACTION, group)
    code = Code.CONCURRENT_TRANSACTIONS
    while code != Code.OK:
        code, producer = await wire.init_producer_id(node, group, 60_000)  # type: ignore[assignment]
    assert await wire.add_offsets(node, group, producer, group) == Code.OK
    codes = await wire.txn_offset_commit(
        await wire.coordinator(GROUP, group), group, producer, Membership(group, -1, "", None), offsets
    )
    assert set(codes.values()) == {Code.OK}
    return producer


async def nothing_committed(connection: KafkaConnection, group: str, topic: str, partitions: int = 3) -> None:
    committed = await committed_offsets(connection, group, tps_of(topic, partitions))
    assert {commit and commit.offset for commit in committed.values()} == {0}
    assert await read_committed(connection.kafka.bootstrap, topic, partitions) == []


async def poll_for_ever(source: Source) -> None:
    while True:
        await source.poll(timedelta(milliseconds=200))


async def ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def produce_raw(
    wire: Wire,
    tp: TP,
    *,
    compressed: bool = False,
    poisoned: bool,
    transaction: tuple[str, int, int] | None = None,
) -> None:
    """Three records, the second of which may have a header name that is not UTF-8."""
    name, *producer = transaction or (None, -1, -1)
    builder = _DefaultRecordBatchBuilderPy(2, 3 if compressed else 0, transaction is not None, *producer, 0, 1 << 20)
    for number in range(3):
        headers = [(_BadName("x"), b"1"), ("null", None)] if poisoned and number == 1 else [("n", b"1")]
        builder.append(number, 1_700_000_000_000 + number, b"k", b"%d" % number * 100, headers)
    data, code = builder.build(), int(Code.NOT_LEADER)  # as long as the topic is that new
    while code == Code.NOT_LEADER:
        node = wire.leader(tp)
        assert node is not None
        code = (await wire.produce(node, name, 5000, [(tp, data)]))[tp].code
    assert code == Code.OK


class _BadName(str):
    __slots__ = ()

    def encode(self, *_: object) -> bytes:
        return b"\xff\xfe"
