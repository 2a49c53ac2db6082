"""Kafka's protocol error codes, as far as commits meet them, and what each means for a commit.

Source: ``org.apache.kafka.common.protocol.Errors``.
"""

from enum import IntEnum


class Code(IntEnum):
    """Error codes of responses."""

    OK = 0
    CORRUPT_MESSAGE = 2
    UNKNOWN_TOPIC_OR_PARTITION = 3
    LEADER_NOT_AVAILABLE = 5
    NOT_LEADER = 6
    REQUEST_TIMED_OUT = 7
    REPLICA_NOT_AVAILABLE = 9
    MESSAGE_TOO_LARGE = 10
    OFFSET_METADATA_TOO_LARGE = 12
    NETWORK_EXCEPTION = 13
    COORDINATOR_LOADING = 14
    COORDINATOR_NOT_AVAILABLE = 15
    NOT_COORDINATOR = 16
    RECORD_LIST_TOO_LARGE = 18
    NOT_ENOUGH_REPLICAS = 19
    NOT_ENOUGH_REPLICAS_AFTER_APPEND = 20
    ILLEGAL_GENERATION = 22
    UNKNOWN_MEMBER_ID = 25
    REBALANCE_IN_PROGRESS = 27
    TOPIC_NOT_PERMITTED = 29
    GROUP_NOT_PERMITTED = 30
    CLUSTER_NOT_PERMITTED = 31
    INVALID_TIMESTAMP = 32
    POLICY_VIOLATION = 44
    DUPLICATE_SEQUENCE = 46
    INVALID_PRODUCER_EPOCH = 47
    INVALID_TXN_STATE = 48
    INVALID_PRODUCER_ID_MAPPING = 49
    CONCURRENT_TRANSACTIONS = 51
    TRANSACTIONAL_ID_NOT_PERMITTED = 53
    OPERATION_NOT_ATTEMPTED = 55
    STORAGE_ERROR = 56
    FENCED_INSTANCE_ID = 82
    INVALID_RECORD = 87
    UNSTABLE_OFFSET_COMMIT = 88
    PRODUCER_FENCED = 90
    TRANSACTION_ABORTABLE = 120


COORDINATOR_MOVED = frozenset({Code.COORDINATOR_NOT_AVAILABLE, Code.NOT_COORDINATOR, Code.REQUEST_TIMED_OUT})
"""Look the coordinator up again, then repeat."""

WAIT = frozenset({Code.COORDINATOR_LOADING, Code.UNKNOWN_TOPIC_OR_PARTITION})
"""Repeat after a while at the same coordinator."""

STALE_MEMBER = frozenset(
    {Code.ILLEGAL_GENERATION, Code.UNKNOWN_MEMBER_ID, Code.FENCED_INSTANCE_ID, Code.REBALANCE_IN_PROGRESS}
)
"""The group has moved on without this member."""

FENCED = frozenset(
    {
        Code.INVALID_PRODUCER_EPOCH,
        Code.PRODUCER_FENCED,
        Code.INVALID_PRODUCER_ID_MAPPING,
        Code.INVALID_TXN_STATE,
        Code.TRANSACTION_ABORTABLE,
    }
)
"""This producer's epoch or transaction is over."""

NOT_PERMITTED = frozenset(
    {
        Code.TOPIC_NOT_PERMITTED,
        Code.GROUP_NOT_PERMITTED,
        Code.CLUSTER_NOT_PERMITTED,
        Code.TRANSACTIONAL_ID_NOT_PERMITTED,
    }
)
"""Access rights are missing."""

PRODUCE_AGAIN = frozenset(
    {
        Code.UNKNOWN_TOPIC_OR_PARTITION,
        Code.LEADER_NOT_AVAILABLE,
        Code.NOT_LEADER,
        Code.REQUEST_TIMED_OUT,
        Code.REPLICA_NOT_AVAILABLE,
        Code.NETWORK_EXCEPTION,
        Code.NOT_ENOUGH_REPLICAS,
        Code.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        Code.STORAGE_ERROR,
    }
)
"""The partition can take the batch later, perhaps at another leader."""

FULL_FOR_NOW = frozenset({Code.NOT_ENOUGH_REPLICAS, Code.NOT_ENOUGH_REPLICAS_AFTER_APPEND})
"""The partition's leader is the right one. Kafka 4 also says so where it could not verify just then that the partition
is part of the transaction (KIP-890), as while it verifies another part of the same one; it can a moment later."""

TOO_LARGE = frozenset({Code.MESSAGE_TOO_LARGE, Code.RECORD_LIST_TOO_LARGE})
"""The batch is above the topic's ``max.message.bytes``."""

RECORD_REFUSED = frozenset({Code.INVALID_RECORD, Code.INVALID_TIMESTAMP, Code.POLICY_VIOLATION, Code.CORRUPT_MESSAGE})
"""A record of the batch breaks a rule of the topic (a compacted topic without a key, a time too far off)."""


def describe(code: int) -> str:
    """Name and number of a code, also of one that is not listed here."""
    try:
        return f"{Code(code).name} ({code})"
    except ValueError:
        return f"error code {code}"
