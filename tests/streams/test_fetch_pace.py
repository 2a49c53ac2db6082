"""How long the broker is let hold a fetch: not at all while records are few, a little while they are many."""

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from streams._aiokafka_consumer import GATHER, GATHER_BYTES, FetchPace

SECOND = timedelta(seconds=1)
HALF = timedelta(milliseconds=500)


def consumer() -> Any:
    return SimpleNamespace(_fetcher=SimpleNamespace(_fetch_max_wait_ms=500, _fetch_min_bytes=1))


def held(of: Any) -> tuple[int, int]:
    return of._fetcher._fetch_max_wait_ms, of._fetcher._fetch_min_bytes


def run(pace: FetchPace, of: Any, rate: float, seconds: float, begin: float) -> float:
    """Polls a hundred times a second."""
    now = begin
    while now < begin + seconds:
        now += 0.01
        pace.polled(of, round(rate / 100), now)
    return now


def test_few_records_are_handed_out_at_once() -> None:
    pace, of = FetchPace(HALF, HALF), consumer()
    run(pace, of, 100, 5, 0)
    assert held(of) == (500, 1)


def test_many_are_gathered_and_few_afterwards_are_not() -> None:
    pace, of = FetchPace(HALF, HALF), consumer()
    now = run(pace, of, 2000, 5, 0)
    assert held(of) == (GATHER // timedelta(milliseconds=1), GATHER_BYTES)
    assert pace.within_ms(SECOND) == 1000
    run(pace, of, 0, 5, now)
    assert held(of) == (500, 1)


def test_a_shorter_wait_that_was_asked_for_is_kept() -> None:
    pace, of = FetchPace(timedelta(milliseconds=4), timedelta(milliseconds=4)), consumer()
    run(pace, of, 2000, 5, 0)
    assert held(of) == (4, GATHER_BYTES)


def test_a_broker_that_does_not_wake_fetches_is_asked_often_while_records_come() -> None:
    pace, of = FetchPace(timedelta(milliseconds=5), timedelta(milliseconds=80)), consumer()
    for _ in range(10):
        pace.polled(of, 0, 0.0)
    assert held(of) == (80, 1)
    assert pace.within_ms(SECOND) == 1000
    pace.polled(of, 3, 0.0)
    assert held(of) == (5, 1)
    assert pace.within_ms(SECOND) < 1000
