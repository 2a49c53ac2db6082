"""Ridge regression of many heads on n-grams and dense features, by conjugate gradients.

Each head has rows of its own: a row without a label for a head has weight 0 there. All heads are solved in one run,
because walking through the n-grams is what takes the time. Needs SciPy (extra ``train``) for products of sparse
matrices; answering needs numpy only.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from agents.classifier.learned.forest import Floats
from agents.classifier.learned.inputs import Inputs
from agents.classifier.learned.linear import CLIP, Linear, weigh
from agents.classifier.learned.ngrams import BUCKETS
from schemas.errors import MissingExtraError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

RARE: Final = 3
"""Prompts that an n-gram must occur in to count: a rarer one says more of its prompt than of its class."""
ROUNDS: Final = 20
"""Steps of conjugate gradients. Stopping early is a ridge of its own; more did not help on held-out sources."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """What heads should say.

    Attributes:
        values: Shape (rows, outputs).
        weights: Of each row for each output, 0 where it has no label. Shape (rows, outputs).
        ridge: Pull towards 0 of each output. Shape (outputs,).
        form: Whether an output also sees the dense features, else only words. Shape (outputs,).
    """

    values: Floats
    weights: Floats
    ridge: Floats
    form: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """Prompts as matrices, made once and used by all fits.

    Attributes:
        inputs: What the model sees.
        idf: Of all prompts. Shape (buckets,).
        sparse: Weighted n-grams. Shape (rows, buckets).
        centre: Of the dense features.
        spread: Of the dense features.
        dense: Standardised and scaled so that a row has length one or so. Shape (rows, columns).
    """

    inputs: Inputs
    idf: Floats
    sparse: "csr_matrix"
    centre: Floats
    spread: Floats
    dense: Floats


def design(inputs: Inputs) -> Design:
    """Prepare prompts for fits. Labels play no part, so held-out prompts may be among them.

    Raises:
        MissingExtraError: SciPy isn't installed.
    """
    try:
        from scipy.sparse import csr_matrix  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError("scipy", "train") from error
    grams = inputs.grams
    rows = len(inputs.dense)
    in_prompts = np.bincount(grams.buckets, minlength=BUCKETS)
    idf = (np.log((1 + rows) / (1 + in_prompts)) + 1).astype(np.float32)
    idf[in_prompts < RARE] = 0
    weights = weigh(grams, idf)
    kept = weights > 0
    ends = np.concatenate(([0], np.cumsum(kept)))
    sparse = csr_matrix((weights[kept], grams.buckets[kept], ends[grams.starts]), shape=(rows, BUCKETS))
    centre = inputs.dense.mean(axis=0)
    spread = inputs.dense.std(axis=0) + 1e-6
    dense = np.clip((inputs.dense - centre) / spread, -CLIP, CLIP) / np.float32(np.sqrt(inputs.dense.shape[1]))
    return Design(inputs=inputs, idf=idf, sparse=sparse, centre=centre, spread=spread, dense=dense)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Weights of heads, before they are packed into small integers."""

    of_grams: Floats
    of_dense: Floats
    bias: Floats

    def scores(self, made: Design, rows: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> Floats:
        """Scores of some prompts. Shape (rows, outputs)."""
        found: Floats = made.sparse[rows] @ self.of_grams + made.dense[rows] @ self.of_dense + self.bias
        return found

    def pack(self, made: Design) -> Linear:
        """Weights as the model keeps them: n-grams in steps of 1/127 of an output's largest."""
        units = np.maximum(np.abs(self.of_grams).max(axis=0), 1e-9) / 127
        table = np.rint(self.of_grams / units).astype(np.int8)
        dense = self.of_dense / np.float32(np.sqrt(len(self.of_dense)))
        return Linear(
            made.idf, table, units.astype(np.float32), made.centre, made.spread, dense.astype(np.float32), self.bias
        )


def solve(made: Design, targets: Targets, rows: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> Fit:
    """Fit heads on some of the prompts.

    Args:
        made: All prompts.
        targets: Of all prompts.
        rows: Those to learn from.
    """
    sparse, dense = made.sparse[rows], made.dense[rows]
    turned = sparse.T.tocsr()
    weights, values = targets.weights[rows], targets.values[rows]
    bias = ((weights * values).sum(axis=0) / np.maximum(weights.sum(axis=0), 1e-9)).astype(np.float32)
    shape = (len(targets.ridge),)
    of_grams = np.zeros((BUCKETS, *shape), np.float32)
    of_dense = np.zeros((dense.shape[1], *shape), np.float32)
    error = weights * (values - bias)
    rest_grams, rest_dense = turned @ error, (dense.T @ error) * targets.form
    step_grams, step_dense = rest_grams.copy(), rest_dense.copy()
    size = (rest_grams**2).sum(axis=0) + (rest_dense**2).sum(axis=0)
    for _ in range(ROUNDS):
        image = weights * (sparse @ step_grams + dense @ step_dense)
        bent_grams = turned @ image + targets.ridge * step_grams
        bent_dense = (dense.T @ image + targets.ridge * step_dense) * targets.form
        curve = (step_grams * bent_grams).sum(axis=0) + (step_dense * bent_dense).sum(axis=0)
        pace = size / np.maximum(curve, 1e-20)
        of_grams += pace * step_grams
        of_dense += pace * step_dense
        rest_grams -= pace * bent_grams
        rest_dense -= pace * bent_dense
        fresh = (rest_grams**2).sum(axis=0) + (rest_dense**2).sum(axis=0)
        turn = fresh / np.maximum(size, 1e-20)
        step_grams = rest_grams + turn * step_grams
        step_dense = rest_dense + turn * step_dense
        size = fresh
    return Fit(of_grams=of_grams, of_dense=of_dense, bias=bias)
