"""Paid calls and death: redelivery, dead owners, other owners, a state store that is away, samples half done."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest

from agents.worker import core
from schemas.catalogue import Policies
from schemas.clock import SystemClock
from schemas.enums import Outcome, Status
from schemas.errors import StateStoreError
from schemas.fakes import MemoryState
from schemas.flow import Completion
from schemas.ids import derived_id
from streams.records import InRecord
from tests.agents.worker_parts import (
    CODEC,
    Worker,
    a_record,
    a_request,
    a_snapshot,
    a_work,
    an_assignment,
    attempts_of,
    result_of,
    worker,
)
from tests.doubles.model_server import ModelServer, Reply, Trick, error

SAMPLED = {"parameters": {"samples": 3, "temperature": 0.7}}


@pytest.fixture
async def server():
    async with ModelServer(default=Reply(text="42")) as server:
        yield server


@pytest.fixture
def state():
    return MemoryState(SystemClock())


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def killed(here: Worker, record: InRecord, server: ModelServer) -> None:
    """Handle until the call is on its way, then die: nothing is answered, nothing is told."""
    calls = server.calls
    server.play(Reply(trick=Trick.STALL))
    handling = asyncio.create_task(here.effects(record))
    await until(lambda: server.calls > calls and server.open)
    handling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handling


@pytest.mark.parametrize("step", [None, SAMPLED])
@pytest.mark.parametrize("bad", [False, True])
async def test_delivered_again_the_same_bytes_and_no_call(server, state, step, bad):
    if bad:
        server.default = error(400)
    snapshot = a_snapshot(step=step)
    record = a_record(an_assignment(snapshot))
    async with worker(state, url=server.base_url, snapshot=snapshot) as here:
        first = await here.effects(record)
    calls = server.calls
    async with worker(state, url=server.base_url, snapshot=snapshot, owner="worker-2") as there:
        again = await there.effects(record)
    assert again.outputs == first.outputs
    assert server.calls == calls == (3 if step else 1)


async def test_an_answer_is_reused_though_its_model_was_forbidden_meanwhile(server, state):
    record = a_record(an_assignment(a_snapshot()))
    async with worker(state, url=server.base_url) as here:
        first = await here.effects(record)
        here.holder.offer(a_snapshot(2, policies=Policies(kill_switch=frozenset({"first"}))))
        assert (await here.effects(record)).outputs == first.outputs
    assert server.calls == 1


async def test_a_call_that_a_dead_worker_made_is_told_as_unknown_and_made_again(server, state):
    record = a_record(an_assignment(a_snapshot()))
    async with worker(state, url=server.base_url) as here:
        await killed(here, record, server)
    async with worker(state, url=server.base_url, owner="worker-2") as there:
        done = await there.completion(record)
    dead, alive = attempts_of(done)
    assert (dead.outcome, dead.claim_owner, dead.number) == (Outcome.UNKNOWN, "worker-1", 1)
    assert (dead.requested_model, dead.billed_micros, dead.estimated_micros) == ("first@1", 216, 216)
    assert (alive.outcome, alive.claim_owner, alive.number) == (Outcome.OK, "worker-2", 2)
    assert dead.operation_key == alive.operation_key
    assert server.by_key == {alive.operation_key: 2}
    assert done.billed_micros == dead.billed_micros + alive.billed_micros
    assert len(done.attempts) == server.calls


async def test_where_policy_says_so_it_is_not_made_again(server, state):
    record = a_record(an_assignment(a_snapshot()))
    async with worker(state, url=server.base_url) as here:
        await killed(here, record, server)
    async with worker(state, url=server.base_url, owner="worker-2", unknown_policy="fail") as there:
        done = await there.completion(record)
    assert (done.outcome, done.failure, len(done.attempts), server.calls) == (Outcome.UNKNOWN, "unknown", 1, 1)
    assert done.billed_micros == 216


async def test_a_call_that_kills_workers_is_not_made_for_ever(server, state):
    record = a_record(an_assignment(a_snapshot()))
    for n in range(3):
        async with worker(state, url=server.base_url, owner=f"worker-{n}") as here:
            await killed(here, record, server)
    async with worker(state, url=server.base_url, owner="worker-9") as last:
        done = await last.completion(record)
    assert [attempt.claim_owner for attempt in attempts_of(done)] == ["worker-0", "worker-1", "worker-2"]
    assert (done.failure, server.calls) == ("unknown", 3)


async def test_what_a_dead_worker_had_tried_before_is_not_lost_and_not_tried_again(server, state):
    server.play(error(500), error(500), error(500), model="first")
    record = a_record(an_assignment(a_snapshot()))
    async with worker(state, url=server.base_url) as here:
        server.play(Reply(trick=Trick.STALL), model="second")
        handling = asyncio.create_task(here.effects(record))
        await until(lambda: server.by_model["second"] == 1 and server.open)
        handling.cancel()
        await asyncio.gather(handling, return_exceptions=True)
    async with worker(state, url=server.base_url, owner="worker-2") as there:
        done = await there.completion(record)
    attempts = attempts_of(done)
    assert [attempt.requested_model for attempt in attempts] == ["first@1"] * 3 + ["second@1"] * 2
    assert [attempt.outcome for attempt in attempts[2:]] == [Outcome.FAILED, Outcome.UNKNOWN, Outcome.OK]
    assert [attempt.number for attempt in attempts] == [1, 2, 3, 4, 5]
    assert len(attempts) == server.calls


async def test_one_of_two_workers_calls_and_both_tell_the_same(server, state):
    server.default = Reply(text="42", latency_s=0.2)
    record = a_record(an_assignment(a_snapshot()))
    async with (
        worker(state, url=server.base_url) as here,
        worker(state, url=server.base_url, owner="worker-2") as there,
    ):
        one, other, again = await asyncio.gather(here.effects(record), there.effects(record), here.effects(record))
    assert one.outputs == other.outputs == again.outputs
    assert server.calls == 1


async def test_whoever_waits_takes_over_when_the_lease_dies(server, state):
    record = a_record(an_assignment(a_snapshot()))
    async with worker(state, url=server.base_url, lease=timedelta(seconds=0.3)) as here:
        server.play(Reply(trick=Trick.STALL))
        frozen = asyncio.create_task(here.effects(record))
        await until(lambda: server.open)
        here.operations._renewer.cancel()  # what a frozen process looks like from outside
        async with worker(state, url=server.base_url, owner="worker-2") as there:
            done = await there.completion(record)
        frozen.cancel()
        await asyncio.gather(frozen, return_exceptions=True)
    assert [attempt.outcome for attempt in attempts_of(done)] == [Outcome.UNKNOWN, Outcome.OK]
    assert server.calls == 2


async def test_the_first_answer_stands_also_for_whoever_was_only_slow(server, state):
    record = a_record(an_assignment(a_snapshot()))
    async with worker(state, url=server.base_url, lease=timedelta(seconds=0.2)) as here:
        server.play(Reply(text="slow", latency_s=1.0))
        slow = asyncio.create_task(here.effects(record))
        await until(lambda: server.open)
        here.operations._renewer.cancel()
        async with worker(state, url=server.base_url, owner="worker-2") as there:
            quick = await there.effects(record)
        assert (await slow).outputs == quick.outputs
    assert CODEC.decode(Completion, quick.outputs[0].value).output_text == "42"
    assert server.calls == len(CODEC.decode(Completion, quick.outputs[0].value).attempts) == 2


@pytest.mark.parametrize("step", [None, SAMPLED])
async def test_who_took_over_from_somebody_slow_and_comes_second_tells_its_call_too(server, state, step):
    snapshot = a_snapshot(step=step)
    record = a_record(an_assignment(snapshot))
    async with worker(state, url=server.base_url, snapshot=snapshot, lease=timedelta(seconds=0.2)) as here:
        server.default = Reply(text="slow", latency_s=1.0)
        slow = asyncio.create_task(here.effects(record))
        await until(lambda: server.open == (3 if step else 1))
        here.operations._renewer.cancel()
        server.default = Reply(text="later", latency_s=2.0)
        async with worker(state, url=server.base_url, snapshot=snapshot, owner="worker-2") as there:
            done = await there.completion(record)
        first = await slow
    assert done.output_text == "slow"
    assert server.calls == len(done.attempts) == (6 if step else 2)
    attempts = attempts_of(done)
    assert {(attempt.claim_owner, attempt.outcome) for attempt in attempts} == {
        ("worker-1", Outcome.OK),
        ("worker-2", Outcome.OK),
    }
    assert [attempt.number for attempt in attempts] == list(range(1, len(attempts) + 1))
    assert done.billed_micros == sum(attempt.billed_micros for attempt in attempts)
    assert done.tokens_out == sum(attempt.tokens_out for attempt in attempts)
    assert first.outputs[0].id == derived_id("completion", "r-1", "0")


async def test_a_retry_is_left_to_the_owner_who_took_over(server, state):
    record = a_record(an_assignment(a_snapshot()))
    go_on = asyncio.Event()

    async def pause(duration):
        await go_on.wait()

    async with worker(state, url=server.base_url, lease=timedelta(seconds=0.2), sleep=pause) as here:
        server.play(error(500))
        slow = asyncio.create_task(here.effects(record))
        await until(lambda: server.calls == 1 and not server.open)
        here.operations._renewer.cancel()
        async with worker(state, url=server.base_url, owner="worker-2") as there:
            quick = await there.effects(record)
            go_on.set()
            assert (await slow).outputs == quick.outputs
    assert server.calls == 2


async def test_the_deadline_comes_while_somebody_else_is_at_work(server, state):
    server.default = Reply(trick=Trick.STALL)
    record = a_record(an_assignment(a_snapshot(), deadline_s=2))
    async with (
        worker(state, url=server.base_url, snapshot=a_snapshot(step={"timeout": timedelta(seconds=5)})) as here,
        worker(state, url=server.base_url, owner="worker-2") as there,
    ):
        first = asyncio.create_task(here.completion(record))
        await until(lambda: server.open)
        here.operations._store.settle = None  # it never manages to tell
        done = await there.completion(record)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
    (attempt,) = attempts_of(done)
    assert (attempt.outcome, attempt.claim_owner, attempt.billed_micros) == (Outcome.UNKNOWN, "worker-1", 216)
    assert (done.outcome, done.failure) == (Outcome.UNKNOWN, "timeout")


async def test_a_paid_answer_waits_for_the_state_store(server, state):
    waits = asyncio.Event()

    async def pause(duration):
        waits.set()
        await asyncio.sleep(0.01)

    server.default = Reply(text="42", latency_s=0.1)
    record = a_record(an_assignment(a_snapshot()))
    async with worker(state, url=server.base_url, sleep=pause) as here:
        handling = asyncio.create_task(here.completion(record))
        await until(lambda: server.open)
        state.failing = True
        await waits.wait()
        state.failing = False
        done = await handling
        assert (done.outcome, len(done.attempts)) == (Outcome.OK, 1)
        assert (await here.completion(record)) == done
    assert server.calls == 1


async def test_a_state_store_restarted_empty_costs_no_call_that_is_running(server, state):
    server.default = Reply(text="42", latency_s=0.2)
    record = a_record(an_assignment(a_snapshot()))
    async with worker(state, url=server.base_url) as here:
        handling = asyncio.create_task(here.effects(record))
        await until(lambda: server.open)
        state.forget_everything()
        first = await handling
        assert (await here.effects(record)).outputs == first.outputs
    assert server.calls == 1


async def test_a_claim_that_took_too_long_leaves_no_call_that_nobody_made(server, state):
    record = a_record(an_assignment(a_snapshot(), deadline_s=0.5))
    claim = state.claim

    async def slow(*args):
        reply = await claim(*args)
        await asyncio.sleep(0.6)
        return reply

    state.claim = slow
    for owner in ("worker-1", "worker-2"):
        async with worker(state, url=server.base_url, owner=owner) as here:
            assert result_of(await here.effects(record)).status is Status.EXPIRED
    assert server.calls == 0


async def test_an_owner_who_died_before_calling_hides_nobody_s_call(server, state):
    assignment = an_assignment(a_snapshot())
    record, key = a_record(assignment), core.step_key(a_work(a_snapshot()))
    async with worker(state, url=server.base_url, owner="worker-0") as here:
        await here.operations.claim(key, b"")
    async with worker(state, url=server.base_url) as here:
        await killed(here, record, server)
    async with worker(state, url=server.base_url, owner="worker-2") as there:
        done = await there.completion(record)
    assert [attempt.claim_owner for attempt in attempts_of(done)] == ["worker-1", "worker-2"]
    assert len(done.attempts) == server.calls


# -- samples -----------------------------------------------------------------------------------------------------------


async def test_samples_are_calls_of_their_own_and_the_majority_answers(server, state):
    snapshot = a_snapshot(step={**SAMPLED, "accept": {"min_logprob": -3.0}})
    server.play(
        Reply(text="I guess.\nAnswer: 41", latency_s=0.1),
        Reply(text="Six sevens.\nAnswer: 42"),
        Reply(text="So it is 42."),
    )
    async with worker(state, url=server.base_url, snapshot=snapshot) as here:
        done = await here.completion(a_record(an_assignment(snapshot)))
    assert done.agreement == pytest.approx(2 / 3)
    assert "42" in done.output_text
    attempts = attempts_of(done)
    assert sorted(attempt.number for attempt in attempts) == [1, 2, 3]
    assert len({attempt.operation_key for attempt in attempts}) == len({attempt.seed for attempt in attempts}) == 3
    assert {attempt.temperature for attempt in attempts} == {0.7}
    assert server.by_key == {attempt.operation_key: 1 for attempt in attempts}
    assert done.billed_micros == sum(attempt.billed_micros for attempt in attempts)
    assert done.tokens_in == sum(attempt.tokens_in for attempt in attempts)
    assert done.mean_logprob is not None


async def test_only_the_final_answer_goes_out_where_the_step_says_so(server, state):
    for parameters in ({**SAMPLED["parameters"], "final_answer": True}, {"final_answer": "Answer:"}):
        snapshot = a_snapshot(step={"parameters": parameters})
        server.default = Reply(text="Six sevens make\nAnswer: 42")
        async with worker(state, url=server.base_url, snapshot=snapshot) as here:
            done = await here.completion(a_record(an_assignment(snapshot)))
        assert done.output_text == "42"


async def test_a_failed_sample_agrees_with_nobody(server, state):
    snapshot = a_snapshot(step=SAMPLED)
    server.play(error(400))
    async with worker(state, url=server.base_url, snapshot=snapshot) as here:
        done = await here.completion(a_record(an_assignment(snapshot)))
    assert (done.outcome, done.agreement, len(done.attempts)) == (Outcome.OK, pytest.approx(2 / 3), 3)


async def test_no_sample_no_answer(server, state):
    snapshot = a_snapshot(step=SAMPLED)
    server.default = error(400)
    async with worker(state, url=server.base_url, snapshot=snapshot) as here:
        done = await here.completion(a_record(an_assignment(snapshot)))
    assert (done.outcome, done.failure, done.agreement, len(done.attempts)) == (
        Outcome.FAILED,
        "bad_request",
        None,
        3,
    )


async def test_finished_samples_survive_the_worker(server, state):
    snapshot = a_snapshot(step=SAMPLED)
    record = a_record(an_assignment(snapshot))
    server.play(Reply(text="Answer: 1"), Reply(text="Answer: 2"), Reply(trick=Trick.STALL))
    alive = state.keys
    async with worker(state, url=server.base_url, snapshot=snapshot) as here:
        handling = asyncio.create_task(here.effects(record))
        await until(lambda: server.calls == 3 and server.open == 1)
        await until(lambda: len([key for key in alive() if key.endswith(":answer")]) == 2)
        handling.cancel()
        await asyncio.gather(handling, return_exceptions=True)
    server.default = Reply(text="Answer: 2")
    async with worker(state, url=server.base_url, snapshot=snapshot, owner="worker-2") as there:
        done = await there.completion(record)
    assert server.calls == 4
    assert len(done.attempts) == 4
    assert sorted(attempt.outcome for attempt in attempts_of(done)) == ["ok", "ok", "ok", "unknown"]
    assert [attempt.number for attempt in attempts_of(done)] == [1, 2, 3, 4]
    assert (done.agreement, done.output_text) == (pytest.approx(2 / 3), "Answer: 2")


async def test_as_many_samples_as_the_allowance_pays_for(server, state):
    snapshot = a_snapshot(step=SAMPLED)
    async with worker(state, url=server.base_url, snapshot=snapshot) as here:
        two = await here.completion(a_record(an_assignment(snapshot, cost_left_micros=2 * 216)))
        one = await here.completion(a_record(an_assignment(snapshot, cost_left_micros=300, request_id="r-2")))
        none = await here.completion(a_record(an_assignment(snapshot, cost_left_micros=10, request_id="r-3")))
    assert (len(two.attempts), len(one.attempts), len(none.attempts)) == (2, 1, 0)
    assert none.failure == "allowance"
    assert server.calls == 3


async def test_samples_too_late_end_the_request(server, state):
    snapshot = a_snapshot(step=SAMPLED)
    async with worker(state, url=server.base_url, snapshot=snapshot) as here:
        effects = await here.effects(a_record(an_assignment(snapshot, deadline_s=-1)))
    assert result_of(effects).status == "expired"
    assert server.calls == 0


async def test_the_state_store_goes_away_between_step_and_samples(server, state):
    snapshot = a_snapshot(step=SAMPLED)
    record = a_record(an_assignment(snapshot))
    asked, claim = 0, state.claim

    async def third_fails(*args):
        nonlocal asked
        asked += 1
        if asked == 3:
            raise StateStoreError("away")
        return await claim(*args)

    state.claim = third_fails
    async with worker(state, url=server.base_url, snapshot=snapshot) as here:
        with pytest.raises(StateStoreError):
            await here.effects(record)
        assert here.operations.running == 0
        done = await here.completion(record)
    assert server.calls == len(done.attempts) == 3


async def test_a_program_is_computed_and_votes_count_its_value(server, state):
    snapshot = a_snapshot(step={"parameters": {**SAMPLED["parameters"], "program": True}})
    server.play(Reply(text="```python\n7 * 6\n```"), Reply(text="print(40 + 2)"), Reply(text="I don't know."))
    async with worker(state, url=server.base_url, snapshot=snapshot) as here:
        done = await here.completion(a_record(an_assignment(snapshot, a_request("Six sevens? End with: Answer: n"))))
    assert (done.output_text, done.agreement) == ("Answer: 42", pytest.approx(2 / 3))
