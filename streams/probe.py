"""What the broker can do, asked before anything depends on it.

Claims are not enough: a broker can list the requests of transactions and still show aborted records. So the question is
put as a test of the one thing that everything rests on: is a producer refused whose transactional id somebody else has
taken since? The test leaves nothing but an unused transactional id behind, which the broker forgets after a week.
"""

import asyncio
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
    connection: KafkaConnection, *, transactional_id: str = PROBE_ID, limit: timedelta = _LIMIT
) -> Capabilities:
    """Ask the broker what it is, and try whether it fences.

    Args:
        connection: Where.
        transactional_id: What to try with, where access rights allow only certain ones.
        limit: Longest time for the try.

    Raises:
        BrokerUnavailableError: Nobody answers; or the broker has transactions but can't do them now. That is never
            taken for "has none": a cluster in trouble must not turn exactly once into at least once.
        NotPermittedError: Credentials, TLS, or the right to use the transactional id.
    """
    try:
        greeting = await greet(connection.client_arguments("probe"))
    except AuthenticationError as error:
        raise NotPermittedError(f"the broker let us not in: {error}") from error
    except LinkError as error:
        raise BrokerUnavailableError(f"no broker answers: {error}") from error
    reason = _too_old(greeting)
    if not reason:
        try:
            async with asyncio.timeout(limit.total_seconds()):
                reason = await _try_fencing(connection, transactional_id)
        except (LinkError, TimeoutError) as error:
            raise BrokerUnavailableError(
                f"the broker knows transactions, but its transaction coordinator did not answer within "
                f"{limit.total_seconds():g} s ({str(error) or 'time-out'}); with fewer brokers than "
                "transaction.state.log.replication.factor it never will"
            ) from error
    kind = _kind(greeting)
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


async def _try_fencing(connection: KafkaConnection, transactional_id: str) -> str:
    """Take an id twice, and use the first taking: why the broker can't be trusted, or an empty text."""
    wire = Wire(connection.client_arguments("probe"))
    await wire.open()
    try:
        taken = [await _take(wire, transactional_id) for _ in range(2)]
        for answer in taken:
            if isinstance(answer, str):
                return answer
        first = taken[0]
        assert isinstance(first, ProducerId)  # noqa: S101 - the loop above returned otherwise
        node = await wire.coordinator(TRANSACTION, transactional_id)
        code = await wire.add_offsets(node, transactional_id, first, PROBE_ID)
    finally:
        await wire.close()
    return "" if code in FENCED else f"the broker does not fence: a producer of the past got {describe(code)}"


async def _take(wire: Wire, transactional_id: str) -> ProducerId | str:
    while True:
        try:
            node = await wire.coordinator(TRANSACTION, transactional_id)
            code, producer = await wire.init_producer_id(node, transactional_id, 1000)
        except LinkError:
            code, producer = int(Code.COORDINATOR_NOT_AVAILABLE), ProducerId(-1, -1)
        if code == Code.OK:
            return producer
        if code in NOT_PERMITTED:
            raise NotPermittedError(f"transactional id {transactional_id}: {describe(code)}")
        if not (code in COORDINATOR_MOVED or code in WAIT or code == Code.CONCURRENT_TRANSACTIONS):
            return f"the broker gives no producer id: {describe(code)}"
        wire.forget_coordinator(TRANSACTION, transactional_id)
        await asyncio.sleep(_PAUSE_S)


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
