"""``tierflow run``."""

import asyncio
import os
import socket

from schemas.errors import ConfigurationError
from schemas.settings import Settings
from streams import faults
from streams.runtime import stop_on_signals
from tierflow.choices import AgentKind
from tierflow.wiring import run_agent


async def run(settings: Settings, kind: AgentKind, *, tier: str | None, instance: str | None) -> None:
    """Run one agent until a signal asks it to drain.

    Raises:
        TierflowError: What ended it; see its exit code.
    """
    if tier is not None and kind is not AgentKind.WORKER:
        raise ConfigurationError(f"--tier is for workers, not for {kind.value}")
    # In a container the host's name and process id 1 are the same after a restart, and different in each replica.
    name = instance or f"{socket.gethostname()}-{os.getpid()}"
    faults.arm_from(os.environ)
    stop = asyncio.Event()
    stop_on_signals(stop)
    await run_agent(kind.value, settings, tier=tier, instance=name, stop=stop)
