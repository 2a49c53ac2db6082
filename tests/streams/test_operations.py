"""Claim and journal: two owners, death, expiry, lost leases, late answers, and a store that goes away at each point."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

import pytest
import pytest_asyncio

from schemas.errors import StateStoreError, TierflowError
from schemas.fakes import FakeClock, FakeSleep, MemoryState
from schemas.ports import ClaimReply, ClaimState, StateStore
from streams.claims import TRANSITIONS, Claim, Event, Phase
from streams.operations import Answered, Mine, Operations, Theirs
from streams.state import ValkeyState
from tests.streams.state_helpers import MINUTE, RealClock, fresh, settings

LEASE = timedelta(seconds=15)
DAY = timedelta(days=1)
T = TypeVar("T")


class Bench:
    """Two processes at one in-memory store, with one clock. Renewals happen when a test says so."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryState(self.clock)
        self.sleep = FakeSleep(self.clock)
        self.processes: list[Operations] = []
        self.a, self.b = self.process("a"), self.process("b")

    def process(self, owner: str) -> Operations:
        async def never(_: timedelta) -> None:
            await asyncio.Event().wait()

        self.processes.append(Operations(self.store, owner=owner, lease=LEASE, ttl=DAY, clock=self.clock, sleep=never))
        return self.processes[-1]

    def waiter(self, owner: str) -> Operations:
        return Operations(self.store, owner=owner, lease=LEASE, ttl=DAY, clock=self.clock, sleep=self.sleep)

    def until(self, duration: timedelta = MINUTE) -> int:
        return self.clock.now_ms() + duration // timedelta(milliseconds=1)

    def let_die(self) -> None:
        self.clock.advance(LEASE)


@pytest_asyncio.fixture(loop_scope="session")
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    bench.store.failing = False
    await asyncio.gather(*(operations.close() for operations in bench.processes))


def lost(got: Mine) -> bool:
    return got.claim.lost


async def mine(operations: Operations, key: str = "op", note: bytes = b"call 1") -> Mine:
    found = await operations.claim(key, note)
    assert isinstance(found, Mine)
    return found


async def test_claim_answer_and_reuse(bench: Bench) -> None:
    got = await mine(bench.a)
    assert got.orphan is None
    assert await bench.b.claim("op", b"") == Theirs("a")
    assert await bench.a.answer(got.claim, b"42") == b"42"
    assert await bench.a.claim("op", b"") == Answered(b"42")
    assert await bench.b.claim("op", b"") == Answered(b"42")
    assert bench.a.running == 0


async def test_a_call_costs_two_operations_of_the_store(bench: Bench) -> None:
    got = await mine(bench.a)
    await bench.a.answer(got.claim, b"42")
    assert bench.store.operations == 2


async def test_a_dead_owners_note_reaches_the_next_one(bench: Bench) -> None:
    dead = await mine(bench.a, note=b"attempt 1 open")
    assert await bench.a.note(dead.claim, b"attempt 1 failed, 2 open")
    bench.let_die()
    heir = await mine(bench.b)
    assert heir.orphan == b"attempt 1 failed, 2 open"
    bench.let_die()  # before it noted anything: what is known of the first stays known
    assert (await mine(bench.process("c"))).orphan == b"attempt 1 failed, 2 open"


async def test_a_late_answer_of_a_zombie_is_the_answer_if_it_is_first(bench: Bench) -> None:
    zombie = await mine(bench.a)
    bench.let_die()
    heir = await mine(bench.b)
    assert await bench.a.answer(zombie.claim, b"late") == b"late"
    assert await bench.b.answer(heir.claim, b"own") == b"late"
    assert await bench.process("c").claim("op", b"") == Answered(b"late")


async def test_an_answer_after_the_heirs_is_told_so(bench: Bench) -> None:
    zombie = await mine(bench.a)
    bench.let_die()
    heir = await mine(bench.b)
    assert await bench.b.answer(heir.claim, b"own") == b"own"
    assert await bench.a.answer(zombie.claim, b"late") == b"own"


async def test_renewed_leases_live_on(bench: Bench) -> None:
    got = await mine(bench.a)
    for _ in range(10):
        bench.clock.advance(LEASE / 3)
        await bench.a.renew_all()
    assert not lost(got)
    assert await bench.b.claim("op", b"") == Theirs("a")


async def test_the_background_task_renews_each_third_of_the_lease() -> None:
    clock = FakeClock()
    store = MemoryState(clock)
    sleep = FakeSleep(clock)
    operations = Operations(store, owner="a", lease=LEASE, ttl=DAY, clock=clock, sleep=sleep)
    for _ in range(2):  # it ends with the last claim, and starts again
        got = await mine(operations, fresh("op"))
        before = len(sleep.slept)
        while len(sleep.slept) < before + 10:
            await asyncio.sleep(0)
        assert not lost(got)
        assert set(sleep.slept) == {LEASE / 3}
        await operations.answer(got.claim, b"42")
        for _ in range(10):
            await asyncio.sleep(0)
    await operations.close()


async def test_a_lease_that_somebody_took_is_lost_and_seen(bench: Bench) -> None:
    got = await mine(bench.a)
    bench.let_die()
    await mine(bench.b)
    await bench.a.renew_all()
    assert lost(got)
    assert not await bench.a.note(got.claim, b"x")
    assert lost(got)


async def test_a_lease_that_nobody_took_is_taken_again(bench: Bench) -> None:
    got = await mine(bench.a)
    bench.let_die()
    await bench.a.renew_all()
    assert not lost(got)
    assert await bench.b.claim("op", b"") == Theirs("a")
    bench.store.forget_everything()  # restarted empty
    await bench.a.renew_all()
    assert await bench.b.claim("op", b"") == Theirs("a")
    bench.let_die()
    assert (await mine(bench.b)).orphan == b"call 1"


async def test_a_lease_is_not_taken_again_over_the_note_of_a_dead_heir(bench: Bench) -> None:
    got = await mine(bench.a)
    bench.let_die()
    heir = await mine(bench.b)
    await bench.b.note(heir.claim, b"the heir's call")
    bench.let_die()
    await bench.a.renew_all()
    assert lost(got)
    assert (await mine(bench.process("c"))).orphan == b"the heir's call"


async def test_a_store_away_for_longer_than_the_lease_loses_it_until_it_is_back(bench: Bench) -> None:
    got = await mine(bench.a)
    bench.store.failing = True
    bench.clock.advance(LEASE / 3)
    await bench.a.renew_all()
    assert not lost(got)
    bench.clock.advance(LEASE)
    await bench.a.renew_all()
    assert lost(got)
    bench.store.failing = False
    await bench.a.renew_all()
    assert not lost(got)


async def test_a_rebalance_back_to_the_same_process_finds_its_own_call(bench: Bench) -> None:
    got = await mine(bench.a)
    operations = bench.store.operations
    assert await bench.a.claim("op", b"") == Theirs("a")
    waiting = asyncio.ensure_future(bench.a.wait("op", bench.until()))
    await asyncio.sleep(0)
    assert bench.store.operations == operations  # no polling for one's own
    await bench.a.answer(got.claim, b"42")
    assert await waiting == b"42"


async def test_two_tasks_of_a_process_do_not_claim_twice(bench: Bench) -> None:
    found = await asyncio.gather(bench.a.claim("op", b""), bench.a.claim("op", b""))
    assert sorted(type(one).__name__ for one in found) == ["Mine", "Theirs"]


async def test_waiting_ends_with_the_answer_of_another_process(bench: Bench) -> None:
    got = await mine(bench.a)
    looks: list[timedelta] = []

    async def sleep(duration: timedelta) -> None:
        looks.append(duration)
        if len(looks) == 3:
            await bench.a.answer(got.claim, b"42")

    waiter = Operations(bench.store, owner="b", lease=LEASE, ttl=DAY, clock=bench.clock, sleep=sleep)
    assert await waiter.wait("op", bench.until()) == b"42"
    assert len(looks) == 3


async def test_waiting_ends_when_the_lease_is_dead(bench: Bench) -> None:
    await mine(bench.a)
    assert await bench.waiter("b").wait("op", bench.until(DAY)) is None
    assert sum(bench.sleep.slept, timedelta()) >= LEASE
    assert bench.sleep.slept == sorted(bench.sleep.slept)
    assert await bench.waiter("b").wait("never-claimed", bench.until()) is None


async def test_waiting_ends_when_the_time_is_over(bench: Bench) -> None:
    got = await mine(bench.a)
    assert await bench.waiter("b").wait("op", bench.until(timedelta(seconds=1))) is None
    assert sum(bench.sleep.slept, timedelta()) == timedelta(seconds=1)
    assert await bench.a.wait("op", bench.clock.now_ms()) is None
    assert not got.claim.ended.done()


async def test_an_abandoned_call_is_the_next_ones_at_once(bench: Bench) -> None:
    got = await mine(bench.a)
    waiting = asyncio.ensure_future(bench.a.wait("op", bench.until()))
    await asyncio.sleep(0)
    await bench.a.abandon(got.claim)
    assert await waiting is None
    assert (await mine(bench.b)).orphan == b"call 1"
    await bench.a.abandon(got.claim)  # again is harmless
    with pytest.raises(TierflowError, match="abandoned"):
        await bench.a.answer(got.claim, b"42")
    with pytest.raises(TierflowError, match="abandoned"):
        await bench.a.note(got.claim, b"x")


async def test_close_abandons_what_is_claimed(bench: Bench) -> None:
    await mine(bench.a, "one")
    await mine(bench.a, "two")
    await bench.a.close()
    assert bench.a.running == 0
    assert (await mine(bench.b, "one")).orphan == b"call 1"
    await mine(bench.b, "two")
    bench.store.failing = True
    await bench.b.close()  # the leases die by themselves
    assert bench.b.running == 0


class TestStoreAway:
    """``StateStoreError`` reaches the caller, the same call can be made again, and nothing is half done."""

    async def failing(self, bench: Bench, ask: Callable[[], Awaitable[object]]) -> None:
        bench.store.failing = True
        with pytest.raises(StateStoreError):
            await ask()
        bench.store.failing = False

    async def test_at_the_claim(self, bench: Bench) -> None:
        await self.failing(bench, lambda: bench.a.claim("op", b"n"))
        assert bench.a.running == 0
        assert (await mine(bench.a)).orphan is None

    async def test_at_the_claims_reply(self, bench: Bench) -> None:
        real = bench.store.claim

        async def lost(*arguments: object) -> ClaimReply:
            await real(*arguments)  # type: ignore[arg-type]
            raise StateStoreError("connection lost")

        bench.store.claim = lost  # type: ignore[method-assign, assignment]
        with pytest.raises(StateStoreError):
            await bench.a.claim("op", b"n")
        bench.store.claim = real  # type: ignore[method-assign]
        got = await mine(bench.a)  # not "theirs", and its own note is no dead owner's
        assert got.orphan is None
        await bench.a.answer(got.claim, b"42")

    async def test_at_the_note(self, bench: Bench) -> None:
        got = await mine(bench.a)
        await self.failing(bench, lambda: bench.a.note(got.claim, b"call 2"))
        assert got.claim.note == b"call 1"
        assert await bench.a.note(got.claim, b"call 2")

    async def test_at_the_answer(self, bench: Bench) -> None:
        got = await mine(bench.a)
        await self.failing(bench, lambda: bench.a.answer(got.claim, b"42"))
        assert bench.a.running == 1
        assert await bench.a.claim("op", b"") == Theirs("a")
        assert await bench.a.answer(got.claim, b"42") == b"42"

    async def test_at_the_answers_reply(self, bench: Bench) -> None:
        got = await mine(bench.a)
        await bench.store.settle("operation:op", got.claim.token, b"42", DAY)
        assert await bench.a.answer(got.claim, b"42") == b"42"

    async def test_while_waiting(self, bench: Bench) -> None:
        await mine(bench.a)
        await self.failing(bench, lambda: bench.b.wait("op", bench.until()))

    async def test_while_abandoning(self, bench: Bench) -> None:
        got = await mine(bench.a)
        await self.failing(bench, lambda: bench.a.abandon(got.claim))
        assert bench.a.running == 0
        await bench.a.renew_all()
        bench.let_die()
        assert (await mine(bench.b)).orphan == b"call 1"

    async def test_a_cancelled_claim_leaves_nothing_behind(self, bench: Bench) -> None:
        real = bench.store.claim

        async def slow(*arguments: object) -> ClaimReply:
            reply = await real(*arguments)  # type: ignore[arg-type]
            await asyncio.sleep(10)
            return reply

        bench.store.claim = slow  # type: ignore[method-assign, assignment]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await bench.a.claim("op", b"n")
        bench.store.claim = real  # type: ignore[method-assign]
        assert bench.a.running == 0
        assert (await mine(bench.a)).orphan is None


def test_every_phase_and_event_is_allowed_or_refused() -> None:
    open_phases = {Phase.HELD, Phase.LOST}
    expected = {(Phase.CLAIMING, Event.GRANTED), (Phase.CLAIMING, Event.REFUSED)}
    expected |= set(itertools.product(open_phases, set(Event) - {Event.GRANTED, Event.REFUSED}))
    assert set(TRANSITIONS) == expected
    assert {TRANSITIONS[phase, Event.SETTLED] for phase in open_phases} == {Phase.SETTLED}


@pytest.mark.parametrize(("phase", "event"), list(itertools.product(Phase, Event)))
async def test_a_claim_moves_by_the_table_only(phase: Phase, event: Event) -> None:
    claim = Claim("op", "a/1", b"", 0.0, phase)
    if (phase, event) in TRANSITIONS:
        claim.on(event)
        assert claim.phase is TRANSITIONS[phase, event]
    else:
        with pytest.raises(TierflowError, match=f"op is {phase}"):
            claim.on(event)
        assert claim.phase is phase


class Model:
    """What a key's life should be: the oracle of the exhaustive test, written without the stores' means."""

    def __init__(self) -> None:
        self.holder = ""
        self.note: tuple[str, bytes] | None = None
        self.answer: bytes | None = None

    def claim(self, owner: str) -> ClaimReply:
        if self.answer is not None:
            return ClaimReply(ClaimState.ANSWERED, self.answer)
        if self.holder not in {"", owner}:
            return ClaimReply(ClaimState.THEIRS, owner=self.holder)
        self.holder = owner
        if self.note is not None and self.note[0] != owner:
            return ClaimReply(ClaimState.MINE, self.note[1])
        self.note = (owner, owner.encode())
        return ClaimReply(ClaimState.MINE)

    def annotate(self, owner: str) -> bool:
        if self.holder != owner:
            return False
        self.note = (owner, owner.encode() + b"+")
        return True

    def settle(self, owner: str) -> bytes | None:
        first, self.answer = self.answer, self.answer or owner.encode()
        self.holder = "" if self.holder == owner else self.holder
        if self.note is not None and self.note[0] == owner:
            self.note = None
        return first

    def expire(self) -> None:
        self.holder = ""

    @property
    def touched(self) -> bool:
        return bool(self.holder) or self.note is not None or self.answer is not None


async def play(store: StateStore, steps: tuple[str, ...], key: str) -> None:
    model = Model()
    for number, step in enumerate(steps):
        what, _, owner = step.partition(" ")
        where = f"{steps[: number + 1]}"
        if what == "claim":
            assert await store.claim(key, owner, MINUTE, owner.encode(), DAY) == model.claim(owner), where
        elif what == "note":
            assert await store.annotate(key, owner, owner.encode() + b"+", DAY) == model.annotate(owner), where
        elif what == "settle":
            assert await store.settle(key, owner, owner.encode(), DAY) == model.settle(owner), where
        elif what == "renew":
            assert await store.renew(key, owner.encode(), MINUTE) == (model.holder == owner), where
        else:
            holder = await store.get(key)
            assert (holder or b"").decode() == model.holder, where
            await store.release(key, holder or b"")
            model.expire()
        assert await store.touched(key) == model.touched, where


STEPS = ("claim a", "claim b", "note a", "settle a", "settle b", "renew a", "lease dies")


async def test_every_life_of_a_claim_of_up_to_five_steps_in_memory() -> None:
    for steps in itertools.product(STEPS, repeat=5):
        await play(MemoryState(), steps, "op")


async def test_every_life_of_a_claim_of_up_to_four_steps_on_valkey(embedded_state: str) -> None:
    store = ValkeyState(settings(embedded_state, timeout=20), prefix=fresh("lives"))
    lives = list(enumerate(itertools.product(STEPS, repeat=4)))
    for start in range(0, len(lives), 400):
        await asyncio.gather(*(play(store, steps, f"op{number}") for number, steps in lives[start : start + 400]))
    await store.close()


async def test_two_processes_on_valkey_share_the_work_and_never_call_twice(embedded_state: str) -> None:
    stores = [ValkeyState(settings(embedded_state), prefix=fresh("share")) for _ in range(2)]
    stores[1]._prefix = stores[0]._prefix
    calls: list[str] = []
    clock = RealClock()
    processes = [Operations(store, owner=f"p{n}", lease=LEASE, ttl=DAY, clock=clock) for n, store in enumerate(stores)]

    async def handle(operations: Operations, key: str) -> bytes:
        while True:
            found = await operations.claim(key, b"call")
            if isinstance(found, Answered):
                return found.value
            if isinstance(found, Mine):
                calls.append(key)
                await asyncio.sleep(0.01)
                return await operations.answer(found.claim, f"answer to {key}".encode())
            answer = await operations.wait(key, clock.now_ms() + 10_000)
            if answer is not None:
                return answer

    keys = [f"op{number}" for number in range(20)]
    found = await asyncio.gather(*(handle(operations, key) for operations in processes * 2 for key in keys))
    assert found == [f"answer to {key}".encode() for key in keys] * 4
    assert sorted(calls) == sorted(keys)
    await asyncio.gather(*(operations.close() for operations in processes))
    await asyncio.gather(*(store.close() for store in stores))
