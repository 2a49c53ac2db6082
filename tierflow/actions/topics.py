"""``tierflow topics``: the topic table, and the broker compared with it."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from rich.table import Table

from streams.acls import OPERATOR, PRODUCER, acl_commands, acls_for, create_acls
from streams.acls import roles as roles_of
from streams.admin import create_topics
from streams.runtime import Platform
from streams.topic_check import Severity, check_topics
from streams.topic_report import TopicReport, describe_topics
from streams.topics import Names, Topic
from tierflow.console import plain
from tierflow.durations import told
from tierflow.exits import NOT_SO, OK
from tierflow.front import Front
from tierflow.reach import catalogue_of, longest_deadline, topics_of


async def _table(front: Front, given: str | None) -> tuple[Platform, tuple[Topic, ...], timedelta]:
    platform = await front.platform()
    catalogue = await catalogue_of(platform, front.settings, given)
    return platform, topics_of(catalogue, front.settings.topics), longest_deadline(catalogue)


async def list_topics(front: Front, catalogue: str | None) -> None:
    """Show the topic table as it should be."""
    platform, topics, _ = await _table(front, catalogue)
    table = Table("topic", "record", "key", "partitions", "kept", "read by")
    for topic in topics:
        kept = "compacted" if topic.retention is None else told(topic.retention)
        name = platform.names.topic(topic.name)
        read_by = ", ".join((*topic.consumers, *topic.readers))
        table.add_row(name, topic.record, topic.key, str(topic.partitions), kept, read_by)
        front.console.emit(_topic_data(topic, platform.names))
    front.console.show(table)


async def create(front: Front, catalogue: str | None) -> None:
    """Make what is missing, with the first offsets of every group; a second call changes nothing."""
    platform, topics, _ = await _table(front, catalogue)
    made = await create_topics(
        platform.connection, topics, platform.names, front.settings.topics, kind=platform.capabilities.kind
    )
    for name in made.created:
        front.console.line(f"created {name}")
    for group, count in made.offsets.items():
        front.console.line(f"group {group}: first offset on {count} partitions")
    front.console.line(f"{len(made.created)} created, {len(made.present)} were there")
    front.console.emit(
        {"created": list(made.created), "present": list(made.present), "first_offsets": dict(made.offsets)}
    )


async def check(front: Front, catalogue: str | None) -> int:
    """Compare the broker with the table.

    Returns:
        0 when nothing stands in the way of a start.
    """
    platform, topics, longest = await _table(front, catalogue)
    findings = await check_topics(
        platform.connection, topics, platform.names, front.settings.topics, longest_deadline=longest
    )
    for each in findings:
        style = "red" if each.severity is Severity.ERROR else "yellow"
        front.console.show(plain(f"{each.severity.value}: {each.subject}: {each.what}", style))
        front.console.show(plain(f"    {each.do}"))
        front.console.emit({"severity": each.severity.value, "subject": each.subject, "what": each.what, "do": each.do})
    errors = sum(each.severity is Severity.ERROR for each in findings)
    front.console.line(f"{len(topics)} topics: {errors} errors, {len(findings) - errors} warnings")
    return NOT_SO if errors else OK


async def describe(front: Front, catalogue: str | None) -> None:
    """How full the topics are, and how far each group has read."""
    platform, topics, _ = await _table(front, catalogue)
    reports = await describe_topics(platform.connection, topics, platform.names, kind=platform.capabilities.kind)
    table = Table("topic", "partitions", "offsets held", "group", "lag")
    for topic, report in zip(topics, reports, strict=True):
        groups = [platform.names.group(stage) for stage in topic.consumers]
        held = str(report.held) if report.exists else "missing"
        table.add_row(report.name, str(len(report.partitions)), held, *_lag(report, groups[:1]))
        for group in groups[1:]:
            table.add_row("", "", "", *_lag(report, [group]))
        lags = {group: report.stable_lag(group) for group in groups}
        front.console.emit({"topic": report.name, "exists": report.exists, "held": report.held, "lag": lags})
    front.console.show(table)


async def acls(front: Front, catalogue: str | None, *, roles: Sequence[str], principal: str, apply: bool) -> int:
    """Show, or make, the rights that each role needs.

    Args:
        front: Surroundings.
        catalogue: Names the tiers.
        roles: Which; all if empty.
        principal: Of each role, with ``{role}`` in it.
        apply: Make them instead of showing the commands.

    Returns:
        1 if they were to be made and the broker has no authorizer.
    """
    platform, topics, _ = await _table(front, catalogue)
    stages = roles_of(topics)
    for role in roles or [*stages, PRODUCER, OPERATOR]:
        who = principal.format(role=role)
        rights = acls_for(role, topics, platform.names)
        if apply:
            if not await create_acls(platform.connection, who, rights):
                front.console.warn("the broker has no authorizer: everybody may do everything there")
                return NOT_SO
            front.console.line(f"{who}: {len(rights)} rights")
            front.console.emit({"principal": who, "rights": len(rights)})
            continue
        commands = acl_commands(rights, who, front.settings.kafka.bootstrap)
        for command in commands:
            front.console.line(command)
        front.console.emit({"role": role, "principal": who, "commands": commands})
    return OK


def _topic_data(topic: Topic, names: Names) -> dict[str, Any]:
    return {
        "topic": names.topic(topic.name),
        "record": topic.record,
        "key": topic.key,
        "partitions": topic.partitions,
        "retention_ms": None if topic.retention is None else topic.retention // timedelta(milliseconds=1),
        "cleanup": topic.cleanup.value,
        "groups": [names.group(stage) for stage in topic.consumers],
    }


def _lag(report: TopicReport, groups: Sequence[str]) -> tuple[str, str]:
    if not groups:
        return "", ""
    lag = report.stable_lag(groups[0]) if report.exists else None
    return groups[0], "no offset" if lag is None else str(lag)
