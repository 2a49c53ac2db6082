"""Dropping repeats in bounded memory."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierflow_client.seen import Seen, Sight


def test_tells_new_ones_repeats_and_conflicts() -> None:
    seen = Seen()
    assert seen.look("a", 1) is Sight.NEW
    assert seen.look("a", 1) is Sight.REPEAT
    assert seen.look("a", 2) is Sight.CONFLICT
    assert seen.look("a", 1) is Sight.REPEAT  # the first one counts


def test_forgets_the_oldest_and_keeps_what_was_seen_again() -> None:
    seen = Seen(2)
    seen.look("a", 1), seen.look("b", 1), seen.look("a", 1), seen.look("c", 1)
    assert len(seen) == 2
    assert seen.look("a", 1) is Sight.REPEAT
    assert seen.look("b", 1) is Sight.NEW


@given(st.lists(st.integers(0, 30)), st.integers(1, 10))
def test_never_holds_more_than_its_size_and_misses_nothing_within_it(ids: list[int], size: int) -> None:
    seen, recent = Seen(size), list[int]()
    for each in ids:
        expected = Sight.REPEAT if each in recent else Sight.NEW
        assert seen.look(str(each), 0) is expected
        recent = [*(other for other in recent if other != each), each][-size:]
        assert len(seen) <= size


def test_size_must_make_sense() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Seen(0)
