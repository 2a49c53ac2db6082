"""Ridge regression of many heads on n-grams and dense features, by conjugate gradients.

Each head has rows of its own: a row without a label for a head has weight 0 there. All heads are solved in one run,
because walking through the n-grams is what takes the time. Needs SciPy (extra ``train``) for products of sparse
matrices; answering needs numpy only.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from agents.classifier.learned.forest import Floats
from agents.classifier.learned.inputs import Inputs
from agents.classifier.learned.linear import CLIP, Linear, weigh
from agents.classifier.learned.ngrams import BUCKETS, WORDS
from agents.classifier.training.words import Meanings
from schemas.errors import MissingExtraError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

RARE: Final = 3
"""Prompts that an n-gram must occur in to count: a rarer one says more of its prompt than of its class."""
FORM: Final = 0.5
"""Length of a row of features of form beside its words, whose length is one: form is what differs most between sources
that mean the same."""
ROUNDS: Final = 20
"""Steps of conjugate gradients. Stopping early is a ridge of its own; more did not help on held-out sources."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """What heads should say.

    Attributes:
        values: Shape (rows, outputs).
        weights: Of each row for each output, 0 where it has no label. Shape (rows, outputs).
        ridge: Pull towards 0 of each output. Shape (outputs,).
        form: Whether an output also sees the dense columns, else only n-grams. Shape (outputs,).
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
    dense: Features of form, standardised, then the meaning of a row's words, centred; a row of either has a length of
            ``FORM`` and one or so. Shape (rows, columns + directions).
        lift: From single words to their share in the directions, and, in the last row, what centring takes off. Shape
            (BUCKETS - WORDS + 1, directions).
    """

    inputs: Inputs
    idf: Floats
    sparse: "csr_matrix"
    centre: Floats
    spread: Floats
    dense: Floats
    lift: Floats


def design(inputs: Inputs, meanings: Meanings | None = None, variants: NDArray[np.bool_] | None = None) -> Design:
    """Prepare prompts for fits. Labels play no part, so held-out prompts may be among them.

    Args:
        inputs: The prompts.
        meanings: Vectors of words, if there are any.
        variants: Rows that are another row in another layout: they don't make an n-gram more frequent. Shape (rows,).

    Raises:
        MissingExtraError: SciPy isn't installed.
    """
    try:
        from scipy.sparse import csr_matrix  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError("scipy", "train") from error
    grams = inputs.grams
    rows = len(inputs.dense)
    vectors = np.zeros((BUCKETS - WORDS, 0), np.float32) if meanings is None else meanings.vectors
    counted = grams if variants is None else inputs.take(np.flatnonzero(~variants)).grams
    in_prompts = np.bincount(counted.buckets, minlength=BUCKETS)
    idf = (np.log((1 + len(counted.starts)) / (1 + in_prompts)) + 1).astype(np.float32)
    idf[~known(in_prompts, vectors)] = 0
    weights = weigh(grams, idf)
    kept = weights > 0
    ends = np.concatenate(([0], np.cumsum(kept)))
    sparse = csr_matrix((weights[kept], grams.buckets[kept], ends[grams.starts]), shape=(rows, BUCKETS))
    centre = inputs.dense.mean(axis=0)
    spread = inputs.dense.std(axis=0) + 1e-6
    form = np.clip((inputs.dense - centre) / spread, -CLIP, CLIP) * _scale(inputs.dense.shape[1])
    meaning = sparse[:, WORDS:] @ vectors
    spreads = max(float(meaning.var(axis=0).sum()) ** 0.5, 1e-6)
    dense = np.concatenate((form, (meaning - meaning.mean(axis=0)) / spreads), axis=1, dtype=np.float32)
    lift = np.concatenate((vectors, -meaning.mean(axis=0)[None]), dtype=np.float32) / np.float32(spreads)
    return Design(inputs=inputs, idf=idf, sparse=sparse, centre=centre, spread=spread, dense=dense, lift=lift)


def known(in_prompts: NDArray[np.int64], vectors: Floats) -> NDArray[np.bool_]:
    """Which buckets count: those of enough prompts, and those of rarer words with a meaning. Shape (buckets,)."""
    found = in_prompts >= RARE
    found[WORDS:] |= vectors.any(axis=1)
    return found


def _scale(columns: int) -> np.float32:
    """Factor of standardised features of form: with it their rows are of length ``FORM`` or so."""
    return np.float32(FORM / np.sqrt(columns))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Weights of heads, before they are packed into small integers."""

    of_grams: Floats
    of_dense: Floats
    bias: Floats

    def scores(self, made: Design, rows: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> Floats:
        """Scores of some prompts. Shape (rows, outputs)."""
        form = made.dense[rows, : len(self.of_dense)]
        found: Floats = made.sparse[rows] @ self.of_grams + form @ self.of_dense + self.bias
        return found

    def pack(self, made: Design) -> Linear:
        """Weights as the model keeps them: n-grams in steps of 1/127 of an output's largest."""
        units = np.maximum(np.abs(self.of_grams).max(axis=0), 1e-9) / 127
        table = np.rint(self.of_grams / units).astype(np.int8)
        dense = self.of_dense * _scale(len(self.of_dense))
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
    columns = dense.shape[1] - made.lift.shape[1]
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
    # What a direction says is what its words say: nothing of it has to be known when answering.
    of_meaning = made.lift @ of_dense[columns:]
    of_grams[WORDS:] += of_meaning[:-1]
    return Fit(of_grams=of_grams, of_dense=of_dense[:columns], bias=bias + of_meaning[-1])
