"""The fold over the log: one winner a number, whatever the order of the records."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from registry.canonical import canonical, digest
from registry.history import History, fold, record_key
from registry.snapshot import Snapshot
from schemas.ports import LogEntry
from tests.registry.catalogues import named


def record(position: int, number: int, name: str, attempt: str = "") -> LogEntry:
    envelope = Snapshot.from_catalogue(named(name), number=number, author=name).envelope()
    return LogEntry(position, record_key(envelope, attempt or f"{name}-{position}"), envelope.to_bytes())


def names(history: History) -> list[str]:
    return [each.understood().catalogue.name for each in history.published]


# Made once: a snapshot is too dear to make a thousand of them in a property test.
POOL = {(number, name): record(0, number, name) for number in range(5) for name in "abc" if number}


@st.composite
def logs(draw: st.DrawFn) -> list[LogEntry]:
    """What publishers with stale and fresh views, and vandals, may have written."""
    records: list[LogEntry] = []
    position = 0
    for _ in range(draw(st.integers(0, 12))):
        position += draw(st.integers(1, 3))
        kind = draw(st.sampled_from(["good", "good", "good", "tombstone", "noise", "foreign key", "no key"]))
        base = POOL[draw(st.sampled_from(sorted(POOL)))]
        key, value = base.key, base.value
        if kind == "tombstone":
            value = None
        elif kind == "noise":
            value = draw(st.binary(max_size=8))
        elif kind == "foreign key":
            key = b"9:" + (key or b"")[2:]
        elif kind == "no key":
            key = None
        records.append(LogEntry(position, key, value))
    return records


@settings(max_examples=200, deadline=None)
@given(logs())
def test_any_log_has_one_winner_a_number_without_gaps(records: list[LogEntry]) -> None:
    history = fold(records)
    assert [each.envelope.number for each in history.published] == list(range(1, history.number + 1))
    assert len(history.published) + len(history.skipped) == len(records)
    positions = [each.position for each in history.published]
    assert positions == sorted(positions)
    by_position = {each.position: each for each in records}
    for winner in history.published:
        # Nothing sound with that number stands between the winner before it and the winner.
        before = max((each.position for each in history.published if each.position < winner.position), default=-1)
        rivals = [p for p in by_position if before < p < winner.position]
        for rival in rivals:
            assert rival in {each.position for each in history.skipped}


@settings(max_examples=200, deadline=None)
@given(logs(), st.data())
def test_reading_in_pieces_or_twice_finds_the_same(records: list[LogEntry], data: st.DataObject) -> None:
    whole = fold(records)
    cut = data.draw(st.integers(0, len(records)))
    back = data.draw(st.integers(0, cut))
    pieces = fold(records[back:], fold(records[:cut]))  # a reader that goes back reads some records twice
    assert pieces == whole
    assert fold([], whole) == whole


def test_the_first_in_the_log_wins_and_the_others_are_named() -> None:
    history = fold([record(0, 1, "a"), record(3, 2, "b"), record(4, 2, "c"), record(7, 3, "c"), record(8, 1, "a")])
    assert names(history) == ["a", "b", "c"]
    assert [(each.position, each.damaged, each.reason[:14]) for each in history.skipped] == [
        (4, False, "c published 2 "),
        (8, False, "a published 1 "),
    ]
    assert history.position == 9


def test_a_number_ahead_counts_for_nothing() -> None:
    history = fold([record(0, 2, "b"), record(1, 1, "a")])
    assert names(history) == ["a"]
    assert history.skipped[0].reason == "has number 2 after 0: published without reading the log"


def test_compaction_does_not_change_the_winner() -> None:
    """Compaction keeps the last record of each key; keys of different attempts differ."""
    log = [record(0, 1, "a", "x"), record(1, 1, "b", "y"), record(2, 1, "a", "z")]
    compacted = list({each.key: each for each in log}.values())
    assert names(fold(log)) == names(fold(compacted)) == ["a"]


def test_what_this_program_cannot_understand_keeps_its_number() -> None:
    """Else old and new programs would disagree on who won."""
    strange = json.loads(record(1, 2, "b").value or b"")
    strange["content"]["surprise"] = True
    strange["hash"] = digest(canonical(strange["content"]))
    key = f"2:{strange['hash']}:x".encode()
    records = [record(0, 1, "a"), LogEntry(1, key, json.dumps(strange).encode()), record(2, 2, "c")]
    history = fold(records)
    assert history.number == 2
    assert history.skipped[0].position == 2
    current, problem = history.current()
    assert current is not None
    assert current.catalogue.name == "a"
    assert "snapshot 2 can't be used by this program" in problem
    after = fold([record(3, 3, "c")], history)
    assert after.current()[0] is not None
    assert after.current()[1] == ""


def test_a_trimmed_history_goes_on_where_it_was() -> None:
    history = fold([record(0, 1, "a"), record(1, 2, "b"), record(2, 3, "c"), record(3, 3, "a")]).trimmed(2)
    assert [each.envelope.number for each in history.published] == [2, 3]
    assert history.skipped == ()
    assert history.find(1) is None
    assert history.find(3) is not None
    assert fold([record(4, 4, "a")], history).number == 4
