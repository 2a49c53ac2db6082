"""The other remedy against zombies, as a prototype: a transactional producer for each input partition.

With aiokafka's public API only. When the next owner of a partition starts the partition's producer, the broker fences
the last owner's and ends its transaction; only then is the committed offset read. It exists to be measured beside this
project's sink (``bench.fencing``), which fences by the group's generation; nothing else uses it.
"""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Collection, Sequence
from datetime import timedelta

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import KafkaError

from streams import faults

log = logging.getLogger(__name__)

POLL_MS = 250
PAUSE_S = 0.2
"""Before a partition is begun again after an error."""


class _Owned(ConsumerRebalanceListener):  # type: ignore[misc] # untyped library
    """Producers of the partitions that are ours."""

    def __init__(self, consumer: AIOKafkaConsumer, bootstrap: str, group: str, transaction: timedelta) -> None:
        self.consumer = consumer
        self.producers: dict[TopicPartition, AIOKafkaProducer] = {}
        self.busy = asyncio.Lock()
        """Held while transactions are open: a revocation waits for them."""
        self._bootstrap = bootstrap
        self._group = group
        self._transaction = transaction

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        async with self.busy:
            leaving = [self.producers.pop(tp) for tp in revoked if tp in self.producers]
        await asyncio.gather(*(_stopped(producer) for producer in leaving))

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        self.consumer.pause(*assigned)  # before anything is awaited: records come while this still runs
        await asyncio.gather(*(self.begin(tp) for tp in assigned))
        self.consumer.resume(*assigned)

    async def begin(self, tp: TopicPartition) -> None:
        """Fence the last owner, then read on where the last commit ended."""
        producer = AIOKafkaProducer(
            bootstrap_servers=self._bootstrap,
            acks="all",
            transactional_id=f"{self._group}-{tp.topic}-{tp.partition}",
            transaction_timeout_ms=int(self._transaction / timedelta(milliseconds=1)),
        )
        await producer.start()
        committed = await self.consumer.committed(tp)
        self.consumer.seek(tp, committed or 0)
        self.producers[tp] = producer

    async def again(self, tp: TopicPartition) -> None:
        """After an error: a new producer, if the partition is still ours."""
        old = self.producers.pop(tp, None)
        if old is not None:
            await _stopped(old)
        await asyncio.sleep(PAUSE_S)
        if tp in self.consumer.assignment() and tp not in self.producers:
            await self.begin(tp)


async def _stopped(producer: AIOKafkaProducer) -> None:
    with contextlib.suppress(KafkaError):
        await producer.stop()


async def _copy(owned: _Owned, tp: TopicPartition, records: Sequence[ConsumerRecord], target: str, group: str) -> None:
    """One partition's records and their offset, in a transaction of that partition's producer."""
    producer = owned.producers.get(tp)
    if producer is None:
        return  # not begun yet: it will seek to what is committed
    try:
        await producer.begin_transaction()
        sends = [
            await producer.send(target, record.value, record.key, headers=list(record.headers)) for record in records
        ]
        await asyncio.gather(*sends)
        if faults.armed:
            await faults.reach(faults.Point.AFTER_SENDS)
        await producer.send_offsets_to_transaction({tp: (records[-1].offset + 1, "m")}, group)
        ending = producer.commit_transaction()
        await (faults.during(faults.Point.DURING_COMMIT, ending) if faults.armed else ending)
    except KafkaError as error:  # fenced, or no answer
        log.warning("%s: %r", tp, error)
        await owned.again(tp)


async def run(
    bootstrap: str, source: str, target: str, *, linger: timedelta, session: timedelta, transaction: timedelta
) -> None:
    """Copy until SIGTERM.

    Args:
        bootstrap: Broker address.
        source: Topic to read.
        target: Topic to write.
        linger: Least time between the starts of two rounds of commits.
        session: When the group gives a silent member up.
        transaction: When the broker ends an abandoned transaction.
    """
    group = f"g-{source}"
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False, isolation_level="read_committed",
        auto_offset_reset="earliest", partition_assignment_strategy=(RangePartitionAssignor,),
        session_timeout_ms=int(session.total_seconds() * 1000),
        heartbeat_interval_ms=int(session.total_seconds() * 250),
    )  # fmt: skip
    owned = _Owned(consumer, bootstrap, group, transaction)
    await consumer.start()
    consumer.subscribe([source], listener=owned)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    pace = linger.total_seconds()
    while not stop.is_set():
        began = time.monotonic()
        fetched = await consumer.getmany(timeout_ms=POLL_MS)
        if not fetched:
            continue
        async with owned.busy:
            await asyncio.gather(*(_copy(owned, tp, records, target, group) for tp, records in fetched.items()))
        if pace and (rest := pace - (time.monotonic() - began)) > 0:
            await asyncio.sleep(rest)
    await asyncio.gather(*(_stopped(producer) for producer in owned.producers.values()))
    await consumer.stop()
