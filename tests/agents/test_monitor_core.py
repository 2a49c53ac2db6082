"""The books: whatever order topics are read in, a sound flow balances, and each kind of offence is named once."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict

from agents.audit.story import REQUIRED
from agents.monitor.alerts import Alert
from agents.monitor.core import Kind, Ledger, Offence
from schemas.enums import EventType, Status
from schemas.errors import UndecodableError
from schemas.flow import ProvenanceEvent

NOW = 1_800_000_000_000
GRACE_MS = 10_000
PLACE = "requests/0/7"


def ledger(*, exact: bool = True, since_ms: int = NOW - 60_000) -> Ledger:
    return Ledger(since_ms=since_ms, grace=timedelta(milliseconds=GRACE_MS), memory=timedelta(minutes=5), exact=exact)


def event(kind: EventType, part: int, request_id: str = "r", **more: Any) -> dict[str, Any]:
    return asdict(
        ProvenanceEvent(
            event_id=f"{request_id}-{part}",
            event_type=kind,
            request_id=request_id,
            time_ms=NOW,
            recorded_ms=NOW,
            stage="guardrail",
            source="/guardrail/completions/0",
            epoch=1,
            sequence=part,
            record_id=f"record-{part}",
            src_topic="results",
            src_partition=0,
            src_offset=part,
            src_timestamp_ms=NOW,
            part=part,
            **more,
        )
    )


STORY = [
    event(EventType.REQUEST_ACCEPTED, 1),
    event(EventType.ROUTE_DECIDED, 2, step_index=0),
    event(EventType.MODEL_ATTEMPTED, 3, step_index=0, attempt=1),
    event(EventType.GUARDRAIL_EVALUATED, 4, step_index=0),
    event(EventType.REQUEST_ENDED, 5, status="answered", attempt=1, detail='{"steps": 1}'),
]


def steps(book: Ledger) -> list[Any]:
    """Everything that a sound request leaves in the topics, as entries to be made in any order."""
    return [
        lambda: book.arrived(PLACE, NOW),
        lambda: book.followed(PLACE, NOW),
        lambda: book.accepted("r", at_ms=NOW, deadline_ms=NOW + 60_000, where="tier.fast"),
        lambda: book.moved("r", "completions"),
        lambda: book.ended("r", record_id="result-r", accepted_ms=NOW, at_intake=False, now_ms=NOW),
        *(lambda row=row: book.told(row, NOW) for row in STORY),
    ]


@given(st.permutations(range(10)))
def test_a_sound_request_balances_in_any_order(order: list[int]) -> None:
    book = ledger()
    entries = steps(book)
    for number in order:
        entries[number]()
        assert book.check(NOW) == []
    assert book.check(NOW + GRACE_MS + 1) == []
    assert (book.totals.accepted, book.totals.ended, book.totals.in_flight) == (1, 1, 0)
    assert book.totals.balanced
    assert book.check(NOW + 600_000) == []


@pytest.mark.parametrize("missing", range(4))
def test_a_story_with_a_gap_is_named_once(missing: int) -> None:
    book = ledger()
    for entry in [entry for number, entry in enumerate(steps(book)) if number != 5 + missing]:
        entry()
    assert book.check(NOW + GRACE_MS) == []
    (found,) = book.check(NOW + GRACE_MS + 1)
    assert (found.kind, found.subject) == (Kind.STORY, "r")
    assert STORY[missing]["event_type"] in found.text
    assert book.check(NOW + 2 * GRACE_MS) == []


def test_what_nobody_heard_is_named_by_its_place() -> None:
    book = ledger()
    book.arrived(PLACE, NOW)
    book.arrived("requests/0/8", NOW)
    book.followed("requests/0/8", NOW)
    (found,) = book.check(NOW + GRACE_MS + 1)
    assert (found.kind, found.subject) == (Kind.UNHEARD, PLACE)


def test_what_is_past_its_deadline_is_named_with_where_it_was_seen() -> None:
    book = ledger()
    book.accepted("r", at_ms=NOW, deadline_ms=NOW + 1_000, where="tier.fast")
    book.moved("r", "retry.10s")
    assert book.check(NOW + 1_000 + GRACE_MS) == []
    (found,) = book.check(NOW + 1_001 + GRACE_MS)
    assert (found.kind, found.subject) == (Kind.OVERDUE, "r")
    assert "retry.10s" in found.text
    assert book.totals.in_flight == 1
    assert book.totals.balanced


def test_a_second_end_is_an_offence_where_nothing_may_come_twice() -> None:
    for exact, second, offends in ((True, "a", True), (True, "b", True), (False, "a", False), (False, "b", True)):
        book = ledger(exact=exact)
        for record_id in ("a", second):
            book.ended("r", record_id=record_id, accepted_ms=NOW, at_intake=True, now_ms=NOW)
        found = [each for each in book.check(NOW) if each.kind is Kind.ENDED_TWICE]
        assert bool(found) is offends
        assert book.totals.ended == 1
        assert book.totals.repeats == (0 if offends else 1)


def test_an_end_without_a_beginning_is_an_offence_unless_it_began_before_the_books() -> None:
    book = ledger()
    book.ended("late", record_id="a", accepted_ms=NOW - 120_000, at_intake=False, now_ms=NOW)
    book.ended("r", record_id="b", accepted_ms=NOW, at_intake=False, now_ms=NOW)
    found = book.check(NOW + GRACE_MS + 1)
    assert {(each.kind, each.subject) for each in found} == {(Kind.NEVER_ACCEPTED, "r"), (Kind.STORY, "r")}
    assert book.totals.balanced


def test_memory_is_bounded_by_what_is_in_flight_and_what_ended_lately() -> None:
    book = ledger()
    for number in range(5_000):
        now_ms = NOW + number * 1_000
        name, place = f"r-{number}", f"requests/0/{number}"
        book.arrived(place, now_ms)
        book.followed(place, now_ms)
        book.accepted(name, at_ms=now_ms, deadline_ms=now_ms + 60_000, where="tier.fast")
        book.ended(name, record_id=name, accepted_ms=now_ms, at_intake=False, now_ms=now_ms)
        for row in STORY:
            book.told({**row, "request_id": name}, now_ms)
        assert book.check(now_ms) == []
    assert max(len(book._ends), len(book._rows), len(book._flights), len(book._arrived), len(book._told)) < 400


def test_every_status_says_what_its_story_needs() -> None:
    assert set(REQUIRED) == set(Status) - {Status.UNKNOWN}


@pytest.mark.parametrize("kind", Kind)
def test_an_alert_is_read_as_written_and_named_by_what_it_is_about(kind: Kind) -> None:
    first, later = (Alert.of(Offence(kind, "r", text), at_ms) for text, at_ms in (("one", 1), ("other", 2)))
    assert Alert.decode(first.encode()) == first
    assert first.id == later.id, "whoever finds it again gives it the same id"
    assert first.id != Alert.of(Offence(kind, "s", "one"), 1).id
    assert (first.key, dict(first.headers)["ce_id"]) == (f"{kind}/r".encode(), first.id.encode())


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"[]",
        b"{}",
        b'{"id":"a","kind":"none","subject":"s","text":"","found_ms":1}',
        b'{"id":"a","kind":"story","subject":"s","text":"","found_ms":1e400}',
    ],
)
def test_what_is_no_alert_is_refused(value: bytes) -> None:
    with pytest.raises(UndecodableError, match="no alert"):
        Alert.decode(value)


def test_what_was_told_before_is_not_told_again() -> None:
    book = ledger()
    book.known(Kind.OVERDUE, "r", NOW)
    for name in ("r", "s"):
        book.accepted(name, at_ms=NOW, deadline_ms=NOW, where="tier.fast")
    (found,) = book.check(NOW + GRACE_MS + 1)
    assert found.subject == "s"
    assert (book.totals.offences[Kind.OVERDUE], book.totals.oldest_ms) == (1, NOW)


def test_what_was_told_before_may_be_read_after_what_it_follows_from() -> None:
    book = ledger()
    for record in ("a", "b"):
        for name in ("r", "s"):
            book.ended(name, record_id=f"{name}-{record}", accepted_ms=NOW, at_intake=False, now_ms=NOW)
    assert book.totals.offences[Kind.ENDED_TWICE] == 2
    book.known(Kind.ENDED_TWICE, "r", NOW)
    assert [each.subject for each in book.check(NOW) if each.kind is Kind.ENDED_TWICE] == ["s"]
    assert book.totals.offences[Kind.ENDED_TWICE] == 1
