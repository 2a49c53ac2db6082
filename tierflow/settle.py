"""Waiting, before a reader is stopped, until it has read what others wrote before they were stopped."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

from agents.audit.reader import ArchiveReader
from schemas.errors import ConfigurationError
from streams.runtime import Platform
from streams.topic_report import TopicReport, describe_topics
from streams.topics import COMPLETIONS, REGISTRY, Topic

QUIET: Final = timedelta(seconds=1.5)
"""Nothing moved for so long: it is done. Offsets alone can't tell: transaction markers take some, and the embedded
broker's ends are a batch short. Stages commit and the archive looks several times in this span."""
BUDGET: Final = timedelta(seconds=15)
"""Longest wait for one of them."""
_LOOK_S: Final = 0.3


async def settled(measure: Callable[[], Awaitable[object]], *, quiet: timedelta = QUIET) -> None:
    """Wait until a measure stops changing."""
    clock = asyncio.get_running_loop().time
    last, since = await measure(), clock()
    while clock() - since < quiet.total_seconds():
        await asyncio.sleep(_LOOK_S)
        now = await measure()
        if now != last:
            last, since = now, clock()


async def settle_group(platform: Platform, topics: Sequence[Topic], stage: str) -> None:
    """Wait until a stage commits no more, or the budget is over."""
    group = platform.names.group(stage)
    read = [topic for topic in topics if stage in topic.consumers]

    async def committed() -> object:
        reports = await describe_topics(platform.connection, read, platform.names, kind=platform.capabilities.kind)
        return [part.committed.get(group) for report in reports for part in report.partitions]

    await _within_budget(committed)


async def settle_archive(folder: Path) -> None:
    """Wait until the archive in a folder gets no more rows, or the budget is over."""

    async def rows() -> object:
        return await asyncio.to_thread(_count_rows, folder)

    await _within_budget(rows)


async def in_flight(platform: Platform, topics: Sequence[Topic]) -> int:
    """About how many requests wait for a stage or are being worked on; the embedded broker's ends can be short."""
    waiting = [topic for topic in topics if topic.record in {"request", "assignment"} or topic.name == COMPLETIONS]
    reports = await describe_topics(platform.connection, waiting, platform.names, kind=platform.capabilities.kind)
    return sum(_behind(report, topic, platform) for report, topic in zip(reports, waiting, strict=True))


def _behind(report: TopicReport, topic: Topic, platform: Platform) -> int:
    if topic.name == REGISTRY or not topic.consumers:
        return 0
    return report.stable_lag(platform.names.group(topic.consumers[0])) or 0


def _count_rows(folder: Path) -> int:
    try:
        return int(ArchiveReader(folder).query("SELECT count(*) AS n FROM events")[0]["n"])
    except ConfigurationError:
        return 0


async def _within_budget(measure: Callable[[], Awaitable[object]]) -> None:
    try:
        async with asyncio.timeout(BUDGET.total_seconds()):
            await settled(measure)
    except TimeoutError:
        return
