"""What follows a failed call: the table, and what holds for every case."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.worker.retry import TABLE, Failed, Fallback, Follow, Policy, Retry, Room, Stop, next_try, pause_ms
from schemas.errors import FailureClass

POLICY = Policy(max_retries=2, base_ms=200, cap_ms=5000)
ROOM = Room(now_ms=1000, deadline_ms=61_000)


def failed(failure=FailureClass.SERVER, tries=1, **changes) -> Failed:
    return Failed(failure=failure, operation_key="op", tries=tries, **changes)


def room(**changes) -> Room:
    return Room(**{"now_ms": 1000, "deadline_ms": 61_000, **changes})


def test_every_failure_has_a_rule():
    assert set(TABLE) == set(FailureClass)


@pytest.mark.parametrize(
    ("failure", "alone", "with_another"),
    [
        (FailureClass.RATE_LIMIT, Retry, Retry),
        (FailureClass.SERVER, Retry, Retry),
        (FailureClass.TIMEOUT, Retry, Retry),
        (FailureClass.CONNECTION, Retry, Retry),
        (FailureClass.CONTEXT_OVERFLOW, Stop, Fallback),
        (FailureClass.CONTENT_REFUSAL, Stop, Fallback),
        (FailureClass.BAD_OUTPUT, Stop, Fallback),
        (FailureClass.UNKNOWN, Stop, Fallback),
        (FailureClass.AUTH, Stop, Stop),
        (FailureClass.BAD_REQUEST, Stop, Stop),
        (FailureClass.PROHIBITED, Stop, Stop),
        (FailureClass.ALLOWANCE, Stop, Stop),
    ],
)
def test_what_follows_the_first_failure(failure, alone, with_another):
    assert type(next_try(failed(failure), room(), POLICY)) is alone
    assert type(next_try(failed(failure), room(others=((1, 0),)), POLICY)) is with_another


def test_after_the_last_retry_comes_the_next_model_then_the_end():
    assert isinstance(next_try(failed(tries=2), ROOM, POLICY), Retry)
    assert next_try(failed(tries=3), room(others=((4, 0), (5, 0))), POLICY) == Fallback(4)
    assert next_try(failed(tries=3), ROOM, POLICY) == Stop(FailureClass.SERVER, "3 tries")


def test_a_wait_that_was_asked_for_is_kept_to():
    found = next_try(failed(FailureClass.RATE_LIMIT, retry_after_ms=4000), ROOM, POLICY)
    assert isinstance(found, Retry)
    assert 4000 <= found.delay_ms < 4200


def test_a_long_wait_is_for_those_who_have_no_other_model():
    long = failed(FailureClass.RATE_LIMIT, retry_after_ms=30_000)
    assert next_try(long, room(others=((1, 0),)), POLICY) == Fallback(1)
    assert isinstance(next_try(long, ROOM, POLICY), Retry)
    assert next_try(long, room(deadline_ms=20_000), POLICY) == Stop(
        FailureClass.RATE_LIMIT, "the next try would come after the deadline"
    )


def test_money_bounds_retry_and_fallback():
    assert next_try(failed(), room(left_micros=9, cost_micros=10, others=((1, 10), (2, 9))), POLICY) == Fallback(2)
    assert next_try(failed(), room(left_micros=9, cost_micros=10, others=((1, 10),)), POLICY) == Stop(
        FailureClass.SERVER, "the cost allowance is used up"
    )


def test_pauses_grow_to_the_cap_and_differ_by_operation():
    draws = [pause_ms(Failed(failure=FailureClass.SERVER, operation_key=f"op-{n}", tries=1), POLICY) for n in range(99)]
    assert len(set(draws)) == 99
    assert 150 < max(draws) < 200
    assert min(draws) < 50
    late = [pause_ms(Failed(failure=FailureClass.SERVER, operation_key=f"op-{n}", tries=99), POLICY) for n in range(99)]
    assert 4000 < max(late) < 5000


ROOMS = st.builds(
    Room,
    now_ms=st.integers(0, 10**6),
    deadline_ms=st.integers(0, 10**6),
    left_micros=st.none() | st.integers(-100, 1000),
    cost_micros=st.integers(0, 1000),
    others=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 1000)), max_size=4).map(tuple),
)
FAILED = st.builds(
    Failed,
    failure=st.sampled_from(FailureClass),
    operation_key=st.text(max_size=5),
    tries=st.integers(1, 2000),
    retry_after_ms=st.floats(0, 10**7),
)
POLICIES = st.builds(Policy, max_retries=st.integers(0, 5), base_ms=st.floats(0, 10**4), cap_ms=st.floats(0, 10**5))


@given(FAILED, ROOMS, POLICIES)
def test_nothing_follows_past_deadline_allowance_or_patience(failure, room, policy):
    found = next_try(failure, room, policy)
    assert found == next_try(failure, room, policy)
    match found:
        case Retry(delay_ms):
            assert TABLE[failure.failure] is Follow.AGAIN
            assert failure.tries <= policy.max_retries
            assert failure.retry_after_ms <= delay_ms <= failure.retry_after_ms + policy.cap_ms
            assert room.now_ms + delay_ms < room.deadline_ms
            assert room.left_micros is None or room.cost_micros <= room.left_micros
        case Fallback(index):
            assert TABLE[failure.failure] is not Follow.END
            assert room.now_ms < room.deadline_ms
            costs = [cost for at, cost in room.others if at == index]
            assert room.left_micros is None or min(costs) <= room.left_micros
        case Stop(said, reason):
            assert said is failure.failure
            assert reason
