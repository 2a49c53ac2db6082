"""What lies in the topics, read by a second client library (librdkafka): committed records only."""

import asyncio
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from confluent_kafka import OFFSET_BEGINNING, Consumer, ConsumerGroupTopicPartitions, IsolationLevel, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from streams.records import TP, InRecord

_PATIENCE_S = 20.0
QUIET = {"log_level": 4}
"""Warnings only: librdkafka tells of each client's end on standard error."""


def _consumer(bootstrap: str) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"oracle-{uuid.uuid4().hex}",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 50,
            "max.poll.interval.ms": 600_000,
            **QUIET,
        }
    )


def _record(message: object) -> InRecord:
    m = message
    return InRecord(
        m.topic(),  # type: ignore[attr-defined]
        m.partition(),  # type: ignore[attr-defined]
        m.offset(),  # type: ignore[attr-defined]
        m.timestamp()[1],  # type: ignore[attr-defined]
        m.timestamp()[0],  # type: ignore[attr-defined]
        m.key(),  # type: ignore[attr-defined]
        m.value(),  # type: ignore[attr-defined]
        tuple((name, value or b"") for name, value in m.headers() or ()),  # type: ignore[attr-defined]
    )


def read_all(bootstrap: str, partitions: Collection[TP]) -> list[InRecord]:
    """Everything committed, from the beginning to the last stable offset, in the order of each partition."""
    consumer = _consumer(bootstrap)
    consumer.assign([TopicPartition(tp.topic, tp.partition, OFFSET_BEGINNING) for tp in partitions])
    found: list[InRecord] = []
    waiting = set(partitions)
    last = time.monotonic()
    try:
        while waiting:
            messages = consumer.consume(500, timeout=0.2)
            last = time.monotonic() if messages else last
            assert time.monotonic() - last < _PATIENCE_S, f"did not reach the end of {sorted(waiting)[:5]}"
            for message in messages:
                if message.error() is None:
                    found.append(_record(message))
                else:  # the end of a partition is told as an error
                    waiting.discard(TP(message.topic() or "", message.partition() or 0))
    finally:
        consumer.close()
    return sorted(found, key=lambda record: record[:3])


class Tail:
    """Reads along in a thread of its own while faults happen; what it saw must be what stays.

    Args:
        bootstrap: Address of the broker.
        partitions: What to read.
    """

    def __init__(self, bootstrap: str, partitions: Sequence[TP]) -> None:
        self.records: list[InRecord] = []
        self._stop = threading.Event()
        self._consumer = _consumer(bootstrap)
        self._consumer.assign([TopicPartition(tp.topic, tp.partition, OFFSET_BEGINNING) for tp in partitions])
        self._thread = threading.Thread(target=self._run, name="oracle tail", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            for message in self._consumer.consume(500, timeout=0.2):
                if message.error() is None:
                    self.records.append(_record(message))

    def close(self) -> None:
        self._stop.set()
        self._thread.join(30)
        self._consumer.close()

    async def until(self, enough: Callable[[Sequence[InRecord]], bool], within_s: float) -> bool:
        """Wait until what was read is enough; whether it became so in time."""
        clock = asyncio.get_running_loop().time
        until = clock() + within_s
        while not enough(self.records):
            if clock() > until:
                return False
            await asyncio.sleep(0.1)
        return True


@contextmanager
def tailing(bootstrap: str, partitions: Sequence[TP]) -> Iterator[Tail]:
    tail = Tail(bootstrap, partitions)
    try:
        yield tail
    finally:
        tail.close()


@dataclass(frozen=True, slots=True)
class Ends:
    """Where a partition ends.

    Attributes:
        stable: First offset of an open transaction, else the end.
        high: The end.
    """

    stable: int
    high: int


def ends(bootstrap: str, partitions: Collection[TP]) -> Mapping[TP, Ends]:
    """Stable and plain ends, side by side: they differ while a transaction is open."""
    admin = AdminClient({"bootstrap.servers": bootstrap, **QUIET})
    asked = {TopicPartition(tp.topic, tp.partition): OffsetSpec.latest() for tp in partitions}  # type: ignore[no-untyped-call]
    by_level = {}
    for level in (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED):
        answers = admin.list_offsets(asked, isolation_level=level, request_timeout=_PATIENCE_S)
        by_level[level] = {TP(tp.topic, tp.partition): future.result().offset for tp, future in answers.items()}
    return {
        tp: Ends(by_level[IsolationLevel.READ_COMMITTED][tp], by_level[IsolationLevel.READ_UNCOMMITTED][tp])
        for tp in partitions
    }


def committed(bootstrap: str, groups: Mapping[str, Sequence[TP]]) -> dict[tuple[str, TP], int]:
    """Committed offsets by group and partition, as the group coordinator tells them now."""
    admin = AdminClient({"bootstrap.servers": bootstrap, **QUIET})
    found: dict[tuple[str, TP], int] = {}
    for group, partitions in groups.items():
        asked = ConsumerGroupTopicPartitions(group, [TopicPartition(tp.topic, tp.partition) for tp in partitions])
        for future in admin.list_consumer_group_offsets([asked], request_timeout=_PATIENCE_S).values():
            for tp in future.result().topic_partitions or ():
                found[group, TP(tp.topic, tp.partition)] = tp.offset
    return found
