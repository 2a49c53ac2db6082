"""What all commands share: the global options, the settings that follow from them, and where output goes."""

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeVar

from schemas.errors import BrokerUnavailableError, ConfigurationError
from schemas.settings import Settings, load_settings
from schemas.settings_source import FILE_VARIABLE, Variables, read_file
from streams.runtime import Platform, find_platform
from tierflow.console import Console
from tierflow.installation import Installation

T = TypeVar("T")

FOLDER: Final = Path(".tierflow")
"""Where an installation on this machine keeps its things, below the working directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Globals:
    """Options that stand before the command."""

    config: Path | None = None
    bootstrap: str = ""
    state: str = ""
    prefix: str | None = None
    log_level: str = "warning"
    folder: Path = FOLDER
    as_json: bool = False
    debug: bool = False


@dataclass(eq=False)
class Front:
    """One command's surroundings.

    Attributes:
        options: Global options.
        console: Where output goes.
    """

    options: Globals
    console: Console
    _told: set[str] = field(default_factory=set)

    def run(
        self,
        work: Coroutine[Any, Any, T],
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    ) -> T:
        """Run asynchronous work to its end; Ctrl-C cancels it.

        Args:
            work: What to run.
            loop_factory: Makes the event loop; Python's own when left out.
        """
        with asyncio.Runner(debug=False, loop_factory=loop_factory) as runner:
            return runner.run(work)

    @cached_property
    def found(self) -> Installation | None:
        """The installation that runs, or ran last, in this folder."""
        return Installation.load(self.options.folder)

    @cached_property
    def settings(self) -> Settings:
        """Options, then environment, then the file, then what runs in this folder, then defaults.

        Raises:
            ConfigurationError: Something is wrong in them; names what.
        """
        given = self.overrides()
        here = self._from_installation(given)
        for section, values in here.items():
            given[section] = {**values, **given.get(section, {})}
        return load_settings(self.options.config, **given)

    @cached_property
    def settings_alone(self) -> Settings:
        """The same without what runs in this folder: for who is about to start something there.

        Raises:
            ConfigurationError: Something is wrong in them; names what.
        """
        return load_settings(self.options.config, **self.overrides())

    async def platform(self) -> Platform:
        """The broker of the settings, and what it can do.

        Raises:
            DeliveryError: Nobody answers, or lets us not in; says how to name or start one.
        """
        settings = self.settings
        try:
            return await find_platform(settings)
        except BrokerUnavailableError as error:
            if self.explicit("kafka", "bootstrap") or (self.found is not None and self.found.alive):
                raise
            hint = "start one with 'tierflow up', or name it with --bootstrap"
            raise BrokerUnavailableError(f"{error}; {hint}") from error

    def overrides(self) -> dict[str, dict[str, Any]]:
        """The settings that global options name."""
        given: dict[str, dict[str, Any]] = {}
        if self.options.bootstrap:
            given["kafka"] = {"bootstrap": self.options.bootstrap}
        if self.options.state:
            given["state"] = {"url": self.options.state}
        if self.options.prefix is not None:
            given["topics"] = {"prefix": self.options.prefix}
        return given

    def explicit(self, section: str, name: str) -> bool:
        """Whether a setting was given by option, environment or file.

        Raises:
            ConfigurationError: The settings file, or a variable, can't be read.
        """
        sources = (self.overrides(), Variables(Settings)(), self._file())
        return any(name in (source.get(section) or {}) for source in sources)

    def archive(self, given: Path | None) -> Path:
        """The archive's folder: the option, else the setting, else that of the installation in this folder."""
        if given is not None:
            return given
        if self.found is not None and not self.explicit("archive", "directory"):
            self._tell(f"archive: {self.found.archive}")
            return Path(self.found.archive)
        return self.settings.archive.directory

    def _from_installation(self, given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """What the running installation says, unless somebody named a broker: then that is another installation."""
        if "kafka" in given or self.explicit("kafka", "bootstrap"):
            return {}
        found = self.found
        if found is None or not found.alive:
            return {}
        self._tell(
            f"using the installation that runs in {self.options.folder}: {found.broker} broker {found.bootstrap}"
        )
        values: dict[str, dict[str, Any]] = {"kafka": {"bootstrap": found.bootstrap}}
        if found.state_url and not self.explicit("state", "url"):
            values["state"] = {"url": found.state_url}
        if not self.explicit("topics", "prefix"):
            values["topics"] = {"prefix": found.prefix}
        if not self.explicit("archive", "directory"):
            values["archive"] = {"directory": found.archive}
        return values

    def _file(self) -> Mapping[str, Any]:
        named = os.environ.get(FILE_VARIABLE)
        path = self.options.config or (Path(named) if named else None)
        return {} if path is None else read_file(path)

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self.console.note(text)


def set_up_logging(level: str) -> None:
    """Logs go to standard error, one line each.

    Raises:
        ConfigurationError: There is no such level.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ConfigurationError(f"--log-level {level}: choose one of debug, info, warning, error")
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    # Clients tell at INFO what they connect to and at WARNING each hiccup that they mend by themselves.
    for name in ("aiokafka", "httpx", "httpcore", "asyncio"):
        logging.getLogger(name).setLevel(max(number, logging.ERROR if number > logging.DEBUG else number))


class _OneLine(logging.Formatter):
    """A record is one line, whatever its text or exception holds."""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).replace("\n", " | ")
