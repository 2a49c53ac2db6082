"""Committed offsets of a group, with their metadata: read, and set before the group's first member comes."""

import asyncio
import time
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Final

from streams._aiokafka import GROUP, LinkError, Membership, Wire
from streams._codes import COORDINATOR_MOVED, NOT_PERMITTED, STALE_MEMBER, WAIT, Code, describe
from streams.connection import KafkaConnection
from streams.errors import BrokerUnavailableError, NotPermittedError, StaleMemberError
from streams.records import TP, OffsetCommit

STABLE_WAIT: Final = timedelta(seconds=60)
"""Longest wait for another worker's transaction. A dead one's ends after its time-out (10 s), and brokers look for such
transactions every 10 s."""
_PAUSE_S: Final = 0.02
_NOBODY: Final = ("", -1)  # member id and generation of who is no member


async def read_offsets(
    wire: Wire, group: str, partitions: Collection[TP], *, partial: bool = False, limit: timedelta = STABLE_WAIT
) -> Mapping[TP, OffsetCommit | None]:
    """What a group has committed; None where it has nothing.

    Args:
        wire: Open connections.
        group: Consumer group.
        partitions: Which to ask for.
        partial: Return as soon as some are known; the others wait for a transaction that commits on them.
        limit: Longest wait.

    Raises:
        BrokerUnavailableError: No answer within the limit, or a transaction stays open.
        NotPermittedError: The group or a topic is not allowed to us.
    """
    stop = time.monotonic() + limit.total_seconds()
    known: dict[TP, OffsetCommit | None] = {}
    waiting, problem = list(partitions), "no answer"
    while waiting:
        try:
            node = await wire.coordinator(GROUP, group)
            overall, found = await wire.offset_fetch(node, group, waiting)
        except LinkError as error:
            overall, found, problem = int(Code.OK), {}, str(error)
            wire.forget_coordinator(GROUP, group)
            await wire.refresh()
        codes = {overall} | {code for code, _ in found.values()}
        for code in codes & NOT_PERMITTED:
            raise NotPermittedError(f"reading offsets of group {group}: {describe(code)}")
        if overall == Code.OK:
            known.update({tp: commit for tp, (code, commit) in found.items() if code == Code.OK})
        if codes & COORDINATOR_MOVED:
            wire.forget_coordinator(GROUP, group)
        waiting = [tp for tp in waiting if tp not in known]
        if not waiting or (partial and known):
            break
        problem = ", ".join(describe(code) for code in sorted(codes - {Code.OK})) or problem
        if time.monotonic() > stop:
            raise BrokerUnavailableError(f"offsets of group {group} on {waiting}: {problem}")
        await asyncio.sleep(_PAUSE_S)
    return known


async def committed_offsets(
    connection: KafkaConnection, group: str, partitions: Collection[TP]
) -> Mapping[TP, OffsetCommit | None]:
    """What a group has committed, asked over a connection of its own.

    Raises:
        BrokerUnavailableError: No answer.
        NotPermittedError: The group is not allowed to us.
    """
    wire = await _opened(connection)
    try:
        return await read_offsets(wire, group, partitions)
    finally:
        await wire.close()


async def commit_initial_offsets(
    connection: KafkaConnection, group: str, offsets: Mapping[TP, OffsetCommit], *, overwrite: bool = False
) -> Mapping[TP, OffsetCommit]:
    """Give a group its first offsets, where it has none yet. For a group without members.

    Args:
        connection: Where.
        group: Consumer group.
        offsets: What to commit.
        overwrite: Also where the group has some already.

    Returns:
        What was committed.

    Raises:
        StaleMemberError: The group has members.
        BrokerUnavailableError: No answer.
        NotPermittedError: The group is not allowed to us.
    """
    wire = await _opened(connection)
    try:
        if not overwrite:
            present = await read_offsets(wire, group, offsets.keys())
            offsets = {tp: commit for tp, commit in offsets.items() if present[tp] is None}
        if offsets:
            await _commit(wire, group, offsets)
    finally:
        await wire.close()
    return offsets


async def _commit(wire: Wire, group: str, offsets: Mapping[TP, OffsetCommit]) -> None:
    member_id, generation = _NOBODY
    stop = time.monotonic() + STABLE_WAIT.total_seconds()
    while True:
        try:
            node = await wire.coordinator(GROUP, group)
            answer = await wire.offset_commit(node, Membership(group, generation, member_id, None), offsets)
            codes = {code for code in answer.values() if code != Code.OK}
            problem = ", ".join(describe(code) for code in sorted(codes))
        except LinkError as error:
            codes, problem = {int(Code.NOT_COORDINATOR)}, str(error)
        if not codes:
            return
        if codes & NOT_PERMITTED:
            raise NotPermittedError(f"committing offsets of group {group}: {problem}")
        if codes & STALE_MEMBER:
            raise StaleMemberError(f"group {group} has members: stop them before setting its offsets")
        if not codes & (COORDINATOR_MOVED | WAIT) or time.monotonic() > stop:
            raise BrokerUnavailableError(f"committing offsets of group {group}: {problem}")
        wire.forget_coordinator(GROUP, group)
        await asyncio.sleep(_PAUSE_S)


async def _opened(connection: KafkaConnection) -> Wire:
    wire = Wire(connection.client_arguments("offsets"))
    try:
        await wire.open()
    except LinkError as error:
        raise BrokerUnavailableError(f"{connection.kafka.bootstrap}: {error}") from error
    return wire
