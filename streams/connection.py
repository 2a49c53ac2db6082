"""How to reach the broker: one place that turns settings into arguments for the Kafka client.

The client's defaults that are wrong here are overridden here and nowhere else: it would commit positions that were only
handed out, read records of aborted transactions, skip to the end when offsets are lost, and give co-partitioned topics
to different members.
"""

import ssl
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final, Literal, Self

from aiokafka.coordinator.assignors.range import RangePartitionAssignor

from schemas.errors import ConfigurationError
from schemas.settings import KafkaSettings, LoopSettings, TopicSettings
from streams._aiokafka import mute_payload_logs

Compression = Literal["gzip", "snappy", "lz4", "zstd"]

REJOIN_MARGIN: Final = timedelta(seconds=5)
"""Between the end of the revoke budget and the moment the group goes on without us."""
KAFKA_FETCH_WAIT: Final = timedelta(milliseconds=500)
"""Apache Kafka answers a waiting fetch as soon as there is something to read."""
EMBEDDED_FETCH_WAIT: Final = timedelta(milliseconds=5)
"""The embedded broker doesn't: it answers after about half of this, records or not."""
EMBEDDED_FETCH_WAIT_IDLE: Final = timedelta(milliseconds=80)
"""What the wait grows to on the embedded broker while nothing arrives."""
EMBEDDED_SESSION: Final = timedelta(seconds=6)
"""The embedded broker holds a join for half of the session timeout, every time: 3 s instead of 8."""
BATCH_BYTES: Final = 512 * 1024
"""Aim for a batch; below Kafka's default ``max.message.bytes`` (1 MiB), which bounds a whole batch."""
BATCH_OVERHEAD: Final = 1024
"""Room that a record at the topic's limit needs for its batch and its request."""


class BrokerKind(StrEnum):
    """What answers at the address."""

    KAFKA = "kafka"
    EMBEDDED = "embedded"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaConnection:
    """Where the broker is, and how to behave towards it.

    Attributes:
        kafka: Address, credentials, timeouts. Secrets are masked when printed.
        loop: Budgets of commits and revocations.
        max_message_bytes: Largest record batch that the topics take.
        compression: Codec of written batches; None writes them as they are.
    """

    kafka: KafkaSettings = field(default_factory=KafkaSettings)
    loop: LoopSettings = field(default_factory=LoopSettings)
    max_message_bytes: int = TopicSettings().max_message_bytes
    compression: Compression | None = None

    def __post_init__(self) -> None:
        """Check what single settings can't.

        Raises:
            ConfigurationError: Names the settings and what they must be.
        """
        kafka = self.kafka
        if not kafka.bootstrap.strip():
            raise ConfigurationError("kafka.bootstrap is empty: give host:port, several separated by commas")
        if self.rebalance_timeout >= kafka.request_timeout:
            raise ConfigurationError(
                f"kafka.request_timeout ({_s(kafka.request_timeout)}) must be above "
                f"loop.revoke_budget + {_s(REJOIN_MARGIN)} ({_s(self.rebalance_timeout)}): joining can take that long"
            )
        if kafka.security_protocol.startswith("SASL") and kafka.sasl_mechanism in {"GSSAPI", "OAUTHBEARER"}:
            raise ConfigurationError(
                f"kafka.sasl_mechanism {kafka.sasl_mechanism} is not supported yet: "
                "use PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"
            )
        if kafka.security_protocol.startswith("SASL") and not (
            kafka.sasl_username and kafka.sasl_password.get_secret_value()
        ):
            raise ConfigurationError(
                f"kafka.security_protocol {kafka.security_protocol} needs kafka.sasl_username and kafka.sasl_password"
            )

    @classmethod
    def at(cls, bootstrap: str, **more: Any) -> Self:
        """A plain connection with default settings."""
        return cls(kafka=KafkaSettings(bootstrap=bootstrap), **more)

    @property
    def rebalance_timeout(self) -> timedelta:
        """How long the group waits for a member to come back after a revocation."""
        return self.loop.revoke_budget + REJOIN_MARGIN

    def client_arguments(self, role: str = "", *, request_timeout: timedelta | None = None) -> dict[str, Any]:
        """Arguments that all clients share.

        Args:
            role: Put behind the client id, to tell connections apart in the broker's logs.
            request_timeout: Another limit than the settings'.

        Raises:
            ConfigurationError: A certificate file is missing or wrong.
        """
        mute_payload_logs()
        kafka = self.kafka
        arguments: dict[str, Any] = {
            "bootstrap_servers": [server.strip() for server in kafka.bootstrap.split(",") if server.strip()],
            "client_id": f"{kafka.client_id}-{role}" if role else kafka.client_id,
            "request_timeout_ms": _ms(request_timeout or kafka.request_timeout),
            "security_protocol": kafka.security_protocol,
        }
        if kafka.security_protocol.startswith("SASL"):
            arguments["sasl_mechanism"] = kafka.sasl_mechanism
            arguments["sasl_plain_username"] = kafka.sasl_username
            arguments["sasl_plain_password"] = kafka.sasl_password.get_secret_value()
        if kafka.security_protocol.endswith("SSL"):
            arguments["ssl_context"] = self.ssl_context()
        return arguments

    def consumer_arguments(self, group: str | None, kind: BrokerKind, *, name: str = "consumer") -> dict[str, Any]:
        """Arguments of a consumer.

        Args:
            group: Consumer group; None for a reader on its own.
            kind: What was found at the address.
            name: Put behind the client id.
        """
        session, heartbeat = self.kafka.session_timeout, self.kafka.heartbeat_interval
        if kind is BrokerKind.EMBEDDED:
            session = min(session, EMBEDDED_SESSION)
            heartbeat = min(heartbeat, session / 4)
        return self.client_arguments(name) | {
            "group_id": group,
            "enable_auto_commit": False,  # it would commit what was handed out, not what is done
            "isolation_level": "read_committed",
            "auto_offset_reset": "none",  # lost offsets are an error, never a silent rerun or a silent gap
            "partition_assignment_strategy": (RangePartitionAssignor,),  # keeps co-partitioned topics together
            "session_timeout_ms": _ms(session),
            "heartbeat_interval_ms": _ms(heartbeat),
            "rebalance_timeout_ms": _ms(self.rebalance_timeout),
            "fetch_max_wait_ms": _ms(self.fetch_wait(kind)),
            "max_partition_fetch_bytes": self.max_message_bytes + BATCH_OVERHEAD,
        }

    def fetch_wait(self, kind: BrokerKind) -> timedelta:
        """Longest wait of a fetch at the broker while records arrive."""
        if self.loop.fetch_wait is not None:
            return self.loop.fetch_wait
        return EMBEDDED_FETCH_WAIT if kind is BrokerKind.EMBEDDED else KAFKA_FETCH_WAIT

    def fetch_wait_idle(self, kind: BrokerKind) -> timedelta:
        """Longest wait of a fetch at the broker while none do."""
        if self.loop.fetch_wait is not None:
            return self.loop.fetch_wait
        return EMBEDDED_FETCH_WAIT_IDLE if kind is BrokerKind.EMBEDDED else KAFKA_FETCH_WAIT

    def ssl_context(self) -> ssl.SSLContext:
        """TLS settings as a context.

        Raises:
            ConfigurationError: A certificate file is missing or wrong.
        """
        kafka = self.kafka
        try:
            context = ssl.create_default_context(cafile=kafka.ssl_cafile and str(kafka.ssl_cafile))
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(f"kafka.ssl_cafile {kafka.ssl_cafile}: {error}") from error
        context.check_hostname = kafka.ssl_check_hostname
        if kafka.ssl_certfile is not None:
            try:
                # A callable, also when there is none: without it an encrypted key would be asked for at the terminal.
                context.load_cert_chain(kafka.ssl_certfile, kafka.ssl_keyfile, kafka.ssl_key_password.get_secret_value)
            except (OSError, ssl.SSLError) as error:
                raise ConfigurationError(
                    f"kafka.ssl_certfile {kafka.ssl_certfile} with kafka.ssl_keyfile {kafka.ssl_keyfile}: {error}"
                ) from error
        return context


def _ms(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1000)


def _s(duration: timedelta) -> str:
    return f"{duration.total_seconds():g} s"
