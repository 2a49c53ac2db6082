"""Broker and state store of an installation: started here, or only named."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from schemas.settings import Settings
from streams.brokers import ChildState, EmbeddedBroker, EmbeddedState, KafkaCluster
from tierflow.choices import BrokerChoice, StateChoice
from tierflow.environment import with_section
from tierflow.installation import process_alive, process_created

_NODE: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """What was started.

    Attributes:
        settings: The settings, with the addresses of what was started.
        broker: Which broker.
        state: Which state store.
        state_url: URL of the embedded state store; empty if it is external.
    """

    settings: Settings
    broker: BrokerChoice
    state: StateChoice
    state_url: str
    _cluster: KafkaCluster | None
    _pids: tuple[tuple[str, int, float], ...]

    def dead(self) -> str:
        """Which of the servers started here has died; empty if none has."""
        if self._cluster is not None and self._cluster.state(_NODE) is ChildState.EXITED:
            return f"Apache Kafka (its log: {self._cluster.log(_NODE)})"
        return next((name for name, pid, created in self._pids if not process_alive(pid, created)), "")


@asynccontextmanager
async def servers(
    settings: Settings, *, broker: BrokerChoice, state: StateChoice, folder: Path, logs: Path
) -> AsyncIterator[Servers]:
    """Start broker and state store as chosen, and stop them at the end, the broker last.

    Args:
        settings: Name the servers that are external.
        broker: Which broker.
        state: Which state store.
        folder: For what outlives a stop: records of Apache Kafka, and the state store's beside it.
        logs: Folder of the servers' logs.

    Raises:
        MissingExtraError: An embedded server is not installed.
        ConfigurationError: No Java or Maven, or a folder that is in use.
        ProcessError: A server did not start.
    """
    async with AsyncExitStack() as stack:
        cluster: KafkaCluster | None = None
        pids: list[tuple[str, int, float]] = []
        if broker is BrokerChoice.EMBEDDED:
            embedded = await stack.enter_async_context(EmbeddedBroker(work_dir=logs))
            settings = with_section(settings, "kafka", bootstrap=embedded.address)
            pids.append(("the embedded broker", embedded.pid, process_created(embedded.pid)))
        elif broker is BrokerChoice.KAFKA:
            cluster = await stack.enter_async_context(KafkaCluster(work_dir=folder / "kafka"))
            settings = with_section(settings, "kafka", bootstrap=cluster.bootstrap, delivery="exactly_once")
        state_url = ""
        if state is StateChoice.EMBEDDED:
            # What the store remembers is about records of the broker. The embedded broker forgets them all: the same
            # coordinates then mean other records, so its state must not outlive it.
            kept = None if broker is BrokerChoice.EMBEDDED else folder / "state"
            store = await stack.enter_async_context(EmbeddedState(work_dir=logs, data_dir=kept))
            state_url = store.url
            settings = with_section(settings, "state", url=SecretStr(state_url))
            pids.append(("the embedded state store", store.pid, process_created(store.pid)))
        yield Servers(
            settings=settings,
            broker=broker,
            state=state,
            state_url=state_url,
            _cluster=cluster,
            _pids=tuple(pids),
        )
