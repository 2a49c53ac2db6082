"""The compose file: every agent is a service, its commands exist, and its settings are settings."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from registry.load import load_catalogue
from schemas.settings import load_settings
from tierflow.choices import AgentKind
from tierflow.cli import app

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    return found


def test_every_agent_and_tier_is_a_service(services):
    commands = [service.get("command", []) for service in services.values()]
    kinds = {command[1] for command in commands if command[:1] == ["run"]}
    assert kinds == {kind.value for kind in AgentKind}
    tiers = {command[3] for command in commands if command[:3] == ["run", "worker", "--tier"]}
    assert tiers == {tier.id for tier in load_catalogue("cloud").tiers}


def test_what_one_depends_on_is_there_and_can_be_healthy(services):
    for name, service in services.items():
        for other, how in (service.get("depends_on") or {}).items():
            assert other in services, name
            assert how["condition"] != "service_healthy" or "healthcheck" in services[other]


def test_settings_are_settings_and_endpoints_those_of_the_catalogue(services, monkeypatch):
    for name, value in services["worker-fast"]["environment"].items():
        monkeypatch.setenv(name, re.sub(r"\$\{\w+:-(.*?)\}", r"\1", str(value)))
    settings = load_settings()
    assert settings.kafka.bootstrap == "kafka:9092"
    assert set(settings.worker.endpoints) == {model.endpoint for model in load_catalogue("cloud").models}


def test_the_setup_runs_commands_that_exist(services):
    (script,) = services["setup"]["command"]
    command = typer.main.get_command(app)
    for line in script.split(" && "):
        program, group, name, *options = line.split()
        assert program == "tierflow"
        found = command.commands[group].commands[name]  # type: ignore[attr-defined]
        known = {option for param in found.params for option in param.opts}
        assert {option for option in options if option.startswith("--")} <= known


def test_broker_takes_what_the_settings_allow_and_offsets_outlive_records(services, monkeypatch):
    settings = load_settings()
    kafka = services["kafka"]["environment"]
    assert int(kafka["KAFKA_MESSAGE_MAX_BYTES"]) >= settings.topics.max_message_bytes
    longest = max(
        settings.topics.retention, settings.topics.dead_letter_retention, settings.topics.provenance_retention
    )
    assert int(kafka["KAFKA_OFFSETS_RETENTION_MINUTES"]) * 60 > longest.total_seconds()


def test_containers_live_longer_than_a_drain(services):
    loop = load_settings().loop
    grace = int(services["worker-fast"]["stop_grace_period"].rstrip("s"))
    assert grace > (loop.drain_grace + loop.revoke_budget + loop.commit_timeout).total_seconds()
