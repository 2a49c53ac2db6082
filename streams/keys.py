"""Order by key: at most one record of a key is worked on at a time, in the order they came."""

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class KeyScheduler(Generic[T]):
    """First in, first out per key. Holds only keys that have something running."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[Hashable, deque[T] | None] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def offer(self, key: Hashable, item: T) -> bool:
        """Whether ``item`` may start now; else it waits behind the others of its key."""
        if key not in self._waiting:
            self._waiting[key] = None
            return True
        queue = self._waiting[key]
        if queue is None:
            queue = self._waiting[key] = deque()
        queue.append(item)
        return False

    def finish(self, key: Hashable) -> T | None:
        """The running item of ``key`` ended; returns the next one, which runs from now on, or None."""
        queue = self._waiting.get(key)
        if queue:
            return queue.popleft()
        self._waiting.pop(key, None)
        return None

    def clear(self) -> None:
        """Forget everything (the partition is gone)."""
        self._waiting.clear()
