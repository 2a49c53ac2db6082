"""Conservation: what was accepted has ended or is in flight, at every moment. Pure.

The ledger is told what the topics hold, in whatever order it is read, and says which requests offend:

- a record of an intake topic that nothing followed from (no step, no result, no dead letter, no duplicate),
- a request that is past its deadline and has not ended,
- a request that ended twice, or ended without having been accepted,
- a story that ended and is not complete.

It holds what is in flight, and for a while what has ended: its memory is bounded by these, not by what ever came.
"""

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final

from agents.audit.story import gaps, tell

_MILLISECOND: Final = timedelta(milliseconds=1)


class Kind(StrEnum):
    """What can be wrong."""

    UNHEARD = "unheard"
    """A record on an intake topic from which nothing followed."""
    OVERDUE = "overdue"
    """Past its deadline, and not ended."""
    ENDED_TWICE = "ended-twice"
    NEVER_ACCEPTED = "never-accepted"
    """It ended, and nobody accepted it."""
    STORY = "story"
    """It ended, and its story has gaps."""


@dataclass(frozen=True, slots=True)
class Offence:
    """Something wrong with one request.

    Attributes:
        kind: What.
        subject: Request id, or coordinates of a record on an intake topic.
        text: For people.
    """

    kind: Kind
    subject: str
    text: str


@dataclass(slots=True)
class _Flight:
    accepted_ms: int
    deadline_ms: int
    where: str


@dataclass(slots=True)
class _End:
    record_id: str
    at_ms: int
    accepted: bool
    told: bool = False
    rows: list[Mapping[str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class Totals:
    """What came by so far.

    Attributes:
        accepted: Requests accepted.
        ended: Requests ended.
        in_flight: Accepted, and not ended.
        repeats: Results that came again as they were (at-least-once delivery).
        offences: How many were found, by kind.
        oldest_ms: When the oldest request in flight was accepted, Unix milliseconds; None with none in flight.
    """

    accepted: int = 0
    ended: int = 0
    in_flight: int = 0
    repeats: int = 0
    offences: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(Kind, 0))
    oldest_ms: int | None = None

    @property
    def balanced(self) -> bool:
        """Whether every accepted request has ended or is in flight."""
        return self.accepted == self.ended + self.in_flight


class Ledger:
    """The books.

    Args:
        since_ms: Unix milliseconds from which on topics were read: what was accepted before is not judged.
        grace: How long after a deadline, or an end, the rest may take.
        memory: How long an end is remembered, to know a second one.
        exact: Whether the broker promises that nothing comes twice; else the same result again is only counted.
    """

    def __init__(self, *, since_ms: int, grace: timedelta, memory: timedelta, exact: bool) -> None:
        self._exact = exact
        self._since_ms = since_ms
        self._grace_ms = grace // _MILLISECOND
        self._memory_ms = memory // _MILLISECOND
        self._arrived: dict[str, int] = {}
        self._followed: OrderedDict[str, int] = OrderedDict()
        self._flights: dict[str, _Flight] = {}
        self._ends: OrderedDict[str, _End] = OrderedDict()
        self._unjudged: deque[tuple[str, _End]] = deque()
        self._rows: OrderedDict[str, tuple[int, list[Mapping[str, Any]]]] = OrderedDict()
        self._found: list[Offence] = []
        self._told: OrderedDict[tuple[Kind, str], int] = OrderedDict()
        self.totals = Totals()

    def arrived(self, place: str, at_ms: int) -> None:
        """A record lies on an intake topic, and was seen there."""
        if self._followed.pop(place, None) is None:
            self._arrived[place] = at_ms

    def followed(self, place: str, now_ms: int) -> None:
        """Something followed from a record on an intake topic, whatever it is."""
        if self._arrived.pop(place, None) is None:
            self._followed[place] = now_ms

    def accepted(self, request_id: str, *, at_ms: int, deadline_ms: int, where: str) -> None:
        """A request was accepted: its first step was handed out."""
        end = self._ends.get(request_id)
        if end is not None:
            if not end.accepted:
                end.accepted = True
                self.totals.accepted += 1
            return
        if request_id not in self._flights:
            self._flights[request_id] = _Flight(at_ms, deadline_ms, where)
            self.totals.accepted += 1

    def moved(self, request_id: str, where: str) -> None:
        """A request was seen further on."""
        flight = self._flights.get(request_id)
        if flight is not None:
            flight.where = where

    def ended(self, request_id: str, *, record_id: str, accepted_ms: int, at_intake: bool, now_ms: int) -> None:
        """A request has a result.

        Args:
            request_id: Which.
            record_id: Of the result; the same again is a repeat, another one an offence.
            accepted_ms: When it was accepted, as the result says.
            at_intake: It ended there, and so was accepted by this very record.
            now_ms: Unix milliseconds.
        """
        known = self._ends.get(request_id)
        if known is not None:
            if known.record_id == record_id and not self._exact:
                self.totals.repeats += 1
            else:
                self._offend(Kind.ENDED_TWICE, request_id, f"ended as {known.record_id} and {record_id}", now_ms)
            return
        before = accepted_ms < self._since_ms  # these books were opened
        known = _End(record_id, now_ms, accepted=before or at_intake, told=before)
        if self._flights.pop(request_id, None) is not None:
            known.accepted = True
        elif known.accepted:
            self.totals.accepted += 1
        self.totals.ended += 1
        known.rows = self._rows.pop(request_id, (0, []))[1]
        self._ends[request_id] = known
        self._unjudged.append((request_id, known))

    def told(self, row: Mapping[str, Any], now_ms: int) -> None:
        """A provenance event of a request."""
        request_id = row["request_id"]
        end = self._ends.get(request_id)
        if end is None:
            self._rows.setdefault(request_id, (now_ms, []))[1].append(row)
        elif not end.told:
            end.rows.append(row)

    def known(self, kind: Kind, subject: str, now_ms: int) -> None:
        """An offence that was told already, by this monitor or the one before it.

        What it follows from may have been read before: topics come in any order.
        """
        self._told.setdefault((kind, subject), now_ms)
        again = [each for each in self._found if (each.kind, each.subject) == (kind, subject)]
        for each in again:
            self._found.remove(each)
            self.totals.offences[kind] -= 1

    def check(self, now_ms: int) -> list[Offence]:
        """What was found to be wrong since the last check; each thing once."""
        for place, at_ms in self._arrived.items():
            if now_ms - at_ms > self._grace_ms:
                self._offend(Kind.UNHEARD, place, f"nothing followed from it for {(now_ms - at_ms) // 1000} s", now_ms)
        for request_id, flight in self._flights.items():
            late_ms = now_ms - flight.deadline_ms
            if late_ms > self._grace_ms:
                text = f"{late_ms // 1000} s past its deadline, last seen in {flight.where}"
                self._offend(Kind.OVERDUE, request_id, text, now_ms)
        while self._unjudged and now_ms - self._unjudged[0][1].at_ms > self._grace_ms:
            self._judge(*self._unjudged.popleft(), now_ms)
        self._forget(now_ms)
        self.totals.in_flight = len(self._flights)
        self.totals.oldest_ms = min((flight.accepted_ms for flight in self._flights.values()), default=None)
        found, self._found = self._found, []
        return found

    def _judge(self, request_id: str, end: _End, now_ms: int) -> None:
        if not end.accepted:
            end.accepted = True
            self.totals.accepted += 1
            self._offend(Kind.NEVER_ACCEPTED, request_id, "has a result, and nobody accepted it", now_ms)
        if not end.told:
            end.told = True
            wrong = gaps(tell(request_id, end.rows))
            end.rows = []
            if wrong:
                self._offend(Kind.STORY, request_id, "; ".join(wrong), now_ms)

    def _forget(self, now_ms: int) -> None:
        while self._ends and now_ms - next(iter(self._ends.values())).at_ms > self._memory_ms:
            self._ends.popitem(last=False)
        while self._rows and now_ms - next(iter(self._rows.values()))[0] > self._memory_ms:
            request_id, (_, rows) = self._rows.popitem(last=False)
            if request_id in self._flights:  # a long one: its story is still needed
                self._rows[request_id] = now_ms, rows
        for times in (self._followed, self._told):
            while times and now_ms - next(iter(times.values())) > self._memory_ms:
                times.popitem(last=False)

    def _offend(self, kind: Kind, subject: str, text: str, now_ms: int) -> None:
        if (kind, subject) not in self._told:
            self._told[kind, subject] = now_ms
            self._found.append(Offence(kind, subject, text))
            self.totals.offences[kind] += 1
