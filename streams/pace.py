"""How long to wait for more results before a transaction: nothing when idle, up to the linger under load.

A transaction costs the same for one record as for a hundred. Waiting is free only when records come fast enough that
they would queue anyway.
"""

from datetime import timedelta

QUIET_RATE = 150.0
"""Records a second below which nothing waits: at that rate a transaction each costs less than a core's fifth."""

BUSY_RATE = 400.0
"""Records a second from which the full linger is used: at 500/s it takes a hop from 0.8 to 0.35 CPU s per 1,000."""

MEMORY_S = 0.5
"""Time constant of the rate, seconds: long enough not to flap between batches, short enough to follow a burst."""


class Pace:
    """Measures the rate of finished records and picks the wait.

    Args:
        linger: Longest wait.
    """

    __slots__ = ("_at", "_linger_s", "_rate")

    def __init__(self, linger: timedelta) -> None:
        self._linger_s = linger.total_seconds()
        self._rate = 0.0
        self._at: float | None = None

    @property
    def rate(self) -> float:
        """Records a second, smoothed."""
        return self._rate

    def note(self, records: int, now: float) -> None:
        """A commit of ``records`` ended at ``now`` (monotonic seconds)."""
        if self._at is not None:
            elapsed = max(now - self._at, 1e-6)
            weight = min(1.0, elapsed / MEMORY_S)
            self._rate += weight * (records / elapsed - self._rate)
        self._at = now

    def wait_s(self) -> float:
        """Seconds to wait for more."""
        share = (self._rate - QUIET_RATE) / (BUSY_RATE - QUIET_RATE)
        return self._linger_s * min(1.0, max(0.0, share))
