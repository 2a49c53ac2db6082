"""Whether the topics are what the table says, before anything depends on it."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from functools import partial
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from schemas.errors import ConfigurationError
from schemas.settings import TopicSettings
from streams.admin import topic_config
from streams.clients import admin_client, described
from streams.connection import KafkaConnection
from streams.offsets import committed_offsets
from streams.records import TP
from streams.retry import RETRY_PREFIX
from streams.topic_report import describe_topics
from streams.topics import TIER_PREFIX, Cleanup, Names, Topic, worker_name

_LOG = logging.getLogger(__name__)
_FOREVER = -1  # retention.ms of a topic that keeps everything
_CREATE = "tierflow topics create"


class Severity(StrEnum):
    """How bad it is."""

    ERROR = "error"
    """Nothing may start."""
    WARNING = "warning"
    """It runs, with less than was asked for."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be.

    Attributes:
        severity: How bad it is.
        subject: Physical topic or group.
        what: What was found, and what was expected.
        do: What mends it.
    """

    severity: Severity
    subject: str
    what: str
    do: str


async def check_topics(
    connection: KafkaConnection,
    topics: Sequence[Topic],
    names: Names,
    settings: TopicSettings,
    *,
    longest_deadline: timedelta = timedelta(0),
    offsets: bool = True,
) -> list[Finding]:
    """Compare the cluster with the table.

    Args:
        connection: Where.
        topics: The topic table.
        names: Physical names.
        settings: Replication and limits.
        longest_deadline: The longest that a request may live; topics must keep records longer.
        offsets: Whether to look at the groups' committed offsets, too.

    Returns:
        What differs, errors first; empty when all is well.

    Raises:
        BrokerUnavailableError: No answer.
        NotPermittedError: A group is not allowed to us.
    """
    wanted = {names.topic(topic.name): topic for topic in topics}
    async with admin_client(connection) as client:
        parts = {name: topic["partitions"] for name, topic in (await described(client, wanted)).items()}
        configs = await _configs(client, sorted(parts))
        others = [name for name in await client.list_topics() if name not in wanted] if offsets else []
    found: list[Finding] = []
    for name, topic in wanted.items():
        if name not in parts:
            found.append(Finding(Severity.ERROR, name, "does not exist", f"run {_CREATE}"))
            continue
        found += _check_partitions(name, topic, parts[name], settings)
        found += _check_config(name, topic, configs.get(name, {}), settings, longest_deadline)
    if offsets:
        found += await _check_offsets(connection, names, wanted, parts)
        found += await _check_left(connection, names, others)
    return sorted(found, key=lambda finding: finding.severity is not Severity.ERROR)


async def require_topics(
    connection: KafkaConnection,
    topics: Sequence[Topic],
    names: Names,
    settings: TopicSettings,
    *,
    longest_deadline: timedelta = timedelta(0),
) -> None:
    """Refuse to go on with topics that keep less than settings promise; for the start of an agent.

    Committed offsets are not looked at: the agent's own consumer refuses to start without them.

    Raises:
        ConfigurationError: Names each topic, what is wrong with it and what mends it.
        BrokerUnavailableError: No answer.
    """
    found = await check_topics(connection, topics, names, settings, longest_deadline=longest_deadline, offsets=False)
    wrong = [f"{each.subject} {each.what} ({each.do})" for each in found if each.severity is Severity.ERROR]
    if wrong and settings.enforce:
        raise ConfigurationError(
            f"topics are below policy: {'; '.join(wrong)}. With topics.enforce false an agent starts all the same"
        )
    for each in wrong:
        _LOG.warning("below policy: %s", each)


def _check_partitions(
    name: str, topic: Topic, partitions: Sequence[Mapping[str, Any]], settings: TopicSettings
) -> Iterator[Finding]:
    if len(partitions) != topic.partitions:
        yield Finding(
            Severity.ERROR,
            name,
            f"has {len(partitions)} partitions, {topic.partitions} are configured",
            "set topics.partitions to what the topic has; another number would send keys to other partitions, so take "
            "a new topics.prefix for it",
        )
    replicas = min(len(part["replicas"]) for part in partitions)
    if replicas < settings.replication:
        yield Finding(
            Severity.ERROR,
            name,
            f"has {replicas} replicas, {settings.replication} are configured",
            "reassign its partitions (kafka-reassign-partitions.sh), or lower topics.replication",
        )
    dark = [part["partition"] for part in partitions if part["leader"] < 0]
    if dark:
        yield Finding(Severity.ERROR, name, f"has no leader for partitions {dark}", "start the brokers that hold them")
    behind = [part["partition"] for part in partitions if len(part["isr"]) < len(part["replicas"])]
    if behind and not dark:
        yield Finding(Severity.WARNING, name, f"has replicas that lag, of partitions {behind}", "look at the brokers")


def _check_config(
    name: str, topic: Topic, config: Mapping[str, str], settings: TopicSettings, longest_deadline: timedelta
) -> Iterator[Finding]:
    expected = topic_config(topic, settings)
    differs = partial(_differs, name, config, expected)
    policies = set(config.get("cleanup.policy", expected["cleanup.policy"]).split(","))
    if policies != {expected["cleanup.policy"]}:
        yield differs("cleanup.policy", Severity.ERROR, "records would be lost, or never go")
    for key, why in (
        ("min.insync.replicas", "an acknowledged record could be on fewer disks than asked for"),
        ("max.message.bytes", "a record of the largest size would be refused on its way"),
    ):
        if _number(config, key, int(expected[key])) < int(expected[key]):
            yield differs(key, Severity.ERROR, why)
    stamped = config.get("message.timestamp.type")
    if stamped is not None and stamped != expected.get("message.timestamp.type", stamped):
        yield differs("message.timestamp.type", Severity.WARNING, "times, and so retention, are what producers say")
    if topic.retention is not None and topic.cleanup is not Cleanup.COMPACT:
        yield from _check_retention(name, config, expected, longest_deadline)


def _check_retention(
    name: str, config: Mapping[str, str], expected: Mapping[str, str], longest_deadline: timedelta
) -> Iterator[Finding]:
    if _number(config, "retention.bytes", -1) >= 0:
        why = "what nobody has read yet could be deleted to make room"
        yield _differs(name, config, expected, "retention.bytes", Severity.WARNING, why)
    kept_ms = _number(config, "retention.ms", int(expected["retention.ms"]))
    if kept_ms == _FOREVER:
        return
    if timedelta(milliseconds=kept_ms) <= longest_deadline:
        yield Finding(
            Severity.ERROR,
            name,
            f"retention.ms is {kept_ms}, a request may live {longest_deadline // timedelta(milliseconds=1)} ms: "
            "it could be deleted before it is answered",
            "raise the retention (topics.retention), or lower max_deadline of the intake topics",
        )
    elif kept_ms < int(expected["retention.ms"]):
        yield _differs(name, config, expected, "retention.ms", Severity.WARNING, "records go sooner")


def _differs(
    name: str, config: Mapping[str, str], expected: Mapping[str, str], key: str, severity: Severity, why: str
) -> Finding:
    change = f"kafka-configs.sh --alter --entity-type topics --entity-name {name} --add-config {key}={expected[key]}"
    return Finding(severity, name, f"{key} is {config[key]}, {expected[key]} is configured: {why}", change)


async def _check_offsets(
    connection: KafkaConnection,
    names: Names,
    wanted: Mapping[str, Topic],
    parts: Mapping[str, Sequence[Mapping[str, Any]]],
) -> list[Finding]:
    groups: dict[str, list[TP]] = {}
    for name, topic in wanted.items():
        for stage in topic.consumers:
            groups.setdefault(names.group(stage), []).extend(
                TP(name, part["partition"]) for part in parts.get(name, ())
            )
    found = []
    for name, partitions in groups.items():
        if not partitions:
            continue
        committed = await committed_offsets(connection, name, partitions)
        lacking = sorted({tp.topic for tp, commit in committed.items() if commit is None})
        if lacking:
            found.append(
                Finding(
                    Severity.ERROR,
                    name,
                    f"has no committed offset on {', '.join(lacking)}",
                    f"if it never ran, run {_CREATE}; if it did, its offsets expired: choose where it goes on "
                    "(kafka-consumer-groups.sh --reset-offsets), since any choice repeats or skips requests",
                )
            )
    return found


async def _check_left(connection: KafkaConnection, names: Names, others: Sequence[str]) -> list[Finding]:
    """Topics of tiers and delays that are configured no more: what waits there would never end."""
    left = []
    for name in others:
        logical, reader = names.logical(name), ""
        if names.topic(logical) == name and logical.startswith(RETRY_PREFIX):
            reader = "guardrail"
        elif names.topic(logical) == name and logical.startswith(TIER_PREFIX):
            reader = worker_name(logical.removeprefix(TIER_PREFIX))
        if reader:
            left.append(
                Topic(name=logical, record="assignment", key="", partitions=1, retention=None, consumers=(reader,))
            )
    return [
        Finding(
            Severity.ERROR,
            report.name,
            f"is configured no more, and holds {lag} requests that nobody reads",
            "configure its tier or delay again until it is empty",
        )
        for topic, report in zip(left, await describe_topics(connection, left, names) if left else (), strict=True)
        if (lag := report.stable_lag(names.group(topic.consumers[0])))
    ]


async def _configs(client: AIOKafkaAdminClient, topics: Sequence[str]) -> dict[str, dict[str, str]]:
    """What the broker says of each topic; a setting that it does not name is taken as it should be."""
    if not topics:
        return {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in topics]
    found: dict[str, dict[str, str]] = {}
    for answer in await client.describe_configs(resources):
        for _, _, _, name, entries, *_ in answer.resources:
            found[name] = {entry[0]: entry[1] for entry in entries if entry[1] is not None}
    return found


def _number(config: Mapping[str, str], key: str, default: int) -> int:
    text = config.get(key, "")
    return int(text) if text.removeprefix("-").isdigit() else default
