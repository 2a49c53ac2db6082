"""Executors: what they answer, what they leave to others, and that none can hang, print or crash its way out."""

import asyncio
from datetime import timedelta
from importlib import metadata

import psutil
import pytest

from agents.worker import executors
from agents.worker.executors import DeclinedError, Executor, Question, arithmetic, load, solver
from agents.worker.providers.python import PythonProvider
from schemas.enums import FinishReason
from schemas.errors import ConfigurationError, FailureClass, MissingExtraError, ProviderError
from schemas.ports import ChatMessage, ModelCall

NAMES = ("arithmetic", "solver", "misbehaves", "quick", "no_executor")


@pytest.fixture(autouse=True)
def entry_points(monkeypatch, tmp_path):
    """A distribution with the executors of this module, found by this process and by its children."""
    info = tmp_path / "doubles-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: doubles\nVersion: 1\n")
    lines = [f"{name} = tests.doubles.executors:{name.upper()}" for name in NAMES[2:]]
    (info / "entry_points.txt").write_text("\n".join([f"[{executors.GROUP}]", *lines]))
    monkeypatch.syspath_prepend(str(tmp_path))
    load.cache_clear()
    yield tmp_path
    load.cache_clear()


@pytest.fixture
async def provider(entry_points):
    provider = PythonProvider(NAMES, path=(entry_points,))
    yield provider
    await provider.close()


def a_call(model: str, text: str, **changes) -> ModelCall:
    messages = (ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content=text))
    plain = {"model": model, "messages": messages, "timeout": timedelta(seconds=30), "operation_key": "op"}
    return ModelCall(**{**plain, **changes})


async def failure(provider, call) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await provider.complete(call)
    return caught.value


async def test_a_sum_is_answered_in_a_thread(provider):
    answer = await provider.complete(a_call("arithmetic", "What is 12 + 30? Answer with the number only."))
    assert (answer.text, answer.finish_reason, answer.model) == ("42", FinishReason.STOP, "arithmetic")
    assert answer.cpu_us > 0
    assert answer.tokens_in == answer.tokens_out == 0


async def test_an_equation_is_answered_by_a_child_that_stays(provider):
    first = await provider.complete(a_call("solver", "Solve 2x + 3 = 11 for x."))
    assert first.text == "x = 4"
    pids = {child.pid for child in psutil.Process().children()}
    second = await provider.complete(a_call("solver", "Expand (x+1)^2"))
    assert second.text == "x^2 + 2*x + 1"
    assert {child.pid for child in psutil.Process().children()} == pids
    assert second.cpu_us < first.cpu_us  # the first one paid for importing SymPy
    await provider.close()
    assert not {child.pid for child in psutil.Process().children()} & pids


@pytest.mark.parametrize("name", ["arithmetic", "solver"])
async def test_other_questions_are_declined(provider, name):
    error = await failure(provider, a_call(name, "Tom had 23 pencils and gave away 15. How many are left?"))
    assert error.failure is FailureClass.BAD_OUTPUT
    assert f"executor {name} declined" in str(error)


@pytest.mark.parametrize("name", ["misbehaves", "quick"])
async def test_an_exception_is_bad_output_and_its_text_stays_inside(provider, name):
    error = await failure(provider, a_call(name, "raise"))
    assert (error.failure, str(error)) == (FailureClass.BAD_OUTPUT, f"executor {name} failed with RuntimeError")


async def test_a_child_that_hangs_is_killed(provider):
    await provider.complete(a_call("misbehaves", "print"))  # it is up
    error = await failure(provider, a_call("misbehaves", "hang", timeout=timedelta(seconds=0.5)))
    assert error.failure is FailureClass.TIMEOUT
    assert not [child for child in psutil.Process().children() if "misbehaves" in child.cmdline()]
    assert (await provider.complete(a_call("misbehaves", "", extra={"tone": "calm"}))).text == "calm"


@pytest.mark.parametrize("deed", ["die", "eat memory", "long"])
async def test_a_child_that_dies_or_says_too_much_is_one_failed_call(provider, deed):
    assert (await failure(provider, a_call("misbehaves", deed))).failure is FailureClass.BAD_OUTPUT
    assert (await provider.complete(a_call("misbehaves", "print"))).text == "printed"


async def test_more_questions_than_children_are_all_answered(provider):
    calls = (provider.complete(a_call("solver", f"Solve x + {n} = 10")) for n in range(9))
    assert [answer.text for answer in await asyncio.gather(*calls)] == [f"x = {10 - n}" for n in range(9)]


async def test_a_thread_that_is_slow_is_given_up(provider):
    assert (await failure(provider, a_call("quick", "nap"))).failure is FailureClass.TIMEOUT


async def test_what_local_settings_do_not_name_does_not_run():
    error = await failure(PythonProvider({"solver"}), a_call("arithmetic", "What is 1 + 1?"))
    assert error.failure is FailureClass.AUTH
    assert "worker.executors" in str(error)


async def test_what_is_not_installed_goes_to_the_next_model():
    error = await failure(PythonProvider({"weather"}), a_call("weather", "?"))
    assert error.failure is FailureClass.UNKNOWN
    assert "no executor 'weather'" in str(error)


def test_what_is_no_executor_is_refused(monkeypatch):
    with pytest.raises(ConfigurationError, match="not an Executor"):
        load("no_executor")
    assert {point.name for point in metadata.entry_points(group=executors.GROUP)} >= {"misbehaves"}
    monkeypatch.setattr(solver, "EXECUTOR", Executor(run=solver.answer, needs=("no_such_package", "solver")))
    with pytest.raises(MissingExtraError, match=r"tierflow\[solver\]"):
        load("solver")


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Solve 2x + 3 = 11 for x.", "x = 4"),
        ("solve for x: 2x=4", "x = 2"),
        ("Solve x^2 - 5x + 6 = 0", "x = 2 or x = 3"),
        ("Find the roots of x^2 - 4 = 0. Answer with the numbers only.", "-2 or 2"),
        ("If 3x + 5 = 20, what is x?", "x = 5"),
        ("If x + y = 10 and x - y = 2, what is x? Answer with the number only.", "6"),
        ("Solve: x + y = 10, 2x - y = 2", "x = 4, y = 6"),
        ("Solve 1/x = 2", "x = 1/2"),
        ("Solve 0.5x = 2", "x = 4"),
        ("Simplify 2(x+3) − 4", "2*x + 2"),  # noqa: RUF001
        ("Factorise 6x^2 + 11x - 10.", "(2*x + 5)*(3*x - 2)"),
        ("Simplify 6/4", "3/2"),
    ],
)
def test_the_solver_knows(question, expected):
    assert solver.answer(Question(question)) == expected


@pytest.mark.parametrize(
    "question",
    [
        "",
        "What is x?",
        "Solve x^2 + 1 = 0",
        "Solve x = x",
        "Solve x = x + 1",
        "Solve x^x = 4",
        "Solve x^1000000 = 4",
        "Solve x/0 = 1",
        "Solve 0^(0-1) x = 1",
        "Solve 2x = 4 for y",
        "Solve a = b",
        "Solve x + = 3",
        "Solve (x = 3",
        "Solve x) = 3",
        "Solve x^5 - x - 1 = 0",
        "Solve x^2 = y and y = 4",
        "Solve x + y = 1 and x + y = 2",
        "Solve the riddle: a = b",
        "Simplify __import__('os').system('true')",
        "Solve 2 apples = 4",
        "Expand 12",
        "Solve " + "(" * 150 + "x" + ")" * 150 + " = 1" + " " * 5000,
        "Solve " + "9" * 40 + "x = 1",
        "Solve " + "x " * 100_000,
    ],
)
def test_the_solver_declines(question):
    with pytest.raises(DeclinedError):
        solver.answer(Question(question))


def test_arithmetic_declines_a_text_of_any_length():
    with pytest.raises(DeclinedError):
        arithmetic.answer(Question("What is " + "1 + " * 100_000 + "1?"))
