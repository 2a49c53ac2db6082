"""What the trained model sees of prompts: n-grams and a dense row of features of form."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from agents.classifier.features import Features, extract
from agents.classifier.learned.details import NAMES as DETAILS
from agents.classifier.learned.details import details
from agents.classifier.learned.forest import Floats
from agents.classifier.learned.ngrams import Rows, count

_FIRST_WORDS: Final = 5
"""Kinds of first words, see ``Features.first_word``: a category, so it gets a column for each kind."""
_FIRST_WORD: Final = Features._fields.index("first_word")

NAMES: Final = (*Features._fields, *DETAILS, *(f"first_word_{kind}" for kind in range(_FIRST_WORDS)))
"""Names of the dense columns."""


class Inputs(NamedTuple):
    """Prompts, as the model sees them."""

    grams: Rows
    dense: Floats
    """Logarithms of the features, signs kept. Shape (rows, columns), see ``NAMES``."""

    def take(self, rows: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> "Inputs":
        """Some of the rows."""
        starts, ends = self.grams.starts[rows], self.grams.starts[rows + 1]
        lengths = ends - starts
        first = np.concatenate(([0], np.cumsum(lengths)))
        entries = np.repeat(starts - first[:-1], lengths) + np.arange(first[-1])
        grams = Rows(first, self.grams.buckets[entries], self.grams.counts[entries])
        return Inputs(grams, self.dense[rows])


def look(texts: Sequence[str], features: Sequence[Features] | None = None) -> Inputs:
    """Look at prompts.

    Args:
        texts: What is asked, one or many.
        features: Their surface features, if those are known already.
    """
    surface = [extract(text) for text in texts] if features is None else features
    rows = [(*of_text, *details(text)) for of_text, text in zip(surface, texts, strict=True)]
    raw = np.array(rows, np.float32).reshape(len(texts), len(NAMES) - _FIRST_WORDS)
    kinds = raw[:, _FIRST_WORD, None] == np.arange(_FIRST_WORDS, dtype=np.float32)
    dense = np.concatenate((np.sign(raw) * np.log1p(np.abs(raw)), kinds), axis=1, dtype=np.float32)
    return Inputs(count(texts), dense)
