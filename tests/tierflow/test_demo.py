"""The main job with the stand-in model: a real broker, a real model, real processes, and books that balance."""

import asyncio
import json
import os
import sys
import uuid
from pathlib import Path

import pytest

from tests.fixtures_brokers import require_weights

ROOT = Path(__file__).parents[2]
MODEL = "smollm2-135m"
SAMPLE = 6
SPECIAL = {"refused": 7, "expired": 2, "duplicate": 1}
"""How the requests of ``examples/requests.jsonl`` that are special end without a model."""


async def demo(folder: Path, *options: str, before: tuple[str, ...] = ()) -> tuple[int, dict[str, object], str]:
    arguments = ("--json", "--dir", str(folder / "home"), *before, "demo", "--catalogue", "small")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tierflow",
        *arguments,
        *("--sample", str(SAMPLE), "--seed", "1", "--timeout", "6m"),
        *options,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    told = [json.loads(line) for line in out.decode().splitlines()]
    return process.returncode or 0, told[-1] if told else {}, err.decode()


def balanced(code: int, found: dict[str, object], err: str) -> None:
    assert code == 0, err[-3000:]
    assert found["balanced"] is True
    assert found["offending"] == {}
    assert sum(found["dead_letters"].values()) == 3  # type: ignore[attr-defined]
    ended = found["ended"]
    assert sum(ended.values()) == found["accepted"]  # type: ignore[attr-defined]
    for status, least in SPECIAL.items():
        assert ended.get(status, 0) >= least, (status, ended)  # type: ignore[attr-defined]
    assert ended["answered"] > 0  # type: ignore[index]
    assert found["duplicates_dropped"] == 1


@pytest.mark.models
@pytest.mark.timeout(600)
async def test_the_main_job_on_embedded_parts(tmp_path):
    require_weights(MODEL)
    balanced(*await demo(tmp_path))


@pytest.mark.models
@pytest.mark.timeout(600)
async def test_the_main_job_on_kafka_exactly_once(tmp_path, kafka_broker):
    require_weights(MODEL)
    at = ("--bootstrap", kafka_broker, "--prefix", f"demo-{uuid.uuid4().hex[:8]}.")
    balanced(*await demo(tmp_path, "--broker", "external", before=at))
