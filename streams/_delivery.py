"""Writing records: which partition, which batch, and repeating until each batch is written or refused.

The library's own producer makes a future, several dictionaries and a log call for each record and wakes a background
task for each request. A commit knows all its records at once, so here they are encoded straight into one batch a
partition, and a request is one await.
"""

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from streams import faults
from streams._aiokafka import BatchWriter, LinkError, ProducerId, Wire, Written, unix_ms
from streams._codes import FENCED, FULL_FOR_NOW, NOT_PERMITTED, PRODUCE_AGAIN, RECORD_REFUSED, TOO_LARGE, Code, describe
from streams._pauses import Pauses
from streams.connection import BATCH_BYTES, KafkaConnection
from streams.errors import (
    BrokerUnavailableError,
    FencedError,
    NotPermittedError,
    OutputRefusedError,
    TopicMissingError,
)
from streams.partitioner import partition_of
from streams.records import TP, OutRecord

_SEQUENCES = 2**31  # sequence numbers are 31 bits and start again at 0


@dataclass(slots=True)
class Batch:
    """Encoded records for one partition.

    Attributes:
        tp: Where they go.
        data: Bytes as they go over the wire.
        outputs: Positions of the records in what was given to the sink.
    """

    tp: TP
    data: bytes | bytearray
    outputs: Sequence[int]


class BatchTooLargeError(Exception):
    """The topic takes less than this batch of several records: make smaller ones and try again."""

    def __init__(self, batch: Batch) -> None:
        super().__init__(f"{batch.tp}: batch of {len(batch.outputs)} records, {len(batch.data)} bytes")
        self.batch = batch


class Delivery:
    """Encodes and writes; one for each producer.

    Args:
        wire: Connections.
        connection: Size limits and compression.
        transactional_id: Of the transaction that the batches belong to, if any.
        producer: Producer id and epoch; with them a repeated batch is written once.
        aims: Bytes of a batch, by topics that take less than usual; learned, and shared with whoever was given it, too.
    """

    def __init__(
        self,
        wire: Wire,
        connection: KafkaConnection,
        *,
        transactional_id: str | None = None,
        producer: ProducerId | None = None,
        aims: dict[str, int] | None = None,
    ) -> None:
        self._wire = wire
        self._max_bytes = connection.max_message_bytes
        self._compression = connection.compression
        self._request_ms = int(connection.loop.commit_timeout.total_seconds() * 1000)
        self._transactional_id = transactional_id
        self._producer = producer
        self._sequences: dict[TP, int] = {}
        self._aim: dict[str, int] = {} if aims is None else aims

    def shrink(self, batch: Batch) -> None:
        """Aim for half of a batch that was too large for its topic."""
        self._aim[batch.tp.topic] = len(batch.data) // 2

    def renew(self, wire: Wire, producer: ProducerId) -> None:
        """Go on with another epoch: sequence numbers start again."""
        self._wire = wire
        self._producer = producer
        self._sequences.clear()

    async def pack(self, outputs: Sequence[OutRecord]) -> list[dict[TP, Batch]]:
        """Encode records, in order, into rounds of at most one batch a partition.

        Raises:
            OutputRefusedError: A record is too large, or names a partition that doesn't exist.
            TopicMissingError: A topic doesn't exist.
            LinkError: No broker answered a question about a topic.
        """
        counts = {topic: await self._count(topic) for topic in {record.topic for record in outputs}}
        drawn: dict[str, int] = {}
        rounds: list[dict[TP, Batch]] = []
        open_batches: dict[TP, tuple[BatchWriter, list[int]]] = {}
        closed: dict[TP, int] = {}
        now = unix_ms()
        for position, record in enumerate(outputs):
            tp = self._place(position, record, counts, drawn)
            entry = open_batches.get(tp)
            size = entry[0].append(record, now) if entry is not None else None
            if entry is None or size is None:
                if entry is not None:
                    self._close(tp, entry, rounds, closed)
                writer = BatchWriter(
                    limit=self._aim.get(record.topic, BATCH_BYTES),
                    compression=self._compression,
                    transactional=self._transactional_id is not None,
                )
                entry = open_batches[tp] = (writer, [])
                size = writer.append(record, now) or 0
            if size + BatchWriter.OVERHEAD > self._max_bytes:
                raise OutputRefusedError(
                    position, f"{size} bytes are above the limit of {self._max_bytes} for topic {record.topic}"
                )
            entry[1].append(position)
        for tp, entry in open_batches.items():
            self._close(tp, entry, rounds, closed)
        return rounds

    async def deliver(self, rounds: Sequence[Mapping[TP, Batch]]) -> None:
        """Write all batches; a partition that can't take its batch now is tried again until the caller's deadline.

        Raises:
            BatchTooLargeError: A batch of several records is above the topic's limit.
            OutputRefusedError: A record breaks a rule of its topic.
            FencedError: This producer's epoch is over.
            NotPermittedError: Writing is not allowed.
            BrokerUnavailableError: A refusal that no repetition mends.
        """
        if faults.armed:
            rounds = [{tp: batch} for batches in rounds for tp, batch in batches.items()]
        for batches in rounds:
            waiting, pauses = dict(batches), Pauses()
            while waiting:
                answers = await self._send(waiting)
                for tp, written in answers.items():
                    if self._settled(waiting[tp], written):
                        batch = waiting.pop(tp)
                        self._sequences[tp] = (self._sequences.get(tp, 0) + len(batch.outputs)) % _SEQUENCES
                if waiting:
                    await pauses.next()
                    if any(tp not in answers or answers[tp].code not in FULL_FOR_NOW for tp in waiting):
                        await self._wire.refresh()
            if faults.armed and batches is not rounds[-1]:
                await faults.reach(faults.Point.AFTER_SOME_SENDS)
        if faults.armed:
            await faults.reach(faults.Point.AFTER_SENDS)

    async def _send(self, waiting: Mapping[TP, Batch]) -> Mapping[TP, Written]:
        by_node: dict[int, list[tuple[TP, bytes | bytearray]]] = {}
        for tp, batch in waiting.items():
            node = self._wire.leader(tp)
            if node is not None:
                by_node.setdefault(node, []).append((tp, batch.data))
        answers = await asyncio.gather(
            *(
                self._wire.produce(node, self._transactional_id, self._request_ms, batches)
                for node, batches in by_node.items()
            ),
            return_exceptions=True,
        )
        found: dict[TP, Written] = {}
        for answer in answers:
            # Without an answer the same bytes go out again: within an epoch their sequence number makes that safe.
            if isinstance(answer, BaseException) and not isinstance(answer, LinkError):
                raise answer
            if not isinstance(answer, BaseException):
                found.update(answer)
        return found

    def _settled(self, batch: Batch, written: Written) -> bool:
        code = written.code
        if code in {Code.OK, Code.DUPLICATE_SEQUENCE}:
            return True
        if code in PRODUCE_AGAIN:
            return False
        where = f"{batch.tp.topic} partition {batch.tp.partition}: {written.message or describe(code)}"
        if code in TOO_LARGE:
            if len(batch.outputs) > 1:
                raise BatchTooLargeError(batch)
            raise OutputRefusedError(batch.outputs[0], f"{len(batch.data)} bytes are too large for {where}")
        if code in RECORD_REFUSED:
            index = batch.outputs[written.record if written.record is not None else 0]
            raise OutputRefusedError(index, where)
        if code in FENCED:
            raise FencedError(where)
        if code in NOT_PERMITTED:
            raise NotPermittedError(f"writing to {where}")
        raise BrokerUnavailableError(where)

    async def _count(self, topic: str) -> int:
        count = await self._wire.partitions(topic)
        if not count:
            raise TopicMissingError(f"topic {topic} does not exist: create it, or correct the name or prefix")
        return count

    @staticmethod
    def _place(position: int, record: OutRecord, counts: Mapping[str, int], drawn: dict[str, int]) -> TP:
        topic, count = record.topic, counts[record.topic]
        if record.partition is not None:
            if not 0 <= record.partition < count:
                raise OutputRefusedError(position, f"topic {topic} has {count} partitions, not {record.partition}")
            return TP(topic, record.partition)
        if record.key is not None:
            return TP(topic, partition_of(record.key, count))
        if topic not in drawn:  # one partition for all keyless records of a commit: fewer, larger batches
            drawn[topic] = random.randrange(count)
        return TP(topic, drawn[topic])

    def _close(
        self, tp: TP, entry: tuple[BatchWriter, list[int]], rounds: list[dict[TP, Batch]], closed: dict[TP, int]
    ) -> None:
        """Finish a partition's open batch and put it into the first round that has none of that partition yet."""
        writer, outputs = entry
        index = closed.get(tp, 0)
        sent_before = sum(len(done[tp].outputs) for done in rounds[:index])
        sequence = (self._sequences.get(tp, 0) + sent_before) % _SEQUENCES
        if index == len(rounds):
            rounds.append({})
        rounds[index][tp] = Batch(tp, writer.build(self._producer, sequence), outputs)
        closed[tp] = index + 1
