"""Where weights lie on this machine, and in what state.

A file under its final name is complete and was verified. What is still being fetched is called ``<file>.partial``: it
has the full size from the start and each part is written at its own place. Which parts are already there is not written
down anywhere; it is found by hashing their places, so an interruption at any instant leaves nothing that could lie.
"""

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from agents.worker.local.sources import Part
from agents.worker.local.weights import WEIGHTS, Weights, weights_named
from schemas.errors import WeightsDamagedError, WeightsUnavailableError

CACHE_VARIABLE = "TIERFLOW_CACHE"
_BLOCK = 1 << 20  # a mebibyte: large enough that hashing, not system calls, is what takes time
_STAT_BLOCK = 512  # the unit of st_blocks, whatever the file system's own block is (POSIX)
_LOCK_POLL = 0.2  # seconds between two looks at a lock that another process holds


class WeightsState(StrEnum):
    """What the cache holds of one file."""

    ABSENT = "absent"
    PARTIAL = "partial"
    READY = "ready"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsStatus:
    """One line of ``models list``.

    Attributes:
        weights: The catalogue entry.
        path: Where the complete file is, or would be.
        state: ``READY`` rests on the size and on the check before the file got its name; ``verify`` hashes again.
        bytes: Bytes on disk; of a partial file the allocated ones, not all of which need be verified.
    """

    weights: Weights
    path: Path
    state: WeightsState
    bytes: int


def default_directory() -> Path:
    """``$TIERFLOW_CACHE/models``, or ``~/.cache/tierflow/models``."""
    given = os.environ.get(CACHE_VARIABLE, "").strip()
    return (Path(given).expanduser() if given else Path.home() / ".cache" / "tierflow") / "models"


class WeightsCache:
    """The files of the catalogue in one directory.

    Args:
        directory: Where they lie; made when first written to. Default: ``default_directory()``.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = (directory or default_directory()).absolute()

    def path(self, weights: Weights) -> Path:
        """Name of the complete file."""
        return self.directory / weights.filename

    def partial(self, weights: Weights) -> Path:
        """Name of the file while it is being fetched."""
        return self.directory / f"{weights.filename}.partial"

    def work(self, weights: Weights) -> Path:
        """Directory for what a running fetch needs besides; may be deleted by whoever holds the lock."""
        return self.directory / f"{weights.filename}.work"

    def status(self, weights: Weights) -> WeightsStatus:
        """What is there, without reading it: microseconds."""
        path, partial = self.path(weights), self.partial(weights)
        if path.is_file():
            size = path.stat().st_size
            state = WeightsState.READY if size == weights.bytes else WeightsState.DAMAGED
        elif partial.is_file():
            size = min(partial.stat().st_blocks * _STAT_BLOCK, weights.bytes)
            state = WeightsState.PARTIAL
        else:
            size, state = 0, WeightsState.ABSENT
        return WeightsStatus(weights=weights, path=path, state=state, bytes=size)

    def statuses(self) -> list[WeightsStatus]:
        """The status of every file of the catalogue, smallest first."""
        return [self.status(each) for each in WEIGHTS.values()]

    def ready(self, name: str | Weights) -> Path:
        """Path of a complete file.

        Raises:
            ConfigurationError: No such name.
            WeightsUnavailableError: It is not complete.
        """
        weights = weights_named(name)
        found = self.status(weights)
        if found.state is not WeightsState.READY:
            raise self._unavailable(weights)
        return found.path

    def verify(self, name: str | Weights, progress: Callable[[int, int], None] | None = None) -> Path:
        """Hashes a complete file again: about a second per gigabyte.

        Args:
            name: Name in the catalogue.
            progress: Called with bytes read and bytes in all.

        Raises:
            ConfigurationError: No such name.
            WeightsUnavailableError: It is not there, or not complete.
            WeightsDamagedError: It is not the pinned content.
        """
        weights = weights_named(name)
        path = self.path(weights)
        if not path.is_file():
            raise self._unavailable(weights)
        if not holds(path, weights, progress):
            raise WeightsDamagedError(
                f"{path} is not {weights.title}: other bytes than pinned. "
                f"Mend it: tierflow models fetch --recheck {weights.name}"
            )
        return path

    def missing(self, weights: Weights) -> list[tuple[int, Part]]:
        """Parts whose place in the partial file does not hold them, with their offsets; makes that file if need be."""
        partial = self.partial(weights)
        fresh = not partial.exists()  # then there is nothing to hash: seconds less for a gigabyte
        partial.touch()
        with partial.open("r+b") as file:
            file.truncate(weights.bytes)
            missing, offset = [], 0
            for part in weights.parts:
                if fresh or digest(file, offset, part.bytes) != part.sha256:
                    missing.append((offset, part))
                offset += part.bytes
        return missing

    def _unavailable(self, weights: Weights) -> WeightsUnavailableError:
        return WeightsUnavailableError(
            f"{weights.name} is {self.status(weights).state} in {self.directory}: tierflow models fetch {weights.name}"
        )

    @contextmanager
    def locked(self, weights: Weights, waiting: Callable[[], None], limit: timedelta) -> Iterator[None]:
        """Holds the file's lock, so that only one process fetches it; the lock goes when the holder dies.

        Args:
            weights: The file.
            waiting: Called again and again while another process holds the lock.
            limit: How long to wait for that process.

        Raises:
            WeightsUnavailableError: The other process did not finish in time.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"{weights.filename}.lock"
        until = time.monotonic() + limit.total_seconds()
        with path.open("a") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until:
                        raise WeightsUnavailableError(
                            f"another process has been fetching {weights.name} for {limit}; end it, or wait ({path})"
                        ) from None
                    waiting()
                    time.sleep(_LOCK_POLL)
            yield


def digest(file: BinaryIO, offset: int, length: int, progress: Callable[[int], None] | None = None) -> str:
    """SHA-256 in hex of ``length`` bytes from ``offset``; less, where the file ends before."""
    sha, left = hashlib.sha256(), length
    file.seek(offset)
    while left and (block := file.read(min(_BLOCK, left))):
        sha.update(block)
        left -= len(block)
        if progress:
            progress(length - left)
    return sha.hexdigest()


def holds(path: Path, weights: Weights, progress: Callable[[int, int], None] | None = None) -> bool:
    """Whether a file is, byte for byte, the pinned one."""
    if path.stat().st_size != weights.bytes:
        return False
    report = (lambda done: progress(done, weights.bytes)) if progress else None
    with path.open("rb") as file:
        return digest(file, 0, weights.bytes, report) == weights.sha256
