"""Linear scores of n-grams and dense features: one table of small integers, many outputs."""

from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agents.classifier.learned.forest import Floats
from agents.classifier.learned.inputs import Inputs
from agents.classifier.learned.ngrams import WORDS, Rows

CLIP: Final = 4.0
"""Standard deviations that a dense feature counts at most: one odd prompt must not outvote its words."""


def weigh(grams: Rows, idf: Floats) -> Floats:
    """Weights of all entries: log counts times rarity, each row of length one.

    Args:
        grams: Counted n-grams.
        idf: Rarity of each bucket, 0 for those not known.
    """
    weights = (1 + np.log(grams.counts)) * idf[grams.buckets]
    lengths = np.sqrt(row_sums((weights * weights)[:, None], grams.starts)[:, 0])
    weights /= np.repeat(np.maximum(lengths, 1e-9), np.diff(grams.starts))
    found: Floats = weights
    return found


def row_sums(entries: Floats, starts: NDArray[np.int64]) -> Floats:
    """Sum entries by row; rows without entries give 0.

    Args:
        entries: Shape (entries, outputs).
        starts: Where rows start, and the end. Shape (rows + 1,).
    """
    sums = np.zeros((len(starts) - 1, entries.shape[1]), np.float32)
    filled = starts[1:] > starts[:-1]
    if filled.any():
        sums[filled] = np.add.reduceat(entries, starts[:-1][filled], axis=0)
    return sums


class Linear(NamedTuple):
    """Scores of many heads at once."""

    idf: Floats
    """Rarity of each bucket, 0 for those that training has not seen often. Shape (buckets,)."""
    table: NDArray[np.int8]
    """Weights of buckets, in units of ``units``. Shape (buckets, outputs)."""
    units: Floats
    """Shape (outputs,)."""
    centre: Floats
    """Means of the dense features. Shape (columns,)."""
    spread: Floats
    """Their standard deviations. Shape (columns,)."""
    dense: Floats
    """Shape (columns, outputs)."""
    bias: Floats
    """Shape (outputs,)."""

    def part(self, outputs: slice) -> "Linear":
        """Some of the outputs on their own, with a table that lies together: rows are then read in one piece."""
        return self._replace(
            table=np.ascontiguousarray(self.table[:, outputs]),
            units=self.units[outputs],
            dense=np.ascontiguousarray(self.dense[:, outputs]),
            bias=self.bias[outputs],
        )

    def scores(self, inputs: Inputs) -> Floats:
        """Scores of prompts. Shape (rows, outputs)."""
        grams = inputs.grams
        weights = weigh(grams, self.idf)
        found: Floats = self.standard(inputs.dense) @ self.dense + self.bias
        # A row at a time: its part of the table fits into the cache, and the sum is one product of vector and matrix.
        bounds = grams.starts.tolist()
        for row, (start, end) in enumerate(pairwise(bounds)):
            # Buckets are in range by their making; "clip" spares numpy the look.
            entries = self.table.take(grams.buckets[start:end], axis=0, mode="clip").astype(np.float32)
            found[row] += (weights[start:end] @ entries) * self.units
        return found

    def standard(self, dense: Floats) -> Floats:
        """Dense features in standard deviations, clipped."""
        found: Floats = np.clip((dense - self.centre) / self.spread, -CLIP, CLIP)
        return found

    def unknown(self, grams: Rows) -> Floats:
        """Share of words that training knows nothing of, for each row."""
        return strange(grams, self.idf)


def strange(grams: Rows, known: NDArray[np.generic]) -> Floats:
    """Share of single words that are not known, for each row; 0 where there are none.

    Other n-grams are not asked: they share buckets with so many others that nearly all would pass as known.

    Args:
        grams: Counted n-grams.
        known: 0 for buckets that are not. Shape (buckets,).
    """
    places = np.flatnonzero(grams.buckets >= WORDS)
    missing = np.concatenate(([0], np.cumsum(known[grams.buckets[places]] == 0)))
    ends = np.searchsorted(places, grams.starts)
    found: Floats = (np.diff(missing[ends]) / np.maximum(np.diff(ends), 1)).astype(np.float32)
    return found
