"""The consuming side of a hop: a group member that starts each partition where the last commit left it.

What aiokafka leaves to its users, and what is done here:

- it delivers records while the assignment callback still runs: partitions are paused before anything is awaited;
- it sends no heartbeat while a callback runs: reading offsets, which may have to wait for another worker's transaction,
  happens in a task of its own;
- it logs and forgets errors of callbacks, and of the task that fetches: the next poll raises them;
- one unreadable record makes it drop what it had already taken from other partitions, and stops its partition for ever:
  positions are kept here, and such a record is read by a reader that lets its header names pass.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord
from aiokafka.errors import (
    ConsumerStoppedError,
    CorruptRecordException,
    GroupAuthorizationFailedError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    TopicAuthorizationFailedError,
)

from schemas.errors import TierflowError
from streams._aiokafka import GROUP, LinkError, Membership, Wire
from streams._aiokafka_consumer import (
    FetchPace,
    background_failure,
    has_lost_membership,
    is_rebalancing,
    membership_of,
    positions_of,
    release_polls,
    stop_client,
    wire_of,
)
from streams._aiokafka_records import read_around
from streams._predecessor import Predecessor
from streams._restore import Listener, MissingOffsets, Restorer
from streams.connection import BrokerKind, KafkaConnection
from streams.errors import (
    BrokerUnavailableError,
    DeliveryError,
    LogDamagedError,
    NotPermittedError,
    OffsetsLostError,
    TopicMissingError,
)
from streams.offsets import read_offsets
from streams.records import TP, InRecord, OffsetCommit

__all__ = ["Listener", "MissingOffsets", "Source"]

_LOG = logging.getLogger(__name__)

_REBALANCE_NAP_S = 0.02  # a poll during a rebalance returns empty after at most this


class Source:
    """A member of a consumer group.

    Args:
        connection: Where, and with which budgets.
        group: Consumer group.
        topics: Physical topics; all must exist.
        listener: Told of assignments and revocations.
        kind: What answers at the address.
        missing: What a partition without a committed offset means.
        name: Of this process among those of the group, the same after a restart and nobody else's: a member that is
            left there under this name is put out. Empty for none.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        *,
        group: str,
        topics: Collection[str],
        listener: Listener,
        kind: BrokerKind = BrokerKind.UNKNOWN,
        missing: MissingOffsets = MissingOffsets.REFUSE,
        name: str = "",
    ) -> None:
        self._connection = connection
        self._group = group
        self._topics = frozenset(topics)
        self._listener = listener
        self._missing = missing
        named = {"name": f"{group}.{name}"} if name else {}
        self._arguments = connection.consumer_arguments(group, kind, **named)
        self._named = bool(name) and kind is BrokerKind.KAFKA
        self._pace = FetchPace(connection.fetch_wait(kind), connection.fetch_wait_idle(kind))
        self._consumer: AIOKafkaConsumer | None = None
        self._wire: Wire | None = None
        self._membership: Membership | None = None
        self._positions: dict[TP, int] = {}
        self._held: set[TP] = set()
        self._restorer: Restorer | None = None
        self._failure: BaseException | None = None
        self._putting_out: asyncio.Task[None] | None = None
        self._polling = self._stopping = False

    @property
    def membership(self) -> Membership | None:
        """What commits are checked against; as of the assignment, and None while there is none."""
        return self._membership

    @property
    def assigned(self) -> frozenset[TP]:
        """Partitions that were handed to the listener and not taken away since."""
        return frozenset(self._positions)

    async def start(self) -> None:
        """Connect and join the group; assignments come through the listener.

        Raises:
            BrokerUnavailableError: No broker answered.
            TopicMissingError: A topic doesn't exist.
        """
        consumer = AIOKafkaConsumer(**self._arguments)
        where = self._connection.kafka.bootstrap
        try:
            await consumer.start()
            missing = sorted(self._topics - await consumer.topics())
        except KafkaError as error:
            await stop_client(consumer)
            raise BrokerUnavailableError(f"{where}: {error}") from error
        except BaseException:
            await stop_client(consumer)
            raise
        if missing:
            await stop_client(consumer)
            raise TopicMissingError(f"no topic {', '.join(missing)} at {where}: create the topics first")
        self._consumer, self._wire = consumer, wire_of(consumer)
        self._restorer = Restorer(
            consumer=consumer,
            wire=self._wire,
            group=self._group,
            missing=self._missing,
            begin=self.seek,
            listener=self._listener,
            release=self._release,
            fail=self._fail,
        )
        predecessor = Predecessor(self._wire, group=self._group, client_id=self._arguments["client_id"])
        left = self._named and await predecessor.note()
        consumer.subscribe(topics=list(self._topics), listener=_Rebalances(self))
        if left:
            self._putting_out = asyncio.create_task(predecessor.put_out())

    async def stop(self) -> None:
        """Leave the group and close. The listener is not called: finish and commit before."""
        self._stopping = True
        if self._putting_out is not None:
            self._putting_out.cancel()
            await asyncio.wait([self._putting_out])
        if self._consumer is not None and self._restorer is not None:
            await self._restorer.cancel()
            if self._polling and is_rebalancing(self._consumer):
                release_polls(self._consumer)
            await self._leave_first_generation()
            await stop_client(self._consumer)
        self._membership = None
        self._positions.clear()

    async def poll(self, timeout: timedelta, max_records: int | None = None) -> Mapping[TP, Sequence[InRecord]]:  # noqa: ASYNC109 - the client waits for it without a task
        """Records that have arrived, waiting for the first of them.

        Call it all the time, also with everything paused: a member that does not poll is put out of the group.
        Do not cancel it but to stop.

        Args:
            timeout: Longest wait when there are none.
            max_records: Most records to return.

        Raises:
            DeliveryError: Reading can't go on, or a listener failed; which says the class.
        """
        consumer = self._started()
        self._raise_failure(consumer)
        if is_rebalancing(consumer):
            await asyncio.sleep(min(timeout.total_seconds(), _REBALANCE_NAP_S))
            return {}
        self._polling = True
        try:
            fetched = await consumer.getmany(timeout_ms=self._pace.within_ms(timeout), max_records=max_records)
        except ConsumerStoppedError:
            return {}
        except UnicodeDecodeError:
            return await self._read_around()
        except KafkaError as error:
            self._rewind()
            raise _translated(error, self._connection) from error
        finally:
            self._polling = False
        self._pace.polled(consumer, sum(map(len, fetched.values())), time.monotonic())
        self._positions.update(positions_of(consumer, self._positions))
        return {tp: [_record(raw) for raw in raws] for tp, raws in fetched.items() if tp in self._positions}

    def pause(self, *partitions: TP) -> None:
        """Hold partitions back, until resumed or until the next rebalance."""
        self._held.update(partitions)
        self._started().pause(*(tp for tp in partitions if tp in self._positions))

    def resume(self, *partitions: TP) -> None:
        """Let held partitions go on."""
        self._held.difference_update(partitions)
        self._started().resume(*(tp for tp in partitions if tp in self._positions))

    def seek(self, tp: TP, offset: int) -> None:
        """Read a partition from another offset on."""
        self._started().seek(tp, offset)
        self._positions[tp] = offset

    def position(self, tp: TP) -> int:
        """The next offset to read: behind the last record that was returned, and what holds no records after it."""
        return self._positions[tp]

    def high_water(self, tp: TP) -> int | None:
        """End of the partition's log as of the last fetch; None before the first."""
        found: int | None = self._started().highwater(tp) if tp in self._positions else None
        return found

    def stable_end(self, tp: TP) -> int | None:
        """First offset of the oldest open transaction, or the end, as of the last fetch: how far reading can get."""
        found: int | None = self._started().last_stable_offset(tp) if tp in self._positions else None
        return found if found is None or found >= 0 else self.high_water(tp)

    async def end_offsets(self, partitions: Collection[TP]) -> Mapping[TP, int]:
        """Ends of logs, asked now.

        Raises:
            BrokerUnavailableError: No answer.
        """
        try:
            ends: Mapping[TP, int] = await self._started().end_offsets(list(partitions))
        except KafkaError as error:
            raise _translated(error, self._connection) from error
        return ends

    async def committed(self, partitions: Collection[TP]) -> Mapping[TP, OffsetCommit | None]:
        """What is committed, with metadata; waits while a transaction that commits on it is open.

        Raises:
            BrokerUnavailableError: No answer, or the transaction stays open.
            NotPermittedError: The group is not allowed to us.
        """
        self._started()
        assert self._wire is not None  # noqa: S101 - started
        return await read_offsets(self._wire, self._group, partitions)

    async def revoked(self) -> None:
        """For the client's callback: all partitions go away, before the group is joined again."""
        if self._restorer is not None:
            await self._restorer.cancel()
        taken = frozenset(self._positions)
        try:
            if taken and not self._stopping:
                await self._listener.on_revoked(taken, lost=has_lost_membership(self._started()))
        except Exception as error:  # noqa: BLE001 - the client would swallow it; the next poll raises it
            self._fail(error, "on_revoked")
        finally:
            self._membership = None
            self._positions.clear()
            self._held.clear()

    def assigned_anew(self, partitions: frozenset[TP]) -> None:
        """For the client's callback: must not await, since heartbeats rest while it runs."""
        consumer = self._started()
        consumer.pause(*partitions)
        for tp in partitions:
            # A position, any position: without one the client looks up the committed offset itself, does not wait for
            # open transactions, and reports a missing offset before the rule for missing offsets was asked.
            consumer.seek(tp, 0)
        self._membership = membership_of(consumer)
        if partitions and self._restorer is not None and not self._stopping:
            self._restorer.start(partitions)

    def _release(self, partitions: frozenset[TP]) -> None:
        self._started().resume(*(partitions - self._held))

    async def _leave_first_generation(self) -> None:
        """The client leaves a group only from generation 1 on; the embedded broker begins with 0."""
        member = self._membership
        if member is None or member.generation != 0 or self._wire is None:
            return
        with contextlib.suppress(LinkError):
            node = await self._wire.coordinator(GROUP, member.group)
            await self._wire.leave_group(node, member)

    async def _read_around(self) -> Mapping[TP, Sequence[InRecord]]:
        """After a record with undecodable header names: read each partition once, with a reader that lets it pass."""
        self._rewind()
        consumer = self._started()
        before = {tp: offset for tp, offset in self._positions.items() if tp not in self._held}
        try:
            found = await read_around(consumer, before)
        except KafkaError as error:
            raise _translated(error, self._connection) from error
        records: dict[TP, Sequence[InRecord]] = {}
        for tp, (raws, behind) in found.items():
            # Revoked, given anew, held or sent elsewhere meanwhile: what was read is not what comes next.
            if self._positions.get(tp) != before[tp] or tp in self._held:
                continue
            # Not before all are read: a position counts as done with as soon as nothing before it is in flight.
            consumer.seek(tp, behind)
            self._positions[tp] = behind
            if raws:
                records[tp] = [_record(raw) for raw in raws]
        return records

    def _rewind(self) -> None:
        """Go back to what was returned last: an error makes the client drop what it had taken but not returned."""
        consumer = self._started()
        for tp, offset in self._positions.items():
            with contextlib.suppress(KafkaError):
                consumer.seek(tp, offset)

    def _fail(self, error: BaseException, where: str) -> None:
        _LOG.error("%s of group %s failed: %s", where, self._group, error)
        if self._failure is None:
            self._failure = error

    def _raise_failure(self, consumer: AIOKafkaConsumer) -> None:
        """What went wrong in the background, where nobody else would tell."""
        failure, self._failure = self._failure or background_failure(consumer), None
        if failure is not None and not isinstance(failure, TierflowError):
            raise DeliveryError(f"consumer of group {self._group}: {failure!r}") from failure
        if failure is not None:
            raise failure

    def _started(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            raise RuntimeError("the source is not started")
        return self._consumer


class _Rebalances(ConsumerRebalanceListener):  # type: ignore[misc] # untyped library
    def __init__(self, source: Source) -> None:
        self._source = source

    async def on_partitions_revoked(self, revoked: Collection[TP]) -> None:
        del revoked  # all of them: this client knows no other rebalance
        await self._source.revoked()

    def on_partitions_assigned(self, assigned: Collection[TP]) -> None:
        self._source.assigned_anew(frozenset(assigned))


def _record(raw: ConsumerRecord) -> InRecord:
    headers = raw.headers
    for _, value in headers:
        if value is None:
            headers = tuple((name, value or b"") for name, value in headers)
            break
    return InRecord(
        raw.topic, raw.partition, raw.offset, raw.timestamp, raw.timestamp_type, raw.key, raw.value, headers
    )


def _translated(error: KafkaError, connection: KafkaConnection) -> DeliveryError:
    if isinstance(error, OffsetOutOfRangeError | NoOffsetForPartitionError):
        return OffsetsLostError(
            f"the log no longer holds the committed offset: {error}; reset it on purpose, since any choice repeats or "
            "skips requests"
        )
    if isinstance(error, TopicAuthorizationFailedError | GroupAuthorizationFailedError):
        return NotPermittedError(f"reading: {error}")
    if isinstance(error, CorruptRecordException):
        return LogDamagedError(str(error))
    return BrokerUnavailableError(f"{connection.kafka.bootstrap}: {error!r}")
