"""Where a hop's results go: records and offsets in one step, exactly once where the broker can.

The loop knows only the port ``Sink``. Both sinks commit on behalf of a group member and take its membership at the
call, as the consumer had it when its partitions were assigned.
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Protocol

from schemas.delivery import DeliveryMode
from streams import faults
from streams._aiokafka import GROUP, LinkError, Membership, Wire
from streams._codes import COORDINATOR_MOVED, WAIT, Code
from streams._delivery import BatchTooLargeError, Delivery
from streams._transactions import PAUSE_S, TransactionalProducer, raise_for
from streams.connection import KafkaConnection
from streams.errors import (
    BrokerUnavailableError,
    CommitUnknownError,
    FencedError,
    MetadataTooLargeError,
    StaleMemberError,
)
from streams.records import TP, OffsetCommit, OutRecord

METADATA_LIMIT = 4096
"""Bytes of commit metadata that Kafka takes by default (``offset.metadata.max.bytes``)."""


class GroupMember(Protocol):
    """Who commits; a ``Source`` is one."""

    @property
    def membership(self) -> Membership | None:
        """What the group knew this member as when its present partitions were assigned; None without any."""
        ...


class Sink(Protocol):
    """Takes what follows from a batch of records, together with their offsets.

    One commit at a time: a sink is used by one loop.
    """

    @property
    def mode(self) -> DeliveryMode:
        """What a commit promises."""
        ...

    @property
    def resets(self) -> int:
        """How often the producer was thrown away."""
        ...

    async def start(self) -> None:
        """Connect.

        Raises:
            BrokerUnavailableError: No broker answered.
            NotPermittedError: Credentials or rights.
        """
        ...

    async def commit(self, outputs: Sequence[OutRecord], offsets: Mapping[TP, OffsetCommit]) -> None:
        """Write the records and commit the offsets: both or neither; at least once, first the records.

        After any error the sink is ready for the next commit. Cancelling leaves the outcome open; the next commit then
        starts by clearing up.

        Args:
            outputs: Records in order; the order is kept within a partition.
            offsets: By partition, the next offset to read, and metadata.

        Raises:
            CommitRejectedError: The broker refused. ``StaleMemberError``: the partitions are no longer ours.
                ``FencedError``: the same commit may be tried again. At least once: the records are written.
            CommitUnknownError: In doubt. A new producer stands already; the committed offset says what happened.
            OutputRefusedError: A record can't be written; names which. No offset was committed.
            TopicMissingError: A topic doesn't exist. No offset was committed.
            NotPermittedError: A right is missing. No offset was committed.
            BrokerUnavailableError: No answer in time. No offset was committed; try the same again.
        """
        ...

    async def stop(self) -> None:
        """Close; nothing of this sink is left open at the broker if that answers."""
        ...


class TransactionalSink:
    """Exactly once: one transaction a commit, fenced by the group's generation (KIP-447).

    Two producers take turns. After a transaction has ended the broker still writes its markers, and refuses the next
    one of the same producer until they are replicated, which on three nodes took as long as the transaction itself.
    One transaction at a time is open all the same: the next begins when the last one's end was answered. Its offsets
    lie behind the last one's in the group's log, and of two commits the broker keeps the one that lies behind.

    Args:
        connection: Where, and with which budgets.
        member: Who commits.
        transactional_id: Stable over restarts of the same worker and different for each worker.
    """

    def __init__(self, connection: KafkaConnection, member: GroupMember, *, transactional_id: str) -> None:
        self._member = member
        ids = (f"{transactional_id}/a", f"{transactional_id}/b")
        aims: dict[str, int] = {}
        self._producers = deque(TransactionalProducer(connection, each, aims) for each in ids)

    @property
    def mode(self) -> DeliveryMode:
        """Exactly once."""
        return DeliveryMode.EXACTLY_ONCE

    @property
    def resets(self) -> int:
        """How often a producer was thrown away."""
        return sum(producer.resets for producer in self._producers)

    async def start(self) -> None:
        """Connect and take the transactional ids; see ``Sink.start``."""
        for producer in self._producers:
            await producer.start()

    async def commit(self, outputs: Sequence[OutRecord], offsets: Mapping[TP, OffsetCommit]) -> None:
        """One transaction; see ``Sink.commit``."""
        member = _require_member(self._member, offsets)
        _require_short(offsets)
        if outputs or offsets:
            for producer in self._producers:  # what a failed commit left open hides what follows
                await producer.settle()
            self._producers.rotate()
            try:
                await self._producers[0].transact(outputs, offsets, member)
            except FencedError:
                for producer in self._producers:  # who has taken one id has taken the other, too
                    producer.doubt()
                raise

    async def stop(self) -> None:
        """Abort what is open, and close."""
        for producer in self._producers:
            await producer.stop()


class AtLeastOnceSink:
    """At least once, for brokers without honest transactions: all records first, then the offsets.

    Args:
        connection: Where, and with which budgets.
        member: Who commits.
    """

    def __init__(self, connection: KafkaConnection, member: GroupMember) -> None:
        self._connection = connection
        self._member = member
        self._deadline_s = connection.loop.commit_timeout.total_seconds()
        self._wire: Wire | None = None
        self._delivery: Delivery | None = None
        self._resets = 0

    @property
    def mode(self) -> DeliveryMode:
        """At least once."""
        return DeliveryMode.AT_LEAST_ONCE

    @property
    def resets(self) -> int:
        """How often the connection was thrown away."""
        return self._resets

    async def start(self) -> None:
        """Connect; see ``Sink.start``."""
        await self._connected()

    async def commit(self, outputs: Sequence[OutRecord], offsets: Mapping[TP, OffsetCommit]) -> None:
        """Write, then commit; see ``Sink.commit``."""
        member = _require_member(self._member, offsets)
        _require_short(offsets)
        committing = False
        try:
            async with asyncio.timeout(self._deadline_s):
                wire, delivery = await self._connected()
                await self._write(delivery, outputs)
                if offsets and member is not None:
                    committing = True
                    booking = self._offsets(wire, member, offsets)
                    await (faults.during(faults.Point.DURING_COMMIT, booking) if faults.armed else booking)
                    if faults.armed:
                        await faults.reach(faults.Point.AFTER_COMMIT)
        except (LinkError, TimeoutError) as error:
            self._resets += 1
            await self.stop()
            reason = str(error) or f"no answer within {self._deadline_s:g} s"
            if committing:
                raise CommitUnknownError(f"{reason}; the committed offset says what happened") from error
            raise BrokerUnavailableError(f"{reason}; no offset was committed") from error

    async def stop(self) -> None:
        """Close the connections."""
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.close()

    async def _connected(self) -> tuple[Wire, Delivery]:
        if self._wire is None or self._delivery is None:
            limit = self._connection.loop.commit_timeout
            wire = Wire(self._connection.client_arguments("producer", request_timeout=limit))
            try:
                await wire.open()
            except LinkError as error:
                raise BrokerUnavailableError(f"{error}; no offset was committed") from error
            self._wire, self._delivery = wire, Delivery(wire, self._connection)
        return self._wire, self._delivery

    @staticmethod
    async def _write(delivery: Delivery, outputs: Sequence[OutRecord]) -> None:
        while True:
            try:
                await delivery.deliver(await delivery.pack(outputs))
            except BatchTooLargeError as error:
                delivery.shrink(error.batch)
            else:
                return

    @staticmethod
    async def _offsets(wire: Wire, member: Membership, offsets: Mapping[TP, OffsetCommit]) -> None:
        while True:
            node = await wire.coordinator(GROUP, member.group)
            codes = {code for code in (await wire.offset_commit(node, member, offsets)).values() if code != Code.OK}
            if not codes:
                return
            if not codes & (COORDINATOR_MOVED | WAIT):
                raise_for(min(codes), f"committing offsets of group {member.group}")
            wire.forget_coordinator(GROUP, member.group)
            await asyncio.sleep(PAUSE_S)


def _require_member(member: GroupMember, offsets: Mapping[TP, OffsetCommit]) -> Membership | None:
    """The membership at this moment; taken before anything is awaited, so that it fits the offsets."""
    membership = member.membership
    if offsets and membership is None:
        raise StaleMemberError("this consumer has no partitions assigned")
    return membership


def _require_short(offsets: Mapping[TP, OffsetCommit]) -> None:
    for tp, commit in offsets.items():
        size = len(commit.metadata.encode())
        if size > METADATA_LIMIT:
            raise MetadataTooLargeError(f"{tp.topic} partition {tp.partition}: {size} bytes of {METADATA_LIMIT}")
