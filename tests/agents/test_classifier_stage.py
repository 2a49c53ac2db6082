"""The classifier on real bytes, with the real receiver: what goes on, what ends at intake, and how."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import orjson
import pytest

from agents.classifier.intake import Arrival
from agents.classifier.stage import ClassifierStage
from agents.signals import Signals
from registry.snapshot import Snapshot
from schemas.catalogue import DenyList, Intake, Rule, Tenant
from schemas.codec import Codec
from schemas.edges import Request, Result
from schemas.enums import Action, DataClass, EventType, Status, TaskClass
from schemas.errors import OutputRefusedError, StateStoreError
from schemas.fakes import MemoryState
from schemas.flow import Assignment, Decision, ProvenanceEvent, Slip
from schemas.headers import AVRO, JSON, Header, Name
from schemas.ids import derived_id, id_from_coordinates
from streams.effects import Disposition, Effects, Emit, Stage
from streams.receiver import Receiver
from streams.records import InRecord
from streams.topics import Names
from tests.agents.deciding import CODEC, MODE, NOW_MS, record, request, snapshot, view, with_policies

ASK = {"prompt": "What is 17 times 23?"}
ID = (Name.REQUEST_ID.value, b"r-1")


def make(store: MemoryState | None = None, **more: Any) -> ClassifierStage:
    return ClassifierStage(codec=CODEC, receiver=Receiver(store or MemoryState(), timedelta(days=1)), **more)


def run(
    stage: ClassifierStage, *records: InRecord, rules: Snapshot | None = None, now_ms: int = NOW_MS
) -> list[Effects]:
    """As the loop does: prepare the batch, then handle one after the other."""
    prepared = asyncio.run(stage.prepare(records, view(rules, now_ms=now_ms)))
    return [
        stage.handle(each, view(rules, now_ms=now_ms, prepared=found))
        for each, found in zip(records, prepared, strict=True)
    ]


def one(*headers: Header, value: Mapping[str, Any] | bytes | None = None, rules: Snapshot | None = None) -> Effects:
    (effects,) = run(make(), record(ASK if value is None else value, headers=headers or (ID,)), rules=rules)
    return effects


def result_of(effects: Effects) -> Result:
    (emit,) = effects.outputs
    assert emit.topic == "results"
    return CODEC.decode(Result, emit.value, emit.content_type)


def test_a_request_that_is_nested_too_deeply_is_refused_and_stops_nobody():
    deep = b'{"prompt": "hi", "output_schema": ' + b'{"a":' * 300 + b"1" + b"}" * 300 + b"}"
    records = [
        record(value, headers=((Name.REQUEST_ID.value, name),)) for name, value in ((b"r-1", deep), (b"r-2", ASK))
    ]
    refused, handed_out = run(make(), *records)
    assert (result_of(refused).status, result_of(refused).error_code) == (Status.REFUSED, "input.invalid")
    assert assigned(handed_out)[1].request_id == "r-2"


def assigned(effects: Effects) -> tuple[Emit, Assignment]:
    (emit,) = effects.outputs
    assert not effects.dead_letters
    return emit, CODEC.decode(Assignment, emit.value)


def test_a_request_goes_to_a_tier():
    emit, assignment = assigned(
        one(
            ID,
            (Name.CE_ID.value, b"ce-1"),
            (Name.DEADLINE.value, b"%d" % (NOW_MS + 9_000)),
            ("mine", b"not handed on"),
            value={**ASK, "session": "s-1", "metadata": {"ticket": "7"}, "cost_limit_micros": 5_000},
        )
    )
    assert (emit.topic, emit.key, emit.record) == ("tier.fast", b"k", "assignment")
    assert (emit.id, emit.causation_id) == (derived_id("assignment", "r-1", "0"), "ce-1")
    assert emit.content_type == CODEC.content_type
    headers = dict(emit.headers)
    assert headers[Name.REQUEST_ID.value] == b"r-1"
    assert headers[Name.TENANT.value] == b"default"
    assert headers[Name.DEADLINE.value] == b"%d" % (NOW_MS + 9_000)
    assert "mine" not in headers
    assert orjson.loads(assignment.request)["prompt"] == ASK["prompt"]
    assert assignment.request_content_type == JSON
    assert (assignment.step_index, assignment.parent_step, assignment.tier) == (0, "", "fast")
    assert (assignment.accepted_at_ms, assignment.deadline_ms) == (NOW_MS, NOW_MS + 9_000)
    assert assignment.cost_left_micros == 5_000
    assert assignment.source == "requests/2/7"
    assert orjson.loads(assignment.receipt) == {
        "metadata": {"ticket": "7"},
        "session": "s-1",
        "route": "all",
        "currency": "USD",
    }
    slip = CODEC.decode(Slip, assignment.slip)
    decision = CODEC.decode(Decision, assignment.decision)
    assert (slip.plan_id, slip.index, slip.steps[0].tier) == (decision.plan_id, 0, decision.tier)
    assert (slip.steps[0].step_id, slip.plan_hash) == (assignment.step_id, assignment.plan_hash)
    assert decision.task_class is TaskClass.MATH
    assert not assignment.has_output_schema


def test_a_handled_record_gives_the_same_bytes_again():
    store = MemoryState()
    first, again = (run(make(store), record(ASK))[0].outputs for _ in range(2))
    assert first == again


def test_without_a_key_the_request_id_is_the_key_and_without_an_id_the_place_is():
    place = id_from_coordinates("requests", 2, 7)
    (effects,) = run(make(), record(ASK, key=None, headers=()))
    emit, assignment = assigned(effects)
    assert assignment.request_id == place
    assert emit.key == place.encode()
    assert emit.causation_id == place


def test_an_avro_request_and_a_prefix():
    stage = make(names=Names("try-"))
    raw = CODEC.encode(request("What is 17 times 23?"))
    for headers in ((ID, (Name.CONTENT_TYPE.value, AVRO.encode())), ((Name.REQUEST_ID.value, b"r-2"),)):
        (effects,) = run(stage, record(raw, topic="try-requests", headers=headers))
        emit, assignment = assigned(effects)
        assert assignment.request_content_type == AVRO
        assert emit.topic == "tier.fast"
        assert CODEC.decode(Request, assignment.request, AVRO).messages[0].parts[0].text == "What is 17 times 23?"


@pytest.mark.parametrize(
    ("value", "headers", "told"),
    [
        (b'{"prompt": "x', (), "byte"),
        (b"[1, 2]", (), "a JSON object is wanted"),
        (b"\xc3\x01\x00\x00", (), "byte 4"),
        (b"\xff\xfe", (), "byte 0"),
        (b"", (), "empty"),
        (b"hello", ((Name.CONTENT_TYPE.value, b"text/plain"),), "text/plain"),
    ],
)
def test_what_is_no_request_is_a_dead_letter_and_nothing_else(value: bytes, headers: Sequence[Header], told: str):
    store = MemoryState()
    (effects,) = run(make(store), record(value, headers=(ID, *headers)))
    assert not effects.outputs
    (letter,) = effects.dead_letters
    assert (letter.code, letter.disposition) == ("input.undecodable", Disposition.POISON)
    assert told in letter.message
    # It was never accepted: the id is still free for the request that was meant.
    assigned(run(make(store), record(ASK, offset=8))[0])


def test_a_record_without_value_is_a_dead_letter():
    (effects,) = run(make(), record(None))
    assert effects.dead_letters[0].message == "byte 0: the record has no value"


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"prompt": 5}, "prompt"),
        ({"promt": "x"}, "promt"),
        ({"prompt": " "}, "prompt"),
        ({"messages": []}, "messages"),
        ({**ASK, "task_hint": "cooking"}, "task_hint"),
        ({**ASK, "sampling": {"temperature": 9}}, "sampling.temperature"),
        ({**ASK, "output_schema": {"type": "nonsense"}}, "output_schema"),
        ({**ASK, "cancel_of": "r-0"}, "cancel_of"),
        ({**ASK, "delivery": "stream"}, "delivery"),
        ({**ASK, "cost_limit_micros": 5, "cost_currency": "EUR"}, "cost_currency"),
        ({**ASK, "idempotency_key": "a", "idempotency_scope": "session"}, "idempotency_scope"),
    ],
)
def test_a_wrong_field_is_refused_by_name(value: Mapping[str, Any], field: str):
    result = result_of(one(value=value))
    assert (result.status, result.error_code, result.steps) == (Status.REFUSED, "input.invalid", 0)
    assert field in result.reason
    assert result.request_id == "r-1"
    assert result.source == "requests/2/7"


@pytest.mark.parametrize(
    ("header", "named"),
    [
        ((Name.REQUEST_ID.value, b"has space"), "request-id"),
        ((Name.REQUEST_ID.value, b"\xff"), "request-id"),
        ((Name.DEADLINE.value, b"tomorrow"), "deadline"),
        ((Name.PRIORITY.value, b"12"), "priority"),
        ((Name.DATA_CLASS.value, b"secret"), "data-class"),
        ((Name.TENANT.value, b"x" * 1_000), "tenant"),
        ((Name.CONTENT_TYPE.value, b"\xff\xff"), "content-type"),
    ],
)
def test_a_wrong_header_is_refused_by_name(header: Header, named: str):
    result = result_of(one(header))
    assert (result.status, result.error_code) == (Status.REFUSED, "input.invalid")
    assert named in result.reason
    assert result.request_id == id_from_coordinates("requests", 2, 7)


def test_too_many_headers():
    result = result_of(one(*[(f"h{number}", b"") for number in range(200)]))
    assert (result.status, result.error_code) == (Status.REFUSED, "input.invalid")
    assert "200" in result.reason


def test_too_large():
    rules = with_policies(max_inline_bytes=1_000)
    result = result_of(one(value={"prompt": "x" * 5_000}, rules=rules))
    assert (result.status, result.error_code) == (Status.REFUSED, "input.too-large")
    result = result_of(one(value={"prompt": "x" * 5_000}, rules=with_policies(max_prompt_chars=4_999)))
    assert (result.status, result.error_code) == (Status.REFUSED, "input.too-large")
    assert "5000 characters" in result.reason


DENY = DenyList(id="names", terms=("project zebra",), applies_to=frozenset({"input"}), reason="not to be named")


def test_what_is_denied_is_refused_without_repeating_it():
    rules = with_policies(deny=(DENY,))
    result = result_of(one(value={"prompt": "Tell me of Project  Zebra now"}, rules=rules))
    assert (result.status, result.error_code) == (Status.REFUSED, "policy.denied")
    assert result.reason == "deny list names: not to be named"
    schema = {"prompt": "What is it?", "output_schema": {"description": "Project Zebra", "type": "string"}}
    assert result_of(one(value=schema, rules=rules)).reason == "deny list names: not to be named"
    hidden = {
        "messages": [
            {"role": "system", "content": "project zebra is the topic"},
            {"role": "user", "content": "What is the topic?"},
        ]
    }
    assert result_of(one(value=hidden, rules=rules)).status is Status.REFUSED
    assigned(one(value={"prompt": "Tell me of a zebra project"}, rules=rules))
    output_only = DENY.model_copy(update={"applies_to": frozenset({"output"})})
    assigned(one(value={"prompt": "Project Zebra"}, rules=with_policies(deny=(output_only,))))


@pytest.mark.parametrize("action", list(Action))
def test_actions_of_rules(action: Action):
    rule = Rule(id="weapon", pattern="weapon", action=action, task_class=TaskClass.CHAT, reason="no weapons")
    effects = one(value={"prompt": "Build a WEAPON"}, rules=with_policies(rules=(rule,)))
    if action in {Action.ALLOW, Action.OBSERVE}:
        decision = CODEC.decode(Decision, assigned(effects)[1].decision)
        assert (decision.rule_id, decision.task_class) == ("weapon", TaskClass.CHAT)
        return
    result = result_of(effects)
    assert (result.status, result.error_code) == (Status.REFUSED, "policy.denied")
    assert ("no weapons" if action is Action.REFUSE else f"asks to {action.value}") in result.reason


def test_tenants():
    tenant = (Name.TENANT.value, b"ghost")
    assert "tenant ghost is not known" in result_of(one(ID, tenant)).reason
    closed = snapshot(intake=(Intake(topic="requests", trust_tenant_header=False),))
    emit, _ = assigned(one(ID, tenant, rules=closed))
    assert dict(emit.headers)[Name.TENANT.value] == b"default"
    careful = snapshot(tenants=(Tenant(id="default", data_classes=frozenset({DataClass.PUBLIC})),))
    result = result_of(one(rules=careful))
    assert (result.error_code, result.reason) == ("policy.denied", "tenant default may not send internal content")


def test_a_topic_that_is_no_intake_topic():
    result = result_of(one(rules=snapshot(intake=(Intake(topic="other"),))))
    assert (result.status, result.error_code) == (Status.REFUSED, "policy.denied")
    assert "requests is no intake topic" in result.reason


def test_deadlines():
    over = result_of(one(ID, (Name.DEADLINE.value, b"%d" % (NOW_MS - 1))))
    assert (over.status, over.error_code) == (Status.EXPIRED, "deadline.exceeded")
    impossible = result_of(one(ID, (Name.DEADLINE.value, b"%d" % (NOW_MS + 100))))
    assert (impossible.status, impossible.error_code) == (Status.REFUSED, "deadline.impossible")
    waited = result_of(one(value={**ASK, "latency_budget_ms": 4}))  # the record is 5 ms old
    assert waited.status is Status.EXPIRED
    fresh, _ = assigned(one(value={**ASK, "latency_budget_ms": 5_000, "budget_clock": "intake"}))
    assert dict(fresh.headers)[Name.DEADLINE.value] == b"%d" % (NOW_MS + 5_000)


def test_nobody_to_work_for_it():
    stage = make(signals=lambda: Signals(live_tiers=frozenset({"nowhere"})))
    result = result_of(run(stage, record(ASK))[0])
    assert (result.status, result.error_code) == (Status.FAILED, "routing.no-candidate")
    assert "nobody works on tier fast" in result.reason


def test_the_same_id_elsewhere_is_an_event_and_no_result():
    store = MemoryState()
    first, copy = run(make(store), record(ASK, offset=7), record(ASK, offset=8, headers=(ID, (Name.CE_ID.value, b"c"))))
    assigned(first)
    (emit,) = copy.outputs
    assert (emit.topic, emit.key) == ("provenance", b"r-1")
    event = CODEC.decode(ProvenanceEvent, emit.value)
    assert event.event_type is EventType.REQUEST_DUPLICATE
    assert (event.request_id, event.src_offset, event.delivery_mode) == ("r-1", 8, MODE.value)
    assert orjson.loads(event.detail) == {"first": "requests/2/7", "ce_id": "c"}
    assert emit.id == event.event_id
    (third,) = run(make(store), record(ASK, offset=9))
    assert third.outputs[0].id != emit.id
    assigned(run(make(store), record(ASK, offset=7))[0])


def test_a_refused_request_has_one_result_only_too():
    store = MemoryState()
    effects = run(make(store), record({"prompt": 5}, offset=7), record({"prompt": 5}, offset=8))
    assert [each.outputs[0].topic for each in effects] == ["results", "provenance"]


def keyed(request_id: str, **more: Any) -> InRecord:
    tenant = more.pop("tenant", "default").encode()
    return record(
        {**ASK, "idempotency_key": "order-1", **more},
        offset=int(request_id),
        headers=((Name.REQUEST_ID.value, request_id.encode()), (Name.TENANT.value, tenant)),
    )


def test_an_idempotency_key_answers_once():
    store = MemoryState()
    stage = make(store)
    first, second = run(stage, keyed("1"), keyed("2"))
    assigned(first)
    result = result_of(second)
    assert (result.request_id, result.status, result.duplicate_of) == ("2", Status.DUPLICATE, "1")
    assigned(run(stage, keyed("1"))[0])
    assigned(run(stage, keyed("3", tenant="narrow"))[0])
    assigned(run(stage, keyed("4", idempotency_scope="session", session="a"))[0])
    assigned(run(stage, keyed("5", idempotency_scope="session", session="b"))[0])
    assert result_of(run(stage, keyed("6", idempotency_scope="session", session="a"))[0]).duplicate_of == "4"
    assigned(run(stage, keyed("7", idempotency_scope="global"))[0])
    assert result_of(run(stage, keyed("8", idempotency_scope="global", tenant="narrow"))[0]).duplicate_of == "7"


def test_a_request_that_is_refused_does_not_hold_the_key():
    store = MemoryState()
    stage = make(store)
    assert result_of(run(stage, keyed("1", task_hint="cooking"))[0]).status is Status.REFUSED
    assigned(run(stage, keyed("2"))[0])


def test_one_round_trip_for_a_batch_and_none_decided_while_the_store_is_away():
    store = MemoryState()
    stage = make(store)
    batch = [record(ASK, offset=number, headers=((Name.REQUEST_ID.value, b"%d" % number),)) for number in range(50)]
    store.failing = True
    with pytest.raises(StateStoreError):
        asyncio.run(stage.prepare(batch, view()))
    store.failing = False
    before = store.operations
    assert all(each.outputs[0].topic == "tier.fast" for each in run(stage, *batch))
    assert store.operations - before <= len(batch)


def test_giving_up_is_a_dead_letter_and_a_failed_result():
    stage = make()
    error = OutputRefusedError(0, "too large")
    effects = stage.fail(record(ASK), view(), error)
    result = result_of(effects)
    assert (result.status, result.error_code) == (Status.FAILED, "delivery.output-refused")
    assert (effects.dead_letters[0].code, effects.dead_letters[0].disposition) == (
        "delivery.output-refused",
        Disposition.EXHAUSTED,
    )
    assert not stage.fail(record(b"nonsense"), view(), error).outputs
    store = MemoryState()
    _, copy = (record(ASK, offset=offset) for offset in (7, 8))
    prepared = asyncio.run(make(store).prepare([record(ASK, offset=7), copy], view()))
    assert not stage.fail(copy, view(prepared=prepared[1]), error).outputs


def test_giving_up_never_raises():
    class Broken(Codec):
        def encode_as(self, record: Any, content_type: str) -> bytes:
            raise ValueError("no")

    stage = ClassifierStage(codec=Broken(), receiver=Receiver(MemoryState(), timedelta(days=1)))
    effects = stage.fail(record(ASK), view(), OutputRefusedError(0, "x"))
    assert not effects.outputs
    assert len(effects.dead_letters) == 1


def test_the_stage_as_the_loop_sees_it():
    stage: Stage[Snapshot] = make(intake=("a", "b"))
    assert (stage.name, stage.inputs, stage.concurrency) == ("classifier", ("a", "b"), 0)
    (arrival,) = asyncio.run(make().prepare([record(ASK)], view()))
    assert isinstance(arrival, Arrival)


def test_an_output_schema_is_noted():
    _, assignment = assigned(one(value={**ASK, "output_schema": {"type": "object"}}))
    assert assignment.has_output_schema


def test_a_new_snapshot_gives_new_slips():
    stage = make()
    _, before = assigned(run(stage, record(ASK, offset=1, headers=((Name.REQUEST_ID.value, b"1"),)))[0])
    rules = with_policies(number=2, kill_switch=frozenset({"small"}))
    _, after = assigned(run(stage, record(ASK, offset=2, headers=((Name.REQUEST_ID.value, b"2"),)), rules=rules)[0])
    assert (before.registry_chosen, after.registry_chosen) == (1, 2)
    assert before.tier == "fast"
    assert after.tier != "fast"
    assert all("small@1" not in step.models for step in CODEC.decode(Slip, after.slip).steps)
