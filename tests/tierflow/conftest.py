"""Running commands in this process, as their users do."""

import asyncio
import json
import logging
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tierflow.cli import main


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> list[dict[str, Any]]:
        """Standard output as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> dict[str, Any]:
        """The error on standard error, which holds nothing else."""
        found: dict[str, Any] = json.loads(self.err)["error"]
        return found


Run = Callable[..., Awaitable[Ran]]


@pytest.fixture
def logging_as_it_was() -> Iterator[None]:
    """Commands set up logging for their process; this one goes on."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def cli(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, logging_as_it_was: None
) -> Run:
    """Runs a command in a folder where nothing runs."""
    monkeypatch.chdir(tmp_path)

    async def run(*arguments: str) -> Ran:
        code = await asyncio.to_thread(main, arguments)
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return run


@pytest.fixture
def at_broker(cli: Run, embedded_broker: str) -> Run:
    """Runs a command at the embedded broker, under a prefix of the test's own."""
    prefix = f"cli-{uuid.uuid4().hex[:8]}."

    async def run(*arguments: str) -> Ran:
        return await cli("--bootstrap", embedded_broker, "--prefix", prefix, *arguments)

    return run
