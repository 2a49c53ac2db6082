"""What this project needs of aiokafka's insides to speak to a broker; nothing outside ``_aiokafka*.py`` knows them.

aiokafka speaks the transaction protocol of 2017, in which a stale worker's commit is accepted. What is missing for
KIP-447 is added here on top of its client (connections, metadata, SASL, TLS) and its protocol classes: requests go out
one by one, answers come back as plain codes, and who calls decides what follows. Nothing of the library is patched.

``tests/streams/test_aiokafka_contract.py`` says what must stay as it is in the library; the version is pinned.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.errors import (
    CoordinatorNotAvailableError,
    GroupAuthorizationFailedError,
    IncompatibleBrokerVersion,
    KafkaError,
    TransactionalIdAuthorizationFailed,
)
from aiokafka.protocol.admin import DescribeGroupsRequest
from aiokafka.protocol.api import Request
from aiokafka.protocol.commit import OffsetCommitRequest
from aiokafka.protocol.group import LeaveGroupRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    InitProducerIdRequest,
)
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from streams._aiokafka_messages import (
    OffsetFetchRequest,
    ProduceRequest,
    TxnOffsetCommitRequest,
)
from streams.errors import NotPermittedError
from streams.records import TP, OffsetCommit, OutRecord

GROUP = CoordinationType.GROUP
TRANSACTION = CoordinationType.TRANSACTION

_ACKS_ALL = -1
_NO_PRODUCER = (-1, -1)
_NO_SEQUENCE = -1
_METADATA_TRIES = 10  # with 100 ms between: a topic that was just made is known everywhere within a second
_METADATA_PAUSE_S = 0.1
_COORDINATOR_TRIES = 60  # times the pause: 6 s
_COORDINATOR_PAUSE_S = 0.1
_CODECS = {None: 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


class LinkError(Exception):
    """No usable answer: whether the broker got the request is not known."""


class Membership(NamedTuple):
    """Who commits: what the broker checks a commit against.

    Attributes:
        group: Group id.
        generation: Number of the group's assignment round.
        member_id: Id that the coordinator gave.
        instance_id: Static member name, if one was set.
    """

    group: str
    generation: int
    member_id: str
    instance_id: str | None


class ProducerId(NamedTuple):
    """Producer id and epoch, as InitProducerId gave them."""

    id: int
    epoch: int


class Written(NamedTuple):
    """The answer for one batch.

    Attributes:
        code: Error code, 0 when it was written.
        record: Position in the batch of the record that was refused, if the broker says so.
        message: The broker's words.
    """

    code: int
    record: int | None
    message: str


class BatchWriter:
    """One record batch being encoded. Compiled code does the work: 1.8 us a record with 13 headers.

    Args:
        limit: Bytes after which no further record is taken; the first is taken whatever its size.
        compression: Codec name or None.
        transactional: Marks the batch as part of a transaction.
    """

    __slots__ = ("_builder", "count")

    OVERHEAD = 61
    """Bytes of a batch beside its records."""

    def __init__(self, *, limit: int, compression: str | None, transactional: bool) -> None:
        self._builder = DefaultRecordBatchBuilder(2, _CODECS[compression], transactional, *_NO_PRODUCER, 0, limit)
        self.count = 0

    def append(self, record: OutRecord, now_ms: int) -> int | None:
        """Add a record; its size in bytes, or None when the batch is full."""
        at = now_ms if record.timestamp_ms is None else record.timestamp_ms
        headers = record.headers if type(record.headers) is list else list(record.headers)
        added = self._builder.append(self.count, at, record.key, record.value, headers)
        if added is None:
            return None
        self.count += 1
        size: int = added.size
        return size

    def build(self, producer: ProducerId | None, sequence: int) -> bytes | bytearray:
        """The encoded batch."""
        if producer is not None:
            self._builder.set_producer_state(*producer, sequence)
        else:
            self._builder.set_producer_state(*_NO_PRODUCER, _NO_SEQUENCE)
        encoded: bytes | bytearray = self._builder.build()
        return encoded


class Wire:
    """A client without background work of its own beyond metadata: one request, one answer.

    Args:
        arguments: Keyword arguments of aiokafka's client.
        client: A client to share instead; then opening and closing it is its owner's business.
    """

    def __init__(self, arguments: Mapping[str, Any] | None = None, *, client: AIOKafkaClient | None = None) -> None:
        self._owned = client is None
        self._client = AIOKafkaClient(**(arguments or {})) if client is None else client
        self._coordinators: dict[tuple[int, str], int] = {}

    async def open(self) -> None:
        """Connect and read the cluster's metadata.

        Raises:
            LinkError: No broker answered.
        """
        boot = asyncio.ensure_future(self._client.bootstrap())
        try:
            await asyncio.shield(boot)
        except KafkaError as error:
            await self.close()
            raise LinkError(str(error)) from error
        except asyncio.CancelledError:
            # The library loses a socket when cancelled between connecting and asking: let it finish, then close.
            await asyncio.wait([boot])
            with contextlib.suppress(KafkaError):
                boot.result()
            await self.close()
            raise

    async def close(self) -> None:
        """Close all connections; pending requests end with an error. No task and no socket is left."""
        if self._owned:
            await self._client.close()

    async def call(self, node: int, request: Request[Any], *, coordination: bool = False) -> Any:
        """Send one request.

        Raises:
            LinkError: No connection, no answer in time, or the broker doesn't speak a version of it.
        """
        group = ConnectionGroup.COORDINATION if coordination else ConnectionGroup.DEFAULT
        try:
            return await self._client.send(node, request, group=group)
        except (KafkaError, IncompatibleBrokerVersion, NotImplementedError) as error:
            raise LinkError(f"{type(request).__name__}: {error!r}") from error

    async def refresh(self) -> bool:
        """Read the metadata again; whether a broker answered."""
        return bool(await self._client.force_metadata_update())

    async def partitions(self, topic: str) -> int:
        """Number of partitions of a topic, 0 when there is no such topic.

        Raises:
            LinkError: No broker answered.
        """
        cluster = self._client.cluster
        found = cluster.partitions_for_topic(topic)
        for _ in range(_METADATA_TRIES):
            if found is not None:
                return len(found)
            # The client's own question would make a missing topic, where brokers do that: ask in a way that does not.
            if await self._exists(topic):
                self._client.add_topic(topic)  # not awaited: it is done at once for a topic that was added before
                if not await self.refresh():
                    raise LinkError("no broker answered a metadata request")
                found = cluster.partitions_for_topic(topic)
            if found is None:
                await asyncio.sleep(_METADATA_PAUSE_S)
        return 0

    async def _exists(self, topic: str) -> bool:
        node = self.any_node()
        if node is None:
            raise LinkError("no broker is known")
        answer = await self.call(node, MetadataRequest([topic], allow_auto_topic_creation=False))
        return any(code == 0 and name == topic for code, name, *_ in answer.topics)

    def leader(self, tp: TP) -> int | None:
        """Node id of a partition's leader, if one is known."""
        node = self._client.cluster.leader_for_partition(tp)
        return None if node is None or node < 0 else int(node)

    def any_node(self) -> int | None:
        """A broker to ask what any broker knows."""
        node: int | None = self._client.get_random_node()
        return node

    async def coordinator(self, kind: int, key: str) -> int:
        """Node id of the coordinator of a group or transactional id; remembered until forgotten.

        Raises:
            LinkError: It can't be named within a few seconds.
            NotPermittedError: The group or id is not allowed to us.
        """
        known = self._coordinators.get((kind, key))
        if known is not None:
            return known
        for _ in range(_COORDINATOR_TRIES):
            try:
                node: int = await self._client.coordinator_lookup(kind, key)
            except (GroupAuthorizationFailedError, TransactionalIdAuthorizationFailed) as error:
                raise NotPermittedError(f"{key}: {error}") from error
            except CoordinatorNotAvailableError as error:  # a new cluster makes the coordinators' log first
                problem = repr(error)
                await asyncio.sleep(_COORDINATOR_PAUSE_S)
            except (KafkaError, AssertionError) as error:
                raise LinkError(f"no coordinator for {key}: {error!r}") from error
            else:
                self._coordinators[kind, key] = node
                return node
        raise LinkError(f"no coordinator for {key}: {problem}")

    def forget_coordinator(self, kind: int, key: str) -> None:
        """Look the coordinator up again next time."""
        self._coordinators.pop((kind, key), None)

    async def init_producer_id(self, node: int, transactional_id: str, timeout_ms: int) -> tuple[int, ProducerId]:
        """Take the transactional id: fences its former holder and aborts what that had open."""
        answer = await self.call(node, InitProducerIdRequest(transactional_id, timeout_ms), coordination=True)
        return answer.error_code, ProducerId(answer.producer_id, answer.producer_epoch)

    async def add_partitions(
        self, node: int, transactional_id: str, producer: ProducerId, tps: Sequence[TP]
    ) -> Sequence[int]:
        """Announce the partitions of a transaction; the distinct codes."""
        topics: dict[str, list[int]] = {}
        for tp in tps:
            topics.setdefault(tp.topic, []).append(tp.partition)
        request = AddPartitionsToTxnRequest(transactional_id, *producer, list(topics.items()))
        answer = await self.call(node, request, coordination=True)
        return list({code for _, partitions in answer.errors for _, code in partitions})

    async def add_offsets(self, node: int, transactional_id: str, producer: ProducerId, group: str) -> int:
        """Announce that the transaction will carry offsets of a group."""
        request = AddOffsetsToTxnRequest(transactional_id, *producer, group)
        answer = await self.call(node, request, coordination=True)
        return int(answer.error_code)

    async def txn_offset_commit(
        self,
        node: int,
        transactional_id: str,
        producer: ProducerId,
        member: Membership,
        offsets: Mapping[TP, OffsetCommit],
    ) -> Mapping[TP, int]:
        """Put offsets into the transaction, fenced by member and generation; codes by partition."""
        request = TxnOffsetCommitRequest(transactional_id, producer, member, list(offsets.items()))
        answer = await self.call(node, request, coordination=True)
        return {TP(topic, part): code for topic, parts, _ in answer.topics for part, code, _ in parts}

    async def end_txn(self, node: int, transactional_id: str, producer: ProducerId, *, commit: bool) -> int:
        """End the transaction."""
        answer = await self.call(node, EndTxnRequest(transactional_id, *producer, commit), coordination=True)
        return int(answer.error_code)

    async def produce(
        self, node: int, transactional_id: str | None, timeout_ms: int, batches: Sequence[tuple[TP, bytes | bytearray]]
    ) -> Mapping[TP, Written]:
        """Write one batch a partition, acknowledged by all in-sync replicas."""
        answer = await self.call(node, ProduceRequest(transactional_id, _ACKS_ALL, timeout_ms, batches))
        written: dict[TP, Written] = {}
        for topic, partitions in answer.topics:
            for number, code, *more in partitions:
                record, message = None, ""
                if answer.API_VERSION >= 8:  # the first version with record errors
                    errors, text = more[-2:]
                    record = errors[0][0] if errors else None
                    message = (errors[0][1] if errors else None) or text or ""
                written[TP(topic, number)] = Written(code, record, message)
        return written

    async def offset_commit(
        self, node: int, member: Membership, offsets: Mapping[TP, OffsetCommit]
    ) -> Mapping[TP, int]:
        """Commit offsets outside of transactions, fenced by member and generation; codes by partition."""
        topics: dict[str, list[tuple[int, int, str]]] = {}
        for tp, commit in offsets.items():
            topics.setdefault(tp.topic, []).append((tp.partition, commit.offset, commit.metadata))
        request = OffsetCommitRequest(
            member.group,
            member.generation,
            member.member_id,
            OffsetCommitRequest.DEFAULT_RETENTION_TIME,
            list(topics.items()),
        )
        answer = await self.call(node, request, coordination=True)
        return {TP(topic, number): code for topic, partitions in answer.topics for number, code in partitions}

    async def describe_group(self, node: int, group: str) -> tuple[int, str, Sequence[tuple[str, str]]]:
        """A group as its coordinator has it: a code, its state, and member and client id of each member.

        Not over the connection for coordination: brokers answer in order, and a join can wait there for long.
        """
        answer = await self.call(node, DescribeGroupsRequest([group]))
        ((code, _, state, _, _, members, *_),) = answer.groups
        return code, state, [(member, client) for member, client, *_ in members]

    async def leave_group(self, node: int, member: Membership) -> int:
        """Let a member leave its group, so that the others need not wait for a time-out; not behind a join either."""
        answer = await self.call(node, LeaveGroupRequest(member.group, member.member_id))
        return int(answer.error_code)

    async def offset_fetch(
        self, node: int, group: str, tps: Sequence[TP]
    ) -> tuple[int, Mapping[TP, tuple[int, OffsetCommit | None]]]:
        """Committed offsets with metadata: a code for all, and per partition a code and what is committed."""
        answer = await self.call(node, OffsetFetchRequest(group, tps), coordination=True)
        found: dict[TP, tuple[int, OffsetCommit | None]] = {}
        for topic, partitions, *_ in answer.topics:
            for row in partitions:
                if answer.API_VERSION >= 7:
                    number, offset, _, metadata, code, _ = row
                else:
                    number, offset, metadata, code = row
                found[TP(topic, number)] = (code, None if offset < 0 else OffsetCommit(offset, metadata or ""))
        return getattr(answer, "error_code", 0), found


def mute_payload_logs() -> None:
    """Keep the library from logging whole requests: at DEBUG they hold records, and passwords of SASL PLAIN."""
    logger = logging.getLogger("aiokafka.conn")
    if logger.getEffectiveLevel() < logging.INFO:
        logger.setLevel(logging.INFO)


def unix_ms() -> int:
    """Wall clock for record timestamps."""
    return time.time_ns() // 1_000_000
