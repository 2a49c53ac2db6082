"""The topic table: one place that says which topics exist, what they hold and how long."""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

from schemas.settings import TopicSettings
from streams.retry import retry_topic

REQUESTS: Final = "requests"
COMPLETIONS: Final = "completions"
RESULTS: Final = "results"
PROVENANCE: Final = "provenance"
REGISTRY: Final = "registry"
FEEDBACK: Final = "feedback"
ALERTS: Final = "alerts"
LEARNED: Final = "learned"
TIER_PREFIX: Final = "tier."
DEAD_LETTERS: Final = "dead-letters."

ARCHIVE: Final = "archive"
MONITOR: Final = "monitor"
LEARNER: Final = "learner"
STAGES: Final = ("classifier", "worker", "guardrail", "audit")
"""Stages that have a dead-letter topic."""


class Cleanup(StrEnum):
    """Kafka's ``cleanup.policy``."""

    DELETE = "delete"
    COMPACT = "compact"


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """A topic as it should be.

    Attributes:
        name: Logical name, without the installation's prefix.
        record: Avro record it holds.
        key: What the key is.
        partitions: Number of partitions.
        retention: How long records are kept; None for compacted topics.
        consumers: Groups (stage names) that commit offsets on it.
        readers: Stages that read along and keep a place of their own, or none: no group, no commits.
    """

    name: str
    record: str
    key: str
    partitions: int
    retention: timedelta | None
    consumers: tuple[str, ...]
    readers: tuple[str, ...] = (MONITOR,)
    cleanup: Cleanup = Cleanup.DELETE


def tier_topic(tier: str) -> str:
    """Logical topic of a tier."""
    return TIER_PREFIX + tier


def dead_letter_topic(stage: str) -> str:
    """Logical dead-letter topic of a stage."""
    return DEAD_LETTERS + stage


def worker_name(tier: str) -> str:
    """Stage name (and so the group) of the workers of a tier."""
    return f"worker-{tier}"


def table(settings: TopicSettings, tiers: tuple[str, ...], intake: tuple[str, ...] = (REQUESTS,)) -> tuple[Topic, ...]:
    """All topics of an installation.

    Args:
        settings: Partitions and retention.
        tiers: Tier ids of the catalogue.
        intake: Logical intake topics.
    """
    n, keep = settings.partitions, settings.retention
    topics = [
        Topic(
            name=name,
            record="request",
            key="session or request id",
            partitions=n,
            retention=keep,
            consumers=("classifier",),
        )
        for name in intake
    ]
    topics += [
        Topic(
            name=tier_topic(tier),
            record="assignment",
            key="as the request's",
            partitions=n,
            retention=keep,
            consumers=(worker_name(tier), "audit"),
            readers=(MONITOR, LEARNER),
        )
        for tier in tiers
    ]
    topics += [
        Topic(
            name=retry_topic(delay),
            record="assignment",
            key="as the request's",
            partitions=n,
            retention=keep,
            consumers=("guardrail",),
        )
        for delay in settings.retry_delays
    ]
    topics += [
        Topic(
            name=COMPLETIONS,
            record="completion",
            key="as the request's",
            partitions=n,
            retention=keep,
            consumers=("guardrail", "audit"),
        ),
        Topic(
            name=RESULTS,
            record="result",
            key="as the request's",
            partitions=n,
            retention=keep,
            consumers=("audit",),
            readers=(MONITOR, LEARNER),
        ),
        Topic(
            name=PROVENANCE,
            record="provenance_event",
            key="request id",
            partitions=n,
            retention=settings.provenance_retention,
            consumers=(),
            readers=(ARCHIVE, MONITOR),
        ),
        Topic(
            name=FEEDBACK,
            record="feedback",
            key="request id",
            partitions=n,
            retention=keep,
            consumers=("audit",),
            readers=(LEARNER,),
        ),
        Topic(
            name=LEARNED,
            record="what was learnt (JSON)",
            key="catalogue",
            partitions=1,
            retention=None,
            consumers=(),
            readers=(LEARNER, "classifier"),
            cleanup=Cleanup.COMPACT,
        ),
        Topic(
            name=ALERTS,
            record="alert (JSON)",
            key="kind and subject",
            partitions=1,  # few, and told in one order
            retention=settings.dead_letter_retention,
            consumers=(),
        ),
        Topic(
            name=REGISTRY,
            record="snapshot",
            key="number and hash",
            partitions=1,
            retention=None,
            consumers=(),
            readers=(),
            cleanup=Cleanup.COMPACT,
        ),
    ]
    topics += [
        Topic(
            name=dead_letter_topic(stage),
            record="original bytes",
            key="original",
            partitions=n,
            retention=settings.dead_letter_retention,
            consumers=() if stage == "audit" else ("audit",),
        )
        for stage in STAGES
    ]
    return tuple(topics)


@dataclass(frozen=True, slots=True)
class Names:
    """Physical names: the installation's prefix put before logical ones."""

    prefix: str = ""

    def topic(self, logical: str) -> str:
        """Physical topic name."""
        return self.prefix + logical

    def logical(self, physical: str) -> str:
        """Logical topic name."""
        return physical.removeprefix(self.prefix)

    def group(self, stage: str) -> str:
        """Consumer group of a stage."""
        return f"{self.prefix}tierflow.{stage}"
