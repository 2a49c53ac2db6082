"""One transactional producer, fenced the way of KIP-447, as a plain coroutine.

A transaction is: announce partitions and group, write the batches and the offsets, end. The broker checks the offsets
against the group's generation, so a stale worker's transaction is refused whatever its transactional id.

Whatever goes wrong, there is one remedy: take the transactional id again. That aborts what is open, and its new epoch
fences requests that are still on their way (a late commit of the old transaction must not hit the next one, KIP-890).
So no request that ends a transaction is ever repeated after a time-out.

States: ``CLOSED`` -> ``READY`` -> ``OPEN`` -> ``ENDING`` -> ``READY``; from anywhere to ``DOUBTFUL`` when something
went wrong, and from there to ``READY`` with a new epoch.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from enum import StrEnum

from streams import faults
from streams._aiokafka import GROUP, TRANSACTION, LinkError, Membership, ProducerId, Wire
from streams._codes import COORDINATOR_MOVED, FENCED, NOT_PERMITTED, STALE_MEMBER, WAIT, Code, describe
from streams._delivery import BatchTooLargeError, Delivery
from streams._pauses import Pauses
from streams.connection import KafkaConnection
from streams.errors import (
    BrokerUnavailableError,
    CommitUnknownError,
    DeliveryError,
    FencedError,
    MetadataTooLargeError,
    NotPermittedError,
    StaleMemberError,
)
from streams.records import TP, OffsetCommit, OutRecord

_LOG = logging.getLogger(__name__)

BUSY_PAUSE_S = 0.002
"""Between tries while the broker still writes the last transaction's markers; the library waits 20 ms."""
PAUSE_S = 0.05
"""Longest between tries while a coordinator moves or loads."""
RECONNECT_PAUSE_S = 0.5
"""Between tries to start a new producer while no broker answers."""


class TransactionState(StrEnum):
    """Where the producer is; see the module's docstring."""

    CLOSED = "closed"
    READY = "ready"
    OPEN = "open"
    ENDING = "ending"
    DOUBTFUL = "doubtful"


class TransactionalProducer:
    """Writes records and offsets, all or nothing.

    Args:
        connection: Where, and with which budgets.
        transactional_id: Stable over restarts of a worker, so that a restart ends at once what a crash left open.
        aims: See ``Delivery``.
    """

    def __init__(self, connection: KafkaConnection, transactional_id: str, aims: dict[str, int] | None = None) -> None:
        self._connection = connection
        self._id = transactional_id
        self._aims = aims
        self._deadline_s = connection.loop.commit_timeout.total_seconds()
        self._timeout_ms = int(connection.loop.transaction_timeout.total_seconds() * 1000)
        self._wire: Wire | None = None
        self._producer = ProducerId(-1, -1)
        self._delivery: Delivery | None = None
        self.state = TransactionState.CLOSED
        self.resets = 0
        """How often a producer was thrown away."""

    async def start(self) -> None:
        """Connect and take the transactional id.

        Raises:
            BrokerUnavailableError: No broker could give it in time.
            NotPermittedError: This transactional id is not allowed to us.
        """
        if self.state is TransactionState.CLOSED:
            await self._renew(fresh=True)

    async def stop(self) -> None:
        """Close; a transaction that is still open is aborted if the broker answers in time."""
        if self.state in {TransactionState.OPEN, TransactionState.ENDING, TransactionState.DOUBTFUL}:
            with contextlib.suppress(DeliveryError):
                await self._renew(fresh=False)
        await self._drop()
        self.state = TransactionState.CLOSED

    def doubt(self) -> None:
        """Take the transactional id anew before the next transaction."""
        if self.state is TransactionState.READY:
            self.state = TransactionState.DOUBTFUL

    async def settle(self) -> None:
        """End what a failed transaction may have left open; nothing happens if none failed.

        Raises:
            BrokerUnavailableError: No answer.
            NotPermittedError: This transactional id is not allowed to us any more.
        """
        if self.state is not TransactionState.READY:
            await self._renew(fresh=self._wire is None)

    async def transact(
        self, outputs: Sequence[OutRecord], offsets: Mapping[TP, OffsetCommit], member: Membership | None
    ) -> None:
        """One transaction. On return, and also when an error was raised, none is open.

        Raises:
            CommitRejectedError: The broker refused; nothing is visible.
            CommitUnknownError: The end was not answered. A new producer stands.
            OutputRefusedError: A record can't be written; nothing is visible.
            BrokerUnavailableError: No answer before the end; nothing is visible.
        """
        while True:
            await self.settle()
            try:
                async with asyncio.timeout(self._deadline_s):
                    await self._attempt(outputs, offsets, member)
            except BatchTooLargeError as error:
                await self._recover(error)
                if self._delivery is not None:
                    self._delivery.shrink(error.batch)
            except (LinkError, TimeoutError) as error:
                await self._lost(error)
            except DeliveryError as error:
                await self._recover(error)
                raise
            except BaseException:
                # Cancelled, or a record that can't be encoded: the next transaction starts with a new epoch.
                if self.state is not TransactionState.READY:
                    self.state = TransactionState.DOUBTFUL
                raise
            else:
                return

    async def _attempt(
        self, outputs: Sequence[OutRecord], offsets: Mapping[TP, OffsetCommit], member: Membership | None
    ) -> None:
        assert self._delivery is not None  # noqa: S101 - READY implies it
        rounds = await self._delivery.pack(outputs)
        self.state = TransactionState.OPEN
        if rounds:
            await self._announce(list(rounds[0]))
        writing = self._delivery.deliver(rounds) if rounds else _nothing()
        committing = self._offsets(offsets, member) if offsets and member is not None else _nothing()
        if faults.armed:  # one after the other, so that a fault point means the same each time
            committing = _in_turn(writing, committing)
            writing = _nothing()
        # Side by side, since each waits for the broker; all answers are in before anything is concluded.
        raise_first(await asyncio.gather(writing, committing, return_exceptions=True))
        self.state = TransactionState.ENDING
        await self._end()
        self.state = TransactionState.READY

    async def _announce(self, tps: Sequence[TP]) -> None:
        """Name the partitions. Not beside the group: the coordinator refuses the second while it logs the first."""
        wire = self._link()

        async def announce() -> Iterable[int]:
            node = await wire.coordinator(TRANSACTION, self._id)
            return await wire.add_partitions(node, self._id, self._producer, tps)

        await self._until_taken("writing", announce, TRANSACTION, self._id)
        if faults.armed:
            await faults.reach(faults.Point.AFTER_BEGIN)

    async def _offsets(self, offsets: Mapping[TP, OffsetCommit], member: Membership) -> None:
        wire = self._link()

        async def announce() -> Iterable[int]:
            node = await wire.coordinator(TRANSACTION, self._id)
            return (await wire.add_offsets(node, self._id, self._producer, member.group),)

        async def commit() -> Iterable[int]:
            node = await wire.coordinator(GROUP, member.group)
            codes = await wire.txn_offset_commit(node, self._id, self._producer, member, offsets)
            return codes.values()

        await self._until_taken(f"announcing group {member.group}", announce, TRANSACTION, self._id)
        await self._until_taken(f"committing offsets of group {member.group}", commit, GROUP, member.group)
        if faults.armed:
            await faults.reach(faults.Point.AFTER_OFFSETS)

    async def _end(self) -> None:
        """Commit. An answer that leaves the outcome open makes later refusals doubtful too."""
        wire, asked_before = self._link(), False
        while True:
            node = await wire.coordinator(TRANSACTION, self._id)
            ending = wire.end_txn(node, self._id, self._producer, commit=True)
            code = await (faults.during(faults.Point.DURING_COMMIT, ending) if faults.armed else ending)
            if code == Code.OK:
                if faults.armed:
                    await faults.reach(faults.Point.AFTER_COMMIT)
                return
            if code == Code.CONCURRENT_TRANSACTIONS:
                await asyncio.sleep(BUSY_PAUSE_S)
            elif code in COORDINATOR_MOVED or code in WAIT:
                # Answered, so it is no longer on its way: repeating it is safe. But the log may hold it already.
                asked_before = True
                wire.forget_coordinator(TRANSACTION, self._id)
                await asyncio.sleep(PAUSE_S)
            elif asked_before or code not in FENCED | NOT_PERMITTED:
                # Only those are said before anything is done; a broker that fails halfway through says "unknown".
                raise LinkError(f"ending the transaction: {describe(code)}, which leaves open whether it was committed")
            else:
                raise_for(code, "ending the transaction")

    async def _until_taken(self, what: str, ask: Callable[[], Awaitable[Iterable[int]]], kind: int, key: str) -> None:
        """Ask until every code is OK, as long as the refusals are passing ones; the deadline is the caller's."""
        pauses = Pauses(PAUSE_S)
        while True:
            codes = {code for code in await ask() if code != Code.OK}
            if not codes:
                return
            if Code.CONCURRENT_TRANSACTIONS in codes:
                await asyncio.sleep(BUSY_PAUSE_S)
            elif codes & COORDINATOR_MOVED:
                self._link().forget_coordinator(kind, key)
                await pauses.next()
            elif codes & WAIT:
                await pauses.next()
            else:
                # Of several codes the one that was not caused by another (55 is "not tried, because of another").
                raise_for(min(codes - {Code.OPERATION_NOT_ATTEMPTED} or codes), what)

    async def _lost(self, error: LinkError | TimeoutError) -> None:
        """No answer. Before the end nothing can have been committed; at the end it is open.

        Raises:
            CommitUnknownError: At the end, once a new producer stands, however long no broker answers.
            BrokerUnavailableError: Before it.
        """
        ending = self.state is TransactionState.ENDING
        reason = str(error) or f"no answer within {self._deadline_s:g} s"
        self.state = TransactionState.DOUBTFUL
        self.resets += 1
        await self._drop()  # its sockets may be dead; no request of it is waited for any more
        if not ending:
            raise BrokerUnavailableError(f"{reason}; nothing was committed") from error
        _LOG.warning("transaction %s in doubt: %s", self._id, reason)
        while True:
            try:
                await self._renew(fresh=True)
            except BrokerUnavailableError as again:
                _LOG.warning("transaction %s still in doubt: %s", self._id, again)
                await asyncio.sleep(RECONNECT_PAUSE_S)
            else:
                raise CommitUnknownError(f"{reason}; the committed offset says what happened") from error

    async def _recover(self, error: Exception) -> None:
        """Abort after a refusal. If that gets no answer, the next transaction begins with it."""
        if self.state is TransactionState.READY:
            return  # refused before anything was sent
        self.state = TransactionState.DOUBTFUL
        self.resets += 1
        _LOG.info("transaction %s aborted: %s", self._id, error)
        with contextlib.suppress(BrokerUnavailableError, NotPermittedError):
            await self._renew(fresh=False)

    async def _renew(self, *, fresh: bool) -> None:
        """Take the transactional id (again): a new epoch, nothing open, sequence numbers from the start."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._deadline_s):
                if fresh or self._wire is None:
                    await self._drop()
                    limit = self._connection.loop.commit_timeout
                    self._wire = Wire(self._connection.client_arguments("producer", request_timeout=limit))
                    await self._wire.open()
                producer = await self._take_id(self._wire)
        except (LinkError, TimeoutError) as error:
            await self._drop()
            self.state = TransactionState.DOUBTFUL
            waited = time.monotonic() - began
            raise BrokerUnavailableError(
                f"no producer for {self._id} after {waited:.1f} s at {self._connection.kafka.bootstrap}: "
                f"{str(error) or 'no answer'}"
            ) from error
        self._producer = producer
        if self._delivery is None:
            self._delivery = Delivery(
                self._wire, self._connection, transactional_id=self._id, producer=producer, aims=self._aims
            )
        self._delivery.renew(self._wire, producer)
        self.state = TransactionState.READY

    async def _take_id(self, wire: Wire) -> ProducerId:
        while True:
            node = await wire.coordinator(TRANSACTION, self._id)
            code, producer = await wire.init_producer_id(node, self._id, self._timeout_ms)
            if code == Code.OK:
                return producer
            if code == Code.CONCURRENT_TRANSACTIONS:  # it is aborting what was open
                await asyncio.sleep(BUSY_PAUSE_S)
            elif code in COORDINATOR_MOVED or code in WAIT:
                wire.forget_coordinator(TRANSACTION, self._id)
                await asyncio.sleep(PAUSE_S)
            elif code in NOT_PERMITTED:
                raise NotPermittedError(f"transactional id {self._id}: {describe(code)}")
            else:
                raise LinkError(f"taking transactional id {self._id}: {describe(code)}")

    async def _drop(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.close()

    def _link(self) -> Wire:
        assert self._wire is not None  # noqa: S101 - READY implies it
        return self._wire


def raise_first(results: Iterable[object]) -> None:
    """Raise the most telling error among results: a refusal says more than a lost connection."""
    errors = [result for result in results if isinstance(result, BaseException)]
    for error in sorted(errors, key=lambda found: not isinstance(found, DeliveryError)):
        raise error


def raise_for(code: int, what: str) -> None:
    """Raise what a lasting error code of a commit means.

    Raises:
        StaleMemberError: The group has moved on.
        FencedError: The producer's epoch is over.
        MetadataTooLargeError: The broker takes less metadata.
        NotPermittedError: Rights are missing.
        BrokerUnavailableError: Any other.
    """
    text = f"{what}: {describe(code)}"
    if code in STALE_MEMBER:
        raise StaleMemberError(text)
    if code in FENCED:
        raise FencedError(text)
    if code == Code.OFFSET_METADATA_TOO_LARGE:
        raise MetadataTooLargeError(text)
    if code in NOT_PERMITTED:
        raise NotPermittedError(text)
    raise BrokerUnavailableError(f"{text}; nothing was committed")


async def _in_turn(first: Coroutine[None, None, None], then: Coroutine[None, None, None]) -> None:
    try:
        await first
    except BaseException:
        then.close()
        raise
    await then


async def _nothing() -> None:
    """A side of the transaction that this one doesn't have."""
