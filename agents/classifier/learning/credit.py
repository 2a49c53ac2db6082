"""What a model is credited with: news that leads to cheaper answers counts only as far as it is sure. Pure."""

from math import sqrt
from typing import Final

COUNTED: Final = 0.2
"""Weight of the counters beside heads: they are coarser, but hear of an outcome at once."""


def mixed(counted: float, head: float | None) -> float:
    """P(answer is good) from the counters and, where there is one, the head of a model."""
    return counted if head is None else COUNTED * counted + (1 - COUNTED) * head


def spread(share: float, seen: float) -> float:
    """Standard error of a share.

    Args:
        share: 0 to 1.
        seen: Weight of the outcomes that it rests on.
    """
    return sqrt(share * (1 - share) / (seen + 1))


def credited(expected: float, base: float | None, doubt: float, *, dearest: bool) -> float:
    """What a decision takes for P(answer is good).

    A cheaper model that turns out better than it was held for is believed less one standard error, and so is the
    dearest one that turns out worse: both lead down. What leads up is believed in full. A cheaper model that nobody
    knew anything of is credited with what it surely has, so a cold start takes the dearest.

    Args:
        expected: As learnt.
        base: As it was held for before; None if nobody knew.
        doubt: One standard error.
        dearest: Whether it is the dearest candidate.
    """
    if dearest:
        return expected if base is None or expected >= base else min(base, expected + doubt)
    if base is None:
        return max(0.0, expected - doubt)
    return expected if expected <= base else max(base, expected - doubt)
