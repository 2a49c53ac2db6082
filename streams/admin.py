"""Making the topics, with the first offsets of every group that reads them.

Groups never start at "earliest" or "latest": consumers refuse to start without a committed offset, because a group
whose offsets expired would otherwise silently run everything again, and pay again. So offsets are committed when topics
are made, and only where a group has none.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from schemas.errors import ConfigurationError
from schemas.settings import TopicSettings
from streams._codes import NOT_PERMITTED, Code, describe
from streams.clients import admin_client, described, reader
from streams.connection import BrokerKind, KafkaConnection
from streams.errors import BrokerUnavailableError, NotPermittedError, OffsetsLostError
from streams.offsets import commit_initial_offsets, committed_offsets
from streams.records import TP, OffsetCommit
from streams.topics import DEAD_LETTERS, PROVENANCE, Cleanup, Names, Topic

DEAD_LETTER_ROOM: Final = 64 * 1024
"""Bytes by which dead-letter topics take more than others: a record of the largest size is parked with more headers."""
_EXISTS = 36  # TOPIC_ALREADY_EXISTS: somebody else was faster
_KNOWN_WITHIN_S = 20.0  # all brokers of a busy cluster have heard of a new topic by then
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What ``create_topics`` did.

    Attributes:
        created: Physical names of new topics.
        present: Physical names of those that were there; they are left as they are (see ``check_topics``).
        offsets: By group, how many partitions got their first offset.
    """

    created: tuple[str, ...]
    present: tuple[str, ...]
    offsets: Mapping[str, int]


_FROM_OUTSIDE: Final = frozenset({"request", "feedback"})
"""Written by anybody: a clock that is wrong must not make retention delete what just came."""


def topic_config(topic: Topic, settings: TopicSettings) -> dict[str, str]:
    """A topic's configuration as Kafka names it."""
    room = 0 if topic.name.startswith(DEAD_LETTERS) else DEAD_LETTER_ROOM
    config = {
        "cleanup.policy": topic.cleanup.value,
        "max.message.bytes": str(settings.max_message_bytes - room),
        "min.insync.replicas": str(settings.min_insync),
        "unclean.leader.election.enable": "false",  # a replica that lags must not become the truth
    }
    if topic.retention is not None:
        config["retention.ms"] = str(topic.retention // timedelta(milliseconds=1))
        config["retention.bytes"] = "-1"  # a broker's default could delete what nobody has read yet
    if topic.cleanup is Cleanup.COMPACT:
        # Snapshots are rare: the default (half of the log dirty) would keep old ones for ever.
        config["min.cleanable.dirty.ratio"] = "0.1"
    if topic.name == PROVENANCE or topic.record in _FROM_OUTSIDE:
        config["message.timestamp.type"] = "LogAppendTime"  # when it was recorded, said by the broker
    return config


async def create_topics(
    connection: KafkaConnection,
    topics: Sequence[Topic],
    names: Names,
    settings: TopicSettings,
    *,
    kind: BrokerKind = BrokerKind.UNKNOWN,
    adopt: bool = True,
) -> Made:
    """Make what is missing; a second call does nothing.

    A group that has no offset on a partition gets the earliest one that the log holds. Committed offsets are never
    changed.

    Args:
        connection: Where.
        topics: The topic table.
        names: Physical names of topics and groups.
        settings: Replication and limits.
        kind: What answers.
        adopt: Do so too on partitions that were there and hold records. That is right for groups that never ran, and a
            rerun of everything for one whose offsets expired, which can't be told apart here: False where nobody looks
            on, such as an automatic start.

    Raises:
        OffsetsLostError: Not to adopt, and a group has no offset on a partition that was there and holds records.
        ConfigurationError: The broker refuses a topic as it is described, such as more replicas than brokers.
        NotPermittedError: A right is missing.
        StaleMemberError: A running group has no offset on a topic: stop its stage, and call again.
        BrokerUnavailableError: No answer.
    """
    wanted = {names.topic(topic.name): topic for topic in topics}
    async with admin_client(connection) as client:
        before = set(await client.list_topics())
        missing = {name: topic for name, topic in wanted.items() if name not in before}
        if missing:
            new = [
                NewTopic(name, topic.partitions, settings.replication, topic_configs=topic_config(topic, settings))
                for name, topic in missing.items()
            ]
            _require_made((await client.create_topics(new)).topic_errors)
        partitions = await _wait_for_leaders(client, wanted)
    starts, ends = await _extents(connection, [tp for found in partitions.values() for tp in found], kind)
    groups: dict[str, dict[TP, OffsetCommit]] = {}
    for name, topic in wanted.items():
        for stage in topic.consumers:
            firsts = groups.setdefault(names.group(stage), {})
            firsts.update({tp: OffsetCommit(starts[tp]) for tp in partitions[name]})
    if not adopt:
        used = {tp for tp in starts if tp.topic not in missing and ends[tp] > starts[tp]}
        for group, firsts in groups.items():
            await _require_offsets(connection, group, sorted(used & firsts.keys()))
    committed = await asyncio.gather(
        *(commit_initial_offsets(connection, group, firsts) for group, firsts in groups.items())
    )
    return Made(
        created=tuple(missing),
        present=tuple(name for name in wanted if name not in missing),
        offsets={group: len(new) for group, new in zip(groups, committed, strict=True) if new},
    )


def _require_made(answers: Iterable[tuple[Any, ...]]) -> None:
    for name, code, *more in answers:
        said = next((text for text in more if text), describe(code))
        if code in NOT_PERMITTED:
            raise NotPermittedError(f"making topic {name}: {said}")
        if code not in {Code.OK, _EXISTS}:
            raise ConfigurationError(f"the broker refuses topic {name}: {said}")


async def _wait_for_leaders(client: AIOKafkaAdminClient, names: Iterable[str]) -> dict[str, list[TP]]:
    """Until every partition of the topics can be read and written: brokers hear of new topics one after the other."""
    loop = asyncio.get_running_loop()
    stop = loop.time() + _KNOWN_WITHIN_S
    wanted = set(names)
    while True:
        ready = {
            name: [TP(name, part["partition"]) for part in topic["partitions"]]
            for name, topic in (await described(client, wanted)).items()
            if topic["partitions"] and all(part["leader"] >= 0 for part in topic["partitions"])
        }
        if ready.keys() == wanted:
            return ready
        if loop.time() > stop:
            late = ", ".join(sorted(wanted - ready.keys()))
            raise BrokerUnavailableError(f"no leader within {_KNOWN_WITHIN_S:g} s for {late}")
        await asyncio.sleep(_LOOK_S)


async def _require_offsets(connection: KafkaConnection, group: str, partitions: Sequence[TP]) -> None:
    if not partitions:
        return
    committed = await committed_offsets(connection, group, partitions)
    lacking = sorted({tp.topic for tp, commit in committed.items() if commit is None})
    if lacking:
        raise OffsetsLostError(
            f"group {group} has no committed offset on {', '.join(lacking)}, which hold records: if it never ran, "
            "create the topics by hand (tierflow topics create) to start it at the earliest one; if it did, its offsets"
            " expired, and where it goes on is for you to choose (kafka-consumer-groups.sh --reset-offsets)"
        )


async def _extents(
    connection: KafkaConnection, partitions: Sequence[TP], kind: BrokerKind
) -> tuple[Mapping[TP, int], Mapping[TP, int]]:
    async with reader(connection, kind, committed=False) as consumer:
        return await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
