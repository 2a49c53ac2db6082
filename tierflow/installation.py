"""The note that a running installation leaves in its folder, so that other commands find it without options.

``<dir>/run.json`` holds addresses, process ids and the delivery mode, and no secret.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

import psutil

from schemas.errors import ConfigurationError

FILE: Final = "run.json"
FORMAT: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """A process of the installation."""

    name: str
    group: str
    pid: int
    log: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """What runs, or ran last, in a folder.

    Attributes:
        pid: Process id of the command that runs it.
        created: When that process was made, seconds since the epoch: a process id alone is used again.
        started_ms: Unix milliseconds.
        running: False once it was stopped in order.
        broker: embedded, kafka or external.
        bootstrap: Address of the broker.
        cluster_id: The broker's own name of the cluster.
        state: embedded or external.
        state_url: URL of the state store if it is embedded; empty otherwise, as it may hold a password.
        prefix: Prefix of topics and groups.
        mode: Delivery mode.
        catalogue: Name of the catalogue.
        registry_number: Snapshot that ruled at the start.
        archive: Folder of the archive, absolute.
        logs: Folder of the logs, absolute.
        agents: The processes.
    """

    pid: int
    created: float
    started_ms: int
    running: bool = True
    broker: str
    bootstrap: str
    cluster_id: str = ""
    state: str
    state_url: str = ""
    prefix: str = ""
    mode: str = ""
    catalogue: str = ""
    registry_number: int = 0
    archive: str
    logs: str
    agents: Sequence[Agent] = field(default_factory=tuple)

    @property
    def alive(self) -> bool:
        """Whether the process that runs it is still there, and the same one."""
        return self.running and process_alive(self.pid, self.created)

    def save(self, folder: Path) -> None:
        """Write it into the folder, in one step: readers see the old note or the new one."""
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{FILE}.partial"
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"format": FORMAT, **asdict(self)}, file, indent=2)
            file.write("\n")
        partial.replace(folder / FILE)

    def ended(self) -> Self:
        """The same, stopped."""
        return replace(self, running=False, agents=())

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Read the note of a folder; None if there is none.

        Raises:
            ConfigurationError: There is something else under its name.
        """
        path = folder / FILE
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ConfigurationError(f"{path} can't be read ({error}): delete it") from error
        if not isinstance(raw, dict) or raw.pop("format", None) != FORMAT:
            raise ConfigurationError(f"{path} was written by another version of tierflow: delete it")
        return cls._from(raw, path)

    @classmethod
    def _from(cls, raw: Mapping[str, Any], path: Path) -> Self:
        try:
            agents = tuple(Agent(**each) for each in raw.get("agents", ()))
            return cls(**{**raw, "agents": agents})
        except TypeError as error:
            raise ConfigurationError(f"{path} can't be read ({error}): delete it") from error


def process_created(pid: int) -> float:
    """When a process was made, seconds since the epoch; 0 if there is none."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0.0


def process_alive(pid: int, created: float) -> bool:
    """Whether a process still runs, and is the one that was made at ``created`` (seconds since the epoch)."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - created) < 1.0  # the kernel counts in ticks
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
