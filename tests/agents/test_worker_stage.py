"""A step from Assignment to Completion over real HTTP: every failure, exact accounts of calls, deadlines, rules."""

import asyncio
from datetime import timedelta

import orjson
import pytest

from agents.worker.stage import SNAPSHOT_WAIT
from registry.snapshot import Snapshot
from schemas.catalogue import Policies
from schemas.clock import SystemClock
from schemas.enums import DataClass, FinishReason, Outcome, Status
from schemas.errors import StateStoreError, TierflowError, UndecodableError
from schemas.fakes import MemoryState, ScriptedProvider
from schemas.flow import Completion
from schemas.headers import Name
from schemas.ids import derived_id
from schemas.ports import ModelAnswer
from streams.effects import Stage
from streams.errors import EffectsRefusedError
from tests.agents.worker_parts import (
    CODEC,
    FREE,
    a_model,
    a_record,
    a_request,
    a_snapshot,
    an_assignment,
    attempts_of,
    result_of,
    worker,
)
from tests.doubles.model_server import ModelServer, Reply, Trick, error

USAGE = {"prompt_tokens": 12, "completion_tokens": 3}


@pytest.fixture
async def server():
    async with ModelServer(default=Reply(text="42", usage=USAGE)) as server:
        yield server


async def test_an_answer_becomes_a_completion_with_its_attempt(server):
    snapshot = a_snapshot(step={"accept": {"min_logprob": -1.0}})
    assignment = an_assignment(snapshot)
    record = a_record(assignment)
    async with worker(url=server.base_url, snapshot=snapshot) as here:
        effects = await here.effects(record)
    (emit,) = effects.outputs
    assert (emit.topic, emit.key, emit.record) == ("completions", b"key", "completion")
    assert emit.id == derived_id("completion", "r-1", "0")
    assert emit.causation_id == "ce-1"
    assert dict(emit.headers)[Name.REQUEST_ID] == b"r-1"
    assert Name.CE_ID not in dict(emit.headers)
    done = CODEC.decode(Completion, emit.value)
    assert done.assignment == record.value
    assert (done.outcome, done.failure, done.output_text, done.model) == (Outcome.OK, "", "42", "first@1")
    assert (done.finish_reason, done.tokens_in, done.tokens_out) == (FinishReason.STOP, 12, 3)
    assert done.mean_logprob == pytest.approx(-0.2)
    assert done.min_logprob == -0.3
    assert (done.billed_micros, done.agreement, done.registry_checked) == (18, None, 1)
    (attempt,) = attempts_of(done)
    assert (attempt.number, attempt.outcome, attempt.claim_owner) == (1, Outcome.OK, "worker-1")
    assert (attempt.requested_model, attempt.responding_model, attempt.provider) == ("first@1", "first", "default")
    assert (attempt.estimated_micros, attempt.billed_micros, attempt.price_version) == (216, 18, "2026-01")
    assert attempt.provider_request_id == "req-1"
    assert server.by_key == {attempt.operation_key: 1}


RETRIED = {
    "rate limit": (error(429, retry_after="0"), "rate_limit"),
    "server": (error(500), "server"),
    "overloaded": (error(503), "server"),
    "gateway timeout": (error(504), "timeout"),
    "stall": (Reply(trick=Trick.STALL), "timeout"),
    "drip": (Reply(trick=Trick.DRIP, latency_s=0.05), "timeout"),
    "hang up": (Reply(trick=Trick.HANG_UP), "connection"),
    "half": (Reply(trick=Trick.HALF), "connection"),
}
FALLEN_BACK = {
    "overflow": (error(400, "context_length_exceeded"), "context_overflow"),
    "refusal": (error(400, "content_filter"), "content_refusal"),
    "filtered": (Reply(finish="content_filter"), "content_refusal"),
    "empty body": (Reply(trick=Trick.EMPTY), "bad_output"),
    "no json": (Reply(body=b"<html>"), "bad_output"),
    "wrong schema": (Reply(changes={"choices": None}), "bad_output"),
    "no text": (Reply(text=" \n"), "bad_output"),
}
ENDED = {
    "auth": (error(401), "auth"),
    "bad request": (error(400), "bad_request"),
    "unknown model": (error(404), "bad_request"),
}
IMPATIENT = {"timeout": timedelta(seconds=1)}


@pytest.mark.parametrize("name", RETRIED)
async def test_what_may_pass_is_tried_again_and_then_elsewhere(server, name):
    reply, failure = RETRIED[name]
    server.play(reply, reply, reply, model="first")
    async with worker(url=server.base_url, snapshot=a_snapshot(step=IMPATIENT)) as here:
        done = await here.completion(a_record(an_assignment(here.holder.current)))
    attempts = attempts_of(done)
    assert [attempt.requested_model for attempt in attempts] == ["first@1"] * 3 + ["second@1"]
    assert [attempt.failure for attempt in attempts] == [failure] * 3 + [""]
    assert [attempt.number for attempt in attempts] == [1, 2, 3, 4]
    assert {attempt.outcome for attempt in attempts[:3]} == {
        Outcome.TIMEOUT if failure == "timeout" else Outcome.FAILED
    }
    assert (done.outcome, done.model, done.output_text) == (Outcome.OK, "second@1", "42")
    assert server.by_model == {"first": 3, "second": 1}
    assert sorted(server.by_key.values()) == [
        1,
        3,
    ]  # each try of a call under its own key, another model's under another


@pytest.mark.parametrize("name", FALLEN_BACK)
async def test_what_will_not_pass_goes_to_the_next_model_at_once(server, name):
    reply, failure = FALLEN_BACK[name]
    server.play(reply, model="first")
    async with worker(url=server.base_url) as here:
        done = await here.completion(a_record(an_assignment(here.holder.current)))
    assert [attempt.failure for attempt in attempts_of(done)] == [failure, ""]
    assert (done.outcome, done.model) == (Outcome.OK, "second@1")
    assert server.by_model == {"first": 1, "second": 1}


@pytest.mark.parametrize("name", ENDED)
async def test_what_somebody_has_to_mend_ends_the_step(server, name):
    reply, failure = ENDED[name]
    server.play(reply, model="first")
    async with worker(url=server.base_url) as here:
        done = await here.completion(a_record(an_assignment(here.holder.current)))
    assert (done.outcome, done.failure, done.output_text, done.model) == (Outcome.FAILED, failure, "", "")
    assert len(done.attempts) == server.calls == 1
    assert "default: status" in done.error


async def test_a_burst_of_errors_is_waited_out(server):
    server.play(error(500), error(500))
    async with worker(url=server.base_url) as here:
        done = await here.completion(a_record(an_assignment(here.holder.current)))
    assert (done.outcome, done.model, len(done.attempts), server.calls) == (Outcome.OK, "first@1", 3, 3)


async def test_a_step_without_an_answer_tells_every_try(server):
    server.default = error(500)
    async with worker(url=server.base_url) as here:
        done = await here.completion(a_record(an_assignment(here.holder.current)))
    assert (done.outcome, done.failure) == (Outcome.FAILED, "server")
    assert "3 tries" in done.error
    assert len(done.attempts) == server.calls == 9
    assert done.billed_micros == 0


async def test_what_the_provider_was_paid_for_is_billed_though_it_is_no_answer(server):
    server.play(Reply(finish="content_filter", usage=USAGE), model="first")
    async with worker(url=server.base_url) as here:
        done = await here.completion(a_record(an_assignment(here.holder.current)))
    assert [attempt.billed_micros for attempt in attempts_of(done)] == [18, 18]
    assert (done.billed_micros, done.tokens_in) == (36, 24)


async def test_a_call_given_up_by_time_keeps_its_reserved_cost(server):
    server.play(Reply(trick=Trick.STALL), model="first")
    async with worker(url=server.base_url, snapshot=a_snapshot(step=IMPATIENT)) as here:
        done = await here.completion(a_record(an_assignment(here.holder.current)))
    assert [attempt.billed_micros for attempt in attempts_of(done)] == [216, 18]


async def test_the_allowance_holds_for_the_whole_chain(server):
    server.play(Reply(trick=Trick.STALL), model="first")
    async with worker(url=server.base_url, snapshot=a_snapshot(step=IMPATIENT)) as here:
        assignment = an_assignment(here.holder.current, cost_left_micros=300)
        done = await here.completion(a_record(assignment))
    assert (done.outcome, done.failure, len(done.attempts)) == (Outcome.TIMEOUT, "timeout", 1)
    assert "allowance is used up" in done.error
    assert server.calls == 1


async def test_no_allowance_no_call(server):
    async with worker(url=server.base_url) as here:
        done = await here.completion(a_record(an_assignment(here.holder.current, cost_left_micros=10)))
    assert (done.outcome, done.failure, done.attempts, server.calls) == (Outcome.FAILED, "allowance", (), 0)


async def test_a_forbidden_model_is_passed_over_also_when_it_was_chosen_before(server):
    chosen = a_snapshot(1)
    async with worker(url=server.base_url, snapshot=chosen) as here:
        here.holder.offer(a_snapshot(2, policies=Policies(kill_switch=frozenset({"first"}))))
        done = await here.completion(a_record(an_assignment(chosen)))
    assert (done.model, done.registry_checked, server.by_model) == ("second@1", 2, {"second": 1})


async def test_nothing_is_called_where_all_is_forbidden(server):
    chosen = a_snapshot(1)
    async with worker(url=server.base_url, snapshot=chosen) as here:
        here.holder.offer(a_snapshot(2, policies=Policies(kill_switch=frozenset({"fast"}))))
        done = await here.completion(a_record(an_assignment(chosen)))
    assert (done.outcome, done.failure, done.attempts, server.calls) == (Outcome.FAILED, "prohibited", (), 0)
    assert "kill switch on fast" in done.error


async def test_content_that_a_model_may_not_see_stays_here(server):
    async with worker(url=server.base_url) as here:
        record = a_record(an_assignment(here.holder.current), data_class=DataClass.RESTRICTED)
        done = await here.completion(record)
    assert (done.failure, server.calls) == ("prohibited", 0)


async def test_a_retry_is_not_made_once_the_model_is_forbidden(server):
    server.default = error(500)
    later = a_snapshot(2, policies=Policies(kill_switch=frozenset({"first", "second", "third"})))

    async def forbid(pause):
        here.holder.offer(later)

    async with worker(url=server.base_url, sleep=forbid) as here:
        done = await here.completion(a_record(an_assignment(here.holder.current)))
    assert (done.failure, len(done.attempts), server.calls) == ("prohibited", 1, 1)


async def test_a_request_that_came_too_late_ends_here_without_a_call(server):
    state = MemoryState(SystemClock())
    async with worker(state, url=server.base_url) as here:
        record = a_record(an_assignment(here.holder.current, deadline_s=-1))
        for _ in range(2):  # delivered again: the same end, and no call that nobody made
            effects = await here.effects(record)
            result = result_of(effects)
            assert (result.status, result.error_code, result.attempts) == (Status.EXPIRED, "deadline.exceeded", 0)
            assert effects.outputs[0].id == derived_id("result", "r-1")
            assert result.source == "requests/0/7"
    assert server.calls == 0


async def test_a_call_ends_with_the_deadline_and_is_told(server):
    server.default = Reply(trick=Trick.STALL)
    async with worker(url=server.base_url) as here:
        done = await here.completion(a_record(an_assignment(here.holder.current, deadline_s=2)))
    assert (done.outcome, done.failure, len(done.attempts)) == (Outcome.TIMEOUT, "timeout", 1)
    assert server.calls == 1


async def test_no_call_is_made_when_the_deadline_passed_while_the_state_store_was_away(server):
    server.play(error(500), model="first")
    server.default = Reply(trick=Trick.STALL)
    state = MemoryState(SystemClock())
    away = 0.0

    async def sleep(duration: timedelta) -> None:
        nonlocal away
        state.failing = True  # from the pause before the second call on, for longer than the request lives
        await asyncio.sleep(0.05)
        away += 0.05
        state.failing = away < 1.2

    async with worker(state, url=server.base_url, sleep=sleep) as here:
        async with asyncio.timeout(10):
            done = await here.completion(a_record(an_assignment(here.holder.current, deadline_s=1)))
    assert (done.failure, len(done.attempts), server.calls) == ("timeout", 1, 1)


async def test_no_call_may_take_longer_than_the_deadline_leaves():
    provider = ScriptedProvider(default=ModelAnswer(text="42", finish_reason=FinishReason.STOP))

    class One:
        def of(self, model):
            return provider

        async def close(self):
            await provider.close()

    async with worker(providers=One()) as here:
        await here.completion(a_record(an_assignment(here.holder.current, deadline_s=3)))
        await here.completion(a_record(an_assignment(here.holder.current, deadline_s=60, request_id="r-2")))
    assert timedelta(0) < provider.calls[0].timeout <= timedelta(seconds=3)
    assert provider.calls[1].timeout == timedelta(seconds=5)
    assert provider.closed


async def test_a_decision_under_a_snapshot_that_is_not_here_waits_for_it(server):
    async with worker(url=server.base_url) as here:
        record = a_record(an_assignment(a_snapshot(2)))
        handling = asyncio.create_task(here.effects(record))
        await asyncio.sleep(0.05)
        assert server.calls == 0
        here.holder.offer(a_snapshot(2))
        assert (await handling).done
        assert server.calls == 1


async def test_a_snapshot_that_does_not_come_leaves_the_record_unfinished(server, monkeypatch):
    monkeypatch.setattr("agents.worker.stage.SNAPSHOT_WAIT", SNAPSHOT_WAIT / 100)
    async with worker(url=server.base_url) as here:
        effects = await here.effects(a_record(an_assignment(a_snapshot(2))))
        assert not effects.done
        late = await here.effects(a_record(an_assignment(a_snapshot(2), deadline_s=-1)))
        assert result_of(late).status is Status.EXPIRED
    assert server.calls == 0


async def test_without_the_state_store_nothing_is_called(server):
    state = MemoryState(SystemClock())
    async with worker(state, url=server.base_url) as here:
        state.failing = True
        record = a_record(an_assignment(here.holder.current))
        with pytest.raises(StateStoreError):
            await here.effects(record)
        assert server.calls == 0
        state.failing = False
        assert (await here.completion(record)).outcome is Outcome.OK
    assert server.calls == 1


async def test_a_request_that_no_model_can_be_shown_is_a_bad_request(server):
    parts = [{"kind": "image", "dataref": "blob:1", "sha256": "0" * 64, "media_type": "image/png"}]
    request = {"messages": [{"role": "user", "parts": parts}]}
    async with worker(url=server.base_url) as here:
        done = await here.completion(a_record(an_assignment(here.holder.current, request)))
    assert (done.failure, server.calls) == ("bad_request", 0)
    assert "messages.0.parts.0.dataref" in done.error


@pytest.mark.parametrize("models", [("plain", "bound"), ("plain", "bound", "other")])
async def test_a_model_that_can_not_be_shown_the_request_is_passed_over_and_calls_stay_told(server, models):
    capabilities = {"bound": frozenset({"text", "json"})}
    known = tuple(a_model(name, capabilities=capabilities.get(name, frozenset({"text"}))) for name in models)
    snapshot = a_snapshot(models=known)
    server.play(*[error(400, "context_length_exceeded")] * 3, model="plain")
    async with worker(url=server.base_url, snapshot=snapshot) as here:
        # A schema that is true lets everything pass, but is no object, as models that are bound to one want it.
        done = await here.completion(a_record(an_assignment(snapshot, a_request(output_schema=True))))
    assert [attempt.requested_model for attempt in attempts_of(done)] == [
        f"{name}@1" for name in models if name != "bound"
    ]
    assert done.outcome is (Outcome.OK if "other" in models else Outcome.FAILED)
    assert len(done.attempts) == server.calls


async def test_an_endpoint_that_is_not_bound_here_is_an_auth_failure():
    async with worker() as here:
        done = await here.completion(a_record(an_assignment(here.holder.current)))
    assert done.failure == "auth"
    assert "worker.endpoints" in done.error


@pytest.mark.parametrize(
    ("reply", "paid"),
    [(Reply(body=b"not json"), True), (Reply(trick=Trick.EMPTY), True), (Reply(status=400, body=b"{}"), False)],
)
async def test_what_was_answered_was_charged_whether_it_can_be_read_or_not(server, reply, paid):
    server.play(reply)
    async with worker(url=server.base_url) as here:
        (attempt, *_) = attempts_of(await here.completion(a_record(an_assignment(here.holder.current))))
    assert attempt.outcome is Outcome.FAILED
    assert attempt.billed_micros == (attempt.estimated_micros if paid else 0)
    assert attempt.estimated_micros


async def test_a_provider_s_own_mistake_is_one_failed_attempt(server, caplog):
    class Broken:
        def of(self, model):
            raise KeyError("a mistake with private text")

        async def close(self):
            pass

    async with worker(providers=Broken()) as here:
        done = await here.completion(a_record(an_assignment(here.holder.current)))
    assert (done.failure, len(done.attempts)) == ("unknown", 3)
    assert "KeyError" in done.error
    assert "private" not in done.error


async def test_an_answer_above_the_inline_cap_is_paid_for_and_no_answer(server):
    server.default = Reply(text="é" * 2000, usage=USAGE)
    async with worker(url=server.base_url, snapshot=a_snapshot(policies=Policies(max_inline_bytes=3000))) as here:
        done = await here.completion(a_record(an_assignment(here.holder.current)))
    assert (done.outcome, done.failure, done.output_text, done.billed_micros) == (Outcome.FAILED, "bad_output", "", 18)
    assert "4002 bytes" in done.error


async def test_tool_calls_come_back_as_parts(server):
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
    server.play(Reply(tool_calls=(call,), finish="tool_calls"))
    tools = [{"name": "weather", "parameters": {"type": "object"}}]
    async with worker(url=server.base_url) as here:
        done = await here.completion(a_record(an_assignment(here.holder.current, a_request(tools=tools))))
    assert (done.outcome, done.finish_reason, done.output_text) == (Outcome.OK, FinishReason.TOOL_CALLS, "")
    assert orjson.loads(done.output_parts) == [
        {"kind": "tool_call", "tool_call_id": "c1", "name": "weather", "arguments": '{"city":"Oslo"}'}
    ]
    assert server.seen[0].body["tools"][0]["function"]["name"] == "weather"


async def test_a_truncated_answer_is_left_to_the_guardrail(server):
    server.play(Reply(text="", finish="length", usage=USAGE))
    async with worker(url=server.base_url) as here:
        done = await here.completion(a_record(an_assignment(here.holder.current)))
    assert (done.outcome, done.finish_reason, done.output_text) == (Outcome.OK, FinishReason.LENGTH, "")


async def test_a_specialist_answers_or_leaves_it_to_the_model(server):
    models = (a_model("sums", kind="python", name="arithmetic", price=FREE), a_model("first"))
    snapshot = a_snapshot(models=models)
    async with worker(url=server.base_url, snapshot=snapshot, executors={"arithmetic"}) as here:
        summed = await here.completion(a_record(an_assignment(snapshot, a_request("What is 12 + 30?"))))
        assert (summed.output_text, summed.model, server.calls) == ("42", "sums@1", 0)
        story = a_request("Tom had 23 pencils and gave away 15. How many are left?")
        told = await here.completion(a_record(an_assignment(snapshot, story, request_id="r-2")))
    assert [attempt.failure for attempt in attempts_of(told)] == ["bad_output", ""]
    assert attempts_of(told)[0].provider == "python"
    assert (told.model, server.calls) == ("first@1", 1)


async def test_what_can_not_be_handled_is_a_dead_letter_and_a_failed_result(server):
    async with worker(url=server.base_url) as here:
        record = a_record(an_assignment(here.holder.current))
        effects = here.stage.fail(record, here.view(), TierflowError("something"))
        (dead,) = effects.dead_letters
        assert (dead.code, dead.message) == ("internal", "something")
        result = result_of(effects)
        assert (result.status, result.error_code, result.source) == (Status.FAILED, "internal", "requests/0/7")
        broken = a_record(an_assignment(here.holder.current), value=b"\xc3\x01garbage")
        with pytest.raises(UndecodableError):
            await here.effects(broken)
        effects = here.stage.fail(broken, here.view(), UndecodableError("byte 2"))
        assert effects.dead_letters[0].code == "input.undecodable"
        assert result_of(effects).request_id == "r-1"
        unreturnable = a_record(an_assignment(here.holder.current, receipt="[]", deadline_s=-1))
        with pytest.raises(AttributeError):
            await here.effects(unreturnable)
        assert result_of(here.stage.fail(unreturnable, here.view(), TierflowError("odd"))).status is Status.FAILED
        nameless = here.stage.fail(broken._replace(headers=()), here.view(), UndecodableError("byte 2"))
        assert not nameless.outputs
        assert nameless.dead_letters


async def test_a_completion_that_can_not_be_written_goes_out_without_its_answer(server):
    async with worker(url=server.base_url) as here:
        record = a_record(an_assignment(here.holder.current))
        made = await here.effects(record)
        refused = EffectsRefusedError(0, "too large", made.outputs)
        shorter = here.stage.fail(record, here.view(), refused)
        (emit,) = shorter.outputs
        told, before = CODEC.decode(Completion, emit.value), CODEC.decode(Completion, made.outputs[0].value)
        assert (emit.topic, emit.id) == ("completions", made.outputs[0].id)
        assert (told.outcome, told.failure, told.output_text, told.model) == (Outcome.FAILED, "bad_output", "", "")
        assert (told.attempts, told.billed_micros) == (before.attempts, before.billed_micros)
        assert "too large" in told.error
        assert not shorter.dead_letters
        # Refused once more, there is nothing left to leave out.
        again = here.stage.fail(record, here.view(), EffectsRefusedError(0, "too large", shorter.outputs))
        assert result_of(again).status is Status.FAILED
        assert again.dead_letters


async def test_the_loop_is_told_what_the_stage_is():
    async with worker() as here:
        stage: Stage[Snapshot] = here.stage
        assert await stage.prepare([], here.view()) is None
        assert (here.stage.name, list(here.stage.inputs)) == ("worker-fast", ["tier.fast"])
        assert here.stage.concurrency == 1000


async def test_a_thousand_calls_wait_side_by_side_in_one_thread(server):
    import threading

    server.default = Reply(text="42", latency_s=1.0)
    patient = a_snapshot(step={"timeout": timedelta(seconds=60)})
    async with worker(url=server.base_url, snapshot=patient) as here:
        snapshot = here.holder.current
        records = [a_record(an_assignment(snapshot, request_id=f"r-{n}", deadline_s=60)) for n in range(1000)]
        threads = threading.active_count()
        done = await asyncio.gather(*(here.completion(record) for record in records))
        assert threading.active_count() == threads
    assert {each.outcome for each in done} == {Outcome.OK}
    assert [attempt.error for each in done for attempt in attempts_of(each) if attempt.error] == []
    assert server.calls == 1000
    assert server.most_open > 500
    assert max(server.by_key.values()) == 1
