"""What this project needs of the insides of aiokafka's consumer."""

import asyncio
from collections.abc import Iterable
from datetime import timedelta
from typing import Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import ConsumerStoppedError
from aiokafka.protocol.commit import OffsetCommitRequest

from streams._aiokafka import Membership, Wire
from streams.pace import Pace
from streams.records import TP


def wire_of(consumer: AIOKafkaConsumer) -> Wire:
    """A wire that shares the consumer's connections."""
    return Wire(client=consumer._client)  # noqa: SLF001 - this module's job


def membership_of(consumer: AIOKafkaConsumer) -> Membership:
    """The consumer's present membership.

    Take it when partitions are assigned and keep it: the library changes generation and member id as soon as it has
    joined again, while work of the old assignment may still be on its way to a commit.
    """
    coordinator = consumer._coordinator  # noqa: SLF001 - this module's job
    return Membership(
        coordinator.group_id,
        coordinator.generation,
        coordinator.member_id,
        coordinator._group_instance_id,  # noqa: SLF001 - this module's job
    )


def has_lost_membership(consumer: AIOKafkaConsumer) -> bool:
    """Whether the group has already put this member out, so that nothing of it can be committed any more."""
    generation: int = consumer._coordinator.generation  # noqa: SLF001 - this module's job
    return bool(generation == OffsetCommitRequest.DEFAULT_GENERATION_ID)


def is_rebalancing(consumer: AIOKafkaConsumer) -> bool:
    """Whether polling would wait, without any limit, for the next assignment."""
    return bool(consumer._subscription.reassignment_in_progress)  # noqa: SLF001 - this module's job


def positions_of(consumer: AIOKafkaConsumer, tps: Iterable[TP]) -> dict[TP, int]:
    """The next offset to read, behind records that were returned and whatever holds none, such as markers."""
    assignment = consumer._subscription.subscription.assignment  # noqa: SLF001 - this module's job
    states = ((tp, assignment.state_value(tp)) for tp in tps) if assignment is not None else ()
    return {tp: state.position for tp, state in states if state is not None and state.has_valid_position}


def background_failure(consumer: AIOKafkaConsumer) -> BaseException | None:
    """Why a background task of the consumer ended, if one did. Without fetching, polls would stay empty for ever."""
    for task in (consumer._fetcher._fetch_task, consumer._coordinator._coordination_task):  # noqa: SLF001 - this module's job
        if task.done():
            if task.cancelled():
                return asyncio.CancelledError()
            error: BaseException | None = task.exception()
            return error or RuntimeError("a background task of the consumer ended")
    return None


def release_polls(consumer: AIOKafkaConsumer) -> None:
    """End polls that wait for an assignment which will not come, since the consumer is to be stopped."""
    consumer._subscription.abort_waiters(ConsumerStoppedError())  # noqa: SLF001 - this module's job


async def stop_client(client: AIOKafkaConsumer | AIOKafkaProducer) -> None:
    """Close a client and its connections.

    While its broker is away the library ends with the cancellation of a task of its own, which is not ours, and forgets
    to close the connections and the task that looks for brokers.
    """
    task = asyncio.current_task()
    try:
        await client.stop()
    except asyncio.CancelledError:
        inner = client.client if isinstance(client, AIOKafkaProducer) else client._client  # noqa: SLF001 - this module's job
        await inner.close()
        if task is not None and task.cancelling():
            raise


_BUSY_POLL_MS: Final = 50


GATHER: Final = timedelta(milliseconds=10)
"""Longest that a busy reader lets the broker wait for more. A fetch costs some 200 us whatever it brings, and at 2,000
records a second one would bring three."""
GATHER_BYTES: Final = 32 * 1024
"""What ends that wait early: some fifty records."""


class FetchPace:
    """How long the broker may hold a fetch.

    A broker that wakes a waiting fetch holds it until there is a record; once many come, for as long as ``GATHER``, so
    that it brings more of them. One that does not (the embedded one) is asked often while records come, seldom while
    none do.

    Args:
        busy: Longest wait of a fetch at the broker while records arrive.
        idle: What the wait grows to while none do. Where it is the same, the broker wakes waiting fetches.
    """

    def __init__(self, busy: timedelta, idle: timedelta) -> None:
        self._busy_ms, self._idle_ms = (wait // timedelta(milliseconds=1) for wait in (busy, idle))
        self._wait_ms = self._busy_ms
        self._gather = Pace(min(GATHER, busy)) if busy == idle else None

    def within_ms(self, timeout: timedelta) -> int:
        """How long to poll: shortly while the broker is asked often, so that this ends soon after the last record."""
        longest = timeout // timedelta(milliseconds=1)
        return longest if self._gather is not None or self._wait_ms >= self._idle_ms else min(longest, _BUSY_POLL_MS)

    def polled(self, consumer: AIOKafkaConsumer, records: int, now: float) -> None:
        """Take note of a poll: how long the broker may hold the next fetches follows from it.

        Args:
            consumer: Whose fetches.
            records: That the poll returned.
            now: Monotonic seconds.
        """
        if self._gather is not None:
            self._gather.note(records, now)
            gather_ms = round(self._gather.wait_s() * 1000)
            self._hold(consumer, gather_ms or self._busy_ms, GATHER_BYTES if gather_ms else 1)
        else:
            self._hold(consumer, self._busy_ms if records else min(self._wait_ms * 2, self._idle_ms), 1)

    def _hold(self, consumer: AIOKafkaConsumer, wait_ms: int, least_bytes: int) -> None:
        if wait_ms != self._wait_ms:
            self._wait_ms = wait_ms
            consumer._fetcher._fetch_max_wait_ms = wait_ms  # noqa: SLF001 - this module's job
            consumer._fetcher._fetch_min_bytes = least_bytes  # noqa: SLF001 - this module's job
