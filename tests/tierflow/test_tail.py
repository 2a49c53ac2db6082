"""Any record can be shown."""

import pytest

from schemas.codec import Codec
from streams.records import InRecord
from tierflow.actions.tail import show
from tierflow.choices import Feed


@pytest.mark.parametrize("timestamp_ms", [-1, 0, 1_700_000_000_000, 2**62, -(2**62)])
@pytest.mark.parametrize("feed", list(Feed))
def test_a_record_of_any_time_is_shown(feed: Feed, timestamp_ms: int) -> None:
    record = InRecord("topic", 0, 7, timestamp_ms, 0, None, b"garbage", ())
    assert show(record, feed, Codec()).data["place"] == "topic/0/7"
