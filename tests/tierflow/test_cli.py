"""The command line: how it starts, ends, and says what is wrong."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from schemas.errors import ConfigurationError, MissingExtraError, OutputRefusedError
from tests.tierflow.conftest import Run
from tierflow.cli import app, hoisted, main
from tierflow.console import clean, one_line
from tierflow.exits import failure_of

ROOT = Path(__file__).parents[2]
TIERFLOW = (sys.executable, "-m", "tierflow")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
SECRET = "hunter2-and-more"


def tierflow(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TIERFLOW, *arguments], capture_output=True, text=True, env={**ENVIRONMENT, **more}, check=False, timeout=60
    )


def test_help_does_not_wait_for_heavy_packages() -> None:
    program = (
        "import sys, tierflow.cli\n"
        "heavy = {'pydantic', 'aiokafka', 'duckdb', 'redis', 'httpx', 'fastavro', 'rich', 'opentelemetry', 'psutil'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=ENVIRONMENT, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_every_command_has_help_and_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    group = typer.main.get_command(app)
    paths = [[name] for name in group.commands]  # type: ignore[attr-defined]
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        paths += [[name, inner] for inner in getattr(command, "commands", {})]
    assert len(paths) > 25
    for path in paths:
        assert main([*path, "--help"]) == 0, path
        shown = capsys.readouterr().out
        assert "Usage: tierflow " + " ".join(path) in shown
        assert len([line for line in shown.splitlines() if line.strip()]) > 3


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "Commands" in capsys.readouterr().out


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("tierflow ")


async def test_a_wrong_command_or_option_is_one_line(cli: Run) -> None:
    for arguments, said in (
        (["bogus"], "No such command"),
        (["send", "hi", "--bogus"], "No such option: --bogus (see tierflow send --help)"),
        (["send", "hi", "--bootstrap", "x"], "--bootstrap stands before the command"),
        (["send"], "give a prompt"),
        (["run", "chef"], "chef"),
        (["registry", "show", "0"], "greater than or equal to 1"),
    ):
        ran = await cli(*arguments)
        assert ran.code == 2, arguments
        assert ran.out == ""
        assert ran.err.count("\n") == 1
        assert ran.err.startswith("error: ")
        assert said in ran.err
        as_json = await cli(*arguments, "--json")
        assert (as_json.code, as_json.out, as_json.error["code"]) == (2, "", "usage")
        assert said in as_json.error["message"]


async def test_an_error_of_ours_has_its_code_and_exit_code(cli: Run) -> None:
    ran = await cli("registry", "check", "nowhere.yaml")
    assert ran.code == ConfigurationError.exit_code
    assert (
        ran.err == "error: no catalogue nowhere.yaml: give a file, a folder or one of cloud, local, small "
        "[configuration.catalogue]\n"
    )
    as_json = await cli("--json", "registry", "check", "nowhere.yaml")
    assert as_json.error["code"] == "configuration.catalogue"
    assert as_json.error["retryable"] is False
    assert as_json.error["exit_code"] == as_json.code
    told = await cli("registry", "check", "nowhere.yaml", "--debug")
    assert "Traceback" in told.err
    assert told.err.splitlines()[-1] == ran.err.strip()


async def test_nobody_at_the_broker_says_what_to_do(cli: Run) -> None:
    ran = await cli("send", "hi")
    assert ran.code == 75
    assert "tierflow up" in ran.err
    named = await cli("--bootstrap", "127.0.0.1:1", "send", "hi")
    assert named.code == 75
    assert "tierflow up" not in named.err


async def test_wrong_settings_are_named(cli: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TIERFLOW_TOPICS__PARTITIONS", "-1")
    ran = await cli("config", "show")
    assert ran.code == 2
    assert "topics.partitions" in ran.err or "TIERFLOW_TOPICS__PARTITIONS" in ran.err
    ran = await cli("--config", str(tmp_path / "missing.yaml"), "config", "show")
    assert ran.code == 2
    assert "missing.yaml" in ran.err
    ran = await cli("--log-level", "loud", "config", "show")
    assert (ran.code, "--log-level loud" in ran.err) == (2, True)


async def test_secrets_are_never_shown(cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERFLOW_KAFKA__SASL_PASSWORD", SECRET)
    monkeypatch.setenv("TIERFLOW_WORKER__ENDPOINTS__CLOUD__BASE_URL", "https://models.example/v1")
    monkeypatch.setenv("TIERFLOW_WORKER__ENDPOINTS__CLOUD__API_KEY", SECRET)
    monkeypatch.setenv("TIERFLOW_STATE__URL", f"redis://:{SECRET}@127.0.0.1:1/0")
    monkeypatch.setenv("TIERFLOW_STATE__TIMEOUT", "0.2")
    for arguments in (
        ["config", "show"],
        ["--json", "config", "show"],
        ["--debug", "--log-level", "debug", "doctor"],
        ["--debug", "--bootstrap", "127.0.0.1:1", "send", "hi"],
    ):
        ran = await cli(*arguments)
        assert ran.out or ran.err
        assert SECRET not in ran.out + ran.err, arguments
    shown = (await cli("--json", "config", "show")).json[0]
    assert shown["worker"]["endpoints"]["cloud"]["base_url"] == "https://models.example/v1"
    assert shown["state"]["url"].startswith("***")


def test_an_unforeseen_error_keeps_its_text_to_itself() -> None:
    failure = failure_of(RuntimeError(f"token {SECRET}"))
    assert (failure.exit_code, failure.code) == (70, "internal")
    assert SECRET not in failure.message
    assert SECRET in failure.trace  # for --debug


def test_several_errors_at_once_are_told_by_the_first() -> None:
    group = ExceptionGroup("tasks", [ExceptionGroup("inner", [MissingExtraError("x", "local")]), ValueError()])
    assert failure_of(group).code == "configuration.missing-extra"
    assert failure_of(OutputRefusedError(1, "too large")).retryable is False
    assert failure_of(FileNotFoundError(2, "No such file", "f.txt")).message == "f.txt: No such file"


def test_flags_may_stand_anywhere_but_behind_two_dashes() -> None:
    assert hoisted(["explain", "x", "--json"]) == ["--json", "explain", "x"]
    assert hoisted(["send", "--", "--json"]) == ["send", "--", "--json"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ünïcode 日本\n\tline", "plain ünïcode 日本\n\tline"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x9b2J\x07\r", "\\x9b2J\\x07\\r"),
        ("\u202eevil\u2066", "\\u202eevil\\u2066"),
        ("half \ud83d", "half \\ud83d"),
    ],
)
def test_text_from_outside_does_not_drive_the_terminal(text: str, shown: str) -> None:
    assert clean(text) == shown
    assert "\n" not in one_line(text)


def test_one_line_is_bounded() -> None:
    assert one_line("a  b\n c", 80) == "a b c"
    assert len(one_line("x" * 500, 80)) == 80


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("tierflow re", {"reconcile", "registry"}),
        ("tierflow tail ", {"results", "provenance", "dead-letters", "requests", "alerts"}),
    ],
)
def test_completion(typed: str, offered: set[str]) -> None:
    words = len(typed.split(" ")) - 1
    done = tierflow(_TIERFLOW_COMPLETE="complete_bash", COMP_WORDS=typed, COMP_CWORD=str(words))
    assert set(done.stdout.split()) == offered


def test_whoever_reads_may_go_away() -> None:
    process = subprocess.Popen(
        [*TIERFLOW, "models", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 141
    assert "Traceback" not in said
    assert "BrokenPipe" not in said


async def test_interrupting_is_no_accident(embedded_broker: str, at_broker: Run, tmp_path: Path) -> None:
    created = await at_broker("--json", "topics", "create", "--catalogue", "small")
    prefix = created.json[0]["created"][0].removesuffix("requests")
    process = await asyncio.create_subprocess_exec(
        *TIERFLOW,
        "--bootstrap", embedded_broker, "--prefix", prefix, "tail", "results",
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=ENVIRONMENT,
        cwd=tmp_path,
    )  # fmt: skip
    assert process.stderr is not None
    async with asyncio.timeout(60):
        assert b"from the end" in await process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
    assert (process.returncode, out) == (130, b"")
    assert err == b""  # who pressed the keys knows


async def test_doctor_looks_at_everything_even_when_nothing_runs(cli: Run) -> None:
    ran = await cli("--state", "redis://127.0.0.1:1/0", "--bootstrap", "127.0.0.1:1", "doctor", "--json")
    assert ran.code == 1
    found = {line["what"]: line for line in ran.json}
    assert {"Python", "packages", "extra embedded", "settings", "archive", "state store", "broker"} <= found.keys()
    assert found["Python"]["verdict"] == "ok"
    assert found["broker"]["verdict"] == "fail"
    assert all(line["do"] for line in ran.json if line["verdict"] == "fail")
    offline = await cli("doctor", "--offline")
    assert "broker:" not in offline.out
