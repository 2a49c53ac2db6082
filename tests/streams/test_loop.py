"""The loop over the in-memory log: what is committed, what is done again, what ends as a dead letter."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from schemas.delivery import DeliveryMode
from schemas.errors import (
    BrokerUnavailableError,
    CommitRejectedError,
    CommitUnknownError,
    OffsetsLostError,
    StateStoreError,
    TierflowError,
)
from schemas.fakes import FakeClock
from schemas.headers import Name
from schemas.settings import LoopSettings, TopicSettings
from streams.deadletters import parse_dead_letter
from streams.effects import DeadLetter, Effects, Emit, View
from streams.loop import Loop
from streams.memory import MemoryLog, MemorySink, MemorySource
from streams.offset_map import decode
from streams.records import TP, InRecord, OutRecord
from streams.source import Listener
from streams.topics import Names

SETTINGS = LoopSettings(back_off=timedelta(milliseconds=1), drain_grace=timedelta(seconds=2))
GROUP = "tierflow.copy"


@dataclass
class CopyStage:
    """Copies ``in`` to ``out``; what a value says decides what goes wrong."""

    concurrency: int = 0
    name: str = "copy"
    inputs: Sequence[str] = ("in",)
    seen: list[bytes] = field(default_factory=list)
    active: set[bytes] = field(default_factory=set)
    overlaps: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    prepare_errors: int = 0
    not_done: int = 0
    prepared: int = 0

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def prepare(self, records, view):
        if self.prepare_errors:
            self.prepare_errors -= 1
            raise StateStoreError("away")
        if any(record.value == b"unreadable" for record in records):
            raise TypeError("boom")
        self.prepared += len(records)
        return [record.value for record in records]

    def effects(self, record: InRecord, view: View[str]) -> Effects:
        value = record.value or b""
        self.seen.append(value)
        if value == b"crash":
            raise ValueError("boom")
        if value == b"not yet" and self.not_done:
            self.not_done -= 1
            return Effects(done=False)
        if value.startswith(b"due ") and view.now_ms < int(value[4:]):
            return Effects(done=False, not_before_ms=int(value[4:]))
        if value == b"poison":
            return Effects(dead_letters=(DeadLetter("input.undecodable", "byte 0"),))
        size = 3_000_000 if value == b"too large" else 0
        assert view.prepared == record.value
        return Effects((Emit("out", record.key, value + b"x" * size, "copy", f"id-{record.offset}", ()),))

    def handle(self, record, view):
        return self.wait(record, view) if self.concurrency else self.effects(record, view)

    async def wait(self, record: InRecord, view: View[str]) -> Effects:
        if record.key in self.active:
            self.overlaps += 1
        self.active.add(record.key or b"")
        try:
            if record.value == b"slow":
                await self.gate.wait()
            else:
                await asyncio.sleep(0)
            return self.effects(record, view)
        finally:
            self.active.discard(record.key)

    def fail(self, record, view, error: TierflowError) -> Effects:
        return Effects(
            (Emit("out", record.key, b"failed " + error.code.encode(), "copy", f"id-{record.offset}", ()),),
            (DeadLetter(error.code, str(error)),),
        )


class Bench:
    """A log, a stage and the loop over it."""

    def __init__(
        self,
        stage: CopyStage,
        partitions: int = 1,
        settings: LoopSettings = SETTINGS,
        clock: FakeClock | None = None,
        max_bytes: int = TopicSettings().max_message_bytes,
    ) -> None:
        self.log = MemoryLog(max_bytes)
        self.log.create("in", partitions, [GROUP])
        self.log.create("out", 1)
        self.log.create("dead-letters.copy", partitions)
        self.stage = stage
        self.settings = settings
        self.clock = clock or FakeClock(1_000_000)
        self.sink = MemorySink(self.log, GROUP)
        self.loop = self.make_loop()
        self.stop = asyncio.Event()

    def make_loop(self) -> Loop[str]:
        return Loop(
            stage=self.stage,
            link=self.link,
            names=Names(),
            rules=lambda: "rules",
            settings=self.settings,
            clock=self.clock,
            max_bytes=self.log.max_bytes,
        )

    def link(self, listener: Listener) -> tuple[MemorySource, MemorySink]:
        self.source = MemorySource(self.log, listener, GROUP, ["in"])
        return self.source, self.sink

    def send(self, *values: bytes, key: bytes | None = None, partition: int = 0) -> None:
        for value in values:
            self.log.append(OutRecord("in", key, value, (), partition))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.loop.run(self.stop))
        try:
            yield
        finally:
            self.stop.set()
            await task

    async def until(self, committed: int, partition: int = 0) -> None:
        async with asyncio.timeout(10):
            while self.log.offsets[GROUP, TP("in", partition)].offset < committed:
                await asyncio.sleep(0.001)

    def out(self) -> list[bytes]:
        return [record.value or b"" for record in self.log.read("out")]


@pytest.mark.parametrize("concurrency", [0, 4])
async def test_copies_in_order_and_commits_behind(concurrency):
    bench = Bench(CopyStage(concurrency))
    bench.send(*(b"%d" % number for number in range(100)), key=b"k")
    async with bench.running():
        await bench.until(100)
    assert bench.out() == [b"%d" % number for number in range(100)]
    assert bench.loop.counters.committed == 100


async def test_headers_number_what_a_partition_emits_without_gaps():
    bench = Bench(CopyStage(), partitions=2)
    bench.send(b"a", b"b", b"poison", b"c")
    bench.send(b"d", partition=1)
    async with bench.running():
        await bench.until(4)
        await bench.until(1, partition=1)
    numbers: dict[bytes, list[int]] = {}
    for record in bench.log.read("out"):
        found = dict(record.headers)
        assert found[Name.EPOCH] == b"1000000"
        assert found[Name.DELIVERY_MODE] == b"exactly_once"
        assert found[Name.CE_TYPE] == b"tierflow.copy.v1"
        numbers.setdefault(found[Name.CE_SOURCE], []).append(int(found[Name.SEQUENCE]))
    assert numbers == {b"/copy/in/0": [1, 2, 3], b"/copy/in/1": [1]}


@pytest.mark.parametrize("concurrency", [0, 4])
async def test_a_crash_in_the_handler_ends_as_dead_letter_and_failed_result(concurrency):
    bench = Bench(CopyStage(concurrency))
    bench.send(b"a", b"crash", b"b")
    async with bench.running():
        await bench.until(3)
    assert sorted(bench.out()) == [b"a", b"b", b"failed internal"]
    (parked,) = bench.log.read("dead-letters.copy")
    assert parked.value == b"crash"
    assert dict(parked.headers)["__connect.errors.offset"] == b"1"


@pytest.mark.parametrize("concurrency", [0, 4])
async def test_a_crash_while_a_batch_is_prepared_ends_one_record_and_not_the_process(concurrency):
    bench = Bench(CopyStage(concurrency))
    bench.send(b"a", b"unreadable", b"b", b"unreadable")
    async with bench.running():
        await bench.until(4)
    assert sorted(bench.out()) == [b"a", b"b", b"failed internal", b"failed internal"]
    assert [record.value for record in bench.log.read("dead-letters.copy")] == [b"unreadable"] * 2
    assert bench.stage.seen == [b"a", b"b"]


async def test_an_output_above_the_limit_fails_visibly_and_takes_nothing_with_it():
    bench = Bench(CopyStage())
    bench.send(b"a", b"too large", b"b")
    async with bench.running():
        await bench.until(3)
    assert bench.out() == [b"a", b"failed delivery.output-refused", b"b"]
    assert [record.value for record in bench.log.read("dead-letters.copy")] == [b"too large"]


@pytest.mark.parametrize(
    ("max_bytes", "value"),
    [
        pytest.param(1_000_000, bytes(1_200_000), id="came compressed and is above the limit as it is"),
        pytest.param(8_000_000, os.urandom(3_000_000), id="below a limit that is above the default"),
    ],
)
async def test_a_dead_letter_keeps_the_original_within_the_limit_that_is_set(monkeypatch, max_bytes, value):
    bench = Bench(CopyStage(), max_bytes=max_bytes)
    letter = Effects(dead_letters=(DeadLetter("input.undecodable", "byte 0"),))
    monkeypatch.setattr(bench.stage, "handle", lambda *_: letter)
    bench.send(value)
    async with bench.running():
        await bench.until(1)
    original = parse_dead_letter(*bench.log.read("dead-letters.copy")).original
    assert original is not None
    assert original.value == value


@pytest.mark.parametrize("concurrency", [0, 4])
async def test_state_store_away_waits_and_loses_nothing(concurrency):
    bench = Bench(CopyStage(concurrency, prepare_errors=3, not_done=2))
    bench.send(b"a", b"not yet", b"c", key=b"k")
    async with bench.running():
        await bench.until(3)
    assert sorted(bench.out()) == [b"a", b"c", b"not yet"]
    assert bench.stage.seen.count(b"not yet") == 3


@pytest.mark.parametrize(
    ("error", "lost_answer"),
    [
        (CommitRejectedError("no"), False),
        (BrokerUnavailableError("gone"), False),
        (CommitUnknownError("?"), False),
        (CommitUnknownError("?"), True),
    ],
)
async def test_failed_commits_show_each_record_once(error, lost_answer):
    bench = Bench(CopyStage())
    (bench.sink.after if lost_answer else bench.sink.before).extend([None, error, error])
    async with bench.running():
        for number in range(6):
            bench.send(b"%d" % number)
            await asyncio.sleep(0.005)
        await bench.until(6)
    assert bench.out() == [b"%d" % number for number in range(6)]
    sequences = [int(dict(record.headers)[Name.SEQUENCE]) for record in bench.log.read("out")]
    assert sequences == [1, 2, 3, 4, 5, 6], "an aborted commit must leave no gap"


async def test_what_gets_done_while_a_commit_is_tried_again_is_part_of_it():
    """Its offset counts as done: a commit without its effects, and then a crash, would lose it."""
    bench = Bench(CopyStage(4), settings=SETTINGS.model_copy(update={"back_off": timedelta(milliseconds=50)}))
    bench.send(b"a", b"slow")
    bench.sink.before.append(BrokerUnavailableError("gone"))
    bench.sink.after.append(CommitUnknownError("no answer"))
    async with bench.running():
        while bench.sink.before:
            await asyncio.sleep(0)
        bench.stage.gate.set()  # done during the pause before the second try
        await bench.until(2)
    assert sorted(bench.out()) == [b"a", b"slow"]


async def test_work_beyond_a_slow_record_survives_a_restart_and_is_not_done_again():
    bench = Bench(CopyStage(8))
    bench.send(b"slow", b"a", b"b")
    async with bench.running():
        while len(bench.out()) < 2:
            await asyncio.sleep(0.001)
        await bench.source.revoke([TP("in", 0)])
        stored = bench.log.offsets[GROUP, TP("in", 0)]
        assert stored.offset == 0
        progress = decode(0, stored.metadata)
        assert progress is not None
        assert progress.beyond == (1, 2)
        assert progress.sequence == 2
        await bench.source.assign([TP("in", 0)])
        bench.stage.gate.set()
        await bench.until(3)
    assert bench.out() == [b"a", b"b", b"slow"]
    assert bench.stage.seen.count(b"a") == 1


async def test_what_is_done_beyond_a_slow_record_fits_into_a_commit_whatever_gaps_the_log_has():
    """Aborted transactions leave gaps of any size, and a poll may bring what lies before and behind one."""
    bench = Bench(CopyStage(4))
    for offset, value in ((0, b"slow"), (17_000, b"a"), (40_000, b"b")):
        bench.send(value, key=value)
        bench.log.records[TP("in", 0)][-1] = bench.log.records[TP("in", 0)][-1]._replace(offset=offset)
    async with bench.running():
        async with asyncio.timeout(5):
            while not bench.out():
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.02)
        assert bench.out() == [b"a"]
        bench.stage.gate.set()
        await bench.until(40_001)
    assert bench.out() == [b"a", b"slow", b"b"]


async def test_late_effects_of_a_lost_partition_are_dropped():
    bench = Bench(CopyStage(8))
    bench.send(b"slow")
    async with bench.running():
        while not bench.stage.active:
            await asyncio.sleep(0.001)
        await bench.source.revoke([TP("in", 0)])
        bench.stage.gate.set()
        await asyncio.sleep(0.02)
        assert bench.out() == []
    assert bench.loop.in_flight == 0


async def test_one_key_runs_one_at_a_time_and_others_pass():
    bench = Bench(CopyStage(8))
    bench.send(b"slow", b"1", b"2", key=b"hot")
    bench.send(b"3", b"4", key=b"cold")
    async with bench.running():
        while len(bench.out()) < 2:
            await asyncio.sleep(0.001)
        assert bench.out() == [b"3", b"4"]
        bench.stage.gate.set()
        await bench.until(5)
    assert bench.out() == [b"3", b"4", b"slow", b"1", b"2"]
    assert bench.stage.overlaps == 0


async def test_drain_finishes_what_runs_and_leaves_what_was_not_started():
    bench = Bench(CopyStage(2))
    bench.send(b"slow", b"1", key=b"k")
    bench.send(b"2", key=b"other")
    async with bench.running():
        while not bench.out():
            await asyncio.sleep(0.001)
        bench.stop.set()
        await asyncio.sleep(0.01)
        bench.stage.gate.set()
    assert sorted(bench.out()) == [b"2", b"slow"]
    assert bench.log.offsets[GROUP, TP("in", 0)].offset == 1


async def test_drain_begins_nothing_that_waited_for_a_turn():
    """What it began just before the grace is over would be cut off, and called again by the next owner."""
    bench = Bench(CopyStage(1))
    for number, value in enumerate((b"slow", b"1", b"2")):
        bench.send(value, key=b"%d" % number)
    async with bench.running():
        while not bench.stage.active:
            await asyncio.sleep(0.001)
        bench.stop.set()
        await asyncio.sleep(0.01)
        bench.stage.gate.set()
    assert bench.out() == [b"slow"]
    assert bench.log.offsets[GROUP, TP("in", 0)].offset == 1


async def test_drain_gives_up_on_a_commit_that_gets_no_answer(caplog):
    """A broker that is away must not keep an agent that was asked to end."""
    short = {"commit_timeout": timedelta(milliseconds=20), "transaction_timeout": timedelta(milliseconds=60)}
    settings = SETTINGS.model_copy(update={**short, "back_off": timedelta(milliseconds=1)})
    bench = Bench(CopyStage(), settings=settings)
    bench.sink.before = [BrokerUnavailableError("away")] * 100_000
    bench.send(b"a")
    async with asyncio.timeout(10), bench.running():
        while not bench.stage.seen:
            await asyncio.sleep(0.001)
        bench.stop.set()
    assert bench.out() == []
    assert bench.log.offsets[GROUP, TP("in", 0)].offset == 0
    assert "done again by whoever gets its partitions" in caplog.text


async def test_drain_gives_up_after_the_grace():
    settings = SETTINGS.model_copy(update={"drain_grace": timedelta(milliseconds=20)})
    bench = Bench(CopyStage(2), settings=settings, clock=_RealTime())
    bench.send(b"slow")
    async with bench.running():
        while not bench.stage.active:
            await asyncio.sleep(0.001)
    assert bench.out() == []
    assert bench.log.offsets[GROUP, TP("in", 0)].offset == 0


async def test_lost_offsets_stop_the_loop_loudly():
    bench = Bench(CopyStage())
    del bench.log.offsets[GROUP, TP("in", 0)]
    with pytest.raises(OffsetsLostError, match="topic='in', partition=0"):
        await bench.loop.run(bench.stop)


async def test_a_bug_in_a_task_ends_the_process_instead_of_hanging_it():
    bench = Bench(CopyStage())
    bench.source.position = None  # type: ignore[method-assign, assignment]
    bench.send(b"a")
    with pytest.raises(TypeError):
        await bench.loop.run(bench.stop)


@pytest.mark.parametrize("concurrency", [0, 4])
async def test_a_stage_that_can_not_even_fail_ends_the_process_instead_of_hanging_it(monkeypatch, concurrency):
    bench = Bench(CopyStage(concurrency))

    def raise_again(record, view, error):
        raise LookupError("from fail")

    monkeypatch.setattr(bench.stage, "fail", raise_again)
    bench.send(b"crash")
    with pytest.raises(LookupError, match="from fail"):
        async with asyncio.timeout(5):
            await bench.loop.run(bench.stop)


async def test_a_handler_that_lets_somebody_elses_cancellation_through_has_failed(monkeypatch):
    """Clients cancel tasks of their own, and what waited for those raises it."""
    bench = Bench(CopyStage(4))

    async def cancelled(record, view):
        raise asyncio.CancelledError

    monkeypatch.setattr(bench.stage, "handle", cancelled)
    bench.send(b"a")
    async with bench.running():
        await bench.until(1)
    assert bench.out() == [b"failed internal"]


async def test_ten_thousand_queued_requests_stay_within_the_bound():
    settings = SETTINGS.model_copy(update={"max_in_flight": 200, "max_in_flight_bytes": 100_000})
    bench = Bench(CopyStage(50), settings=settings)
    bench.stage.gate.set()
    bench.send(*([b"v" * 1000] * 10_000))
    most, most_bytes = 0, 0

    async def watch() -> None:
        nonlocal most, most_bytes
        while True:
            most = max(most, bench.loop.in_flight)
            most_bytes = max(most_bytes, bench.loop.bytes_in_flight)
            await asyncio.sleep(0)

    watcher = asyncio.create_task(watch())
    async with bench.running():
        await bench.until(10_000)
    watcher.cancel()
    with suppress(asyncio.CancelledError):
        await watcher
    assert 0 < most <= 200
    assert most_bytes <= 100_000 + 200 * 1000
    assert len(bench.out()) == 10_000


async def test_a_broker_away_is_waited_for_also_while_there_is_no_room(monkeypatch):
    monkeypatch.setattr("streams.polling.HOLD", timedelta(milliseconds=5))
    bench = Bench(CopyStage(1), settings=SETTINGS.model_copy(update={"max_in_flight": 1}))
    bench.send(b"slow", b"a")
    polled, away = bench.source.poll, 3

    async def poll(timeout: timedelta, max_records: int | None = None) -> object:
        nonlocal away
        if away and not timeout:
            away -= 1
            raise BrokerUnavailableError("gone")
        return await polled(timeout, max_records)

    monkeypatch.setattr(bench.source, "poll", poll)
    async with bench.running():
        async with asyncio.timeout(5):
            while away:
                await asyncio.sleep(0.001)
        bench.stage.gate.set()
        await bench.until(2)
    assert bench.out() == [b"slow", b"a"]


async def test_a_partition_whose_head_is_not_due_is_left_alone_and_others_go_on(monkeypatch):
    monkeypatch.setattr("streams.polling.LOOK", timedelta(milliseconds=5))
    clock = FakeClock(1_000_000)
    bench = Bench(CopyStage(), partitions=2, clock=clock)
    bench.send(b"a", b"due 1002000", b"b", b"due 1003000", b"c")
    bench.send(b"d", partition=1)
    async with bench.running():
        await bench.until(1)
        await bench.until(1, partition=1)
        bench.send(b"e", partition=1)
        await bench.until(2, partition=1)
        assert sorted(bench.out()) == [b"a", b"d", b"e"]
        assert bench.loop.in_flight == 0, "what is not due takes no room from others"
        asked = bench.stage.seen.count(b"due 1002000")
        await asyncio.sleep(0.05)
        assert bench.stage.seen.count(b"due 1002000") == asked, "it is looked at, not asked again, before it is due"
        clock.advance(timedelta(seconds=2))
        await bench.until(3)
        await asyncio.sleep(0.03)
        assert bench.out()[-2:] == [b"due 1002000", b"b"]
        # A rebalance in between: the new owner finds the head and waits again.
        await bench.source.revoke([TP("in", 0)])
        await bench.source.assign([TP("in", 0)])
        await asyncio.sleep(0.03)
        clock.advance(timedelta(seconds=2))
        await bench.until(5)
    assert bench.out() == [b"a", b"d", b"e", b"due 1002000", b"b", b"due 1003000", b"c"]


async def test_a_record_that_waits_is_not_forgotten_over_one_behind_it_that_is_not_due(monkeypatch):
    monkeypatch.setattr("streams.polling.LOOK", timedelta(milliseconds=5))
    clock = FakeClock(1_000_000)
    bench = Bench(CopyStage(not_done=1), clock=clock)
    bench.send(b"not yet", b"due 1002000", b"a")
    async with bench.running():
        await bench.until(1)
        clock.advance(timedelta(seconds=2))
        await bench.until(3)
        assert bench.loop.in_flight == 0
    assert bench.out() == [b"not yet", b"due 1002000", b"a"]


async def test_no_task_is_left_over_by_rebalances_resets_and_a_stop():
    bench = Bench(CopyStage(8), partitions=2)
    at_rest = len(asyncio.all_tasks())
    async with bench.running():
        bench.send(b"a")
        await bench.until(1)
        await asyncio.sleep(0.01)
        working = len(asyncio.all_tasks())
        for number in range(20):
            bench.send(b"slow", b"%d" % number, partition=number % 2)
            bench.sink.before.append(CommitRejectedError("no") if number % 3 else None)
            await asyncio.sleep(0.002)
            await bench.source.revoke([TP("in", number % 2)], lost=bool(number % 4))
            await bench.source.assign([TP("in", number % 2)])
        bench.stage.gate.set()
        await bench.until(21)
        await bench.until(20, partition=1)
        await asyncio.sleep(0.01)
        assert len(asyncio.all_tasks()) == working
    assert len(asyncio.all_tasks()) == at_rest


async def test_the_mode_is_the_sinks():
    bench = Bench(CopyStage())
    bench.sink.mode = DeliveryMode.AT_LEAST_ONCE
    bench.loop = bench.make_loop()
    bench.send(b"a")
    async with bench.running():
        await bench.until(1)
    assert dict(bench.log.read("out")[0].headers)[Name.DELIVERY_MODE] == b"at_least_once"


class _RealTime(FakeClock):
    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()
