"""What the learner publishes: counters, calibration, promoted heads, and how far it has read. Pure.

One JSON object with sorted keys and rounded numbers, so that equal states are equal bytes; its checksum is part of its
version. It holds sums, weights and names from the catalogue: no prompt, no answer and no request id.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from agents.classifier.learning.calibration import BINS, Bin, Calibration
from agents.classifier.learning.counters import Cell, Count, Counters
from agents.classifier.learning.replay import Comparison
from schemas.errors import UndecodableError

FORMAT: Final = 1
COMPARISONS: Final = 20
"""Last comparisons that are told of."""
_DIGITS: Final = 4
_HASH_DIGITS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A published state.

    Attributes:
        number: Rises with each publication.
        catalogue: Whose models it is about.
        weights: Version of the weights whose columns the heads read.
        heard: Outcomes taken so far.
        counters: Cells and what they have seen.
        calibration: Bins by route.
        heads: Promoted heads, packed (see ``packing``); empty if none were promoted.
        candidate: Number of the last candidate.
        comparisons: What replay found of the last ones, oldest first, with the number of each.
        positions: Next offset to learn from, by partition: all before it is in this state.
        hash: SHA-256 of all the rest.
    """

    number: int
    catalogue: str
    weights: str
    heard: int = 0
    counters: Sequence[tuple[Cell, Count]] = ()
    calibration: Mapping[str, Sequence[Bin]] = field(default_factory=dict)
    heads: Mapping[str, Any] = field(default_factory=dict)
    candidate: int = 0
    comparisons: Sequence[tuple[int, Comparison]] = ()
    positions: Mapping[str, int] = field(default_factory=dict)
    hash: str = ""

    @property
    def version(self) -> str:
        """Number and checksum."""
        return f"learned-{self.number}+{self.hash[:_HASH_DIGITS]}"

    def to_bytes(self) -> bytes:
        """The record's value. What ``hash`` says here is not looked at."""
        content = self._content()
        return _json({**content, "hash": hashlib.sha256(_json(content)).hexdigest()})

    def _content(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "number": self.number,
            "catalogue": self.catalogue,
            "weights": self.weights,
            "heard": self.heard,
            "counters": [[list(cell), *_rounded(count.good, count.base, count.all)] for cell, count in self.counters],
            "calibration": {
                route: [[index, *_rounded(*each)] for index, each in enumerate(bins) if each.all]
                for route, bins in self.calibration.items()
            },
            "heads": self.heads,
            "candidate": self.candidate,
            "comparisons": [
                [number, each.outcomes, *_rounded(each.current, each.candidate, each.error, each.foreseen)]
                for number, each in self.comparisons
            ],
            "positions": dict(self.positions),
        }

    def restored(self) -> tuple[Counters, Calibration]:
        """Counters and calibration, to be read or gone on with."""
        counters, calibration = Counters(), Calibration()
        counters.restore(self.counters)
        calibration.restore(self.calibration)
        return counters, calibration


def read_state(value: bytes) -> State:
    """A state from a record's value.

    Raises:
        UndecodableError: It's none, of another format, or not what its checksum says.
    """
    try:
        found = orjson.loads(value)
        said = found.pop("hash")
        if hashlib.sha256(_json(found)).hexdigest() != said:
            raise UndecodableError("what was learnt is not what its checksum says")
        if found["format"] != FORMAT:
            raise UndecodableError(f"what was learnt has format {found['format']}, this program reads {FORMAT}")
        return State(
            number=int(found["number"]),
            catalogue=str(found["catalogue"]),
            weights=str(found["weights"]),
            heard=int(found["heard"]),
            counters=[(tuple(map(str, cell)), Count(*map(float, sums))) for cell, *sums in found["counters"]],
            calibration={route: _bins(rows) for route, rows in found["calibration"].items()},
            heads=found["heads"],
            candidate=int(found["candidate"]),
            comparisons=[
                (int(number), Comparison(int(outcomes), *map(float, rest)))
                for number, outcomes, *rest in found["comparisons"]
            ],
            positions={str(place): int(offset) for place, offset in found["positions"].items()},
            hash=str(said),
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UndecodableError(f"what was learnt can't be read: {error!r}") from error


def _bins(rows: Sequence[Sequence[float]]) -> Sequence[Bin]:
    bins = [Bin()] * BINS
    for index, *sums in rows:
        bins[int(index)] = Bin(*sums)
    return bins


def _rounded(*numbers: float) -> list[float]:
    return [round(each, _DIGITS) for each in numbers]


def _json(value: Mapping[str, Any]) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
