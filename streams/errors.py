"""What can go wrong at the broker, beside the delivery errors that all rooms know.

The tree, below ``schemas.errors.DeliveryError``::

    CommitRejectedError          nothing was committed
    ├── StaleMemberError         the group has moved on: the partitions belong to somebody else, or soon will
    ├── FencedError              another producer took the transactional id, or the transaction ran out of time
    └── MetadataTooLargeError    the broker takes less commit metadata than it was given
    CommitUnknownError           in doubt; a fresh producer stands, the committed offset says what happened
    OutputRefusedError           one record can't be written; nothing was committed
    └── EffectsRefusedError      the same, as the stage is told of it: with what it wanted to write
    BrokerUnavailableError       no answer in time; nothing was committed, the same commit may be tried again
    OffsetsLostError             no committed offset, or one that the log no longer holds
    NotPermittedError            credentials or access rights
    TopicMissingError            a topic or partition that doesn't exist
    LogDamagedError              bytes in the log that are no records
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from schemas.errors import (
    BrokerUnavailableError,
    CommitRejectedError,
    CommitUnknownError,
    DeliveryError,
    OffsetsLostError,
    OutputRefusedError,
)

if TYPE_CHECKING:
    from streams.effects import Emit

__all__ = [
    "BrokerUnavailableError",
    "CommitRejectedError",
    "CommitUnknownError",
    "DeliveryError",
    "EffectsRefusedError",
    "FencedError",
    "LogDamagedError",
    "MetadataTooLargeError",
    "NotPermittedError",
    "OffsetsLostError",
    "OutputRefusedError",
    "StaleMemberError",
    "TopicMissingError",
]


class StaleMemberError(CommitRejectedError):
    """The commit came from a member or generation that is no longer the group's; the new owner repeats the work."""

    code = "delivery.commit-rejected.stale-member"
    retryable = False


class FencedError(CommitRejectedError):
    """The producer's epoch is over. Its successor is already started: the same commit may be tried again."""

    code = "delivery.commit-rejected.fenced"


class MetadataTooLargeError(CommitRejectedError):
    """The broker's ``offset.metadata.max.bytes`` is smaller than the metadata of this commit."""

    code = "delivery.commit-rejected.metadata-too-large"
    retryable = False


class EffectsRefusedError(OutputRefusedError):
    """What follows from a record can't be written; the stage must find something smaller.

    Args:
        index: Position of the record's work among what was to be committed.
        reason: The broker's words.
        outputs: What was to be written. It may tell of calls that were paid for, and must not be forgotten with it.
    """

    def __init__(self, index: int, reason: str, outputs: "Sequence[Emit]") -> None:
        super().__init__(index, reason)
        self.outputs = outputs


class NotPermittedError(DeliveryError):
    """The broker refuses these credentials, or they lack a right; the message names which."""

    code = "delivery.not-permitted"
    retryable = False
    exit_code = 77


class TopicMissingError(DeliveryError):
    """A topic or partition that the broker doesn't have."""

    code = "delivery.topic-missing"
    retryable = False


class LogDamagedError(DeliveryError):
    """A batch in the log can't be read (checksum, format); somebody must look at the topic."""

    code = "delivery.log-damaged"
    retryable = False
