"""Boosted oblivious trees: how they answer.

An oblivious tree asks the same question at each node of a level, so that a tree of depth d is d comparisons and one
look-up, for all trees and all rows at once (Prokhorenkova et al., CatBoost, 2018, call them that, too).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Forest(NamedTuple):
    """Trees whose leaves are summed."""

    columns: NDArray[np.int32]
    """Which feature is asked. Shape (trees, depth)."""
    cuts: Floats
    """Is the feature larger than this? Shape (trees, depth)."""
    leaves: Floats
    """Shape (trees, 2 ** depth, outputs)."""
    base: Floats
    """Added to the sum. Shape (outputs,)."""

    def predict(self, features: Floats) -> Floats:
        """The sum of all trees for each row.

        Args:
            features: Shape (rows, features).

        Returns:
            Shape (rows, outputs).
        """
        trees, depth = self.columns.shape
        if not trees:
            return np.broadcast_to(self.base, (len(features), len(self.base)))
        asked = features[:, self.columns.ravel()].reshape(len(features), trees, depth) > self.cuts
        leaf = asked @ (1 << np.arange(depth))
        found: Floats = self.leaves[np.arange(trees), leaf].sum(axis=1) + self.base
        return found
