"""All settings in one tree: defaults, then a YAML file, then environment variables (``TIERFLOW_KAFKA__BOOTSTRAP=...``).

Durations are ISO 8601 (``PT2.5S``) or seconds in files and variables, ``timedelta`` in code. Secrets are masked when
printed. ``load_settings`` reads the tree; ``Settings()`` by itself knows no file.
"""

import itertools
import json
import os
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from schemas.errors import ConfigurationError
from schemas.settings_source import (
    DELIMITER,
    FILE_VARIABLE,
    PREFIX,
    Variables,
    explain,
    flat,
    read_file,
    refuse_unknown_variables,
)


def _seconds(value: object) -> object:
    """Text that is a number means seconds: variables hold text only."""
    if not isinstance(value, str):
        return value
    try:
        return timedelta(seconds=float(value))
    except (ValueError, OverflowError):
        return value


def _mapping(value: object) -> object:
    """Text is JSON: pydantic-settings reads that itself, but not below a mapping of sections."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError("must be a JSON object") from None  # without the text: it holds secrets


Duration = Annotated[timedelta, BeforeValidator(_seconds), Field(ge=timedelta(0))]


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
    request_timeout: Duration = timedelta(seconds=20)
    session_timeout: Duration = timedelta(seconds=15)
    delivery: Literal["auto", "exactly_once", "at_least_once"] = "auto"
    """``auto``: exactly once where the broker fences, found out by trial at each start; ``exactly_once``: refuse to
    start where it does not; ``at_least_once``: don't use transactions."""
    heartbeat_interval: Duration = timedelta(seconds=1)
    """Also how soon a member learns that its group is dividing the work anew."""

    @model_validator(mode="after")
    def _heartbeats_fit(self) -> Self:
        if self.heartbeat_interval * 3 > self.session_timeout:
            raise ValueError("heartbeat_interval must be at most a third of session_timeout, or one lost beat ends it")
        return self


class TopicSettings(Section):
    """How topics are named and made."""

    prefix: str = Field(default="", pattern=r"^[a-zA-Z0-9._-]*$")
    """Put before each topic and group name, so that several installations share a cluster."""
    partitions: int = Field(default=6, gt=0)
    replication: int = Field(default=1, gt=0)
    min_insync: int = Field(default=1, gt=0)
    enforce: bool = True
    """Agents refuse to start where a topic has fewer replicas, less ``min.insync.replicas`` or keeps less than is said
    here; false makes it a warning."""
    retention: Duration = timedelta(days=7)
    """Of flow topics. The longest deadline must be shorter."""
    dead_letter_retention: Duration = timedelta(days=30)
    provenance_retention: Duration = timedelta(days=180)
    max_message_bytes: int = 2 * 1024 * 1024
    retry_delays: tuple[Duration, ...] = (timedelta(seconds=10), timedelta(minutes=1), timedelta(minutes=10))
    """A step whose providers all failed waits so long before its second try, its third and so on, in a topic each."""
    retry_age: Duration = timedelta(hours=1)
    """A request accepted longer ago is not tried again."""

    @model_validator(mode="after")
    def _delays_rise(self) -> Self:
        delays = self.retry_delays
        if any(delay % timedelta(milliseconds=1) or not delay for delay in delays):
            raise ValueError("retry_delays must be whole milliseconds above zero")
        if any(later <= earlier for earlier, later in itertools.pairwise(delays)):
            raise ValueError("retry_delays must rise: each delay has a topic of its own")
        return self


class StateSettings(Section):
    """The state store (Valkey or Redis)."""

    url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """redis:// or rediss:// (TLS), password included."""
    timeout: Duration = timedelta(seconds=2)
    """After this an operation counts as failed and the stage waits."""


class LoopSettings(Section):
    """The consume-work-transact loop."""

    max_in_flight: int = Field(default=512, gt=0)
    """Records taken and not yet committed, in one process. Bounds memory together with ``max_in_flight_bytes``."""
    max_in_flight_bytes: int = 64 * 1024 * 1024
    linger: Duration = timedelta(milliseconds=25)
    """Longest wait for more results before a transaction, under load; nothing waits when idle."""
    commit_timeout: Duration = timedelta(seconds=8)
    """Doubt begins after this; below the transaction timeout."""
    transaction_timeout: Duration = timedelta(seconds=10)
    """How long a killed process can hold readers of what it wrote."""
    revoke_budget: Duration = timedelta(seconds=5)
    """One budget for everything a revocation waits for."""
    drain_grace: Duration = timedelta(seconds=20)
    """How long running work may go on after SIGTERM."""
    fetch_wait: Duration | None = None
    """Longest wait of a fetch at the broker; None picks it by kind of broker."""
    back_off: Duration = timedelta(milliseconds=500)
    """Pause after the state store or the broker failed."""

    @model_validator(mode="after")
    def _doubt_comes_first(self) -> Self:
        if self.commit_timeout >= self.transaction_timeout:
            raise ValueError("commit_timeout must be below transaction_timeout")
        return self


class ReceiverSettings(Section):
    """The idempotent receiver."""

    window: Duration = timedelta(days=8)
    """How long a request id is remembered; above the retention of the intake topics."""


class EndpointSettings(Section):
    """A place that serves models. Key and URL are bound here, so a changed catalogue gets no key elsewhere."""

    base_url: str
    """Up to and including the version, such as http://127.0.0.1:11434/v1."""
    api_key: SecretStr = SecretStr("")
    headers: Annotated[Mapping[str, SecretStr], BeforeValidator(_mapping)] = Field(default_factory=dict)
    cpu_pid: int | None = None
    """Process id of a local server, to account its CPU time."""
    max_connections: int = Field(default=1024, gt=0)


class LlmSettings(Section):
    """The stage of the classifier that asks a language model where the trained model is unsure."""

    model: str = ""
    """``id`` or ``id@version`` of a model of the catalogue; nobody is asked if empty."""
    below: float = Field(default=0.7, ge=0, le=1)
    """Confidence in the class below which it is asked."""
    samples: int = Field(default=2, ge=1, le=5)
    """Times that it is asked, with the classes in another order each; only what all agree on counts."""
    time_limit: Duration = timedelta(seconds=2)
    """For all calls of a batch together; requests of the batch wait for it."""
    max_concurrency: int = Field(default=8, gt=0)
    """Calls in flight in one classifier, those included whose outcome waits for the state store."""
    max_chars: int = Field(default=2_000, ge=200)
    """Characters of a request that are shown to it; of longer ones the middle is left out."""


class ClassifierSettings(Section):
    """The deciding agent."""

    learned: Literal["apply", "observe", "bypass"] = "apply"
    """What the trained model's word counts: decides, is only recorded beside the decision, or isn't asked."""
    weights: Path | None = None
    """Weights file; the one that comes with the package if None."""
    time_limit: Duration = timedelta(milliseconds=250)
    """For the trained model on one batch; what isn't judged by then is left to the surface classifier."""
    exploration: float = Field(default=0.0, ge=0, le=0.2)
    """Share of requests that try any permitted candidate, so that outcomes of the others stay known."""
    exploration_cap_micros: int | None = Field(default=None, ge=0)
    """Micro-units that such a try may cost more than the best candidate; no cap if None."""
    llm: LlmSettings = LlmSettings()
    learning: Literal["apply", "observe", "bypass"] = "observe"
    """What outcomes in the flow count: decisions follow what was learnt of them, it's only recorded beside the
    decision, or nothing is learnt."""


class LearnerSettings(Section):
    """The learner: what is learnt from outcomes. Whether decisions follow it says ``classifier.learning``."""

    window: Duration = timedelta(days=1)
    """How far back it reads when it starts: a rating that comes later than this after its request may find no decision
    then. Longer takes longer to start."""
    waiting: int = Field(default=200_000, gt=0)
    """Requests that are remembered for words that may come; the oldest are let go."""
    memory: int = Field(default=64 * 1024 * 1024, ge=0)
    """Bytes of requests kept until they are rated; a rating of an older one is counted, and no head learns from it."""
    publish_every: Duration = timedelta(seconds=5)
    """Shortest time between two publications."""


class WorkerSettings(Section):
    """Model workers."""

    endpoints: Mapping[str, EndpointSettings] = Field(default_factory=dict)
    executors: frozenset[str] = frozenset()
    """Python executors (entry points of group ``tierflow.executors``) that may run here."""
    lease: Duration = timedelta(seconds=15)
    """Lifetime of a claim that is not renewed; renewed each third of it. Of the classifier's paid calls, too."""
    journal_ttl: Duration = timedelta(days=8)
    """How long an answer is kept for redelivery."""
    max_retries: int = Field(default=2, ge=0)
    """Tries in place after the first, per model."""
    retry_base: Duration = timedelta(milliseconds=200)
    retry_cap: Duration = timedelta(seconds=5)
    unknown_policy: Literal["call", "fail"] = "call"
    """What follows when a dead worker's call may or may not have been answered."""


class ArchiveSettings(Section):
    """The provenance archive."""

    directory: Path = Path(".tierflow/archive")
    segment_rows: int = Field(default=50_000, gt=0)
    segment_age: Duration = timedelta(seconds=60)
    """A segment is sealed after this even when it is not full."""


class MonitorSettings(Section):
    """The conservation monitor."""

    grace: Duration = timedelta(seconds=60)
    """How late anything may be before it is an alarm: above a rebalance after a crash, and the audit agent's lag."""


class TelemetrySettings(Section):
    """OpenTelemetry."""

    otlp_endpoint: str = ""
    """OTLP over HTTP base URL; empty switches export off."""
    sample_ratio: float = Field(default=0.01, ge=0, le=1)
    """Share of traces kept when a request brings no sampled trace of its own."""
    metrics_interval: Duration = timedelta(seconds=30)


class CodecSettings(Section):
    """Wire format of Avro records."""

    schema_registry_url: str = ""
    """When set, records carry the Confluent wire format; else Avro single-object encoding."""
    schema_registry_user: str = ""
    schema_registry_password: SecretStr = SecretStr("")
    schema_registry_timeout: Duration = timedelta(seconds=5)
    schema_registry_may_register: bool = True
    """Whether schemas of ours that the registry does not have are registered; else they must be there at start."""


_from_file: ContextVar[Mapping[str, Any]] = ContextVar("_from_file", default=MappingProxyType({}))
"""Content of the settings file while ``load_settings`` runs; sources can't be given arguments otherwise."""


class Settings(BaseSettings):
    """The whole tree."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter=DELIMITER,
        frozen=True,
        extra="forbid",
        nested_model_default_partial_update=True,
    )

    kafka: KafkaSettings = KafkaSettings()
    topics: TopicSettings = TopicSettings()
    state: StateSettings = StateSettings()
    loop: LoopSettings = LoopSettings()
    receiver: ReceiverSettings = ReceiverSettings()
    classifier: ClassifierSettings = ClassifierSettings()
    learner: LearnerSettings = LearnerSettings()
    worker: WorkerSettings = WorkerSettings()
    archive: ArchiveSettings = ArchiveSettings()
    monitor: MonitorSettings = MonitorSettings()
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
        """Arguments win over environment variables, those over the file that ``load_settings`` has read."""
        del env_settings, dotenv_settings, file_secret_settings
        return init_settings, Variables(settings_cls), InitSettingsSource(settings_cls, dict(_from_file.get()))

    @model_validator(mode="after")
    def _ids_outlive_records(self) -> Self:
        if self.receiver.window <= self.topics.retention:
            raise ValueError("receiver.window must be longer than topics.retention: records would outlive their ids")
        return self

    def lines(self) -> list[tuple[str, str]]:
        """Every setting as dotted name and text, secrets masked: for people and logs."""
        return list(flat(self.model_dump(mode="json")))


def load_settings(file: Path | None = None, **overrides: object) -> Settings:
    """Read and check all settings: defaults, then the file, then environment variables, then ``overrides``.

    Args:
        file: A YAML file; the one that the environment variable ``TIERFLOW_CONFIG`` names when left out.
        overrides: Sections given in code; they win.

    Raises:
        ConfigurationError: Names each wrong setting, where it came from and what would be right.
    """
    named = os.environ.get(FILE_VARIABLE)
    if file is None and named:
        file = Path(named)
    from_file = {} if file is None else read_file(file)
    refuse_unknown_variables(Settings.model_fields)
    token = _from_file.set(from_file)
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        # "from None": pydantic's own message quotes values, and a value can be a secret.
        raise ConfigurationError(f"settings are wrong: {explain(error, from_file, file)}") from None
    finally:
        _from_file.reset(token)
