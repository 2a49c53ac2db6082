"""The loop against its specification, for any order of records, faults and rebalances (Hypothesis).

The specification has three lines: what comes in comes out exactly once; of each key in the order in which it came;
numbered from 1 without a gap within each epoch of its source.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.errors import BrokerUnavailableError, CommitRejectedError, CommitUnknownError, StateStoreError
from schemas.fakes import FakeClock
from schemas.headers import Name
from schemas.settings import LoopSettings
from streams.effects import DeadLetter, Effects, Emit
from streams.loop import Loop
from streams.memory import MemoryLog, MemorySink, MemorySource
from streams.records import TP, OutRecord
from streams.topics import Names

GROUP = "tierflow.copy"
NOW = 1_000_000
PARTITIONS = 2
FAULTS = {
    "refused": CommitRejectedError("stale"),
    "away": BrokerUnavailableError("gone"),
    "unknown": CommitUnknownError("no answer"),
}
RULES = LoopSettings(back_off=timedelta(milliseconds=1), linger=timedelta(0), max_in_flight=4)

RECORDS = st.tuples(st.just("send"), st.integers(0, PARTITIONS - 1), st.sampled_from("abc"), st.integers(0, 4))
ACTIONS = st.one_of(
    RECORDS,
    RECORDS,
    st.tuples(st.sampled_from(["before", "after"]), st.sampled_from(sorted(FAULTS))),
    st.tuples(st.just("store away")),
    st.tuples(st.sampled_from(["revoke", "lose"]), st.integers(0, PARTITIONS - 1)),
    st.tuples(st.just("turns"), st.integers(1, 30)),
    st.tuples(st.just("later"), st.integers(0, PARTITIONS - 1), st.sampled_from("abc"), st.integers(1, 3)),
)


class _Copy:
    """Copies; how long a record takes (in turns of the event loop) is part of it."""

    name = "copy"
    inputs = ("in",)

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self.store_away = 0

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def prepare(self, records, view) -> None:
        if self.store_away:
            self.store_away -= 1
            raise StateStoreError("away")

    def handle(self, record, view):
        if self.concurrency:
            return self._slowly(record)
        _, _, due = record.value.split(b" ")
        if view.now_ms < int(due):
            return Effects(done=False, not_before_ms=int(due))
        return self._made(record)

    async def _slowly(self, record) -> Effects:
        for _ in range(int(record.value.split(b" ")[1])):
            await asyncio.sleep(0)
        return self._made(record)

    @staticmethod
    def _made(record) -> Effects:
        return Effects((Emit("out", record.key, record.value, "copy", record.value.decode(), ()),))

    @staticmethod
    def fail(record, view, error) -> Effects:
        return Effects(dead_letters=(DeadLetter(error.code, str(error)),))


async def play(concurrency: int, actions: list[tuple[Any, ...]]) -> tuple[MemoryLog, list[bytes]]:
    """Do all this to a loop, then let it come to rest."""
    log = MemoryLog()
    log.create("in", PARTITIONS, [GROUP])
    log.create("out", 1)
    log.create("dead-letters.copy", 1)
    stage, sink, sources = _Copy(concurrency), MemorySink(log, GROUP), []

    def link(listener):
        sources.append(MemorySource(log, listener, GROUP, ["in"]))
        return sources[0], sink

    clock = FakeClock(NOW)
    loop = Loop(stage=stage, link=link, names=Names(), rules=lambda: "rules", settings=RULES, clock=clock)
    stop, sent = asyncio.Event(), []
    running = asyncio.create_task(loop.run(stop))
    await asyncio.sleep(0)
    for number, (action, *rest) in enumerate(actions):
        match action:
            case "send" | "later":
                due = NOW + rest[2] if action == "later" else 0
                value = b"%d %d %d" % (number, rest[2], due)
                sent.append(value)
                log.append(OutRecord("in", str(rest[1]).encode(), value, (), rest[0]))
            case "before":
                sink.before.append(FAULTS[rest[0]])
            case "after":
                sink.after.append(CommitUnknownError("no answer"))  # what was done and not answered is always in doubt
            case "store away":
                stage.store_away += 1
            case "revoke" | "lose":
                tp = TP("in", rest[0])
                await sources[0].revoke([tp], lost=action == "lose")
                await sources[0].assign([tp])
            case _:
                for _ in range(rest[0]):
                    await asyncio.sleep(0)
    ends = Counter(TP("in", record.partition) for record in log.read("in"))
    async with asyncio.timeout(5):
        while any(log.offsets[GROUP, tp].offset < count for tp, count in ends.items()):
            assert not running.done(), running
            await asyncio.sleep(0.001)
            clock.advance(timedelta(milliseconds=1))
    stop.set()
    await running
    return log, sent


@pytest.fixture(autouse=True, scope="module")
def looks_often() -> Iterator[None]:
    """At partitions whose head is not due."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streams.polling.LOOK", timedelta(milliseconds=1))
        yield


@pytest.mark.parametrize("concurrency", [0, 3])
@settings(max_examples=200, deadline=None)
@given(actions=st.lists(ACTIONS, max_size=40))
@example(actions=[("send", 0, "a", 0), ("turns", 1), ("lose", 0)])  # lost while a commit was on its way
def test_everything_comes_out_once_in_order_and_numbered(concurrency: int, actions: list[tuple[Any, ...]]) -> None:
    log, sent = asyncio.run(play(concurrency, actions))
    out = log.read("out")
    assert Counter(record.value for record in out) == Counter(sent)
    by_key, wanted = defaultdict(list), defaultdict(list)
    places = {record.value: record for record in log.read("in")}
    for record in out:
        by_key[places[record.value].partition, record.key].append(record.value)
    for record in log.read("in"):
        wanted[record.partition, record.key].append(record.value)
    assert by_key == wanted
    numbers = defaultdict(list)
    for record in out:
        headers = dict(record.headers)
        numbers[headers[Name.CE_SOURCE], headers[Name.EPOCH]].append(int(headers[Name.SEQUENCE]))
    assert all(found == list(range(1, len(found) + 1)) for found in numbers.values())
