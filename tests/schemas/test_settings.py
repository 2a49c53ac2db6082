"""Settings from file, environment and code; every mistake is named, no secret is shown."""

import os
import traceback
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from schemas.errors import ConfigurationError
from schemas.settings import (
    EndpointSettings,
    KafkaSettings,
    LoopSettings,
    ReceiverSettings,
    Settings,
    TopicSettings,
    load_settings,
)

SECRET = "hunter2-is-secret"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("TIERFLOW_"):
            monkeypatch.delenv(name)


def write(directory: Path, text: str) -> Path:
    path = directory / "tierflow.yaml"
    path.write_text(text)
    return path


def test_defaults_need_nothing() -> None:
    settings = load_settings()
    assert settings.kafka.bootstrap == "127.0.0.1:9092"
    assert settings == Settings()


def test_environment_wins_over_file_and_code_over_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(
        tmp_path, "kafka: {bootstrap: 'file:1', client_id: file}\ntopics: {partitions: 3}\nloop: {linger: 0.5}\n"
    )
    monkeypatch.setenv("TIERFLOW_KAFKA__BOOTSTRAP", "env:1")
    before = dict(os.environ)
    settings = load_settings(file)
    assert (settings.kafka.bootstrap, settings.kafka.client_id) == ("env:1", "file")
    assert settings.topics.partitions == 3
    assert settings.loop.linger == timedelta(seconds=0.5)
    coded = load_settings(file, kafka=KafkaSettings(bootstrap="code:1"))
    assert coded.kafka.bootstrap == "code:1"
    assert dict(os.environ) == before
    assert Settings().topics.partitions == TopicSettings().partitions  # the file is forgotten again


def test_the_file_may_be_named_by_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERFLOW_CONFIG", str(write(tmp_path, "topics: {prefix: 'a.'}")))
    assert load_settings().topics.prefix == "a."
    other = tmp_path / "other.yaml"
    other.write_text("topics: {prefix: 'b.'}")
    assert load_settings(other).topics.prefix == "b."
    assert load_settings(write(tmp_path, "# nothing\n")) == Settings()


def test_nested_maps_lists_durations_and_secrets_come_from_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "TIERFLOW_WORKER__ENDPOINTS__LOCAL__BASE_URL": "http://127.0.0.1:1/v1",
        "TIERFLOW_WORKER__ENDPOINTS__LOCAL__API_KEY": SECRET,
        "TIERFLOW_WORKER__ENDPOINTS__LOCAL__HEADERS": f'{{"X-Team": "{SECRET}"}}',
        "TIERFLOW_WORKER__ENDPOINTS__DEFAULT__BASE_URL": "http://127.0.0.1:2/v1",
        "TIERFLOW_WORKER__EXECUTORS": "solver, linter",
        "TIERFLOW_WORKER__LEASE": "PT20S",
        "TIERFLOW_LOOP__LINGER": "0.05",
        "TIERFLOW_LOOP__FETCH_WAIT": "2",
        "tierflow_topics__prefix": "x.",
        "TIERFLOW_STATE": '{"timeout": 3}',
    }.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    local = settings.worker.endpoints["local"]
    assert local.base_url == "http://127.0.0.1:1/v1"
    assert local.api_key.get_secret_value() == local.headers["X-Team"].get_secret_value() == SECRET
    assert settings.worker.endpoints["default"].base_url.endswith(":2/v1")
    assert settings.worker.executors == {"solver", "linter"}
    assert settings.worker.lease == timedelta(seconds=20)
    assert (settings.loop.linger, settings.loop.fetch_wait) == (timedelta(milliseconds=50), timedelta(seconds=2))
    assert settings.topics.prefix == "x."
    assert settings.state.timeout == timedelta(seconds=3)
    monkeypatch.setenv("TIERFLOW_WORKER__EXECUTORS", '["solver"]')
    assert load_settings().worker.executors == {"solver"}


def test_secrets_are_masked_wherever_settings_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERFLOW_KAFKA__SASL_PASSWORD", SECRET)
    monkeypatch.setenv("TIERFLOW_STATE__URL", f"redis://:{SECRET}@127.0.0.1:6379/0")
    settings = load_settings(
        worker={"endpoints": {"a": EndpointSettings(base_url="http://x", api_key=SecretStr(SECRET))}}
    )
    lines = dict(settings.lines())
    assert lines["kafka.sasl_password"] == lines["worker.endpoints.a.api_key"] == "**********"
    assert lines["loop.linger"] == "PT0.025S"
    assert lines["loop.fetch_wait"] == lines["worker.endpoints.a.headers"] == ""
    for shown in (str(settings), repr(settings), settings.model_dump_json(), str(lines)):
        assert SECRET not in shown


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "TIERFLOW_KAFKA__BOOTSTRP",
            "x",
            r"kafka\.bootstrp: there is no such setting \(environment variable TIERFLOW_KAFKA__BOOTSTRP\)",
        ),
        (
            "TIERFLOW_KAFAK__BOOTSTRAP",
            "x",
            r"TIERFLOW_KAFAK__BOOTSTRAP: there is no section kafak; did you mean TIERFLOW_KAFKA__\.\.\.",
        ),
        ("TIERFLOW_ZZZ__A", "x", "there is no section zzz; known: "),
        ("TIERFLOW_LOOP__LINGER", "soon", r"loop\.linger: must be a duration: seconds, such as 2\.5"),
        ("TIERFLOW_LOOP__LINGER", "-1", r"loop\.linger: must not be negative \("),
        ("TIERFLOW_LOOP__LINGER", "1e300", r"loop\.linger: must be a duration"),
        ("TIERFLOW_TOPICS__PARTITIONS", "0", r"topics\.partitions: must be greater than 0"),
        ("TIERFLOW_WORKER__ENDPOINTS__A__MAX_CONNECTIONS", "many", r"worker\.endpoints\.a\.base_url: Field required"),
        ("TIERFLOW_WORKER__ENDPOINTS", "{bad", r"environment variable TIERFLOW_\.\.\.ENDPOINTS must be JSON"),
        ("TIERFLOW_WORKER__ENDPOINTS__A__HEADERS", "x", r"worker\.endpoints\.a\.headers: must be a JSON object"),
        ("TIERFLOW_KAFKA", "x", "environment variable .*KAFKA must be JSON"),
    ],
)
def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=said):
        load_settings()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kafka: {boot: x}", r"kafka\.boot: there is no such setting \(file .*tierflow\.yaml\)"),
        ("kafak: {}", r"kafak: there is no such setting \(file "),
        ("loop: {linger: soon}", r"loop\.linger: must be a duration.*\(file "),
        ("a: [1\nb: 2", r"tierflow\.yaml, line 2: "),
        ("- a", "must hold sections"),
        ("1: a", "must hold sections"),
        ("kafka: !!python/object:os.system {}", "tierflow.yaml, line 1: could not determine a constructor"),
        ("\x00", "is not YAML"),
    ],
)
def test_a_wrong_file_is_named_with_its_line_or_setting(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        load_settings(write(tmp_path, text))


def test_a_file_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"gone\.yaml does not exist"):
        load_settings(tmp_path / "gone.yaml")
    monkeypatch.setenv("TIERFLOW_CONFIG", str(tmp_path / "lost.yaml"))
    with pytest.raises(ConfigurationError, match=r"lost\.yaml does not exist"):
        load_settings()
    with pytest.raises(ConfigurationError, match="can't be read"):
        load_settings(tmp_path)


def test_a_wrong_setting_does_not_show_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERFLOW_STATE__URL", SECRET)
    monkeypatch.setenv("TIERFLOW_STATE__TIMEOUT", SECRET)
    monkeypatch.setenv("TIERFLOW_CODEC", f'{{"schema_registry_password": ["{SECRET}"]}}')
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert "codec.schema_registry_password: must be a valid string" in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"^settings are wrong: receiver\.window must be longer"):
        load_settings(receiver=ReceiverSettings(window=timedelta(days=1)))
    with pytest.raises(ValidationError, match="commit_timeout must be below"):
        LoopSettings(commit_timeout=timedelta(seconds=10))
    with pytest.raises(ValidationError, match="at most a third of session_timeout"):
        KafkaSettings(heartbeat_interval=timedelta(seconds=6))


def test_settings_do_not_change_after_the_start() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_settings().kafka.bootstrap = "elsewhere:1"
