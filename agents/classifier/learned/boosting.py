"""Boosted oblivious trees: how they are grown. Squared error, histograms, numpy only."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.classifier.learned.forest import Floats, Forest

Bins = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """How trees are grown; how the defaults were chosen is in docs/classifier.md."""

    trees: int = 200
    depth: int = 4
    rate: float = 0.05
    """Share of a tree's answer that is added."""
    rows: float = 0.7
    """Share of the rows that a tree sees."""
    features: float = 0.5
    """Share of the features that a tree may ask."""
    damping: float = 20.0
    """Rows of zero that each leaf is thought to have besides its own."""
    bins: int = 32
    """Most values of a feature that are told apart."""


def edges(features: Floats, bins: int) -> list[Floats]:
    """The cuts that each feature may be asked for: between its quantiles."""
    shares = np.linspace(0, 1, bins + 1)[1:-1]
    return [np.unique(np.quantile(column, shares, method="lower")).astype(np.float32) for column in features.T]


def grow(
    features: Floats,
    targets: Floats,
    growth: Growth = Growth(),
    *,
    seed: int,
    weights: Floats | None = None,
) -> Forest:
    """Grow a forest.

    Args:
        features: Shape (rows, features).
        targets: What is to be said. Shape (rows, outputs).
        growth: How.
        seed: Of the rows and features that each tree sees.
        weights: Of the rows; all the same if None. Shape (rows,).
    """
    random = np.random.default_rng(seed)
    weight = np.ones(len(features)) if weights is None else weights / weights.mean()
    base = np.average(targets, axis=0, weights=weight)
    rest = targets.astype(np.float64) - base
    cuts = edges(features, growth.bins)
    binned = np.column_stack(
        [np.searchsorted(cut, column, side="left") for cut, column in zip(cuts, features.T, strict=True)]
    ).astype(np.uint8)
    usable = np.flatnonzero([len(cut) > 0 for cut in cuts])
    columns = np.zeros((growth.trees, growth.depth), np.int32)
    limits = np.full((growth.trees, growth.depth), np.inf, np.float32)
    leaves = np.zeros((growth.trees, 1 << growth.depth, targets.shape[1]), np.float32)
    for tree in range(growth.trees):
        if not len(usable):
            break
        chosen = random.choice(usable, max(1, round(growth.features * len(usable))), replace=False)
        sample = np.flatnonzero(random.random(len(features)) < growth.rows)
        asked = _questions(binned[np.ix_(sample, chosen)], rest[sample], weight[sample], growth)
        place = np.zeros(len(features), np.int64)
        for level, (column, at) in enumerate(asked):
            feature = chosen[column]
            columns[tree, level], limits[tree, level] = (
                feature,
                cuts[feature][at] if at < len(cuts[feature]) else np.inf,
            )
            place += (binned[:, feature] > at).astype(np.int64) << level
        counts = np.bincount(place[sample], weight[sample], 1 << growth.depth)
        for output in range(targets.shape[1]):
            sums = np.bincount(place[sample], weight[sample] * rest[sample, output], 1 << growth.depth)
            leaves[tree, :, output] = growth.rate * sums / (counts + growth.damping)
        rest -= leaves[tree, place]
    return Forest(columns, limits, leaves, base.astype(np.float32))


def bagged(features: Floats, targets: Floats, growth: Growth, *, seed: int, bags: int) -> Forest:
    """The mean of several forests that saw other samples, as one: what chance put into each evens out.

    Args:
        features: Shape (rows, features).
        targets: Shape (rows, outputs).
        growth: Of each.
        seed: Of the first; the others follow it.
        bags: How many.
    """
    forests = [grow(features, targets, growth, seed=seed + number) for number in range(bags)]
    return Forest(
        np.concatenate([forest.columns for forest in forests]),
        np.concatenate([forest.cuts for forest in forests]),
        (np.concatenate([forest.leaves for forest in forests]) / bags).astype(np.float32),
        forests[0].base,
    )


def _questions(
    binned: Bins, rest: NDArray[np.float64], weight: NDArray[np.float64], growth: Growth
) -> list[tuple[int, int]]:
    """The column and bin asked at each level: greedily, what lowers the squared error most."""
    rows, features = binned.shape
    offsets = np.arange(features) * growth.bins
    place = np.zeros(rows, np.int64)
    asked = []
    for level in range(growth.depth):
        size = features * growth.bins
        index = ((place * size)[:, None] + offsets + binned).ravel()
        total = (1 << level) * size
        shape = (1 << level, features, growth.bins)
        counts = np.cumsum(np.bincount(index, np.repeat(weight, features), total).reshape(shape), axis=2)
        gain = np.zeros(shape[1:])
        for output in range(rest.shape[1]):
            of_rows = np.repeat(weight * rest[:, output], features)
            sums = np.cumsum(np.bincount(index, of_rows, total).reshape(shape), axis=2)
            left = sums**2 / (counts + growth.damping)
            right = (sums[:, :, -1:] - sums) ** 2 / (counts[:, :, -1:] - counts + growth.damping)
            gain += (left + right).sum(axis=0)
        column, at = divmod(int(gain.argmax()), growth.bins)
        asked.append((column, at))
        place += (binned[:, column] > at).astype(np.int64) << level
    return asked
