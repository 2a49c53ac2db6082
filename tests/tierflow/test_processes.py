"""The process tree, with small programs in place of agents."""

import asyncio
import os
import signal
import sys
import textwrap
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from schemas.errors import ProcessError
from streams.brokers.process import ChildProcess
from tierflow.processes import NEXT, Change, Phase, ProcessTree, Program, Restarts

SOON = Restarts(first=timedelta(milliseconds=20), longest=timedelta(milliseconds=80))
ROOT = Path(__file__).parents[2]

# Says that it runs, ends in order on SIGTERM after saying so, and otherwise does what the argument says.
AGENT = """
    import pathlib, signal, sys, time
    name, notes, do = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3]

    def note(text):
        with notes.open("a") as file:
            file.write(f"{name} {text}\\n")

    def drain(number, frame):
        note("drained")
        sys.exit(0)

    signal.signal(signal.SIGTERM, signal.SIG_IGN if do == "deaf" else drain)
    note("started")
    if do.startswith("exit"):
        print("last words of", name)
        sys.exit(int(do[4:]))
    time.sleep(600)
"""


class Notes:
    """What the programs said."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "notes"
        self.script = folder / "agent.py"
        self.script.write_text(textwrap.dedent(AGENT))
        self.folder = folder

    def lines(self) -> list[str]:
        return self.file.read_text().splitlines() if self.file.exists() else []

    def program(self, name: str, do: str = "run", group: str = "", grace: float = 5) -> Program:
        return Program(
            name=name,
            group=group or name,
            argv=[sys.executable, "-S", str(self.script), name, str(self.file), do],
            log=self.folder / f"{name}.log",
            env=lambda: dict(os.environ),
            grace=timedelta(seconds=grace),
        )

    async def until(self, wanted: Callable[[list[str]], bool]) -> None:
        async with asyncio.timeout(30):
            while not wanted(self.lines()):
                await asyncio.sleep(0.02)


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes(tmp_path)


async def test_starts_shows_and_drains_in_the_given_order(notes: Notes) -> None:
    changes: list[Change] = []
    async with ProcessTree(tell=changes.append) as tree:
        await tree.start(notes.program(name) for name in ("late", "first", "second"))
        await notes.until(lambda lines: len(lines) == 3)
        statuses = tree.statuses()
        assert [each.name for each in statuses] == ["late", "first", "second"]
        assert all(each.phase is Phase.RUNNING and psutil.pid_exists(each.pid) for each in statuses)
        before: list[str] = []

        async def told(group: str) -> None:
            before.append(group)

        await tree.stop(["first", "nobody", "second"], before=told)
        assert before == ["first", "second"]
    assert notes.lines()[3:] == ["first drained", "second drained", "late drained"]
    assert all(not psutil.pid_exists(each.pid) for each in statuses)
    assert [change.phase for change in changes if change.name == "first"] == [
        Phase.RUNNING,
        Phase.STOPPING,
        Phase.STOPPED,
    ]


async def test_who_dies_is_started_again_and_says_so(notes: Notes) -> None:
    changes: list[Change] = []
    async with ProcessTree(restarts=SOON, tell=changes.append) as tree:
        await tree.start([notes.program("agent", "exit3")])
        await notes.until(lambda lines: lines.count("agent started") >= 3)
        assert tree.statuses()[0].deaths >= 2
        assert tree.statuses()[0].last_exit == "exit status 3"
        await tree.stop()
        assert tree.statuses()[0].phase is Phase.STOPPED
    waits = [change.detail for change in changes if change.phase is Phase.WAITING]
    assert waits[0] == "exit status 3; starts again in 0.02 s"
    assert waits[1] == "exit status 3; starts again in 0.04 s"


async def test_a_killed_one_comes_back_under_another_process_id(notes: Notes) -> None:
    async with ProcessTree(restarts=SOON) as tree:
        await tree.start([notes.program("agent")])
        await notes.until(lambda lines: len(lines) == 1)
        first = tree.statuses()[0].pid
        os.kill(first, signal.SIGKILL)
        await notes.until(lambda lines: len(lines) == 2)
        status = tree.statuses()[0]
        assert status.pid != first
        assert (status.deaths, status.last_exit) == (1, "SIGKILL")
        await tree.stop()


async def test_a_configuration_error_is_not_tried_again(notes: Notes) -> None:
    async with ProcessTree(restarts=SOON) as tree:
        await tree.start([notes.program("good"), notes.program("bad", "exit2")])
        async with asyncio.timeout(30):
            error = await tree.broken()
        assert isinstance(error, ProcessError)
        assert "bad ended with exit status 2" in str(error)
        assert "last words of bad" in str(error)
        assert [each.phase for each in tree.statuses()] == [Phase.RUNNING, Phase.FAILED]
        await tree.stop()
    assert notes.lines().count("bad started") == 1


async def test_a_configuration_error_in_the_middle_of_a_stop_does_not_break_it_off(
    notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, read = asyncio.Event(), asyncio.Event()

    async def log_tail(_: ChildProcess) -> str:
        reading.set()
        await read.wait()
        return "last words"

    monkeypatch.setattr(ChildProcess, "log_tail", log_tail)
    async with asyncio.timeout(30), ProcessTree(restarts=SOON) as tree:
        await tree.start([notes.program("good"), notes.program("bad", "exit2")])
        await notes.until(lambda lines: "good started" in lines)
        await reading.wait()
        stopping = asyncio.create_task(tree.stop(["bad", "good"]))
        await asyncio.sleep(0.05)
        read.set()
        await stopping
        assert [each.phase for each in tree.statuses()] == [Phase.STOPPED, Phase.STOPPED]
    assert "good drained" in notes.lines()


async def test_who_does_not_end_in_time_is_killed(notes: Notes) -> None:
    async with ProcessTree() as tree:
        await tree.start([notes.program("deaf", "deaf", grace=0.2)])
        await notes.until(lambda lines: len(lines) == 1)
        await tree.stop()
        assert tree.statuses()[0].last_exit == "SIGKILL"
    assert "deaf drained" not in notes.lines()


async def test_stops_what_waits_for_its_restart(notes: Notes) -> None:
    restarts = Restarts(first=timedelta(minutes=5))
    waiting = asyncio.Event()

    def tell(change: Change) -> None:
        if change.phase is Phase.WAITING:
            waiting.set()

    async with asyncio.timeout(30), ProcessTree(restarts=restarts, tell=tell) as tree:
        await tree.start([notes.program("agent", "exit1")])
        await waiting.wait()
        await tree.stop()
        assert tree.statuses()[0].phase is Phase.STOPPED


async def test_leaving_kills_without_asking(notes: Notes) -> None:
    async with ProcessTree() as tree:
        await tree.start([notes.program("agent")])
        await notes.until(lambda lines: len(lines) == 1)
        pid = tree.statuses()[0].pid
    assert not psutil.pid_exists(pid)
    assert notes.lines() == ["agent started"]


async def test_a_group_is_started_again_with_the_environment_of_now(notes: Notes, tmp_path: Path) -> None:
    told = ["first"]
    program = Program(
        name="agent",
        group="group",
        argv=[sys.executable, "-S", "-c", "import os, time; print(os.environ['TOLD'], flush=True); time.sleep(600)"],
        log=tmp_path / "env.log",
        env=lambda: {**os.environ, "TOLD": told[0]},
    )

    async def says(word: str) -> None:
        async with asyncio.timeout(30):
            while word not in program.log.read_text():
                await asyncio.sleep(0.02)

    async with ProcessTree() as tree:
        await tree.start([program])
        await says("first")
        told[0] = "second"
        await tree.restart_group("group")
        await says("second")
        assert tree.statuses()[0].deaths == 0
        await tree.stop()


async def test_names_are_unique_and_programs_must_exist(notes: Notes, tmp_path: Path) -> None:
    async with ProcessTree() as tree:
        await tree.start([notes.program("agent")])
        with pytest.raises(ProcessError, match="named agent already"):
            await tree.start([notes.program("agent")])
        missing = Program(name="missing", group="x", argv=["/nowhere/program"], log=tmp_path / "missing.log")
        if sys.platform == "linux":  # the guard runs, and says that the program can't
            await tree.start([missing])
            async with asyncio.timeout(30):
                while "cannot run /nowhere/program" not in missing.log.read_text():
                    await asyncio.sleep(0.02)
        await tree.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
async def test_children_die_with_the_parent(notes: Notes, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import asyncio, os, sys
            from pathlib import Path
            from tierflow.processes import ProcessTree, Program

            async def main():
                argv = [sys.executable, "-S", {str(notes.script)!r}, "child", {str(notes.file)!r}, "run"]
                log = Path({str(tmp_path)!r}) / "child.log"
                async with ProcessTree() as tree:
                    await tree.start([Program(name="child", group="g", argv=argv, log=log)])
                    print(tree.statuses()[0].pid, flush=True)
                    await asyncio.sleep(600)

            asyncio.run(main())
            """
        )
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = await asyncio.create_subprocess_exec(
        sys.executable, script, stdout=asyncio.subprocess.PIPE, env=environment
    )
    assert parent.stdout is not None
    child = int(await parent.stdout.readline())
    await notes.until(lambda lines: len(lines) == 1)
    parent.kill()
    await parent.wait()
    async with asyncio.timeout(30):
        while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.02)


def test_every_phase_has_its_successors_and_failed_is_the_end() -> None:
    assert set(NEXT) == set(Phase)
    assert not NEXT[Phase.FAILED]
    reached, wave = {Phase.NEW}, {Phase.NEW}
    while wave:
        wave = {after for phase in wave for after in NEXT[phase]} - reached
        reached |= wave
    assert reached == set(Phase)
    # Nothing stops without having run or waited to, and whatever can run can be asked to end.
    assert Phase.STOPPED not in NEXT[Phase.NEW]
    assert all(Phase.STOPPED in NEXT[phase] for phase in (Phase.RUNNING, Phase.WAITING, Phase.STOPPING))


def test_pauses_double_up_to_the_longest() -> None:
    restarts = Restarts(first=timedelta(seconds=1), longest=timedelta(seconds=10))
    assert [restarts.delay(n).total_seconds() for n in (1, 2, 3, 4, 5, 500)] == [1, 2, 4, 8, 10, 10]
