"""The idempotent receiver on both stores: first, redelivered, duplicate."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from schemas.errors import StateStoreError
from schemas.fakes import FakeClock, MemoryState
from schemas.ports import StateStore
from streams.receiver import AGAIN, FIRST, Admission, Receiver, Seen
from streams.state import ValkeyState
from tests.streams.state_helpers import MINUTE, fresh, settings

WINDOW = timedelta(days=8)


@pytest_asyncio.fixture(loop_scope="session", params=["memory", "valkey"])
async def store(request: pytest.FixtureRequest, embedded_state: str) -> AsyncIterator[StateStore]:
    state: StateStore = MemoryState() if request.param == "memory" else ValkeyState(settings(embedded_state))
    yield state
    await state.close()


async def test_first_again_and_duplicate(store: StateStore) -> None:
    receiver, one, two = Receiver(store, WINDOW), fresh("r"), fresh("r")
    assert await receiver.admit([(one, "requests/0/1"), (two, "requests/0/2")]) == [FIRST, FIRST]
    found = await receiver.admit([(one, "requests/0/1"), (two, "requests/3/7")])
    assert found == [AGAIN, Admission(Seen.DUPLICATE, "requests/0/2")]
    assert [admission.admitted for admission in (FIRST, *found)] == [True, True, False]


async def test_repeats_within_a_batch(store: StateStore) -> None:
    receiver, one = Receiver(store, WINDOW), fresh("r")
    found = await receiver.admit([(one, "a"), (one, "b"), (one, "a")])
    assert found == [FIRST, Admission(Seen.DUPLICATE, "a"), AGAIN]
    assert await receiver.admit([]) == []


async def test_kinds_and_bindings_do_not_meet(store: StateStore) -> None:
    name = fresh("r")
    requests, reviews = Receiver(store, WINDOW), Receiver(store, WINDOW, kind="review")
    assert await requests.admit([(name, "a")]) == [FIRST]
    assert await reviews.admit([(name, "b")]) == [FIRST]
    assert await requests.bind(name, "req-1") == "req-1"
    assert await reviews.bind(name, "req-2") == "req-2"


async def test_the_first_request_keeps_an_idempotency_key(store: StateStore) -> None:
    receiver, key = Receiver(store, WINDOW), fresh("a key\nof any\ttext ") * 50
    assert await receiver.bind(key, "req-1") == "req-1"
    assert await receiver.bind(key, "req-1") == "req-1"
    assert await receiver.bind(key, "req-2") == "req-1"
    assert await receiver.bind(key + "x", "req-2") == "req-2"


async def test_an_id_is_forgotten_after_the_window() -> None:
    clock = FakeClock()
    receiver = Receiver(MemoryState(clock), WINDOW)
    await receiver.admit([("r", "a")])
    clock.advance(WINDOW - MINUTE)
    assert (await receiver.admit([("r", "b")]))[0].seen is Seen.DUPLICATE
    clock.advance(MINUTE)
    assert await receiver.admit([("r", "b")]) == [FIRST]


async def test_nothing_is_decided_while_the_store_is_away() -> None:
    store = MemoryState()
    receiver = Receiver(store, WINDOW)
    store.failing = True
    with pytest.raises(StateStoreError):
        await receiver.admit([("r", "a")])
    with pytest.raises(StateStoreError):
        await receiver.bind("k", "r")
    store.failing = False
    assert await receiver.admit([("r", "a")]) == [FIRST]


@given(st.lists(st.lists(st.tuples(st.sampled_from("xyz"), st.integers(0, 3).map(str)), max_size=6), max_size=5))
@hypothesis_settings(deadline=None)
async def test_one_place_is_admitted_for_an_id_however_batches_fall(batches: list[list[tuple[str, str]]]) -> None:
    receiver = Receiver(MemoryState(), WINDOW)
    firsts: dict[str, str] = {}
    for batch in batches:
        for (name, place), admission in zip(batch, await receiver.admit(batch), strict=True):
            if admission is FIRST:
                assert name not in firsts
                firsts[name] = place
            assert admission.admitted == (firsts[name] == place)
            assert admission.admitted or admission.of == firsts[name]
