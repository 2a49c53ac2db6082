"""Metrics that are counted where they happen and only read by the exporter.

A histogram of OpenTelemetry's SDK costs 10 microseconds a measurement; adding to a bucket here costs a third of one.
What the SDK can't read from outside, histograms, is put beside its own metrics when they are exported.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

PROCESS_BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
"""Seconds; what the conventions give for ``messaging.process.duration``."""
AGE_BOUNDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600, 21_600, 86_400)
"""Seconds; from a rule's answer to a day's wait."""


class Buckets:
    """A histogram as plain numbers. A value on a bound falls below it, as OpenTelemetry has it.

    Args:
        bounds: Upper bounds, rising; one more bucket takes what is above the last.
    """

    __slots__ = ("bounds", "counts", "highest", "lowest", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0
        self.lowest = float("inf")
        self.highest = float("-inf")

    def record(self, value: float, times: int = 1) -> None:
        """Count a value, several times if need be."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times
        self.lowest = min(self.lowest, value)
        self.highest = max(self.highest, value)
