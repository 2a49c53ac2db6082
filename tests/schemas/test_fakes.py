"""The fakes keep their ports' promises."""

from datetime import timedelta

import pytest

from schemas.enums import FinishReason
from schemas.errors import (
    ConfigurationError,
    FailureClass,
    InvalidRequestError,
    ProviderError,
    SchemaRegistryError,
    StateStoreError,
)
from schemas.fakes import (
    FakeClock,
    FakeSleep,
    MemoryBlobs,
    MemoryOrderedLog,
    MemoryRegistry,
    MemoryState,
    ScriptedProvider,
)
from schemas.ports import (
    BlobStore,
    ChatMessage,
    ClaimReply,
    ClaimState,
    Clock,
    ModelAnswer,
    ModelCall,
    OrderedLog,
    Provider,
    Sleep,
    StateStore,
)

SECOND = timedelta(seconds=1)
CALL = ModelCall(model="m", messages=(ChatMessage(role="user", content="hi"),), timeout=SECOND, operation_key="k")


def test_every_fake_is_of_its_port() -> None:
    clock: Clock = FakeClock()
    sleep: Sleep = FakeSleep()
    state: StateStore = MemoryState(clock)
    provider: Provider = ScriptedProvider()
    blobs: BlobStore = MemoryBlobs()
    log: OrderedLog = MemoryOrderedLog()
    assert all((clock, sleep, state, provider, blobs, log))


async def test_the_clock_goes_on_when_told_and_never_back() -> None:
    clock = FakeClock(5000)
    sleep = FakeSleep(clock)
    await sleep(SECOND)
    assert (clock.now_ms(), clock.monotonic(), sleep.slept) == (6000, 1.0, [SECOND])
    clock.set_wall(100)
    assert (clock.now_ms(), clock.monotonic()) == (100, 1.0)
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-SECOND)


async def test_entries_live_for_their_time() -> None:
    clock = FakeClock()
    state = MemoryState(clock)
    assert await state.put_if_absent("k", b"1", SECOND) is None
    assert await state.put_if_absent("k", b"2", SECOND) == b"1"
    clock.advance(SECOND / 2)
    assert await state.renew("k", b"1", SECOND)
    assert not await state.renew("k", b"2", SECOND)
    clock.advance(SECOND * 0.75)
    assert await state.get("k") == b"1"
    clock.advance(SECOND / 2)
    assert await state.get("k") is None
    assert not await state.renew("k", b"1", SECOND)
    assert not await state.release("k", b"1")
    await state.put("k", b"3", SECOND)
    assert not await state.release("k", b"1")
    assert await state.release("k", b"3")
    assert await state.put_each_if_absent([("a", b"1"), ("a", b"2"), ("b", b"3")], SECOND) == [None, b"1", None]
    assert state.keys() == {"a", "b"}
    state.forget_everything()
    assert state.keys() == set()


async def test_a_claim_is_held_answered_and_left_behind() -> None:
    clock = FakeClock()
    state = MemoryState(clock)
    hour = timedelta(hours=1)
    assert await state.claim("op", "a", SECOND, b"note-a", hour) == ClaimReply(ClaimState.MINE)
    assert await state.claim("op", "a", SECOND, b"note-a2", hour) == ClaimReply(ClaimState.MINE)
    assert await state.claim("op", "b", SECOND, b"note-b", hour) == ClaimReply(ClaimState.THEIRS, owner="a")
    assert not await state.annotate("op", "b", b"x", hour)
    clock.advance(SECOND)
    assert await state.claim("op", "b", SECOND, b"note-b", hour) == ClaimReply(ClaimState.MINE, b"note-a2")
    assert await state.annotate("op", "b", b"note-b", hour)
    clock.advance(SECOND)
    assert await state.claim("op", "c", SECOND, b"note-c", hour) == ClaimReply(ClaimState.MINE, b"note-b")
    assert await state.settle("op", "b", b"answer", hour) is None  # the lease is lost, but the first answer wins
    assert await state.get("op") == b"c"
    assert await state.settle("op", "c", b"later", hour) == b"answer"
    assert await state.get("op") is None
    assert await state.claim("op", "d", SECOND, b"", hour) == ClaimReply(ClaimState.ANSWERED, b"answer")


async def test_a_store_that_is_away_fails_every_operation() -> None:
    state = MemoryState()
    state.failing = True
    operations = [
        state.get("k"),
        state.put("k", b"", SECOND),
        state.put_if_absent("k", b"", SECOND),
        state.put_each_if_absent([("k", b"")], SECOND),
        state.renew("k", b"", SECOND),
        state.release("k", b""),
        state.claim("k", "o", SECOND, b"", SECOND),
        state.annotate("k", "o", b"", SECOND),
        state.settle("k", "o", b"", SECOND),
        state.ping(),
    ]
    for operation in operations:
        with pytest.raises(StateStoreError):
            await operation
    assert state.operations == len(operations)
    state.failing = False
    await state.ping()
    await state.close()
    for wrong in ("", "a b"):
        with pytest.raises(ValueError, match="white space"):
            await state.get(wrong)
    with pytest.raises(ValueError, match="too short"):
        await state.put("k", b"", timedelta(0))


async def test_a_script_is_played_once() -> None:
    answer = ModelAnswer(text="4", finish_reason=FinishReason.STOP)
    provider = ScriptedProvider(
        ProviderError(FailureClass.SERVER, "down"),
        answer,
        lambda call: ModelAnswer(text=call.model, finish_reason=FinishReason.STOP),
    )
    with pytest.raises(ProviderError, match="down"):
        await provider.complete(CALL)
    assert await provider.complete(CALL) is answer
    assert (await provider.complete(CALL)).text == "m"
    with pytest.raises(AssertionError, match="ended before call 4"):
        await provider.complete(CALL)
    assert provider.calls == [CALL] * 4
    assert await ScriptedProvider(default=answer).complete(CALL) is answer
    await provider.close()
    assert provider.closed


async def test_blobs_are_what_they_were() -> None:
    blobs = MemoryBlobs()
    dataref = await blobs.put(b"content", "text/plain")
    digest = dataref.rpartition(":")[2]
    assert await blobs.get(dataref, digest) == b"content"
    blobs.contents[dataref] = b"other"
    with pytest.raises(InvalidRequestError, match="damaged"):
        await blobs.get(dataref, digest)
    del blobs.contents[dataref]
    with pytest.raises(InvalidRequestError, match="nothing is stored"):
        await blobs.get(dataref, digest)
    blobs.failing = True
    with pytest.raises(StateStoreError):
        await blobs.put(b"", "")


def test_a_registry_of_one_process() -> None:
    registry = MemoryRegistry()
    assert registry.register("s", '{"type":"record"}') == registry.register("t", '{"type":"record"}') == 1
    assert registry.schema(1) == '{"type":"record"}'
    assert registry.schema(2) is None
    registry.failing = True
    with pytest.raises(SchemaRegistryError):
        registry.schema(1)
    registry.close()
    with pytest.raises(ConfigurationError, match="under subject s"):
        MemoryRegistry(may_register=False).register("s", "{}")
