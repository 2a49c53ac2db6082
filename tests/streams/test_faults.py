"""Fault points: what is planned happens there, once, and costs nothing when nothing is planned."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from schemas.errors import ConfigurationError
from streams import faults
from streams.faults import VARIABLE, Action, Fault, InjectedError, Point, arm, arm_from, during, reach, read, written


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    arm([])


def test_says_the_same_in_words_and_in_json(tmp_path: Path) -> None:
    planned = [
        Fault(Point.AFTER_JOURNAL, Action.KILL, passes=3, marker=tmp_path / "m"),
        Fault(Point.AFTER_FETCH, Action.BLOCK, seconds=0.5, every=True),
    ]
    assert read(written(planned)) == planned


@pytest.mark.parametrize("text", ["{}", "[1]", "[{}]", '[{"point": "nowhere", "action": "kill"}]', "no json"])
def test_refuses_what_it_does_not_understand(text: str) -> None:
    with pytest.raises(ConfigurationError, match=VARIABLE):
        arm_from({VARIABLE: text})
    assert not faults.armed


def test_nothing_is_armed_without_the_variable() -> None:
    arm_from({})
    assert not faults.armed


async def test_happens_at_the_pass_that_was_named_and_once() -> None:
    arm([Fault(Point.AFTER_CLAIM, Action.RAISE, passes=2)])
    await reach(Point.AFTER_CALL)
    await reach(Point.AFTER_CLAIM)
    with pytest.raises(InjectedError):
        await reach(Point.AFTER_CLAIM)
    await reach(Point.AFTER_CLAIM)


async def test_happens_each_time_if_told_so() -> None:
    arm([Fault(Point.AFTER_CLAIM, Action.RAISE, passes=2, every=True)])
    await reach(Point.AFTER_CLAIM)
    for _ in range(3):
        with pytest.raises(InjectedError):
            await reach(Point.AFTER_CLAIM)


async def test_a_marker_makes_it_happen_once_over_restarts(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    arm([Fault(Point.AFTER_CLAIM, Action.RAISE, marker=marker)])
    with pytest.raises(InjectedError):
        await reach(Point.AFTER_CLAIM)
    assert marker.read_text() == f"{os.getpid()} raise at after-claim\n"
    arm([Fault(Point.AFTER_CLAIM, Action.RAISE, marker=marker)])
    await reach(Point.AFTER_CLAIM)


async def test_others_go_on_during_a_delay_and_stand_still_during_a_block() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.001)

    counting = asyncio.create_task(count())
    arm([Fault(Point.AFTER_FETCH, Action.DELAY, seconds=0.1)])
    await reach(Point.AFTER_FETCH)
    after_delay = turns
    assert after_delay > 2
    arm([Fault(Point.AFTER_FETCH, Action.BLOCK, seconds=0.1)])
    before = time.monotonic()
    await reach(Point.AFTER_FETCH)
    assert turns == after_delay
    assert time.monotonic() - before >= 0.1
    counting.cancel()


async def test_strikes_while_something_goes_on_but_not_after_it(tmp_path: Path) -> None:
    async def work(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "done"

    marker = tmp_path / "marker"
    arm([Fault(Point.DURING_CALL, Action.RAISE, seconds=0.05, marker=marker)])
    assert await during(Point.DURING_CALL, work(0)) == "done"
    await asyncio.sleep(0.1)
    assert not marker.exists()
    with pytest.raises(InjectedError):
        await during(Point.DURING_CALL, work(10))
    assert marker.exists()


@pytest.mark.parametrize(("action", "point"), [(Action.KILL, Point.AFTER_CALL), (Action.FREEZE, Point.DURING_COMMIT)])
def test_a_process_kills_or_freezes_itself(tmp_path: Path, action: Action, point: Point) -> None:
    program = (
        "import asyncio, os, sys\n"
        "from streams import faults\n"
        "async def main():\n"
        "    faults.arm_from(os.environ)\n"
        "    await faults.reach(faults.Point.AFTER_CALL)\n"
        "    await faults.during(faults.Point.DURING_COMMIT, asyncio.sleep(0.05, 'slept'))\n"
        "asyncio.run(main())\n"
    )
    marker = tmp_path / "marker"
    environment = {**os.environ, VARIABLE: written([Fault(point, action, marker=marker)])}
    child = subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=subprocess.DEVNULL)
    if action is Action.KILL:
        assert child.wait(30) == -signal.SIGKILL
    else:
        until = time.monotonic() + 30
        while psutil.Process(child.pid).status() != psutil.STATUS_STOPPED:
            assert time.monotonic() < until
            time.sleep(0.01)
        child.send_signal(signal.SIGCONT)
        assert child.wait(30) == 0
    assert str(child.pid) in marker.read_text()
