"""Benchmarks run: a short look at those that need the embedded broker only, whatever their numbers are."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from bench.__main__ import NAMES

ROOT = Path(__file__).parents[2]


async def bench(*arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "bench", *arguments),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


async def test_the_list_names_every_benchmark_of_the_flow() -> None:
    code, out = await bench("--help")
    assert code == 0
    assert all(name in out for name in NAMES)


@pytest.mark.embedded
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", ["hop"])
async def test_a_table_comes_out_and_nothing_is_missing(name: str) -> None:
    code, out = await bench(name, "--quick", "--broker", "embedded")
    assert code == 0, out[-2000:]
    assert "flat out" in out
    rows = [line for line in out.splitlines() if line.count("│") > 4]
    assert rows
    assert {row.rstrip("│ ").rsplit("│", 1)[1].strip() for row in rows} == {"0"}
