"""Waiting for agents: what they committed, and when they have come to rest."""

import asyncio
from datetime import timedelta
from typing import Final

from bench._house import House
from streams.topic_report import describe_topics
from tierflow.settle import settle_archive, settled

_LOOK_S: Final = 0.2
_START_WITHIN_S: Final = 60.0
"""A process is there after a second or two, and in its group after some more."""
QUIET: Final = timedelta(seconds=2)
"""Nothing committed for so long: everything is done."""


async def committed(house: House, stage: str) -> int:
    """Sum of the offsets that a stage has committed."""
    group = house.platform.names.group(stage)
    read = [topic for topic in house.topics if stage in topic.consumers]
    found = house.platform
    reports = await describe_topics(found.connection, read, found.names, kind=found.capabilities.kind)
    return sum(part.committed.get(group) or 0 for report in reports for part in report.partitions)


async def finished(house: House, stage: str, before: int) -> None:
    """Wait until a stage has begun (committed more than ``before``), and then commits no more.

    Raises:
        SystemExit: It does not begin.
    """
    clock = asyncio.get_running_loop().time
    until = clock() + _START_WITHIN_S
    while await committed(house, stage) <= before:
        if clock() > until:
            raise SystemExit(f"{stage} commits nothing: look at its log (--keep FOLDER)")
        await asyncio.sleep(_LOOK_S)
    await settled(lambda: committed(house, stage), quiet=QUIET)


async def archived(house: House) -> None:
    """Wait until the archive gets no more rows."""
    await settle_archive(house.archive)
