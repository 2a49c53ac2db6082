"""The guardrail on real bytes: release, the next step, and every other end."""

import asyncio
import hashlib
from datetime import timedelta
from typing import Any

import orjson
import pytest
from msgspec.structs import replace

from agents.guardrail.stage import GuardrailStage
from agents.plan import make_slip
from registry.snapshot import Snapshot
from schemas.catalogue import DenyList, Pattern, Plan, Route, Tenant
from schemas.edges import Result
from schemas.enums import DataClass, FinishReason, Outcome, Status
from schemas.errors import OutputRefusedError, TierflowError
from schemas.flow import Assignment, Completion, Slip
from schemas.headers import AVRO, JSON, Name
from schemas.ids import derived_id
from streams.effects import Disposition, Effects, Emit, Stage
from streams.records import InRecord
from streams.retry import Schedule
from tests.agents.deciding import CASCADE, CODEC, NOW_MS, context, record, request, snapshot, step, view, with_policies
from tests.agents.test_results import assignment as any_assignment
from tests.agents.test_results import completion as any_completion

SCHEMA = '{"type": "object", "required": ["age"]}'


def assignment(plan: Plan = CASCADE, index: int = 0, rules: Snapshot | None = None, **more: Any) -> Assignment:
    rules = rules or snapshot(plans=(plan,), routes=(Route(id="all", plans=(plan.id,)),))
    slip = replace(make_slip(plan, rules), index=index)
    at = slip.steps[index]
    parts: dict[str, Any] = {
        "request": b'{"prompt": "How old?"}',
        "slip": CODEC.encode(slip),
        "plan_id": plan.id,
        "step_id": at.step_id,
        "step_index": index,
        "tier": at.tier,
        "deadline_ms": NOW_MS + 60_000,
        "order_relaxed": index > 0,
    }
    return any_assignment(**(parts | more))


def arrived(given: Assignment, *, headers: Any = None, **more: Any) -> InRecord:
    found = any_completion(
        **(
            {
                "assignment": CODEC.encode(given),
                "step_id": given.step_id,
                "step_index": given.step_index,
                "tier": given.tier,
                "mean_logprob": -0.1,
                "agreement": 0.9,
            }
            | more
        )
    )
    return record(
        CODEC.encode(found),
        topic="completions",
        headers=headers or [*context().headers(), (Name.CE_ID.value, b"c-1"), ("traceparent", b"00-t"), ("x", b"y")],
    )


def handle(found: InRecord, rules: Snapshot | None = None, now_ms: int = NOW_MS) -> Effects:
    return GuardrailStage(codec=CODEC).handle(found, view(rules, now_ms=now_ms))


def ended(effects: Effects) -> Result:
    (emit,) = effects.outputs
    assert (emit.topic, emit.key, emit.id) == ("results", b"k", derived_id("result", "r-1"))
    assert emit.causation_id == "c-1"
    return CODEC.decode(Result, emit.value, emit.content_type)


def handed_on(effects: Effects) -> tuple[Emit, Assignment, Slip]:
    (emit,) = effects.outputs
    assert not effects.dead_letters
    following = CODEC.decode(Assignment, emit.value)
    return emit, following, CODEC.decode(Slip, following.slip)


def test_a_good_answer_is_released():
    effects = handle(arrived(assignment()))
    result = ended(effects)
    assert (result.status, result.output, result.error_code) == (Status.ANSWERED, "391", "")
    assert (result.steps, result.escalations, result.attempts) == (1, 0, 5)
    assert result.verdicts[0].score == -0.1
    assert effects.outputs[0].content_type == JSON
    assert effects.outputs[0].value.startswith(b"{")
    assert dict(effects.outputs[0].headers)["traceparent"] == b"00-t"


def test_avro_in_avro_out():
    given = assignment(request=CODEC.encode(request()), request_content_type=AVRO)
    assert handle(arrived(given)).outputs[0].content_type == AVRO


def test_an_unsure_answer_climbs():
    given = assignment(cost_left_micros=100, order_relaxed=False)
    emit, following, slip = handed_on(handle(arrived(given, mean_logprob=-2.0), rules=snapshot(number=9)))
    assert (emit.topic, emit.key, emit.record) == ("tier.balanced", b"k", "assignment")
    assert (emit.id, emit.causation_id) == (derived_id("assignment", "r-1", "1"), "c-1")
    assert "x" not in dict(emit.headers)
    assert (following.step_index, following.step_id, following.parent_step) == (1, "on-balanced", "on-fast")
    assert (slip.index, slip.steps[1].tier, following.tier) == (1, "balanced", "balanced")
    assert (following.spent_micros, following.spent_cpu_us) == (15, 26)
    assert (following.spent_tokens_in, following.spent_tokens_out, following.attempts) == (33, 44, 5)
    assert following.cost_left_micros == 95
    assert (following.registry_chosen, following.registry_checked) == (3, 9)
    assert following.order_relaxed
    assert following.assigned_at_ms == NOW_MS
    (verdict,) = orjson.loads(following.verdicts)
    assert (verdict["check"], verdict["action"], verdict["score"]) == ("logprob/1", "escalate", -2.0)
    same = ("request", "request_content_type", "decision", "plan_id", "plan_hash", "source", "receipt", "deadline_ms")
    for name in (*same, "accepted_at_ms", "task_class"):
        assert getattr(following, name) == getattr(given, name)


def test_a_whole_cascade_ends_with_all_of_it_added_up():
    given = assignment()
    for tier in ("balanced", "premium"):
        emit, given, _ = handed_on(handle(arrived(given, outcome=Outcome.FAILED, failure="timeout")))
        assert emit.topic == f"tier.{tier}"
        assert orjson.loads(given.verdicts)[0]["reason"] == "timeout"
    result = ended(handle(arrived(given)))
    assert (result.status, result.steps, result.escalations, result.attempts) == (Status.ANSWERED, 3, 2, 2 + 9)
    assert (result.cost_micros, result.cpu_us, result.tokens_in, result.tokens_out) == (25, 38, 39, 52)
    assert (result.tier, result.order_relaxed) == ("premium", True)


def test_what_was_forbidden_meanwhile_is_passed_over():
    rules = with_policies(number=4, kill_switch=frozenset({"balanced"}))
    emit, following, slip = handed_on(handle(arrived(assignment(), mean_logprob=-2.0), rules))
    assert (emit.topic, following.step_index, slip.index, len(slip.steps)) == ("tier.premium", 1, 1, 2)
    assert emit.id == derived_id("assignment", "r-1", "1")


def test_rights_are_asked_of_the_latest_snapshot():
    doubted = arrived(assignment(), mean_logprob=-2.0)
    narrow = snapshot(tenants=(Tenant(id="default", tiers=frozenset({"fast"})),))
    result = ended(handle(doubted, narrow))
    assert (result.status, result.error_code) == (Status.FAILED, "guardrail.low-confidence")
    assert "the tenant may not use tier balanced" in result.reason
    restricted = [*context(data_class=DataClass.RESTRICTED).headers(), (Name.CE_ID.value, b"c-1")]
    result = ended(handle(arrived(assignment(), mean_logprob=-2.0, headers=restricted)))
    assert "restricted" in result.reason
    gone = [*context(tenant="gone").headers(), (Name.CE_ID.value, b"c-1")]
    result = ended(handle(arrived(assignment(), mean_logprob=-2.0, headers=gone)))
    assert "may not use" in result.reason


def test_no_step_is_begun_without_money_or_time():
    spent = ended(handle(arrived(assignment(cost_left_micros=5), mean_logprob=-2.0)))
    assert "the cost allowance is used up" in spent.reason
    late = ended(handle(arrived(assignment(deadline_ms=NOW_MS + 999), mean_logprob=-2.0)))
    assert late.status is Status.FAILED
    assert "middle@1 takes 1000 ms and 999 ms are left" in late.reason


def test_an_answer_that_comes_too_late_is_not_released():
    result = ended(handle(arrived(assignment()), now_ms=NOW_MS + 60_000))
    assert (result.status, result.error_code, result.output) == (Status.EXPIRED, "deadline.exceeded", None)
    assert result.cost_micros == 15


@pytest.mark.parametrize(("policy", "status"), [("release", Status.ANSWERED), ("fail", Status.FAILED)])
def test_the_last_step_was_unsure_too(policy: str, status: Status):
    plan = Plan(id="one", pattern=Pattern.ROUTER, steps=(CASCADE.steps[0],))
    result = ended(handle(arrived(assignment(plan), mean_logprob=-2.0), with_policies(on_exhausted=policy)))
    assert result.status is status
    assert (result.output is None) == (status is Status.FAILED)
    assert "logprob" in result.reason
    assert result.verdicts[0].check == "logprob/1"


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ({"output_text": ""}, "guardrail.empty"),
        ({"finish_reason": FinishReason.LENGTH}, "guardrail.truncated"),
        ({"finish_reason": FinishReason.CONTENT_FILTER}, "guardrail.content-filter"),
        ({"outcome": Outcome.TIMEOUT, "failure": "timeout", "error": "after 60 s"}, "provider.timeout"),
    ],
)
def test_what_must_not_be_released_fails_even_where_doubts_are_released(parts: dict[str, Any], code: str):
    plan = Plan(id="one", pattern=Pattern.ROUTER, steps=(step("premium", "large"),))
    result = ended(handle(arrived(assignment(plan), **parts), with_policies(on_exhausted="release")))
    assert (result.status, result.error_code, result.output) == (Status.FAILED, code, None)


def test_a_schema_is_kept():
    given = assignment(request=orjson.dumps({"prompt": "How old?", "output_schema": SCHEMA}), has_output_schema=True)
    _, following, _ = handed_on(handle(arrived(given, output_text="three")))
    assert orjson.loads(following.verdicts)[0]["check"] == "json_schema/1"
    fenced = ended(handle(arrived(given, output_text='```json\n{"age": 3}\n```')))
    assert (fenced.status, fenced.output) == (Status.ANSWERED, '{"age": 3}')
    assert fenced.output_sha256 == hashlib.sha256(b'{"age": 3}').hexdigest()
    assert fenced.verdicts[0].check == "json_schema/1"


def test_a_denied_answer_is_refused_and_no_other_model_is_asked():
    rules = with_policies(deny=(DenyList(id="d", terms=("zebra",), reason="no animals"),))
    result = ended(handle(arrived(assignment(), output_text="a zebra", mean_logprob=-9.0), rules))
    assert (result.status, result.error_code, result.output) == (Status.REFUSED, "policy.denied", None)
    assert result.reason == "deny-list: no animals"


@pytest.mark.parametrize("damage", ["completion", "assignment", "slip", "index"])
def test_what_can_not_be_read_is_a_dead_letter_and_ends_as_failed(damage: str):
    given = assignment()
    if damage == "slip":
        given = replace(given, slip=b"\xc3\x01broken")
    found = arrived(given, **({"step_index": 2} if damage == "index" else {}))
    if damage == "completion":
        found = found._replace(value=b"\xc3\x01broken")
    if damage == "assignment":
        whole = CODEC.decode(Completion, found.value or b"")
        found = found._replace(value=CODEC.encode(replace(whole, assignment=b"nothing")))
    effects = handle(found)
    result = ended(effects)
    assert (result.status, result.error_code) == (Status.FAILED, "input.undecodable")
    assert effects.dead_letters[0].disposition is Disposition.POISON
    assert (result.accepted_at_ms, result.source) == (
        (NOW_MS - 900, "requests/2/7") if damage in {"slip", "index"} else (0, "")
    )


def test_a_receipt_that_can_not_be_given_back_still_ends_as_failed():
    found = arrived(assignment(receipt="[]"))
    stage = GuardrailStage(codec=CODEC)
    with pytest.raises(AttributeError):
        stage.handle(found, view())
    effects = stage.fail(found, view(), TierflowError("AttributeError in guardrail"))
    assert effects.dead_letters[0].disposition is Disposition.EXHAUSTED
    (emit,) = effects.outputs
    result = CODEC.decode(Result, emit.value, emit.content_type)
    assert (result.request_id, result.status) == (context().request_id, Status.FAILED)


def test_a_record_that_was_never_a_request_s_is_only_a_dead_letter():
    effects = handle(record(b"junk", topic="completions", headers=()))
    assert not effects.outputs
    assert effects.dead_letters[0].code == "input.undecodable"


def test_giving_up():
    effects = GuardrailStage(codec=CODEC).fail(arrived(assignment()), view(), OutputRefusedError(0, "too large"))
    result = ended(effects)
    assert (result.status, result.error_code, result.output) == (Status.FAILED, "delivery.output-refused", None)
    assert (result.cost_micros, result.plan_id) == (15, "cascade")
    assert effects.dead_letters[0].disposition is Disposition.EXHAUSTED


def test_the_same_record_gives_the_same_bytes_whatever_came_before():
    stage = GuardrailStage(codec=CODEC)
    doubted, good = arrived(assignment(), mean_logprob=-2.0), arrived(assignment())
    first = [stage.handle(found, view()) for found in (doubted, good)]
    assert first == [stage.handle(found, view()) for found in (doubted, good)]
    assert first == [handle(found) for found in (doubted, good)]


def test_the_stage_as_the_loop_sees_it():
    stage: Stage[Snapshot] = GuardrailStage(codec=CODEC)
    assert (stage.name, stage.inputs, stage.concurrency) == ("guardrail", ("completions",), 0)
    asyncio.run(stage.prepare([], view()))


SCHEDULE = Schedule(delays=(timedelta(seconds=10), timedelta(minutes=1)), max_age=timedelta(hours=1))


def ruled(found: InRecord, now_ms: int = NOW_MS) -> Effects:
    return GuardrailStage(codec=CODEC, retries=SCHEDULE).handle(found, view(now_ms=now_ms))


def last_step(**changes) -> Assignment:
    """An assignment whose plan has no further step."""
    given = assignment()
    for _ in range(2):
        _, given, _ = handed_on(handle(arrived(given, outcome=Outcome.FAILED, failure="server")))
    return replace(given, **{"deadline_ms": NOW_MS + 600_000, "accepted_at_ms": NOW_MS, **changes})


@pytest.mark.parametrize("failure", ["rate_limit", "server", "timeout", "connection"])
def test_what_passes_by_itself_waits_in_a_retry_topic(failure):
    given = last_step()
    effects = ruled(arrived(given, outcome=Outcome.FAILED, failure=failure))
    (emit,) = effects.outputs
    headers = dict(emit.headers)
    waiting = CODEC.decode(Assignment, emit.value)
    assert (emit.topic, emit.key, headers["tierflow.retry-to"]) == ("retry.10s", b"k", b"tier.premium")
    assert headers["tierflow.attempt"] == b"2"
    assert NOW_MS + 10_000 <= int(headers["tierflow.due"]) <= NOW_MS + 12_000
    assert (waiting.step_index, waiting.parent_step, waiting.slip) == (2, waiting.step_id, given.slip)
    assert waiting.attempts > given.attempts
    assert waiting.spent_micros > given.spent_micros
    assert waiting.order_relaxed


@pytest.mark.parametrize("failure", ["auth", "bad_request", "bad_output", "unknown", "context_overflow", ""])
def test_what_does_not_pass_ends(failure):
    assert ended(ruled(arrived(last_step(), outcome=Outcome.FAILED, failure=failure))).status is Status.FAILED


def test_another_step_of_the_plan_comes_first():
    emit, _, _ = handed_on(ruled(arrived(assignment(), outcome=Outcome.FAILED, failure="server")))
    assert emit.topic == "tier.balanced"


def test_it_is_handed_out_when_it_is_due_and_not_before():
    failed = arrived(last_step(), outcome=Outcome.FAILED, failure="server")
    (wait,) = ruled(failed).outputs
    waiting = record(wait.value, topic="retry.10s", headers=[*wait.headers, (Name.CE_ID.value, wait.id.encode())])
    due = int(dict(wait.headers)["tierflow.due"])
    early = ruled(waiting, now_ms=due - 1)
    assert (early.done, early.not_before_ms, early.outputs) == (False, due, ())
    (emit,) = ruled(waiting, now_ms=due).outputs
    headers = dict(emit.headers)
    assert (emit.topic, emit.value, emit.key) == ("tier.premium", wait.value, waiting.key)
    assert headers["tierflow.attempt"] == b"2"
    assert "tierflow.due" not in headers
    assert emit.id not in {wait.id, derived_id("assignment", "r-1", "2")}


def test_tries_age_and_deadline_are_bounds():
    def again(tries: int, now_ms: int = NOW_MS, **changes) -> str:
        found = arrived(last_step(**changes), outcome=Outcome.FAILED, failure="server")
        headers = (*found.headers, (Name.ATTEMPT.value, b"%d" % tries))
        return ruled(found._replace(headers=headers), now_ms=now_ms).outputs[0].topic

    assert again(2) == "retry.1m"
    assert again(3) == "results"
    assert again(2, accepted_at_ms=NOW_MS - 3_590_000) == "results"
    assert again(2, deadline_ms=NOW_MS + 59_000) == "results"


def test_a_damaged_due_time_is_a_dead_letter_and_a_failed_result():
    (wait,) = ruled(arrived(last_step(), outcome=Outcome.FAILED, failure="server")).outputs
    headers = [pair for pair in wait.headers if pair[0] != Name.DUE.value]
    effects = ruled(record(wait.value, topic="retry.10s", headers=[*headers, (Name.DUE.value, b"soon")]))
    assert effects.dead_letters[0].code == "input.undecodable"
    result = CODEC.decode(Result, effects.outputs[0].value, effects.outputs[0].content_type)
    assert (result.status, result.attempts) == (Status.FAILED, CODEC.decode(Assignment, wait.value).attempts)
