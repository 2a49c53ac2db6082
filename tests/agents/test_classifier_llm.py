"""The stage that asks a language model: its word where it has one, and nothing in the way where it hasn't."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict

from agents.audit.stage import AuditStage
from agents.audit.story import gaps, tell
from agents.classifier.asking import CLOSE, OPEN, answer, question, shortened
from agents.classifier.cues import CLASSES
from agents.classifier.judged import Judged
from agents.classifier.llm import REST, LlmStage
from agents.classifier.opinion import MOST, RELIABLE, Heard, weighed
from agents.classifier.paid import PaidCalls
from agents.classifier.stage import ClassifierStage
from agents.worker.journal import Journal
from registry.snapshot import Snapshot
from schemas.catalogue import Route, Tenant
from schemas.enums import EventType, FinishReason, Outcome, TaskClass
from schemas.errors import FailureClass, ProviderError
from schemas.fakes import FakeClock, MemoryState, ScriptedProvider
from schemas.flow import Assignment, Decision, ProvenanceEvent
from schemas.headers import Name
from schemas.ports import Clock, ModelAnswer, ModelCall, Provider, StateStore
from schemas.settings import LlmSettings
from streams.effects import Emit
from streams.operations import Operations
from streams.receiver import Receiver
from streams.records import InRecord
from streams.topics import Names
from tests.agents.deciding import CODEC, NOW_MS, record, snapshot, view
from tests.agents.test_classifier_stage import run

RULES = snapshot(routes=(Route(id="all", plans=("best", "cheap"), cost_weight=0.1),))
SETTINGS = LlmSettings(model="middle", time_limit=timedelta(milliseconds=200))
WORDS = "Tell me something of herons and their ways"


def says(text: str) -> ModelAnswer:
    return ModelAnswer(text=text, finish_reason=FinishReason.STOP, tokens_in=200, tokens_out=2)


class Doubtful:
    """A trained model that takes everything for a question, and is not sure."""

    def __init__(self, confidence: float = 0.5) -> None:
        self.confidence = confidence

    def __call__(self, texts: Sequence[str]) -> Sequence[Judged]:
        return [Judged(task_class=TaskClass.QA, confidence=self.confidence, drift=0.0, version="m") for _ in texts]


class Slow:
    """A provider that never answers."""

    def __init__(self) -> None:
        self.calls = 0
        self.most = 0
        self._now = 0

    async def complete(self, call: ModelCall) -> ModelAnswer:
        self.calls += 1
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            await asyncio.sleep(60)
        finally:
            self._now -= 1
        return says("qa")

    async def close(self) -> None:
        """Nothing."""


def asked(prompt: str = WORDS, request_id: str = "r-1", **more: Any) -> InRecord:
    headers = ((Name.REQUEST_ID.value, request_id.encode()), *more.pop("headers", ()))
    return record({"prompt": prompt} | more, headers=headers)


def stage(
    provider: Provider | ScriptedProvider,
    settings: LlmSettings = SETTINGS,
    *,
    confidence: float = 0.5,
    clock: Clock | None = None,
    state: StateStore | None = None,
    paid_state: StateStore | None = None,
    owner: str = "first",
) -> ClassifierStage:
    """A classifier; those of one ``state`` are processes of one installation.

    Args:
        paid_state: Where paid calls are claimed, if not in ``state``.
    """
    clock, state = clock or FakeClock(NOW_MS), state or MemoryState()
    operations = Operations(
        paid_state or state, owner=owner, lease=timedelta(seconds=15), ttl=timedelta(days=1), clock=clock
    )
    calls = PaidCalls(
        Journal(operations, clock=clock),
        lambda _: provider,
        clock,
        owner=owner,
        max_concurrency=settings.max_concurrency,
    )
    return ClassifierStage(
        codec=CODEC,
        receiver=Receiver(state, timedelta(days=1)),
        judge=Doubtful(confidence),
        second=LlmStage(settings, calls, clock),
    )


def decide(made: ClassifierStage, *records: InRecord, rules: Snapshot = RULES) -> list[tuple[Assignment, Decision]]:
    found = []
    for effects in run(made, *(records or (asked(),)), rules=rules):
        (emit,) = effects.outputs
        assignment = CODEC.decode(Assignment, emit.value)
        found.append((assignment, CODEC.decode(Decision, assignment.decision)))
    return found


def told(decision: Decision) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(decision.signals)["llm"]
    return found


# -- the question and its answer --


def test_each_sample_sees_the_classes_in_another_order():
    orders = set()
    for sample in range(5):
        system, user = question("Hello", "r-1", sample, 2000)
        names = [line.split(":")[0] for line in str(system.content).splitlines() if line.split(":")[0] in set(CLASSES)]
        assert sorted(names) == sorted(CLASSES)
        orders.add(tuple(names))
        assert user.content == f"{OPEN}\nHello\n{CLOSE}"
    assert len(orders) == 5
    assert question("Hello", "r-1", 0, 2000) == question("Hello", "r-1", 0, 2000)


@given(st.text(max_size=500), st.integers(200, 300))
def test_no_text_can_leave_its_marks(text: str, most: int):
    shown = shortened(text, most)
    assert OPEN not in shown
    assert CLOSE not in shown
    assert len(shown) <= most + len(" [...] ")


@pytest.mark.parametrize("text", ["math", " Math.\n", '"math"', "**math**"])
def test_a_name_and_nothing_else_is_an_answer(text: str):
    assert answer(text) is TaskClass.MATH


@pytest.mark.parametrize("text", ["", "maths", "It is math", "math code", "other", "math, I think"])
def test_anything_else_is_none(text: str):
    assert answer(text) is None


# -- weighing --


def test_agreement_with_the_trained_model_makes_sure_and_disagreement_does_not():
    heard, task_class, both = weighed([TaskClass.QA] * 2, TaskClass.QA, 0.5)
    assert (heard, task_class) == (Heard.AGREED, TaskClass.QA)
    assert both > 0.9
    _, task_class, against = weighed([TaskClass.CODE] * 2, TaskClass.QA, 0.5)
    assert task_class is TaskClass.CODE
    assert against < RELIABLE
    assert weighed([TaskClass.CODE, TaskClass.QA], TaskClass.QA, 0.5) == (Heard.SPLIT, None, 0.0)
    assert weighed([TaskClass.CODE, None], TaskClass.QA, 0.5) == (Heard.UNREADABLE, None, 0.0)


@given(st.sampled_from(CLASSES), st.sampled_from(CLASSES), st.floats(0.125, 0.7))
def test_the_confidence_is_a_probability_of_the_likeliest(said: TaskClass, guess: TaskClass, confidence: float):
    _, task_class, found = weighed([said], guess, confidence)
    assert task_class in {said, guess}
    assert 1 / len(CLASSES) < found <= MOST
    if said is guess:
        assert found >= min(confidence, MOST)


# -- in the stage --


def test_its_word_decides_and_its_cost_is_the_requests():
    provider = ScriptedProvider(default=says("code"))
    ((assignment, decision),) = decide(stage(provider))
    assert (decision.task_class, decision.stage) == (TaskClass.CODE, "llm")
    assert decision.classifier_version == "m middle@1"
    assert 0.5 < decision.class_confidence < RELIABLE
    assert decision.thresholds["trust"] < 1
    assert len(provider.calls) == 2
    assert provider.calls[0].temperature == 0
    assert provider.calls[0].operation_key != provider.calls[1].operation_key
    said = told(decision)
    assert (said["heard"], said["task_class"], said["model"]) == ("agreed", "code", "middle@1")
    # 200 tokens at .4 and 2 at 1.6 micro-units, twice.
    assert [call["billed_micros"] for call in said["calls"]] == [83, 83]
    assert (assignment.spent_micros, assignment.attempts) == (166, 2)
    assert (assignment.spent_tokens_in, assignment.spent_tokens_out) == (400, 4)
    assert orjson.loads(decision.signals)["judged"]["task_class"] == "qa", "the trained model's word stays on record"


def test_it_is_asked_only_in_the_uncertain_band():
    provider = ScriptedProvider()
    ((assignment, decision),) = decide(stage(provider, confidence=0.7))
    assert decision.stage == "model"
    assert "llm" not in orjson.loads(decision.signals)
    assert assignment.spent_micros == 0
    hinted = decide(stage(provider), asked(task_hint="math"))
    assert hinted[0][1].stage == "hint"
    assert not provider.calls


def failing(error: ProviderError | Exception) -> ScriptedProvider:
    def raises(call: ModelCall) -> ModelAnswer:
        raise error

    return ScriptedProvider(default=raises)


@pytest.mark.parametrize(
    ("provider", "heard", "outcome"),
    [
        (lambda: failing(ProviderError(FailureClass.SERVER, "away")), Heard.FAILED, Outcome.FAILED),
        (lambda: failing(ZeroDivisionError()), Heard.FAILED, Outcome.FAILED),
        (lambda: failing(ProviderError(FailureClass.TIMEOUT, "late")), Heard.LATE, Outcome.TIMEOUT),
        (Slow, Heard.LATE, Outcome.TIMEOUT),
        (lambda: ScriptedProvider(default=says("I would say it is a question.")), Heard.UNREADABLE, Outcome.OK),
        (lambda: ScriptedProvider(says("qa"), says("code")), Heard.SPLIT, Outcome.OK),
    ],
)
def test_without_its_word_the_request_goes_on_as_it_was(provider: Callable[[], Any], heard: Heard, outcome: Outcome):
    ((assignment, decision),) = decide(stage(provider()))
    ((_, plain),) = decide(ClassifierStage(
        codec=CODEC, receiver=Receiver(MemoryState(), timedelta(days=1)), judge=Doubtful()
    ))  # fmt: skip
    assert (decision.task_class, decision.stage) == (plain.task_class, plain.stage) == (TaskClass.QA, "model")
    assert decision.candidate_score == plain.candidate_score
    said = told(decision)
    assert said["heard"] == heard.value
    assert "task_class" not in said
    assert {call["outcome"] for call in said["calls"]} == {outcome.value}
    paid = outcome is not Outcome.FAILED
    assert (assignment.spent_micros > 0) is paid, "an answer that came, or may have been made, is paid for"


async def test_calls_in_flight_are_bounded_and_so_is_the_wait():
    slow = Slow()
    settings = SETTINGS.model_copy(update={"max_concurrency": 3})
    records = [asked(request_id=f"r-{number}") for number in range(10)]
    made = stage(slow, settings)
    clock = asyncio.get_running_loop().time
    began = clock()
    arrivals = await made.prepare(records, view(RULES))
    assert clock() - began < 2
    assert slow.most == 3
    heard = [each.opinion.heard for each in arrivals]  # type: ignore[attr-defined]
    assert set(heard) == {Heard.LATE, Heard.BUSY}
    assert all((each.opinion.heard is Heard.LATE) == bool(each.opinion.calls) for each in arrivals)  # type: ignore[attr-defined]


def test_a_model_that_answers_nothing_is_left_alone_for_a_while():
    clock = FakeClock(NOW_MS)
    provider = ScriptedProvider(*[ProviderError(FailureClass.SERVER, "away")] * 2, *[says("code")] * 2)
    made = stage(provider, clock=clock)
    heard = []
    for number in range(3):
        ((_, decision),) = decide(made, asked(request_id=f"r-{number}"))
        heard.append(told(decision)["heard"])
        clock.advance(REST if number else timedelta(seconds=1))
    assert heard == ["failed", "resting", "agreed"]
    assert len(provider.calls) == 4


@pytest.mark.parametrize(
    ("more", "rules", "reason"),
    [
        ({"headers": [(Name.DATA_CLASS.value, b"restricted")]}, RULES, "may not be shown restricted"),
        ({"cost_limit_micros": 100}, RULES, "are allowed"),
        ({"headers": [(Name.DEADLINE.value, b"%d" % (NOW_MS + 300))]}, RULES, "too little time"),
        ({}, snapshot(routes=RULES.catalogue.routes, tenants=(Tenant(id="default", max_cost_micros=100),)), "allowed"),
    ],
)
def test_what_it_may_not_see_or_cost_it_is_not_asked(more: dict[str, Any], rules: Snapshot, reason: str):
    provider = ScriptedProvider()
    made = stage(provider)
    prepared = asyncio.run(made.prepare([asked(**more)], view(rules)))
    opinion = prepared[0].opinion  # type: ignore[attr-defined]
    assert opinion.heard is Heard.BARRED
    assert reason in opinion.reason
    assert not provider.calls


def test_a_model_that_is_not_there_is_said_to_be_so():
    ((_, decision),) = decide(stage(ScriptedProvider(), SETTINGS.model_copy(update={"model": "nobody"})))
    assert told(decision)["heard"] == "failed"
    assert "nobody" in told(decision)["reason"]


def test_the_books_balance_with_its_calls_in_them():
    """What the audit agent tells of the first step holds each call, as often and as dear as the assignment counts."""
    made = stage(ScriptedProvider(says("code"), ProviderError(FailureClass.SERVER, "away")))
    (effects,) = run(made, asked(), rules=RULES)
    (emit,) = effects.outputs
    events = audited(emit)
    calls = [event for event in events if event.event_type is EventType.MODEL_ATTEMPTED]
    assignment = CODEC.decode(Assignment, emit.value)
    assert len(calls) == assignment.attempts == 2
    assert sum(call.billed_micros for call in calls) == assignment.spent_micros == 83
    assert {(call.step_id, call.step_index, call.model) for call in calls} == {("classification", -1, "middle@1")}
    story = tell("r-1", [asdict(event) for event in events])
    assert [event["event_type"] for event in story.events] == [
        EventType.REQUEST_ACCEPTED, EventType.MODEL_ATTEMPTED, EventType.MODEL_ATTEMPTED, EventType.ROUTE_DECIDED,
    ]  # fmt: skip
    assert gaps(story) == ["has no end"]


def audited(emit: Emit) -> list[ProvenanceEvent]:
    audit = AuditStage(CODEC, Names(), ["fast", "balanced", "premium"])
    headers = (*emit.headers, (Name.CONTENT_TYPE.value, emit.content_type.encode()))
    source = InRecord(emit.topic, 0, 1, NOW_MS, 0, emit.key, emit.value, headers)
    effects = audit.handle(source, view(RULES))
    return [CODEC.decode(ProvenanceEvent, each.value) for each in effects.outputs]
