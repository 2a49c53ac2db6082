"""All that this project knows about the insides of aiokafka, in one place.

aiokafka speaks the transaction protocol of 2017, in which a stale worker's commit is accepted. What is missing for
KIP-447 is added here on top of its client (connections, metadata, SASL, TLS) and its protocol classes: requests go out
one by one, answers come back as plain codes, and who calls decides what follows. Nothing of the library is patched.

``tests/streams/test_aiokafka_contract.py`` says what must stay as it is in the library; the version is pinned.
"""

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer
from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import (
    ConsumerStoppedError,
    IllegalSaslStateError,
    IncompatibleBrokerVersion,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
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
    API_VERSIONS,
    ApiVersionsRequest,
    OffsetFetchRequest,
    ProduceRequest,
    TxnOffsetCommitRequest,
    feature_levels,
)
from streams.records import TP, OffsetCommit, OutRecord

GROUP = CoordinationType.GROUP
TRANSACTION = CoordinationType.TRANSACTION

_ACKS_ALL = -1
_NO_PRODUCER = (-1, -1)
_NO_SEQUENCE = -1
_METADATA_TRIES = 10  # with 100 ms between: a topic that was just made is known everywhere within a second
_METADATA_PAUSE_S = 0.1
_CODECS = {None: 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


class LinkError(Exception):
    """No usable answer: whether the broker got the request is not known."""


class AuthenticationError(Exception):
    """The broker refused the credentials, or TLS did."""


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
            # Not awaiting what add_topic returns: it is done at once for a topic that was asked for before.
            self._client.add_topic(topic)
            if not await self.refresh():
                raise LinkError("no broker answered a metadata request")
            found = cluster.partitions_for_topic(topic)
            if found is None:
                await asyncio.sleep(_METADATA_PAUSE_S)
        return 0

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
            LinkError: It can't be named now.
        """
        known = self._coordinators.get((kind, key))
        if known is not None:
            return known
        try:
            node: int = await self._client.coordinator_lookup(kind, key)
        except (KafkaError, AssertionError) as error:
            raise LinkError(f"no coordinator for {key}: {error!r}") from error
        self._coordinators[kind, key] = node
        return node

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

    async def leave_group(self, node: int, member: Membership) -> int:
        """Leave a group, so that the others need not wait for a time-out."""
        answer = await self.call(node, LeaveGroupRequest(member.group, member.member_id), coordination=True)
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


class Greeting(NamedTuple):
    """What a broker says of itself.

    Attributes:
        versions: Lowest and highest version of each request it speaks, by API key.
        features: Levels of its features; empty before Kafka 2.7 and at brokers without any.
        cluster_id: Name of the cluster, often random.
        brokers: How many there are.
    """

    versions: Mapping[int, tuple[int, int]]
    features: Mapping[str, int]
    cluster_id: str
    brokers: int


async def greet(arguments: Mapping[str, Any]) -> Greeting:
    """Ask the first broker that answers who it is, over a connection made for this.

    Raises:
        LinkError: None answered; says why for each address.
        AuthenticationError: One answered and refused the credentials, or TLS failed.
    """
    problems: list[str] = []
    options = {name: value for name, value in arguments.items() if name != "bootstrap_servers"}
    for host, port, _ in collect_hosts(arguments["bootstrap_servers"], randomize=False):
        try:
            return await _greet_one(host, port, options)
        except (ssl.SSLError, SaslAuthenticationFailed, UnsupportedSaslMechanismError, IllegalSaslStateError) as error:
            raise AuthenticationError(f"{host}:{port}: {error}") from error
        except TimeoutError:
            problems.append(f"{host}:{port}: no answer; does the port expect TLS or SASL?")
        except KafkaConnectionError as error:
            problems.append(f"{host}:{port}: {error}; does the port expect TLS or SASL?")
        except (OSError, KafkaError) as error:
            problems.append(f"{host}:{port}: {error}")
    raise LinkError("; ".join(problems))


async def _greet_one(host: str, port: int, options: Mapping[str, Any]) -> Greeting:
    connection = await create_conn(host, port, **options)
    try:
        versions = dict(connection._versions)  # noqa: SLF001 - this module's job
        features: Mapping[str, int] = {}
        if versions.get(API_VERSIONS, (0, 0))[1] >= 3:
            features = feature_levels(await connection.send(ApiVersionsRequest()))
        metadata = await connection.send(MetadataRequest([]))
        return Greeting(versions, features, getattr(metadata, "cluster_id", None) or "", len(metadata.brokers))
    finally:
        await connection.close()


def wire_of(consumer: AIOKafkaConsumer) -> Wire:
    """A wire that shares the consumer's connections."""
    return Wire(client=consumer._client)  # noqa: SLF001 - this module's job


def membership_of(consumer: AIOKafkaConsumer) -> Membership:
    """The consumer's present membership.

    Take it when partitions are assigned and keep it: the library changes generation and member id as soon as it has
    joined again, while work of the old assignment may still be on its way to a commit.
    """
    coordinator = consumer._coordinator  # noqa: SLF001 - this module's job
    return Membership(
        coordinator.group_id,
        coordinator.generation,
        coordinator.member_id,
        coordinator._group_instance_id,  # noqa: SLF001 - this module's job
    )


def has_lost_membership(consumer: AIOKafkaConsumer) -> bool:
    """Whether the group has already put this member out, so that nothing of it can be committed any more."""
    generation: int = consumer._coordinator.generation  # noqa: SLF001 - this module's job
    return bool(generation == OffsetCommitRequest.DEFAULT_GENERATION_ID)


def is_rebalancing(consumer: AIOKafkaConsumer) -> bool:
    """Whether polling would wait, without any limit, for the next assignment."""
    return bool(consumer._subscription.reassignment_in_progress)  # noqa: SLF001 - this module's job


def positions_of(consumer: AIOKafkaConsumer, tps: Iterable[TP]) -> dict[TP, int]:
    """The next offset to read, behind records that were returned and whatever holds none, such as markers."""
    assignment = consumer._subscription.subscription.assignment  # noqa: SLF001 - this module's job
    states = ((tp, assignment.state_value(tp)) for tp in tps) if assignment is not None else ()
    return {tp: state.position for tp, state in states if state is not None and state.has_valid_position}


def background_failure(consumer: AIOKafkaConsumer) -> BaseException | None:
    """Why a background task of the consumer ended, if one did. Without fetching, polls would stay empty for ever."""
    for task in (consumer._fetcher._fetch_task, consumer._coordinator._coordination_task):  # noqa: SLF001 - this module's job
        if task.done():
            if task.cancelled():
                return asyncio.CancelledError()
            error: BaseException | None = task.exception()
            return error or RuntimeError("a background task of the consumer ended")
    return None


def release_polls(consumer: AIOKafkaConsumer) -> None:
    """End polls that wait for an assignment which will not come, since the consumer is to be stopped."""
    consumer._subscription.abort_waiters(ConsumerStoppedError())  # noqa: SLF001 - this module's job


def set_fetch_wait(consumer: AIOKafkaConsumer, wait_ms: int) -> None:
    """Change how long the broker may hold the next fetches."""
    consumer._fetcher._fetch_max_wait_ms = wait_ms  # noqa: SLF001 - this module's job


def mute_payload_logs() -> None:
    """Keep the library from logging whole requests: at DEBUG they hold records, and passwords of SASL PLAIN."""
    logger = logging.getLogger("aiokafka.conn")
    if logger.getEffectiveLevel() < logging.INFO:
        logger.setLevel(logging.INFO)


def unix_ms() -> int:
    """Wall clock for record timestamps."""
    return time.time_ns() // 1_000_000
