"""The real clock."""

import time


class SystemClock:
    """Wall clock and monotonic clock of the system."""

    def now_ms(self) -> int:
        """Unix milliseconds."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Seconds from an arbitrary start."""
        return time.monotonic()
