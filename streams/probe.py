"""What the broker can do, asked before anything depends on it.

Claims are not enough: a broker can list the requests of transactions and still show aborted records. So the question is
put as a test of the one thing that everything rests on: is a producer refused whose transactional id somebody else has
taken since? The test leaves nothing but an unused transactional id behind, which the broker forgets after a week.

All agents try with the same id, and many at once when an installation starts. So "busy" is asked again, and only a
clear answer decides: a broker that let the producer of the past go on, or that can't give ids at all. Anything else
stops the start, because an agent that took trouble for inability would deliver at least once beside others that trust
it.
"""

import asyncio
import random
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from schemas.delivery import DeliveryMode
from streams._aiokafka import TRANSACTION, LinkError, ProducerId, Wire
from streams._aiokafka_greeting import AuthenticationError, Greeting, greet
from streams._codes import COORDINATOR_MOVED, FENCED, NOT_PERMITTED, WAIT, Code, describe
from streams.connection import BrokerKind, KafkaConnection
from streams.errors import BrokerUnavailableError, NotPermittedError

PROBE_ID: Final = "tierflow.probe"
_LIMIT: Final = timedelta(seconds=20)  # a new cluster makes its transaction log first: about 2 s
_PAUSE_S: Final = 0.05

_OFFSET_FETCH, _OFFSETS_FOR_LEADER_EPOCH, _WRITE_TXN_MARKERS = 9, 23, 27
_NEEDED: Final = {  # request, and the first version that KIP-447 can use
    22: ("InitProducerId", 0),
    24: ("AddPartitionsToTxn", 0),
    25: ("AddOffsetsToTxn", 0),
    26: ("EndTxn", 0),
    28: ("TxnOffsetCommit", 3),
    _OFFSET_FETCH: ("OffsetFetch", 7),
}
# First ``metadata.version`` level of a release line, newest first (org.apache.kafka.server.common.MetadataVersion).
_RELEASES: Final = (
    (28, "4.2"), (26, "4.1"), (22, "4.0"), (21, "3.9"), (20, "3.8"), (15, "3.7"), (12, "3.6"), (9, "3.5"),
    (8, "3.4"), (4, "3.3"),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What was found at the address.

    Attributes:
        transactions: Whether commits can be exactly once: transactions that fence, offsets fenced by generation.
        reason: Why not; empty when they can.
        kind: What answers, as far as it matters for settings.
        broker: Name and version for people.
        cluster_id: The cluster's name.
        brokers: How many there are.
    """

    transactions: bool
    reason: str
    kind: BrokerKind
    broker: str
    cluster_id: str
    brokers: int

    @property
    def mode(self) -> DeliveryMode:
        """The best the broker lets us promise."""
        return DeliveryMode.EXACTLY_ONCE if self.transactions else DeliveryMode.AT_LEAST_ONCE


async def probe(
    connection: KafkaConnection,
    *,
    transactional_id: str = PROBE_ID,
    limit: timedelta = _LIMIT,
    transactions: bool = True,
) -> Capabilities:
    """Ask the broker what it is, and try whether it fences.

    Args:
        connection: Where.
        transactional_id: What to try with, where access rights allow only certain ones.
        limit: Longest time for the try.
        transactions: Whether they are wanted; there is no try where they are not.

    Raises:
        BrokerUnavailableError: Nobody answers; or the broker has transactions but can't do them now, or does not answer
            clearly. That is never taken for "has none": a cluster in trouble must not turn exactly once into at least
            once.
        NotPermittedError: Credentials, TLS, or the right to use the transactional id.
    """
    try:
        greeting = await greet(connection.client_arguments("probe"))
    except AuthenticationError as error:
        raise NotPermittedError(f"the broker let us not in: {error}") from error
    except LinkError as error:
        raise BrokerUnavailableError(f"no broker answers: {error}") from error
    kind = _kind(greeting)
    reason = _too_old(greeting) if transactions else "none are wanted"
    if not reason:
        try:
            async with asyncio.timeout(limit.total_seconds()):
                reason = await _try_fencing(connection, transactional_id, kind)
        except (LinkError, TimeoutError) as error:
            raise BrokerUnavailableError(
                f"the broker knows transactions, but its transaction coordinator did not answer within "
                f"{limit.total_seconds():g} s ({str(error) or 'time-out'}); with fewer brokers than "
                "transaction.state.log.replication.factor it never will"
            ) from error
    return Capabilities(
        transactions=not reason,
        reason=reason,
        kind=kind,
        broker=_name(greeting, kind),
        cluster_id=greeting.cluster_id,
        brokers=greeting.brokers,
    )


def _too_old(greeting: Greeting) -> str:
    for key, (name, version) in _NEEDED.items():
        if greeting.versions.get(key, (0, -1))[1] < version:
            return f"the broker does not know {name} version {version}"
    return ""


async def _try_fencing(connection: KafkaConnection, transactional_id: str, kind: BrokerKind) -> str:
    """Take an id twice, and use the first taking: why the broker can't be trusted, or an empty text."""
    wire = Wire(connection.client_arguments("probe"))
    await wire.open()
    try:
        taken = [await _take(wire, transactional_id) for _ in range(2)]
        unable = next((answer for answer in taken if isinstance(answer, int)), None)
        if unable is not None:
            if kind is not BrokerKind.EMBEDDED:
                raise BrokerUnavailableError(
                    f"the broker knows transactions, but gave no producer id for {transactional_id}: {describe(unable)}"
                )
            return f"the broker gives no producer id: {describe(unable)}"
        first = taken[0]
        assert isinstance(first, ProducerId)  # noqa: S101 - what is no int is one
        code = await _use(wire, transactional_id, first)
    finally:
        await wire.close()
    if code in FENCED - {Code.INVALID_TXN_STATE}:  # that one is said of the transaction, not of who asks
        return ""
    if code == Code.OK:
        return f"the broker does not fence: a producer of the past got {describe(code)}"
    raise BrokerUnavailableError(f"the broker knows transactions, but whether it fences is unclear: {describe(code)}")


async def _take(wire: Wire, transactional_id: str) -> ProducerId | int:
    """A producer of this id, or the code with which the broker refuses one."""
    while True:
        try:
            node = await wire.coordinator(TRANSACTION, transactional_id)
            code, producer = await wire.init_producer_id(node, transactional_id, 1000)
        except LinkError:
            code, producer = int(Code.COORDINATOR_NOT_AVAILABLE), ProducerId(-1, -1)
        if code == Code.OK:
            return producer
        if not await _busy(wire, transactional_id, code):
            return code


async def _use(wire: Wire, transactional_id: str, producer: ProducerId) -> int:
    """The code with which the broker answers a producer that wants to end what it never began.

    Nothing else is asked with the right to the transactional id alone, and without a topic or group of one's own.
    """
    while True:
        try:
            node = await wire.coordinator(TRANSACTION, transactional_id)
            code = await wire.end_txn(node, transactional_id, producer, commit=False)
        except LinkError:
            code = int(Code.COORDINATOR_NOT_AVAILABLE)
        if not await _busy(wire, transactional_id, code):
            return code


async def _busy(wire: Wire, transactional_id: str, code: int) -> bool:
    """Whether the answer was none, and it is time to ask again; the caller's time limit ends that.

    Raises:
        NotPermittedError: The code says so.
    """
    if code in NOT_PERMITTED:
        raise NotPermittedError(f"transactional id {transactional_id}: {describe(code)}")
    if not (code in COORDINATOR_MOVED or code in WAIT or code == Code.CONCURRENT_TRANSACTIONS):
        return False
    wire.forget_coordinator(TRANSACTION, transactional_id)
    await asyncio.sleep(_PAUSE_S * random.uniform(0.5, 1.5))
    return True


def _kind(greeting: Greeting) -> BrokerKind:
    # Tansu's own default name; and it lacks a request that every broker with replication has.
    if greeting.cluster_id.startswith("tansu") or _OFFSETS_FOR_LEADER_EPOCH not in greeting.versions:
        return BrokerKind.EMBEDDED
    return BrokerKind.KAFKA if _WRITE_TXN_MARKERS in greeting.versions else BrokerKind.UNKNOWN


def _name(greeting: Greeting, kind: BrokerKind) -> str:
    if kind is BrokerKind.EMBEDDED:
        return "Tansu"
    if kind is BrokerKind.UNKNOWN:
        return "unknown broker"
    level = greeting.features.get("metadata.version", 0)
    release = next((name for first, name in _RELEASES if level >= first), "")
    return f"Apache Kafka {release}".strip()
