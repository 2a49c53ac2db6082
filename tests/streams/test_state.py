"""The state store: one behaviour suite for every implementation, then what the wire has to survive."""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from pydantic import SecretStr
from redis.asyncio import Redis

from schemas.errors import ConfigurationError, StateStoreError
from schemas.fakes import MemoryState
from schemas.ports import ANSWER_SUFFIX, ClaimReply, ClaimState, StateStore
from schemas.settings import StateSettings
from streams.brokers import EmbeddedState
from streams.state import ValkeyState
from tests.streams.state_helpers import (
    MINUTE,
    Commands,
    RealClock,
    certificate,
    fresh,
    is_greeting,
    relay,
    server,
    settings,
)

SHORT = timedelta(milliseconds=40)


@pytest_asyncio.fixture(loop_scope="session", params=["memory", "valkey"])
async def store(request: pytest.FixtureRequest, embedded_state: str) -> AsyncIterator[StateStore]:
    state: StateStore = MemoryState(RealClock()) if request.param == "memory" else ValkeyState(settings(embedded_state))
    yield state
    await state.close()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0.01)


class TestBehaviour:
    """What every ``StateStore`` does."""

    async def test_what_was_put_is_there_until_it_is_replaced(self, store: StateStore) -> None:
        key, value = fresh("k"), bytes(range(256))
        assert await store.get(key) is None
        await store.put(key, value, MINUTE)
        assert await store.get(key) == value
        await store.put(key, b"", MINUTE)
        assert await store.get(key) == b""

    async def test_the_first_of_put_if_absent_stays(self, store: StateStore) -> None:
        key = fresh("k")
        assert await store.put_if_absent(key, b"first", MINUTE) is None
        assert await store.put_if_absent(key, b"second", MINUTE) == b"first"
        assert await store.get(key) == b"first"

    async def test_a_batch_is_taken_in_its_order(self, store: StateStore) -> None:
        a, b = fresh("a"), fresh("b")
        await store.put(b, b"old", MINUTE)
        assert await store.put_each_if_absent([(a, b"1"), (b, b"2"), (a, b"3")], MINUTE) == [None, b"old", b"1"]
        assert await store.put_each_if_absent([], MINUTE) == []

    async def test_an_entry_goes_when_its_time_is_over(self, store: StateStore) -> None:
        key = fresh("k")
        assert await store.put_if_absent(key, b"v", SHORT) is None

        async def gone() -> bool:
            return await store.get(key) is None

        await until(gone)
        assert await store.put_if_absent(key, b"w", MINUTE) is None

    async def test_renew_and_release_only_what_is_still_ours(self, store: StateStore) -> None:
        key = fresh("k")
        assert not await store.renew(key, b"me", MINUTE)
        assert not await store.release(key, b"me")
        await store.put(key, b"me", SHORT)
        assert await store.renew(key, b"me", MINUTE)
        assert not await store.renew(key, b"you", MINUTE)
        assert not await store.release(key, b"you")
        await asyncio.sleep(2 * SHORT.total_seconds())
        assert await store.get(key) == b"me"
        assert await store.release(key, b"me")
        assert await store.get(key) is None

    async def test_a_claim_is_one_owners_until_it_is_settled(self, store: StateStore) -> None:
        key = fresh("op")
        assert await store.claim(key, "a", MINUTE, b"note", MINUTE) == ClaimReply(ClaimState.MINE)
        assert await store.claim(key, "b", MINUTE, b"other", MINUTE) == ClaimReply(ClaimState.THEIRS, owner="a")
        assert await store.get(key) == b"a"
        assert await store.settle(key, "a", b"answer", MINUTE) is None
        assert await store.get(key) is None
        assert await store.get(key + ANSWER_SUFFIX) == b"answer"
        for owner in ("a", "b"):
            assert await store.claim(key, owner, MINUTE, b"", MINUTE) == ClaimReply(ClaimState.ANSWERED, b"answer")

    async def test_a_dead_owners_note_is_shown_until_it_is_replaced(self, store: StateStore) -> None:
        key = fresh("op")
        await store.claim(key, "a", MINUTE, b"a's call", MINUTE)
        await store.release(key, b"a")  # as when the lease dies
        orphan = ClaimReply(ClaimState.MINE, b"a's call")
        assert await store.claim(key, "b", MINUTE, b"b's call", MINUTE) == orphan
        await store.release(key, b"b")  # b died before it noted anything
        assert await store.claim(key, "c", MINUTE, b"c's call", MINUTE) == orphan
        assert await store.annotate(key, "c", b"a's and c's", MINUTE)
        await store.release(key, b"c")
        assert await store.claim(key, "d", MINUTE, b"", MINUTE) == ClaimReply(ClaimState.MINE, b"a's and c's")

    async def test_an_owner_that_claims_again_is_not_shown_its_own_note(self, store: StateStore) -> None:
        key = fresh("op")
        for _ in range(2):
            assert await store.claim(key, "a", MINUTE, b"note", MINUTE) == ClaimReply(ClaimState.MINE)
        await store.release(key, b"a")
        assert await store.claim(key, "a", MINUTE, b"note", MINUTE) == ClaimReply(ClaimState.MINE)

    async def test_only_the_holder_can_note(self, store: StateStore) -> None:
        key = fresh("op")
        assert not await store.annotate(key, "a", b"x", MINUTE)
        await store.claim(key, "a", MINUTE, b"note", MINUTE)
        assert not await store.annotate(key, "b", b"x", MINUTE)
        await store.release(key, b"a")
        assert await store.claim(key, "c", MINUTE, b"", MINUTE) == ClaimReply(ClaimState.MINE, b"note")

    async def test_the_first_answer_wins_even_a_late_one(self, store: StateStore) -> None:
        key = fresh("op")
        await store.claim(key, "zombie", MINUTE, b"z", MINUTE)
        await store.release(key, b"zombie")
        await store.claim(key, "b", MINUTE, b"b", MINUTE)
        assert await store.settle(key, "zombie", b"late", MINUTE) is None
        assert await store.get(key) == b"b"  # a zombie does not take the new owner's lease away
        assert await store.settle(key, "b", b"own", MINUTE) == b"late"
        assert await store.settle(key, "b", b"own", MINUTE) == b"late"
        assert await store.get(key) is None

    async def test_of_many_claims_at_once_one_is_granted(self, store: StateStore) -> None:
        key = fresh("op")
        replies = await asyncio.gather(*(store.claim(key, str(number), MINUTE, b"", MINUTE) for number in range(50)))
        granted = [reply for reply in replies if reply.state is ClaimState.MINE]
        assert len(granted) == 1
        assert len({reply.owner for reply in replies if reply.state is ClaimState.THEIRS}) == 1

    async def test_a_life_of_nothing_is_refused(self, store: StateStore) -> None:
        with pytest.raises(ValueError, match="too short"):
            await store.put(fresh("k"), b"v", timedelta(0))


class TestWire:
    """What Valkey's client does with connections."""

    async def test_a_store_that_throws_out_what_it_was_given_is_known_as_one(self) -> None:
        async with EmbeddedState() as own:
            store, admin = ValkeyState(StateSettings(url=SecretStr(own.url))), Redis.from_url(own.url)
            assert await store.forgets() == ""
            await admin.config_set("maxmemory-policy", "allkeys-lru")
            assert await store.forgets() == "", "without a limit there is nothing to make room for"
            await admin.config_set("maxmemory", "100mb")
            assert await store.forgets() == "allkeys-lru"
            await admin.aclose()
            await store.close()

    async def test_what_is_asked_in_one_turn_goes_out_in_one_write(self, embedded_state: str) -> None:
        seen: list[tuple[int, bytes]] = []

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            commands = Commands(reader)
            while True:
                command = await commands.next()
                if not is_greeting(command):
                    seen.append((commands.reads, command[0]))
                writer.write(b"+OK\r\n")

        async with server(talk) as address:
            store = ValkeyState(settings(address))
            await store.ping()
            before = seen[-1][0]
            await asyncio.gather(*(store.put(f"k{number}", b"v", MINUTE) for number in range(200)))
            await asyncio.gather(*(store.get(f"k{number}") for number in range(200)))
            await store.close()
        batches = sorted({reads for reads, _ in seen} - {before})
        assert len(seen) == 401
        assert len(batches) == 2

    async def test_replies_in_any_pieces_reach_those_who_asked(self, embedded_state: str) -> None:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            commands = Commands(reader)
            while True:
                command = await commands.next()
                reply = b"+OK\r\n" if is_greeting(command) else b"$%d\r\n%b\r\n" % (len(command[1]), command[1])
                for byte in reply:
                    writer.write(bytes([byte]))
                    await writer.drain()

        async with server(talk) as address:
            store = ValkeyState(settings(address), prefix="")
            found = await asyncio.gather(*(store.get(f"key-{number}") for number in range(20)))
            assert found == [b"key-%d" % number for number in range(20)]
            await store.close()

    async def test_a_caller_that_goes_away_does_not_shift_the_replies(self, embedded_state: str) -> None:
        store = ValkeyState(settings(embedded_state))
        keys = [fresh("k") for _ in range(30)]
        await asyncio.gather(*(store.put(key, key.encode(), MINUTE) for key in keys))
        asked = [asyncio.ensure_future(store.get(key)) for key in keys]
        await asyncio.sleep(0)
        for task in asked[::3]:
            task.cancel()
        found = await asyncio.gather(*asked, return_exceptions=True)
        for number, key in enumerate(keys):
            if number % 3:
                assert found[number] == key.encode()
            else:
                assert isinstance(found[number], asyncio.CancelledError)
        batch = asyncio.ensure_future(store.put_each_if_absent([(key, b"x") for key in keys], MINUTE))
        await asyncio.sleep(0)
        batch.cancel()
        await asyncio.gather(batch, return_exceptions=True)
        assert await store.get(keys[0]) == keys[0].encode()
        await store.close()

    async def test_a_silent_server_is_an_error_in_time_and_the_next_connection_serves(
        self, embedded_state: str
    ) -> None:
        deaf = True

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            commands = Commands(reader)
            while True:
                command = await commands.next()
                if deaf and not is_greeting(command):
                    await asyncio.Event().wait()
                writer.write(b"+PONG\r\n")

        async with server(talk) as address:
            store = ValkeyState(settings(address, timeout=0.2))
            found = await asyncio.gather(*(store.ping() for _ in range(5)), return_exceptions=True)
            assert [str(error) for error in found] == [f"the state store {address} did not answer within 0.2 s"] * 5
            assert all(isinstance(error, StateStoreError) for error in found)
            deaf = False
            await store.ping()
            await store.close()

    async def test_a_server_that_does_not_greet_is_an_error_in_time(self) -> None:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await asyncio.Event().wait()

        async with server(talk) as address:
            store = ValkeyState(settings(address, timeout=0.2))
            with pytest.raises(StateStoreError, match="did not answer within"):
                await store.ping()
            await store.close()

    @pytest.mark.parametrize(
        "reply", [b"$5\r\nab", b"!nonsense\r\n", b"+OK\r\n+OK\r\n+OK\r\n+OK\r\n", b"-LOADING reading\r\n", b""]
    )
    async def test_a_broken_answer_ends_the_connection_and_nothing_else(self, reply: bytes) -> None:
        broken = True

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal broken
            commands = Commands(reader)
            while True:
                command = await commands.next()
                if broken and not is_greeting(command):
                    broken = False
                    writer.write(reply)
                    await writer.drain()
                    return
                writer.write(b"+PONG\r\n")

        async with server(talk) as address:
            store = ValkeyState(settings(address))
            first, second = await asyncio.gather(store.ping(), store.get("k"), return_exceptions=True)
            assert isinstance(second, StateStoreError)
            assert first is None or isinstance(first, StateStoreError)
            await store.ping()
            await store.close()

    async def test_a_store_that_is_not_there_is_an_error_in_time_that_says_why(self) -> None:
        store = ValkeyState(settings("127.0.0.1:9", timeout=0.2))
        with pytest.raises(
            StateStoreError, match=r"127\.0\.0\.1:9 did not answer within 0\.2 s \(.*Connect call failed"
        ):
            await store.ping()
        await store.close()

    async def test_a_refused_command_fails_alone(self, embedded_state: str) -> None:
        store = ValkeyState(settings(embedded_state))
        key = fresh("op")
        await store.claim(key, "a", MINUTE, b"note", MINUTE)
        wrong, right = await asyncio.gather(store.get(key + ":note"), store.get(key), return_exceptions=True)
        assert isinstance(wrong, StateStoreError)
        assert "WRONGTYPE" in str(wrong)
        assert right == b"a"
        await store.close()

    async def test_close_fails_what_waits_and_refuses_what_comes(self) -> None:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            commands = Commands(reader)
            while is_greeting(await commands.next()):
                writer.write(b"+OK\r\n")
            await asyncio.Event().wait()

        async with server(talk) as address:
            for connected in (True, False):
                store = ValkeyState(settings(address))
                waiting = [asyncio.ensure_future(store.get("k")) for _ in range(3)]
                await asyncio.sleep(0.1 if connected else 0)
                await store.close()
                for found in await asyncio.gather(*waiting, return_exceptions=True):
                    assert isinstance(found, StateStoreError)
                with pytest.raises(StateStoreError, match="closed"):
                    await store.get("k")
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "state store connector"]


class TestServer:
    """Against a server of its own, which can be hurt."""

    async def test_it_comes_back_after_a_crash_and_after_a_stall(self, tmp_path: Path) -> None:
        async with EmbeddedState(work_dir=tmp_path) as state:
            store = ValkeyState(settings(state.address, timeout=0.5))
            await store.put("k", b"v", MINUTE)
            state.pause()
            with pytest.raises(StateStoreError):
                await store.get("k")
            state.resume()

            async def answers(expected: bytes | None) -> None:
                async def asked() -> bool:
                    try:
                        return await store.get("k") == expected
                    except StateStoreError:
                        return False

                await until(asked)

            await answers(b"v")
            await state.kill()
            with pytest.raises(StateStoreError):
                await store.get("k")
            await state.start()
            await answers(None)  # it kept nothing
            assert await store.claim("op", "a", MINUTE, b"", MINUTE) == ClaimReply(ClaimState.MINE)
            await store.close()

    async def test_it_is_found_again_after_a_long_absence_with_a_short_time_out(self, tmp_path: Path) -> None:
        async with EmbeddedState(work_dir=tmp_path) as state:
            store = ValkeyState(settings(state.address, timeout=0.1))
            await state.kill()
            for _ in range(12):
                with pytest.raises(StateStoreError):
                    await store.ping()
            await state.start()
            refused = 0
            while True:
                try:
                    await store.ping()
                    break
                except StateStoreError:
                    refused += 1
                    assert refused < 20
            await store.close()

    async def test_a_question_waits_for_a_store_that_is_just_starting(self, tmp_path: Path) -> None:
        async with EmbeddedState(work_dir=tmp_path) as state:
            store = ValkeyState(settings(state.address, timeout=20))
            await store.ping()
            await state.kill()
            asked = asyncio.ensure_future(store.put_if_absent("k", b"v", MINUTE))
            await asyncio.sleep(0)
            await state.start()
            try:
                assert await asked is None
            except StateStoreError:  # it was on the old connection already
                assert await store.put_if_absent("k", b"v", MINUTE) is None
            await store.close()

    async def test_scripts_that_the_server_forgot_are_sent_again(self, tmp_path: Path) -> None:
        async with EmbeddedState(work_dir=tmp_path) as state:
            store, other = ValkeyState(settings(state.address)), ValkeyState(settings(state.address))
            await asyncio.gather(store.ping(), other.ping())
            await other._link.ask(("SCRIPT", "FLUSH"))
            replies = await asyncio.gather(*(store.claim(f"op{n}", "a", MINUTE, b"", MINUTE) for n in range(3)))
            assert replies == [ClaimReply(ClaimState.MINE)] * 3
            await asyncio.gather(store.close(), other.close())

    async def test_credentials_are_used_and_never_shown(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        secret, wrong = uuid.uuid4().hex, uuid.uuid4().hex
        async with EmbeddedState(work_dir=tmp_path) as state:
            admin = ValkeyState(settings(state.address))
            await admin._link.ask(("CONFIG", "SET", "requirepass", secret))
            await admin._link.ask(("ACL", "SETUSER", "anna", "on", f">{secret}", "~*", "+@all"))
            errors = []
            for user in (f":{secret}@", f"anna:{secret}@"):
                allowed = ValkeyState(settings(state.address, user=user))
                await allowed.put("k", b"v", MINUTE)
                await allowed.close()
            for user in ("", f":{wrong}@", f"bert:{wrong}@"):
                barred = ValkeyState(settings(state.address, timeout=0.3, user=user))
                with pytest.raises(StateStoreError) as caught:
                    await barred.ping()
                errors.append(str(caught.value) + repr(caught.value.__cause__) + repr(barred))
                await barred.close()
            await admin.close()
        said = " ".join(errors) + caplog.text
        assert "NOAUTH" in errors[0]
        assert "WRONGPASS" in errors[1]
        assert secret not in said
        assert wrong not in said

    async def test_databases_are_apart(self, embedded_state: str) -> None:
        key = fresh("k")
        here = ValkeyState(settings(embedded_state))
        there = ValkeyState(StateSettings.model_validate({"url": f"redis://{embedded_state}/3"}))
        await here.put(key, b"v", MINUTE)
        assert await there.get(key) is None
        await asyncio.gather(here.close(), there.close())

    async def test_prefixes_are_apart(self, embedded_state: str) -> None:
        key = fresh("k")
        here, there = (ValkeyState(settings(embedded_state), prefix=prefix) for prefix in ("a:", "b:"))
        await here.put(key, b"v", MINUTE)
        assert await there.get(key) is None
        await asyncio.gather(here.close(), there.close())


class TestAddress:
    @pytest.mark.parametrize(
        "url", ["http://127.0.0.1/0", "redis://:hunter2@127.0.0.1:port/0", "redis://h?ssl_ca=hunter2", "unix:///tmp/s"]
    )
    async def test_a_wrong_url_is_refused_without_showing_it(self, url: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            ValkeyState(StateSettings.model_validate({"url": url}))
        assert "state.url is wrong" in str(caught.value)
        assert "hunter2" not in str(caught.value)
        assert caught.value.__cause__ is None

    async def test_tls_is_used_and_checked(self, embedded_state: str, tmp_path: Path) -> None:
        context, cert = certificate(tmp_path)
        async with server(relay(embedded_state), context) as address:
            key = fresh("k")
            store = ValkeyState(settings(address, scheme="rediss", more=f"?ssl_ca_certs={cert}"))
            await store.put(key, b"v" * 200_000, MINUTE)
            assert await store.get(key) == b"v" * 200_000
            await store.close()
            stranger = ValkeyState(settings(address, scheme="rediss", timeout=0.5))
            with pytest.raises(StateStoreError, match="CERTIFICATE_VERIFY_FAILED"):
                await stranger.ping()
            await stranger.close()
