"""Paid calls of the classifier: booked or not made, once whatever dies, and in the way of no request."""

import asyncio
from datetime import timedelta
from typing import Any

import orjson
import pytest
from msgspec.structs import asdict

from agents.audit.core import Origin, from_result
from agents.audit.story import gaps, tell
from agents.classifier.stage import ClassifierStage
from registry.snapshot import Snapshot
from schemas.clock import SystemClock
from schemas.edges import Result
from schemas.enums import EventType, Status
from schemas.errors import StateStoreError
from schemas.fakes import MemoryState, ScriptedProvider
from schemas.flow import Assignment, Decision, ProvenanceEvent
from schemas.headers import Name
from schemas.ports import ClaimReply, ModelAnswer, ModelCall
from streams.effects import Effects
from streams.records import InRecord
from streams.topics import PROVENANCE, RESULTS
from tests.agents.deciding import CODEC, NOW_MS, snapshot, view
from tests.agents.test_classifier_llm import RULES, SETTINGS, Slow, asked, decide, says, stage, told

LIMIT_S = SETTINGS.time_limit.total_seconds()


class Hanging(MemoryState):
    """A store that answers no claim, or keeps no answer, for ever."""

    def __init__(self, *, claims: bool = True) -> None:
        super().__init__(SystemClock())
        self.claims = claims

    async def claim(self, key: str, owner: str, lease: timedelta, note: bytes, ttl: timedelta) -> ClaimReply:
        if self.claims:
            await asyncio.sleep(60)
        return await super().claim(key, owner, lease, note, ttl)

    async def settle(self, key: str, owner: str, answer: bytes, ttl: timedelta) -> bytes | None:
        await asyncio.sleep(60)
        return await super().settle(key, owner, answer, ttl)


class Broken(Hanging):
    """One that is away as soon as a call was made."""

    def __init__(self) -> None:
        super().__init__(claims=False)
        self.away = True

    async def settle(self, key: str, owner: str, answer: bytes, ttl: timedelta) -> bytes | None:
        if self.away:
            raise StateStoreError("away")
        return await MemoryState.settle(self, key, owner, answer, ttl)


class Stalling:
    """A provider whose calls never come back; ``begun`` says when they are out."""

    def __init__(self, calls: int) -> None:
        self.calls = 0
        self.begun = asyncio.Event()
        self._wanted = calls

    async def complete(self, call: ModelCall) -> ModelAnswer:
        self.calls += 1
        if self.calls == self._wanted:
            self.begun.set()
        await asyncio.sleep(60)
        return says("qa")

    async def close(self) -> None:
        """Nothing."""


@pytest.fixture
def state() -> MemoryState:
    return MemoryState(SystemClock())


@pytest.fixture
def clock() -> SystemClock:
    return SystemClock()


async def handled(made: ClassifierStage, record: InRecord, rules: Snapshot = RULES, now_ms: int = NOW_MS) -> Effects:
    (prepared,) = await made.prepare([record], view(rules, now_ms=now_ms))
    return made.handle(record, view(rules, now_ms=now_ms, prepared=prepared))


async def decided(made: ClassifierStage, record: InRecord) -> tuple[Assignment, Decision]:
    (emit,) = (await handled(made, record)).outputs
    assignment = CODEC.decode(Assignment, emit.value)
    return assignment, CODEC.decode(Decision, assignment.decision)


async def killed(made: ClassifierStage) -> None:
    """As a process that dies: its claims stand as notes, and nobody hears of its calls."""
    await made._second._calls.close()  # type: ignore[union-attr]


async def test_what_was_answered_before_a_crash_is_used_again(state: MemoryState, clock: SystemClock) -> None:
    provider = ScriptedProvider(says("code"), says("code"))
    record = asked()
    first, before = await decided(stage(provider, state=state, clock=clock), record)
    again, after = await decided(stage(provider, state=state, clock=clock, owner="second"), record)
    assert len(provider.calls) == 2
    assert (before.stage, before.task_class) == (after.stage, after.task_class) == ("llm", "code")
    assert told(after) == told(before)
    assert (again.spent_micros, again.attempts) == (first.spent_micros, first.attempts) == (166, 2)


async def test_a_call_that_nobody_heard_the_end_of_is_told_and_not_made_again(
    state: MemoryState, clock: SystemClock
) -> None:
    stalling, record = Stalling(2), asked()
    dying = stage(stalling, state=state, clock=clock)
    handling = asyncio.create_task(handled(dying, record))
    await stalling.begun.wait()
    handling.cancel()
    await killed(dying)
    provider = ScriptedProvider()
    for owner in ("second", "third"):  # what was found is journaled, for whoever comes next
        assignment, decision = await decided(stage(provider, state=state, clock=clock, owner=owner), record)
        said = told(decision)
        assert said["heard"] == "unknown"
        assert [(call["outcome"], call["claim_owner"]) for call in said["calls"]] == [("unknown", "first")] * 2
        assert all(call["billed_micros"] == call["estimated_micros"] > 0 for call in said["calls"])
        assert assignment.attempts == 2
        assert assignment.spent_micros == sum(call["billed_micros"] for call in said["calls"])
        assert (decision.stage, decision.task_class) == ("model", "qa")
    assert stalling.calls == 2
    assert not provider.calls


async def test_another_who_is_at_it_is_waited_for_and_told_as_unknown(state: MemoryState, clock: SystemClock) -> None:
    stalling, record = Stalling(2), asked()
    settings = SETTINGS.model_copy(update={"time_limit": timedelta(seconds=30)})
    frozen = stage(stalling, settings, state=state, clock=clock)
    handling = asyncio.create_task(handled(frozen, record))
    await stalling.begun.wait()
    began = clock.monotonic()
    _, decision = await decided(stage(ScriptedProvider(), state=state, clock=clock, owner="second"), record)
    assert LIMIT_S / 2 < clock.monotonic() - began < LIMIT_S + 1
    assert [(call["outcome"], call["claim_owner"]) for call in told(decision)["calls"]] == [("unknown", "first")] * 2
    handling.cancel()
    await killed(frozen)


async def test_half_of_the_samples_are_told_and_decide_nothing(state: MemoryState, clock: SystemClock) -> None:
    one = SETTINGS.model_copy(update={"samples": 1})
    await decided(stage(ScriptedProvider(says("code")), one, state=state, clock=clock), asked())
    assignment, decision = await decided(stage(ScriptedProvider(), state=state, clock=clock, owner="second"), asked())
    assert told(decision)["heard"] == "unknown"
    assert "before a crash" in told(decision)["reason"]
    assert (decision.stage, assignment.attempts, assignment.spent_micros) == ("model", 1, 83)


async def test_a_request_that_came_again_without_having_been_asked_about_is_asked_about(
    state: MemoryState, clock: SystemClock
) -> None:
    without = stage(ScriptedProvider(), state=state, clock=clock)
    without._second = None
    await decided(without, asked())
    provider = ScriptedProvider(default=says("code"))
    _, decision = await decided(stage(provider, state=state, clock=clock, owner="second"), asked())
    assert (decision.stage, len(provider.calls)) == ("llm", 2)


@pytest.mark.parametrize("confidence", [0.5, 0.99])
async def test_what_was_asked_stays_told_though_nobody_would_ask_now(
    state: MemoryState, clock: SystemClock, confidence: float
) -> None:
    provider = ScriptedProvider(default=says("code"))
    await decided(stage(provider, state=state, clock=clock), asked())
    later = stage(provider, state=state, clock=clock, owner="second", confidence=confidence)
    later._second._rests_until = float("inf")  # type: ignore[union-attr]
    assignment, decision = await decided(later, asked())
    assert (told(decision)["heard"], assignment.attempts, len(provider.calls)) == ("agreed", 2, 2)


@pytest.mark.parametrize("hanging", [False, True])
async def test_without_a_state_store_nothing_is_asked_and_nothing_waits(clock: SystemClock, hanging: bool) -> None:
    away = Hanging()
    away.failing = not hanging
    provider = ScriptedProvider(default=says("code"))
    made = stage(provider, paid_state=away, clock=clock)
    began = clock.monotonic()
    assignment, decision = await decided(made, asked())
    assert clock.monotonic() - began < LIMIT_S + 0.5
    assert (told(decision)["heard"], decision.stage, assignment.attempts) == ("unclaimed", "model", 0)
    assert "state store" in told(decision)["reason"]
    assert "calls" not in told(decision)
    _, decision = await decided(made, asked(request_id="r-2"))
    assert told(decision)["heard"] == "resting", "the next batch does not wait for it again"
    assert not provider.calls
    await killed(made)


async def test_a_request_that_came_again_is_not_held_up_by_the_store_either(
    state: MemoryState, clock: SystemClock
) -> None:
    provider = ScriptedProvider(default=says("code"))
    await decided(stage(provider, state=state, clock=clock), asked())
    away = Hanging()
    away.failing = True
    _, decision = await decided(stage(provider, state=state, paid_state=away, clock=clock), asked())
    assert told(decision)["heard"] == "unclaimed"
    assert len(provider.calls) == 2


async def test_an_answer_that_cant_be_journaled_is_told_and_journaled_when_it_can(clock: SystemClock) -> None:
    broken, provider = Broken(), ScriptedProvider(default=says("code"))
    made = stage(provider, paid_state=broken, clock=clock)
    began = clock.monotonic()
    assignment, decision = await decided(made, asked())
    assert clock.monotonic() - began < LIMIT_S + 0.5
    assert (decision.stage, assignment.attempts, assignment.spent_micros) == ("llm", 2, 166)
    broken.away = False
    async with asyncio.timeout(5):
        while sum(key.endswith(":answer") for key in broken.keys()) < 2:  # noqa: SIM118 - no mapping
            await asyncio.sleep(0.02)
    await killed(made)


async def test_answers_that_wait_for_the_journal_count_as_calls_in_flight(clock: SystemClock) -> None:
    made = stage(
        ScriptedProvider(default=says("code")),
        SETTINGS.model_copy(update={"max_concurrency": 2}),
        paid_state=Hanging(claims=False),
        clock=clock,
    )
    await decided(made, asked())
    _, decision = await decided(made, asked(request_id="r-2"))
    assert told(decision)["heard"] == "busy"
    await killed(made)


async def test_a_call_that_ends_late_is_journaled_behind_the_request(state: MemoryState, clock: SystemClock) -> None:
    slow = Slow()
    made = stage(slow, state=state, clock=clock)
    _, decision = await decided(made, asked())
    assert told(decision)["heard"] == "late"
    _, again = await decided(stage(slow, state=state, clock=clock, owner="second"), asked())
    assert told(again)["calls"] == told(decision)["calls"]
    assert slow.calls == 2


@pytest.mark.parametrize("how", ["expired", "no route"])
async def test_a_request_that_ends_at_intake_tells_its_calls_too(
    state: MemoryState, clock: SystemClock, how: str
) -> None:
    provider = ScriptedProvider(default=says("code"))
    deadline = asked(headers=[(Name.DEADLINE.value, b"%d" % (NOW_MS + 60_000))])
    await handled(stage(provider, state=state, clock=clock), deadline)
    later = stage(provider, state=state, clock=clock, owner="second")
    if how == "expired":
        effects = await handled(later, deadline, now_ms=NOW_MS + 61_000)
    else:
        effects = await handled(later, deadline, snapshot(routes=(nowhere(),)))
    *calls, ended = effects.outputs
    assert {each.topic for each in calls} == {PROVENANCE}
    assert ended.topic == RESULTS
    result = CODEC.decode(Result, ended.value, ended.content_type)
    assert result.status is (Status.EXPIRED if how == "expired" else Status.FAILED)
    assert (result.attempts, result.cost_micros, result.steps) == (2, 166, 0)
    events = [CODEC.decode(ProvenanceEvent, each.value) for each in calls]
    assert {event.event_type for event in events} == {EventType.MODEL_ATTEMPTED}
    events += from_result(origin(), result, NOW_MS)
    assert gaps(tell("r-1", [asdict(event) for event in events])) == []
    assert len(provider.calls) == 2


def nowhere() -> Any:
    route = RULES.catalogue.routes[0]
    return route.model_copy(update={"when": route.when.model_copy(update={"min_prompt_chars": 10_000})})


def origin() -> Origin:
    return Origin(
        record_id="result",
        request_id="r-1",
        root_id="r-1",
        tenant="default",
        data_class="internal",
        source="/classifier/requests/0",
        epoch=1,
        sequence=1,
        causation_id="",
        delivery_mode="exactly_once",
        traceparent="",
        time_ms=NOW_MS,
        topic=RESULTS,
        partition=0,
        offset=0,
        timestamp_ms=NOW_MS,
    )


def test_hinted_requests_are_not_looked_for(state: MemoryState) -> None:
    hinted, made = asked(task_hint="math"), stage(ScriptedProvider(), state=state)
    decide(made, hinted)
    before = state.operations
    ((_, decision),) = decide(made, hinted)
    assert state.operations == before + 1, "the idempotent receiver's question"
    assert "llm" not in orjson.loads(decision.signals)
