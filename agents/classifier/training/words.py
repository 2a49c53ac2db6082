"""What training knows of words that its prompts hold seldom or never: short vectors, alike for words of like meaning.

A linear head on the mean vector of a prompt's words is a head on the words themselves, whose weights come from their
vectors. So vectors are needed to train, not to answer: they end up in the weights of single words.
"""

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from agents.classifier.learned.forest import Floats
from agents.classifier.learned.ngrams import BUCKETS, WORDS, word_buckets
from schemas.errors import InputError

FILE: Final = "words.npz"


class Meanings(NamedTuple):
    """Vectors of words, by their bucket."""

    words: int
    """How many words went in."""
    vectors: Floats
    """Zero where nothing is known. Shape (BUCKETS - WORDS, directions)."""


def read_meanings(path: Path) -> Meanings | None:
    """The vectors of a file made by ``bench/word_vectors.py``; None if there is none.

    Words that share a bucket share the mean of their vectors.

    Raises:
        InputError: The file is something else.
    """
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            words, vectors = bytes(arrays["words"]).split(b"\n"), arrays["vectors"].astype(np.float32)
    except (ValueError, KeyError, OSError) as error:
        raise InputError(f"{path}: holds no vectors of words: {error}") from error
    if len(words) != len(vectors):
        raise InputError(f"{path}: has {len(words)} words and {len(vectors)} vectors")
    buckets = word_buckets(words) - WORDS
    sums = np.zeros((BUCKETS - WORDS, vectors.shape[1]), np.float32)
    np.add.at(sums, buckets, vectors)
    counts = np.maximum(np.bincount(buckets, minlength=len(sums)), 1).astype(np.float32)
    return Meanings(len(words), (sums / counts[:, None]).astype(np.float32))
