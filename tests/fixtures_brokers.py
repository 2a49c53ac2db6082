"""Brokers and state store for tests, one of each for a test run: a pytest plugin, named in ``tests/conftest.py``.

Under pytest-xdist every worker starts embedded servers of its own, which costs half a second. Kafka is heavy: all tests
that use it get one xdist group, so that with ``--dist loadgroup`` they run in one worker, on one Kafka. (Without
that option each worker starts its own: slower, and still right.) Tests share the servers, so names of topics, groups
and keys must be theirs alone.
"""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NoReturn

import pytest
import pytest_asyncio

from agents.worker.local.cache import WeightsCache
from schemas.errors import MissingExtraError, TierflowError, WeightsUnavailableError
from streams.brokers import EmbeddedBroker, EmbeddedState, KafkaCluster, kafka_available, resolve_kafka

# No optimising compiler: it would cost the two cores of a CI machine more than it gives back in a minute of tests.
TEST_JVM_OPTIONS = ("-XX:TieredStopAtLevel=1",)

# Fault cases wait for the session of a killed member: 6 s at least by Kafka's default.
TEST_BROKER_SETTINGS = {"group.min.session.timeout.ms": "1000"}

_MARKS = {"kafka_broker": "kafka", "embedded_broker": "embedded", "embedded_state": "embedded"}


@pytest.hookimpl(tryfirst=True)  # before -m chooses by marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            if fixture in _MARKS:
                item.add_marker(_MARKS[fixture])
        if item.get_closest_marker("kafka") is not None:
            item.add_marker(pytest.mark.xdist_group("kafka"))


def cannot_run(reason: str) -> NoReturn:
    """Skip loudly on a developer's machine; fail in CI, where a test that does not run must be noticed."""
    if os.environ.get("CI", "").lower() not in {"", "0", "false"}:
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


async def require_kafka() -> None:
    """Skip (or fail, in CI) unless Apache Kafka can be had here; downloads it if need be."""
    reason = kafka_available()
    if reason is None:
        try:
            await resolve_kafka()
        except TierflowError as error:
            reason = str(error)
    if reason is not None:
        cannot_run(f"NO TEST RUNS ON APACHE KAFKA: {reason}")


def require_weights(name: str) -> Path:
    """File of a local model's weights; skip (or fail, in CI) where they are not in the cache."""
    try:
        return WeightsCache().ready(name)
    except WeightsUnavailableError as error:
        cannot_run(f"NO TEST RUNS A REAL MODEL: {error}; tierflow models fetch {name}")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def embedded_broker() -> AsyncIterator[str]:
    """Address of the embedded broker."""
    try:
        async with EmbeddedBroker() as broker:
            yield broker.address
    except MissingExtraError as error:
        cannot_run(f"NO TEST RUNS ON THE EMBEDDED BROKER: {error}")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def embedded_state() -> AsyncIterator[str]:
    """Address of the embedded state store."""
    try:
        async with EmbeddedState() as state:
            yield state.address
    except MissingExtraError as error:
        cannot_run(f"NO TEST RUNS ON THE EMBEDDED STATE STORE: {error}")


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def any_broker(request: pytest.FixtureRequest) -> str:
    """Address of each kind of broker in turn."""
    address: str = request.getfixturevalue(f"{request.param}_broker")
    return address


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """Bootstrap address of a one-node Apache Kafka."""
    await require_kafka()
    async with KafkaCluster(
        work_dir=tmp_path_factory.mktemp("kafka"), jvm_options=TEST_JVM_OPTIONS, settings=TEST_BROKER_SETTINGS
    ) as cluster:
        yield cluster.bootstrap
