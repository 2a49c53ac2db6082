"""What a complete story is: which events each way of ending requires. Pure."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from schemas.enums import EventType, Status

Row = Mapping[str, Any]
"""A provenance event as a row; keys are the fields of ``ProvenanceEvent``."""

REQUIRED: Mapping[Status, frozenset[EventType]] = {
    Status.ANSWERED: frozenset(
        {
            EventType.REQUEST_ACCEPTED,
            EventType.ROUTE_DECIDED,
            EventType.MODEL_ATTEMPTED,
            EventType.GUARDRAIL_EVALUATED,
            EventType.REQUEST_ENDED,
        }
    ),
    Status.REFUSED: frozenset({EventType.REQUEST_ACCEPTED, EventType.REQUEST_ENDED}),
    Status.FAILED: frozenset({EventType.REQUEST_ACCEPTED, EventType.REQUEST_ENDED}),
    Status.EXPIRED: frozenset({EventType.REQUEST_ACCEPTED, EventType.REQUEST_ENDED}),
    Status.DUPLICATE: frozenset({EventType.REQUEST_ACCEPTED, EventType.REQUEST_ENDED}),
}
"""Events that a request with this status must have. What a request went through on top of it must be there as well:
see ``gaps``."""


@dataclass(frozen=True, slots=True)
class Story:
    """All events of one request, in the order they happened."""

    request_id: str
    events: tuple[Row, ...]
    repeats: int
    """Events that came more than once under one id (at-least-once delivery) and were counted out."""

    @property
    def ended(self) -> tuple[Row, ...]:
        """Events that say how it ended; exactly one in a sound story."""
        return tuple(event for event in self.events if event["event_type"] == EventType.REQUEST_ENDED)

    @property
    def status(self) -> Status | None:
        """How it ended, None while in flight."""
        return Status(self.ended[0]["status"]) if self.ended else None


_ORDER = {
    EventType.REQUEST_ACCEPTED: 0,
    EventType.ROUTE_DECIDED: 1,
    EventType.STEP_ASSIGNED: 2,
    EventType.MODEL_ATTEMPTED: 3,
    EventType.GUARDRAIL_EVALUATED: 4,
    EventType.REQUEST_ENDED: 6,
}

_END = 1 << 20
_FIRST_OR_LAST = {
    EventType.REQUEST_ACCEPTED: -1,
    EventType.REQUEST_ENDED: _END,
    EventType.FEEDBACK_RECEIVED: _END + 1,  # of what was answered
}


def tell(request_id: str, rows: Iterable[Row]) -> Story:
    """Order events and take each id once (the first by source coordinates)."""
    first: dict[str, Row] = {}
    count = 0
    for row in sorted(rows, key=lambda row: (row["src_topic"], row["src_partition"], row["src_offset"], row["part"])):
        count += 1
        first.setdefault(row["event_id"], row)
    ordered = sorted(first.values(), key=_place)
    return Story(request_id, tuple(ordered), count - len(first))


def _place(row: Row) -> tuple[int, int, int, int]:
    """By step, then by what follows what within a step: clocks of different machines are not compared."""
    kind = EventType(row["event_type"])
    step = _FIRST_OR_LAST.get(kind, int(row["step_index"]))
    return (step, _ORDER.get(kind, 5), int(row["attempt"]), int(row["part"]))


def gaps(story: Story) -> list[str]:
    """What is missing from a story, or contradicts itself; empty when it is complete.

    A request in flight (no end yet) is reported as such.
    """
    kinds = Counter(EventType(event["event_type"]) for event in story.events)
    ends = story.ended
    if not ends:
        return ["has no end"]
    if len(ends) > 1:
        return [f"ended {len(ends)} times"]
    found: list[str] = []
    status = Status(ends[0]["status"])
    found += [f"{kind.value} is missing" for kind in sorted(REQUIRED.get(status, frozenset()) - set(kinds))]
    if kinds[EventType.REQUEST_ACCEPTED] > 1:
        found.append("was accepted more than once")
    detail = json.loads(ends[0]["detail"])
    steps = int(detail.get("steps", 0))
    if steps:
        found += _step_gaps(story.events, steps, kinds, status)
    said, seen = int(ends[0]["attempt"]), kinds[EventType.MODEL_ATTEMPTED]
    if said != seen:
        found.append(f"the result counts {said} calls, the story has {seen}")
    billed = sum(int(event["billed_micros"]) for event in story.events if _is(event, EventType.MODEL_ATTEMPTED))
    if billed != int(ends[0]["billed_micros"]):
        found.append(f"the result bills {ends[0]['billed_micros']} micros, the calls add up to {billed}")
    return found


def _step_gaps(events: Sequence[Row], steps: int, kinds: Counter[EventType], status: Status) -> list[str]:
    """Each step must have been assigned, and each evaluated but one in which the request ended without an answer."""
    found: list[str] = []
    if not kinds[EventType.ROUTE_DECIDED]:
        found.append(f"{EventType.ROUTE_DECIDED.value} is missing")
    assigned = {0} | {int(event["step_index"]) for event in events if _is(event, EventType.STEP_ASSIGNED)}
    if len(assigned) != steps:
        found.append(f"the result counts {steps} steps, {len(assigned)} were assigned")
    evaluated = {int(event["step_index"]) for event in events if _is(event, EventType.GUARDRAIL_EVALUATED)}
    followed = sorted(assigned) if status is Status.ANSWERED else sorted(assigned)[:-1]
    found += [f"step {index} was never evaluated" for index in followed if index not in evaluated]
    return found


def _is(event: Row, kind: EventType) -> bool:
    return bool(event["event_type"] == kind)
