"""The errors of Tierflow, each with a stable code.

The tree::

    TierflowError
    ├── ConfigurationError          settings or catalogue are wrong; nothing was started
    │   ├── CatalogueError          a catalogue file; names file, line and field
    │   └── MissingExtraError       an optional package is not installed; names the command
    ├── InputError                  a producer sent something that can't be accepted
    │   ├── UndecodableError        bytes that are no record of ours: dead letter, never a result
    │   ├── InvalidRequestError     decodable, but a field is wrong: refused, the field is named
    │   ├── TooLargeError           above the inline cap: refused
    │   └── DeniedError             a policy says no: refused
    ├── DeadlineExceededError       the request's time is over: expired
    ├── RoutingError                no candidate is left: failed (or refused, when a policy removed them all)
    ├── ProviderError               the model call; see FailureClass for what follows
    ├── DeliveryError               Kafka
    │   ├── CommitRejectedError     fenced or stale: nothing was committed
    │   ├── CommitUnknownError      in doubt: ask the committed offset
    │   ├── OutputRefusedError      one record can't be written; nothing was committed
    │   ├── BrokerUnavailableError
    │   └── OffsetsLostError        the committed offset is gone: refused loudly, never a silent rerun
    ├── StateStoreError             the state store is away: the stage waits
    │   └── SchemaRegistryError     the schema registry is away, or being asked: the stage waits
    ├── RegistryConflictError       compare-and-set lost: somebody published first
    ├── ProcessError                a child process did not start or died
    └── WeightsError                weights of a local model
        ├── WeightsUnavailableError no source gave them; the message says what to do
        └── WeightsDamagedError     the bytes are not the pinned ones

A code is lower case with dots, never reused, and is what headers, metrics, results and the command line show.
"""

from enum import StrEnum
from typing import ClassVar


class TierflowError(Exception):
    """Base of all errors raised on purpose.

    Attributes:
        code: Stable machine-readable name.
        retryable: Whether the same action can succeed later without anybody changing something.
        exit_code: What a command exits with when this ends it.
    """

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1


class ConfigurationError(TierflowError):
    """Settings or files that must be mended before a start makes sense."""

    code = "configuration"
    exit_code = 2


class CatalogueError(ConfigurationError):
    """A catalogue that can't become a snapshot; the message names file, line and field."""

    code = "configuration.catalogue"


class MissingExtraError(ConfigurationError):
    """An optional package is not installed."""

    code = "configuration.missing-extra"

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed: pip install 'tierflow[{extra}]'")


class InputError(TierflowError):
    """Something a producer sent that can't be accepted as it is."""

    code = "input"
    exit_code = 65


class UndecodableError(InputError):
    """Bytes that can't be read as a record; the message names the byte or field where reading stopped."""

    code = "input.undecodable"


class InvalidRequestError(InputError):
    """A readable request with a wrong field.

    Args:
        field: Path of the field, dotted, as the producer wrote it.
        reason: What is wrong with it and what would be right.
    """

    code = "input.invalid"

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class TooLargeError(InputError):
    """Inline content above the cap; it belongs into the blob store, under a ``dataref``."""

    code = "input.too-large"


class DeniedError(InputError):
    """A policy refuses the request."""

    code = "policy.denied"


class DeadlineExceededError(TierflowError):
    """The deadline passed before the work was done."""

    code = "deadline.exceeded"


class RoutingError(TierflowError):
    """No model may or can answer; the message lists what excluded each candidate."""

    code = "routing.no-candidate"


class ProviderError(TierflowError):
    """A model call failed.

    Args:
        failure: What kind of failure, which decides what follows.
        message: For people; holds no prompt text and no secret.
        retry_after_s: Seconds the provider asked to wait, if it did.
        provider_request_id: The provider's own id of the call, if it gave one.
        status: HTTP status, if there was one.
        cpu_us: CPU microseconds that the failed call spent on a local model or executor, if that was measured.
    """

    code = "provider"
    retryable = True

    def __init__(
        self,
        failure: "FailureClass",
        message: str,
        *,
        retry_after_s: float | None = None,
        provider_request_id: str = "",
        status: int | None = None,
        cpu_us: int = 0,
    ) -> None:
        super().__init__(message)
        self.failure = failure
        self.retry_after_s = retry_after_s
        self.provider_request_id = provider_request_id
        self.status = status
        self.cpu_us = cpu_us


class DeliveryError(TierflowError):
    """Kafka did not take or keep what it was given."""

    code = "delivery"
    retryable = True
    exit_code = 75


class CommitRejectedError(DeliveryError):
    """The broker refused the commit (fenced, stale generation): nothing of it is visible."""

    code = "delivery.commit-rejected"


class CommitUnknownError(DeliveryError):
    """Whether the commit happened is unknown; the committed offset is the oracle."""

    code = "delivery.commit-unknown"


class OutputRefusedError(DeliveryError):
    """One output record can't be written (too large, say); nothing of its batch was committed.

    Args:
        index: Position of the record in the batch that was given to the sink.
        reason: What the broker or client said.
    """

    code = "delivery.output-refused"
    retryable = False

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(f"output {index} refused: {reason}")
        self.index = index
        self.reason = reason


class BrokerUnavailableError(DeliveryError):
    """No broker answers at the given address."""

    code = "delivery.broker-unavailable"


class OffsetsLostError(DeliveryError):
    """The group has no committed offset on a partition, or one that is out of range."""

    code = "delivery.offsets-lost"
    retryable = False


class StateStoreError(TierflowError):
    """The state store does not answer. Stages wait; they never go on without it."""

    code = "state.unavailable"
    retryable = True
    exit_code = 75


class SchemaRegistryError(StateStoreError):
    """A record names a schema that only the schema registry knows, and that can't be asked now."""

    code = "schema-registry.unavailable"


class RegistryConflictError(TierflowError):
    """Somebody published a snapshot first."""

    code = "registry.conflict"
    retryable = True


class ProcessError(TierflowError):
    """A child process did not start, or ended before it was asked to."""

    code = "process"


class WeightsError(TierflowError):
    """Weights of a local model can't be used."""

    code = "weights"


class WeightsUnavailableError(WeightsError):
    """The weights are not in the cache, or no source gave them."""

    code = "weights.unavailable"
    retryable = True
    exit_code = 75


class WeightsDamagedError(WeightsError):
    """Bytes in the cache, or from a source, are not those that are pinned."""

    code = "weights.damaged"


class FailureClass(StrEnum):
    """Kinds of failure of a model call; one table in ``agents/worker`` says what follows each."""

    RATE_LIMIT = "rate_limit"
    SERVER = "server"
    TIMEOUT = "timeout"
    CONNECTION = "connection"
    CONTEXT_OVERFLOW = "context_overflow"
    CONTENT_REFUSAL = "content_refusal"
    BAD_OUTPUT = "bad_output"
    AUTH = "auth"
    BAD_REQUEST = "bad_request"
    PROHIBITED = "prohibited"
    """No call was made: none of the step's models may be used now."""
    ALLOWANCE = "allowance"
    """No call was made: the next one could cost more than what is left."""
    UNKNOWN = "unknown"
