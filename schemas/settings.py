"""All settings in one tree: defaults, then a YAML file, then environment variables (``TIERFLOW_KAFKA__BOOTSTRAP=...``).

Durations are ISO 8601 or seconds in files and variables, ``timedelta`` in code. Secrets are masked when printed.
"""

import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, YamlConfigSettingsSource

from schemas.errors import ConfigurationError


class Section(BaseModel):
    """Base of all sections: frozen, unknown names refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class KafkaSettings(Section):
    """How to reach the broker."""

    bootstrap: str = "127.0.0.1:9092"
    """host:port, comma-separated."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "GSSAPI", "OAUTHBEARER"] = "PLAIN"
    sasl_username: str = ""
    sasl_password: SecretStr = SecretStr("")
    ssl_cafile: Path | None = None
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    ssl_key_password: SecretStr = SecretStr("")
    ssl_check_hostname: bool = True
    client_id: str = "tierflow"
    request_timeout: timedelta = timedelta(seconds=20)
    session_timeout: timedelta = timedelta(seconds=15)
    heartbeat_interval: timedelta = timedelta(seconds=3)


class TopicSettings(Section):
    """How topics are named and made."""

    prefix: str = Field(default="", pattern=r"^[a-zA-Z0-9._-]*$")
    """Put before each topic and group name, so that several installations share a cluster."""
    partitions: int = Field(default=6, gt=0)
    replication: int = Field(default=1, gt=0)
    min_insync: int = Field(default=1, gt=0)
    retention: timedelta = timedelta(days=7)
    """Of flow topics. The longest deadline must be shorter."""
    dead_letter_retention: timedelta = timedelta(days=30)
    provenance_retention: timedelta = timedelta(days=180)
    max_message_bytes: int = 2 * 1024 * 1024


class StateSettings(Section):
    """The state store (Valkey or Redis)."""

    url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """redis:// or rediss:// (TLS), password included."""
    timeout: timedelta = timedelta(seconds=2)
    """After this an operation counts as failed and the stage waits."""


class LoopSettings(Section):
    """The consume-work-transact loop."""

    max_in_flight: int = Field(default=512, gt=0)
    """Records taken and not yet committed, in one process. Bounds memory together with ``max_in_flight_bytes``."""
    max_in_flight_bytes: int = 64 * 1024 * 1024
    linger: timedelta = timedelta(milliseconds=25)
    """Longest wait for more results before a transaction, under load; nothing waits when idle."""
    commit_timeout: timedelta = timedelta(seconds=8)
    """Doubt begins after this; below the transaction timeout."""
    transaction_timeout: timedelta = timedelta(seconds=10)
    """How long a killed process can hold readers of what it wrote."""
    revoke_budget: timedelta = timedelta(seconds=5)
    """One budget for everything a revocation waits for."""
    drain_grace: timedelta = timedelta(seconds=20)
    """How long running work may go on after SIGTERM."""
    fetch_wait: timedelta | None = None
    """Longest wait of a fetch at the broker; None picks it by kind of broker."""
    back_off: timedelta = timedelta(milliseconds=500)
    """Pause after the state store or the broker failed."""


class ReceiverSettings(Section):
    """The idempotent receiver."""

    window: timedelta = timedelta(days=8)
    """How long a request id is remembered; above the retention of the intake topics."""


class EndpointSettings(Section):
    """A place that serves models. Key and URL are bound here, so a changed catalogue gets no key elsewhere."""

    base_url: str
    """Up to and including the version, such as http://127.0.0.1:11434/v1."""
    api_key: SecretStr = SecretStr("")
    headers: Mapping[str, SecretStr] = Field(default_factory=dict)
    cpu_pid: int | None = None
    """Process id of a local server, to account its CPU time."""
    max_connections: int = Field(default=1024, gt=0)


class WorkerSettings(Section):
    """Model workers."""

    endpoints: Mapping[str, EndpointSettings] = Field(default_factory=dict)
    executors: frozenset[str] = frozenset()
    """Python executors (entry points of group ``tierflow.executors``) that may run here."""
    lease: timedelta = timedelta(seconds=15)
    """Lifetime of a claim that is not renewed; renewed each third of it."""
    journal_ttl: timedelta = timedelta(days=8)
    """How long an answer is kept for redelivery."""
    max_retries: int = Field(default=2, ge=0)
    """Tries in place after the first, per model."""
    retry_base: timedelta = timedelta(milliseconds=200)
    retry_cap: timedelta = timedelta(seconds=5)
    unknown_policy: Literal["call", "fail"] = "call"
    """What follows when a dead worker's call may or may not have been answered."""


class ArchiveSettings(Section):
    """The provenance archive."""

    directory: Path = Path(".tierflow/archive")
    segment_rows: int = Field(default=50_000, gt=0)
    segment_age: timedelta = timedelta(seconds=60)
    """A segment is sealed after this even when it is not full."""


class TelemetrySettings(Section):
    """OpenTelemetry."""

    otlp_endpoint: str = ""
    """OTLP over HTTP base URL; empty switches export off."""
    sample_ratio: float = Field(default=0.01, ge=0, le=1)
    """Share of traces kept when a request brings no sampled trace of its own."""
    metrics_interval: timedelta = timedelta(seconds=30)


class CodecSettings(Section):
    """Wire format of Avro records."""

    schema_registry_url: str = ""
    """When set, records carry the Confluent wire format; else Avro single-object encoding."""
    schema_registry_user: str = ""
    schema_registry_password: SecretStr = SecretStr("")


class Settings(BaseSettings):
    """The whole tree."""

    model_config = SettingsConfigDict(
        env_prefix="TIERFLOW_",
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        nested_model_default_partial_update=True,
    )

    kafka: KafkaSettings = KafkaSettings()
    topics: TopicSettings = TopicSettings()
    state: StateSettings = StateSettings()
    loop: LoopSettings = LoopSettings()
    receiver: ReceiverSettings = ReceiverSettings()
    worker: WorkerSettings = WorkerSettings()
    archive: ArchiveSettings = ArchiveSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    codec: CodecSettings = CodecSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments win over environment variables, those over the file named by ``TIERFLOW_CONFIG``."""
        del dotenv_settings, file_secret_settings
        file = os.environ.get("TIERFLOW_CONFIG")
        sources: tuple[PydanticBaseSettingsSource, ...] = (init_settings, env_settings)
        if file:
            sources += (YamlConfigSettingsSource(settings_cls, yaml_file=file),)
        return sources


def load_settings(file: Path | None = None, **overrides: object) -> Settings:
    """Read and check all settings.

    Args:
        file: A YAML file; the environment variable ``TIERFLOW_CONFIG`` when left out.
        overrides: Sections given in code; they win.

    Raises:
        ConfigurationError: Names each wrong setting, where it came from and what would be right.
    """
    if file is not None:
        if not file.is_file():
            raise ConfigurationError(f"settings file {file} does not exist")
        os.environ["TIERFLOW_CONFIG"] = str(file)
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        lines = [f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()]
        raise ConfigurationError("settings are wrong: " + "; ".join(lines)) from error
