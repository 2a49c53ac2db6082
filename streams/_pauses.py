"""Pauses between tries of what a broker refuses for the moment: short at first, since most moments are."""

import asyncio
from typing import Final

FIRST_S: Final = 0.002
"""What a broker that verifies another part of the same transaction, or writes the markers of the last, needs for it."""
LONGEST_S: Final = 0.1
"""For a partition that looks for a leader, or waits for its replicas."""


class Pauses:
    """Doubled with each.

    Args:
        longest_s: What they grow to, seconds.
    """

    __slots__ = ("_longest_s", "_next_s")

    def __init__(self, longest_s: float = LONGEST_S) -> None:
        self._longest_s = longest_s
        self._next_s = FIRST_S

    async def next(self) -> None:
        """Wait."""
        pause_s, self._next_s = self._next_s, min(self._next_s * 2, self._longest_s)
        await asyncio.sleep(pause_s)
