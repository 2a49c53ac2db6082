"""What cases share: a recording provider, and worlds on one broker."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.faults.oracle import Resources
from tests.faults.provider import Provider, open_provider
from tests.faults.world import World, measure_at_rest, open_world

OpenWorld = Callable[..., AbstractAsyncContextManager[World]]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def provider(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Provider]:
    """One provider process for all cases of a run."""
    async with open_provider(tmp_path_factory.mktemp("provider")) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def at_rest(
    kafka_broker: str, embedded_state: str, provider: Provider, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Resources]:
    """What an agent of each kind holds that nothing has happened to: where the others must come back to."""
    folder = tmp_path_factory.mktemp("at-rest")
    async with open_world(kafka_broker, f"redis://{embedded_state}/0", provider, folder) as world:
        return await measure_at_rest(world)


@pytest.fixture
def on_kafka(
    kafka_broker: str, embedded_state: str, provider: Provider, tmp_path: Path, at_rest: dict[str, Resources]
) -> OpenWorld:
    """Opens a world on Apache Kafka."""

    def opened(**sections: Any) -> AbstractAsyncContextManager[World]:
        return open_world(kafka_broker, f"redis://{embedded_state}/0", provider, tmp_path, at_rest=at_rest, **sections)

    return opened


@pytest.fixture
def on_embedded(embedded_broker: str, embedded_state: str, provider: Provider, tmp_path: Path) -> OpenWorld:
    """Opens a world on the embedded broker."""

    def opened(**sections: Any) -> AbstractAsyncContextManager[World]:
        return open_world(embedded_broker, f"redis://{embedded_state}/0", provider, tmp_path, **sections)

    return opened
