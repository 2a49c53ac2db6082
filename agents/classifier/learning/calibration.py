"""Calibration kept up to date per route: what a confidence was, and how often the class was right. Pure.

The trained model's confidence is calibrated on sources left out of its training. A route may carry other traffic, so
whoever says of a request what it really was (a producer's hint, a rule, feedback that names the class) corrects the
confidence of the route: a logistic function of its logit, drawn to the identity by a prior. With no word it is the
identity.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, log
from typing import Final, NamedTuple

PRIOR: Final = 10.0
"""Precision of slope and offset around the identity: words by the dozen move them, single ones hardly do."""
BINS: Final = 20
"""Of the confidence, evenly wide."""
FORGET: Final = 0.998
"""Words keep this share of their weight with each new one on the route: about the last five hundred count."""
LEAST: Final = 0.02
MOST: Final = 0.995
"""Ends of a confidence, as those of the trained model."""
_ROUNDS: Final = 25
_SLOPES: Final = (0.2, 3.0)
_OFFSETS: Final = (-3.0, 3.0)


class Correction(NamedTuple):
    """From a confidence to the corrected one: logit(p) becomes slope * logit(p) + offset."""

    slope: float = 1.0
    offset: float = 0.0

    def of(self, confidence: float) -> float:
        """The corrected confidence; the same one, to the bit, under the identity."""
        if self == IDENTITY:
            return confidence
        return min(max(_logistic(self.slope * _logit(confidence) + self.offset), LEAST), MOST)


IDENTITY: Final = Correction()


class Bin(NamedTuple):
    """Words on confidences that lie close together.

    Attributes:
        logits: Sum of the logits of the confidences.
        right: How often the class was right.
        all: How many there were; all three fade.
    """

    logits: float = 0.0
    right: float = 0.0
    all: float = 0.0


@dataclass(slots=True)
class Calibration:
    """What was seen of each route."""

    _bins: dict[str, list[Bin]] = field(default_factory=dict)
    _fitted: dict[str, Correction] = field(default_factory=dict)

    def add(self, route: str, confidence: float, *, right: bool) -> None:
        """Take a word on one request.

        Args:
            route: Its route.
            confidence: As the trained model gave it, not corrected.
            right: Whether its class was right.
        """
        bins = self._bins.setdefault(route, [Bin()] * BINS)
        place = min(int(confidence * BINS), BINS - 1)
        for index, each in enumerate(bins):
            if each.all:
                bins[index] = Bin(each.logits * FORGET, each.right * FORGET, each.all * FORGET)
        old = bins[place]
        bins[place] = Bin(old.logits + _logit(confidence), old.right + right, old.all + 1)
        self._fitted.pop(route, None)

    def correction(self, route: str) -> Correction:
        """Of a route's confidences; the identity where nothing was seen."""
        found = self._fitted.get(route)
        if found is None:
            bins = self._bins.get(route)
            if bins is None:
                return IDENTITY
            found = self._fitted[route] = fit(bins)
        return found

    def corrections(self) -> Mapping[str, Correction]:
        """Of all routes that something was seen of."""
        return {route: self.correction(route) for route in sorted(self._bins)}

    def rows(self) -> Mapping[str, Sequence[Bin]]:
        """What was seen, by route."""
        return {route: tuple(self._bins[route]) for route in sorted(self._bins)}

    def restore(self, rows: Mapping[str, Sequence[Bin]]) -> None:
        """Take what ``rows`` gave, in place of what is here."""
        self._bins = {route: list(bins) for route, bins in rows.items()}
        self._fitted = {}


def fit(bins: Sequence[Bin]) -> Correction:
    """The likeliest correction under the prior, by Newton's method."""
    seen = [(each.logits / each.all, each.right, each.all) for each in bins if each.all > 0]
    slope, offset = IDENTITY
    for _ in range(_ROUNDS):
        down_slope, down_offset = PRIOR * (slope - 1), PRIOR * offset
        bend = [PRIOR, 0.0, PRIOR]  # of slope, of both, of offset
        for logit, right, count in seen:
            said = _logistic(slope * logit + offset)
            miss, curve = count * said - right, count * said * (1 - said)
            down_slope += miss * logit
            down_offset += miss
            bend[0] += curve * logit * logit
            bend[1] += curve * logit
            bend[2] += curve
        volume = bend[0] * bend[2] - bend[1] ** 2
        slope -= (bend[2] * down_slope - bend[1] * down_offset) / volume
        offset -= (bend[0] * down_offset - bend[1] * down_slope) / volume
        slope, offset = min(max(slope, _SLOPES[0]), _SLOPES[1]), min(max(offset, _OFFSETS[0]), _OFFSETS[1])
    return Correction(slope, offset)


def _logit(confidence: float) -> float:
    kept = min(max(confidence, LEAST), MOST)
    return log(kept / (1 - kept))


def _logistic(logit: float) -> float:
    return 1 / (1 + exp(-logit))
