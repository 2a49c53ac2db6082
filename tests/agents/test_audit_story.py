"""Completeness of stories: each missing, doubled or contradicting event is found."""

import json
from collections.abc import Iterable
from typing import Any

import pytest
from msgspec.structs import asdict, replace

from agents.audit import core
from agents.audit.reader import reconcile
from agents.audit.story import REQUIRED, Story, gaps, tell
from schemas.edges import Feedback, Result, Verdict
from schemas.enums import Action, EventType, FinishReason, Outcome, Status, TaskClass
from schemas.flow import Assignment, Attempt, Completion, Decision, ProvenanceEvent, Slip, Step

REQUEST = "r-1"


def origin(stage: str, sequence: int, topic: str) -> core.Origin:
    return core.Origin(
        record_id=f"{stage}-{sequence}",
        request_id=REQUEST,
        root_id=REQUEST,
        tenant="t",
        data_class="internal",
        source=f"/{stage}/x/0",
        epoch=1,
        sequence=sequence,
        causation_id="cause",
        delivery_mode="exactly_once",
        traceparent="",
        time_ms=5_000,
        topic=topic,
        partition=0,
        offset=sequence,
        timestamp_ms=5_000,
    )


def step(number: int) -> Step:
    return Step(step_id=f"s{number}", tier=f"t{number}", models=("m@1",), timeout_ms=1000)


SLIP = Slip(plan_id="p", plan_hash="h", pattern="cascade", index=0, steps=(step(0), step(1)))


def assignment(index: int) -> Assignment:
    return Assignment(
        request_id=REQUEST,
        request=b"{}",
        request_content_type="application/json",
        decision=b"",
        slip=b"",
        plan_id="p",
        plan_hash="h",
        step_id=f"s{index}",
        step_index=index,
        parent_step="" if index == 0 else f"s{index - 1}",
        tier=f"t{index}",
        task_class="math",
        has_output_schema=False,
        accepted_at_ms=1_000,
        assigned_at_ms=1_100 + index,
        deadline_ms=9_000,
        registry_chosen=3,
        registry_checked=4,
        verdicts=json.dumps([{"check": "logprob", "action": "escalate", "reason": "too unsure"}]) if index else "[]",
        source="requests/0/0",
    )


def decision() -> Decision:
    return Decision(
        decision_id="d",
        request_id=REQUEST,
        task_class=TaskClass.MATH,
        class_confidence=0.9,
        confidence=0.8,
        stage="surface",
        classifier_version="surface-1",
        feature_hash="f",
        seed=7,
        route_id="route",
        plan_id="p",
        tier="t0",
        model="m@1",
        candidate_plan=("p", "q"),
        candidate_tier=("t0", "t1"),
        candidate_model=("m@1", "n@1"),
        candidate_quality=(0.5, 0.6),
        candidate_cost_micros=(1, 2),
        candidate_score=(0.5, 0.4),
        candidate_propensity=(0.1, 0.9),
        candidate_excluded=("", "over budget"),
        thresholds={},
        registry_number=3,
        registry_hash="rh",
        decided_at_ms=1_050,
    )


def attempt(number: int, micros: int) -> Attempt:
    return Attempt(
        operation_key=f"o{number}",
        number=number,
        claim_owner="w",
        requested_model="m@1",
        provider="p",
        outcome=Outcome.OK,
        started_at_ms=1_200,
        duration_ms=10,
        billed_micros=micros,
    )


def completion(index: int) -> Completion:
    return Completion(
        request_id=REQUEST,
        assignment=b"",
        step_id=f"s{index}",
        step_index=index,
        tier=f"t{index}",
        outcome=Outcome.OK,
        attempts=(),
        completed_at_ms=1_300,
        registry_checked=4,
    )


def result(status: Status = Status.ANSWERED, **more) -> Result:
    values: dict[str, Any] = {
        "request_id": REQUEST,
        "status": status,
        "delivery_mode": "exactly_once",
        "accepted_at_ms": 1_000,
        "ended_at_ms": 2_000,
        "source": "requests/0/0",
        "finish_reason": FinishReason.STOP,
        "steps": 2,
        "escalations": 1,
        "attempts": 2,
        "cost_micros": 30,
        "verdicts": (Verdict(check="empty", action=Action.ALLOW),),
    } | more
    return Result(**values)


def cascade() -> list[ProvenanceEvent]:
    """A request that was escalated once and answered."""
    return [
        *core.from_assignment(origin("classifier", 1, "tier.t0"), assignment(0), decision(), SLIP, 6_000),
        *core.from_completion(origin("worker-t0", 1, "completions"), completion(0), [attempt(1, 10)], 6_000),
        *core.from_assignment(origin("guardrail", 1, "tier.t1"), assignment(1), None, SLIP, 6_000),
        *core.from_completion(origin("worker-t1", 2, "completions"), completion(1), [attempt(1, 20)], 6_000),
        *core.from_result(origin("guardrail", 2, "results"), result(), 6_000),
    ]


def story(events: Iterable[ProvenanceEvent]) -> Story:
    return tell(REQUEST, [asdict(event) for event in events])


def test_a_cascade_is_told_in_order_and_complete():
    told = story(reversed(cascade()))
    assert [event["event_type"] for event in told.events] == [
        "request_accepted",
        "route_decided",
        "model_attempted",
        "guardrail_evaluated",
        "step_assigned",
        "model_attempted",
        "guardrail_evaluated",
        "request_ended",
    ]
    assert gaps(told) == []
    assert told.status is Status.ANSWERED
    escalated = told.events[3]
    assert (escalated["status"], escalated["step_index"], escalated["reason"]) == ("escalate", 0, "too unsure")
    chosen = json.loads(told.events[1]["detail"])["candidates"]
    assert chosen[1]["excluded"] == "over budget"
    assert "excluded" not in chosen[0]


def test_a_word_on_the_answer_is_told_after_it():
    feedback = Feedback(feedback_id="f-1", request_id=REQUEST, rating=1.0, given_at_ms=1)
    told = story([*core.from_feedback(origin("", 1, "feedback"), feedback, 6_000), *cascade()])
    assert [event["event_type"] for event in told.events][-2:] == ["request_ended", "feedback_received"]
    assert gaps(told) == []


@pytest.mark.parametrize("index", range(8))
def test_any_missing_event_is_found(index):
    events = cascade()
    del events[index]
    assert gaps(story(events)) != []


def test_events_repeated_under_one_id_are_counted_out():
    events = cascade()
    told = story(events + [replace(event, src_offset=99) for event in events])
    assert told.repeats == len(events)
    assert gaps(told) == []


def test_a_second_end_is_found():
    second = core.from_result(origin("guardrail", 9, "results"), result(Status.FAILED), 6_000)[-1]
    assert gaps(story([*cascade(), second])) == ["ended 2 times"]


def test_a_story_without_end_is_in_flight():
    told = story(cascade()[:-1])
    assert gaps(told) == ["has no end"]
    assert told.status is None


def test_contradicting_money_is_found():
    events = cascade()
    events[2] = replace(events[2], billed_micros=11)
    assert gaps(story(events)) == ["the result bills 30 micros, the calls add up to 31"]


@pytest.mark.parametrize("status", [Status.REFUSED, Status.FAILED, Status.EXPIRED, Status.DUPLICATE])
def test_ends_at_intake_tell_acceptance_and_end(status):
    ended = core.from_result(
        origin("classifier", 1, "results"),
        result(status, steps=0, escalations=0, attempts=0, cost_micros=0, verdicts=()),
        6_000,
    )
    assert {event.event_type for event in ended} == REQUIRED[status]
    assert gaps(story(ended)) == []


def test_events_have_the_same_ids_when_derived_again():
    first, second = cascade(), cascade()
    assert [event.event_id for event in first] == [event.event_id for event in second]
    assert len({event.event_id for event in first}) == len(first)


def test_the_books_name_who_offends():
    books = reconcile([story(cascade())])
    assert books.balanced
    assert (books.accepted, books.ended) == (1, {Status.ANSWERED: 1})
    broken = reconcile([story(cascade()[:-1])])
    assert not broken.balanced
    assert broken.offending == {REQUEST: ["has no end"]}


def test_dead_letters_and_duplicates_are_counted_apart():
    parked = core.from_dead_letter(
        replace(origin("classifier", 1, "dead-letters.classifier"), request_id=""),
        code="input.undecodable",
        message="byte 0",
        disposition="poison",
        place="requests/0/5",
        recorded_ms=1,
    )
    repeated = replace(cascade()[0], event_type=EventType.REQUEST_DUPLICATE, event_id="dup")
    books = reconcile([story([*cascade(), repeated])], [asdict(event) for event in parked])
    assert books.balanced
    assert books.dead_letters == {"input.undecodable": 1}
    assert books.duplicates_dropped == 1


def test_the_propensity_told_is_that_of_the_plan_that_was_taken_though_another_was_likelier():
    (decided,) = [event for event in cascade() if event.event_type is EventType.ROUTE_DECIDED]
    assert decided.propensity == 0.1
    assert [row["plan"] for row in json.loads(decided.detail)["candidates"]] == ["p", "q"]


def test_a_step_that_is_tried_again_was_accepted_once() -> None:
    again = replace(assignment(0), parent_step="s0", verdicts=json.dumps([{"action": "escalate", "reason": "server"}]))
    events = core.from_assignment(origin("guardrail", 7, "tier.t0"), again, decision(), SLIP, 6_000)
    assert [event.event_type for event in events] == [EventType.GUARDRAIL_EVALUATED, EventType.STEP_ASSIGNED]
    assert {event.step_index for event in events} == {0}
    assert (events[0].reason, events[1].reason) == ("server", "after s0")
