"""A lock between processes on this machine."""

import asyncio
import fcntl
import os
from datetime import timedelta
from pathlib import Path

from schemas.errors import ProcessError

_PAUSE_S = 0.2


class FileLock:
    """A lock on a file, which stays behind empty. The kernel gives it back when its holder dies.

    Args:
        path: The file; it and its folder are made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def try_acquire(self) -> bool:
        """Take it if nobody has it; True if it is held now."""
        if self._descriptor is not None:
            return True
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return True

    async def acquire(self, *, within: timedelta) -> None:
        """Take it, waiting for another process if need be.

        It is asked for again and again, here and not in a thread: that could not be cancelled, and would hold the
        lock for nobody.

        Raises:
            ProcessError: Another process holds it for longer.
        """
        try:
            async with asyncio.timeout(within.total_seconds()):
                while not self.try_acquire():  # noqa: ASYNC110 - the holder is another process
                    await asyncio.sleep(_PAUSE_S)
        except TimeoutError:
            raise ProcessError(
                f"another process holds {self.path} for more than {within.total_seconds():g} s"
            ) from None

    def release(self) -> None:
        """Give it back; nothing happens if it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
