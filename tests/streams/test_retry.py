"""When a failed step is tried again: named topics, capped tries and age, jitter within its share, never too late."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.settings import TopicSettings
from streams.retry import JITTER, Due, Schedule, retry_topic

HOUR_MS = 3_600_000
DELAYS = st.lists(st.integers(1, HOUR_MS), min_size=1, max_size=5, unique=True).map(
    lambda found: tuple(timedelta(milliseconds=each) for each in sorted(found))
)


@pytest.mark.parametrize(
    ("delay", "topic"),
    [
        (timedelta(milliseconds=500), "retry.500ms"),
        (timedelta(seconds=10), "retry.10s"),
        (timedelta(seconds=90), "retry.90s"),
        (timedelta(minutes=10), "retry.10m"),
        (timedelta(hours=2), "retry.2h"),
    ],
)
def test_a_topic_is_named_by_its_delay(delay: timedelta, topic: str) -> None:
    assert retry_topic(delay) == topic


@pytest.mark.parametrize("delays", [(0,), (2, 1), (1, 1), (0.0001,)])
def test_settings_refuse_delays_that_make_no_topics(delays: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError, match="retry_delays"):
        TopicSettings(retry_delays=tuple(timedelta(seconds=each) for each in delays))


def test_the_settings_are_the_schedule() -> None:
    schedule = Schedule.of(TopicSettings())
    assert schedule.topics == ("retry.10s", "retry.1m", "retry.10m")


@given(DELAYS, st.integers(1, 7), st.text(max_size=9), st.integers(0, 2 * HOUR_MS), st.integers(1, 3 * HOUR_MS))
def test_a_try_comes_when_it_may_or_not_at_all(
    delays: tuple[timedelta, ...], tries: int, request_id: str, age_ms: int, left_ms: int
) -> None:
    now_ms = 1_800_000_000_000
    schedule = Schedule(delays=delays, max_age=timedelta(hours=1))

    def ask() -> Due | None:
        return schedule.after(
            tries,
            request_id=request_id,
            step_id="s",
            now_ms=now_ms,
            accepted_at_ms=now_ms - age_ms,
            deadline_ms=now_ms + left_ms,
        )

    due = ask()
    assert ask() == due, "a redelivery draws the same"
    if tries > len(delays):
        assert due is None
        return
    delay_ms = delays[tries - 1] // timedelta(milliseconds=1)
    longest = int(delay_ms * (1 + JITTER))
    if due is None:
        assert longest >= left_ms or age_ms + longest > HOUR_MS
        return
    assert delay_ms <= due.at_ms - now_ms <= longest
    assert due.at_ms < now_ms + left_ms
    assert due.at_ms - (now_ms - age_ms) <= HOUR_MS
    assert (due.topic, due.number) == (retry_topic(delays[tries - 1]), tries + 1)
