"""The note of a running installation, and the settings that follow from it."""

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import ConfigurationError
from tierflow.console import Console
from tierflow.front import Front, Globals
from tierflow.installation import Agent, Installation, process_created


def running(folder: Path, **changes: Any) -> Installation:
    fields: dict[str, Any] = {
        "pid": os.getpid(),
        "created": process_created(os.getpid()),
        "started_ms": 1,
        "broker": "embedded",
        "bootstrap": "127.0.0.1:4242",
        "state": "embedded",
        "state_url": "redis://127.0.0.1:4243/0",
        "prefix": "mine.",
        "archive": str(folder / "archive"),
        "logs": str(folder / "logs"),
        "agents": (Agent(name="a", group="g", pid=1, log="l"),),
        **changes,
    }
    note = Installation(**fields)
    note.save(folder)
    return note


def front(folder: Path, **options: Any) -> tuple[Front, io.StringIO]:
    err = io.StringIO()
    return Front(Globals(folder=folder, **options), Console(out=io.StringIO(), err=err)), err


def test_is_written_and_read_and_holds_no_more_than_its_owner_may_see(tmp_path: Path) -> None:
    note = running(tmp_path)
    assert Installation.load(tmp_path) == note
    assert (tmp_path / "run.json").stat().st_mode & 0o077 == 0
    assert note.alive
    assert not note.ended().alive
    assert Installation.load(tmp_path / "elsewhere") is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}', '{"format": 1}', '{"format": 1, "x": 2}'])
def test_something_else_under_its_name_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ConfigurationError, match=r"run\.json"):
        Installation.load(tmp_path)


def test_another_process_under_the_same_id_is_not_taken_for_it(tmp_path: Path) -> None:
    assert not running(tmp_path, created=1.0).alive


def test_other_commands_find_it_and_say_so(tmp_path: Path) -> None:
    running(tmp_path)
    made, err = front(tmp_path)
    settings = made.settings
    assert settings.kafka.bootstrap == "127.0.0.1:4242"
    assert settings.state.url.get_secret_value() == "redis://127.0.0.1:4243/0"
    assert settings.topics.prefix == "mine."
    assert settings.archive.directory == tmp_path / "archive"
    assert "using the installation that runs in" in err.getvalue()
    # Who starts something there must not take it for a broker of its own.
    assert made.settings_alone.kafka.bootstrap == "127.0.0.1:9092"


def test_a_named_broker_is_another_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running(tmp_path)
    made, err = front(tmp_path, bootstrap="127.0.0.1:1")
    assert made.settings.kafka.bootstrap == "127.0.0.1:1"
    assert made.settings.topics.prefix == ""
    assert err.getvalue() == ""
    # Named as what happens to be the default: still named.
    monkeypatch.setenv("TIERFLOW_KAFKA__BOOTSTRAP", "127.0.0.1:9092")
    assert front(tmp_path)[0].settings.kafka.bootstrap == "127.0.0.1:9092"


def test_a_file_names_a_broker_too(tmp_path: Path) -> None:
    running(tmp_path)
    file = tmp_path / "settings.yaml"
    file.write_text("kafka: {bootstrap: '127.0.0.1:2'}\ntopics: {partitions: 3}\n")
    made, _ = front(tmp_path, config=file, prefix="other.")
    assert made.settings.kafka.bootstrap == "127.0.0.1:2"
    assert (made.settings.topics.partitions, made.settings.topics.prefix) == (3, "other.")


def test_single_settings_win_over_the_note(tmp_path: Path) -> None:
    running(tmp_path)
    made, _ = front(tmp_path, state="redis://127.0.0.1:5/1", prefix="")
    assert made.settings.kafka.bootstrap == "127.0.0.1:4242"
    assert made.settings.state.url.get_secret_value() == "redis://127.0.0.1:5/1"
    assert made.settings.topics.prefix == ""


def test_one_that_ended_still_says_where_its_archive_lies(tmp_path: Path) -> None:
    running(tmp_path).ended().save(tmp_path)
    made, _ = front(tmp_path)
    assert made.settings.kafka.bootstrap == "127.0.0.1:9092"
    assert made.archive(None) == tmp_path / "archive"
    assert made.archive(Path("mine")) == Path("mine")
    assert "redis" not in json.dumps(made.settings.model_dump(mode="json")["state"])
