"""What runs beside an agent's own work."""

import asyncio

import pytest

from tierflow.wiring import _background


async def test_work_in_the_background_that_fails_drains_the_agent_and_is_told() -> None:
    stop = asyncio.Event()

    async def work() -> None:
        raise ValueError("nobody expected this")

    async with asyncio.timeout(10):
        with pytest.raises(ValueError, match="nobody expected this"):
            async with _background(work(), stop):
                await stop.wait()


async def test_work_in_the_background_ends_with_the_agent() -> None:
    stop, begun = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        await asyncio.sleep(600)

    async with asyncio.timeout(10), _background(work(), stop):
        await begun.wait()
        assert not stop.is_set()
