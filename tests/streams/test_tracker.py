"""Tracker, offset map and key scheduler against short models of them (Hypothesis)."""

from collections import defaultdict, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streams.keys import KeyScheduler
from streams.offset_map import MAX_BYTES, OffsetMapError, Progress, decode, encode
from streams.tracker import SPAN_LIMIT, OffsetOrderError, Tracker


class TrackerModel(RuleBasedStateMachine):
    """Any interleaving of hand-out, completion, commit and reassignment, with gaps in the offsets.

    The specification: what may be committed is the least unfinished offset, or one past the newest; what is remembered
    beyond it is exactly what is finished there; nothing finished and committed is ever handed out again.
    """

    @initialize(base=st.integers(0, 1000))
    def start(self, base):
        self.tracker = Tracker(base)
        self.base = base
        self.next = base
        self.open: list[int] = []
        self.finished: set[int] = set()
        self.durable: tuple[int, frozenset[int]] = (base, frozenset())

    @rule(gap=st.integers(0, 5))
    def take(self, gap):
        offset = self.next + gap
        self.next = offset + 1
        expected = offset not in self.finished
        assert self.tracker.take(offset) is expected
        if expected:
            self.open.append(offset)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def finish(self, data):
        offset = data.draw(st.sampled_from(self.open))
        self.open.remove(offset)
        self.tracker.done(offset)
        self.finished.add(offset)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def give_back(self, data):
        offset = data.draw(st.sampled_from(self.open))
        self.tracker.rewind(offset)
        self.open = [number for number in self.open if number < offset]
        self.next = offset

    @rule()
    def commit(self):
        ready = self.tracker.committable()
        self.durable = (ready.offset, frozenset(ready.beyond))

    @rule()
    def lose_the_partition_and_get_it_back(self):
        offset, beyond = self.durable
        told = decode(offset, encode(offset, 1, 1, sorted(beyond)))
        assert told is not None
        self.tracker = Tracker(offset, told.beyond)
        self.next = offset
        self.open = []
        self.finished = {number for number in self.finished if number < offset} | set(beyond)

    @invariant()
    def commits_the_least_unfinished(self):
        ready = self.tracker.committable()
        assert ready.offset == min(self.open, default=self.next)
        assert set(ready.beyond) == {number for number in self.finished if number >= ready.offset}
        assert ready.offset >= self.durable[0]
        assert self.tracker.in_flight == len(self.open)


TestTrackerModel = TrackerModel.TestCase


def test_offsets_that_go_back_are_refused():
    tracker = Tracker(5)
    tracker.take(7)
    with pytest.raises(OffsetOrderError, match="offset 7 came after 7"):
        tracker.take(7)
    with pytest.raises(OffsetOrderError, match="offset 6 is not in flight"):
        tracker.done(6)


def test_nothing_in_flight_commits_the_position():
    tracker = Tracker(5)
    tracker.take(5)
    tracker.done(5)
    assert tracker.committable(position=9).offset == 9, "markers behind the last record must not look like lag"
    tracker = Tracker(5)
    tracker.take(5)
    assert tracker.committable(position=9).offset == 5


def test_a_full_span_stops_the_taking_before_the_map_is_too_large():
    tracker = Tracker(0)
    tracker.take(0)
    for offset in range(1, SPAN_LIMIT):
        assert not tracker.full
        tracker.take(offset)
        tracker.done(offset)
    tracker.take(SPAN_LIMIT)
    assert tracker.full
    tracker.done(SPAN_LIMIT)
    ready = tracker.committable()
    assert len(encode(ready.offset, 2**41, 2**40, ready.beyond)) <= MAX_BYTES
    tracker.done(0)
    assert not tracker.full


@given(
    st.integers(0, 2**40),
    st.integers(0, 2**41),
    st.integers(0, 2**41),
    st.sets(st.integers(0, SPAN_LIMIT), max_size=400),
)
def test_offset_map_round_trip(offset, epoch, sequence, distances):
    beyond = tuple(sorted(offset + distance for distance in distances))
    text = encode(offset, epoch, sequence, beyond)
    assert len(text) <= MAX_BYTES
    assert text.isascii()
    assert decode(offset, text) == Progress(epoch, sequence, beyond)


@pytest.mark.parametrize("text", ["x", "tf1 1 2", "tf2 1 2 ", "tf1 a 2 ", "tf1 1 2 %%%", "tf1 -1 2 "])
def test_foreign_metadata_is_refused_loudly(text):
    with pytest.raises(OffsetMapError):
        decode(7, text)


def test_empty_metadata_is_a_new_group():
    assert decode(7, "") is None


def test_a_map_above_the_limit_is_refused():
    with pytest.raises(OffsetMapError, match="at most 4096"):
        encode(0, 1, 1, [30_000])


@given(st.lists(st.tuples(st.sampled_from(["offer", "finish"]), st.sampled_from("abc")), max_size=60))
def test_keys_run_one_at_a_time_and_in_order(steps):
    scheduler: KeyScheduler[int] = KeyScheduler()
    model: dict[str, deque[int]] = defaultdict(deque)
    for number, (action, key) in enumerate(steps):
        if action == "offer":
            assert scheduler.offer(key, number) is (not model[key])
            model[key].append(number)
        elif model[key]:
            model[key].popleft()
            assert scheduler.finish(key) == (model[key][0] if model[key] else None)
    assert len(scheduler) == sum(1 for queue in model.values() if queue)
