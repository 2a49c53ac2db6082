"""Hashed n-grams of prompts in a few array operations, one prompt or many at once.

Words (one and two in a row) and characters (four in a row) each get a number below ``BUCKETS``; single words have the
upper half to themselves, because training knows something of words that it has never seen (see ``training.words``).
The hash of a stretch of bytes is that of a polynomial in a fixed base modulo 2^64; sums up to each byte give the hash
of every stretch by one subtraction (Rabin and Karp), so that no Python runs per n-gram. It's the same on every machine.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agents.classifier.features import HEAD, TAIL

_HALF_BITS: Final = 16
WORDS: Final = 1 << _HALF_BITS
"""From here on are the buckets of single words."""
BITS: Final = _HALF_BITS + 1
BUCKETS: Final = 1 << BITS
CHARACTERS: Final = (4,)
"""Lengths of the character n-grams."""
OPENING: Final = 6
CLOSING: Final = 8
"""Words at the start and the end that are also counted as such: there stands what is wanted."""
CHUNK: Final = 1 << 17
"""Bytes hashed in one go: the tables of powers stay small enough for the cache of a core."""

_BASE: Final = 0x9E3779B97F4A7C15
_WORD_SEED: Final = np.uint64(0xD6E8FEB86659FD93)
_OPENING_SEED: Final = np.uint64(0x8BB84B93962EACC9)
_CLOSING_SEED: Final = np.uint64(0x2D358DCCAA6C78A5)
_PAIR_SEED: Final = np.uint64(0xA0761D6478BD642F)
_MIX: Final = np.uint64(0xFF51AFD7ED558CCD)
_SHIFT: Final = np.uint64(64 - _HALF_BITS)
_FOLD: Final = np.uint64(32)
_SPACE: Final = 32

_FLAT: Final = bytes(
    48 if 48 <= code <= 57 else code if chr(code).isalpha() or code >= 128 or code == 39 else _SPACE
    for code in bytes(range(256)).lower()
)
"""Lower case, all digits alike, punctuation a space; bytes of other scripts stay."""
_MARKED: Final = bytes(48 if 48 <= code <= 57 else code for code in bytes(range(256)).lower())
"""For the characters punctuation stays: brackets and formulas say much."""

Indices = NDArray[np.int32]
Counts = NDArray[np.float32]


class Rows(NamedTuple):
    """Sparse rows, one per prompt: entries ``starts[i]`` to ``starts[i + 1]`` are those of row i."""

    starts: NDArray[np.int64]
    """Shape (rows + 1,)."""
    buckets: Indices
    """Rising within a row, each once. Shape (entries,)."""
    counts: Counts
    """How often. Shape (entries,)."""


def _powers(count: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The base to the power of each place, and the inverse of that, modulo 2^64."""
    with np.errstate(over="ignore"):
        up = np.full(count, _BASE, np.uint64)
        down = np.full(count, pow(_BASE, -1, 1 << 64), np.uint64)
        up[0] = down[0] = 1
        return np.multiply.accumulate(up), np.multiply.accumulate(down)


_UP, _DOWN = _powers(2 * CHUNK)


def word_buckets(words: Sequence[bytes]) -> NDArray[np.int64]:
    """The bucket of each word on its own. Shape (words,).

    Args:
        words: Each as ``words_in`` gives it.
    """
    with np.errstate(over="ignore"):
        hashes = [
            (np.frombuffer(word, np.uint8) * _UP[: len(word)]).sum(dtype=np.uint64) + _WORD_SEED for word in words
        ]
    return _bucket(np.array(hashes, np.uint64)) + WORDS


def words_in(text: str) -> list[bytes]:
    """The words that are counted in a prompt."""
    return window(text).translate(_FLAT).split()


def window(text: str) -> bytes:
    """The part of a prompt that is looked at: its start and its end, as UTF-8."""
    if len(text) > HEAD + TAIL:
        text = f"{text[:HEAD]}\n{text[-TAIL:]}"
    return text.encode("utf-8", "replace")


def _bucket(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    mixed = (hashes ^ (hashes >> _FOLD)) * _MIX
    return (mixed >> _SHIFT).astype(np.int64)


def _prefixes(raw: bytes) -> tuple[NDArray[np.uint8], NDArray[np.uint64]]:
    codes = np.frombuffer(raw, np.uint8)
    sums = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum(codes * _UP[: len(codes)], out=sums[1:])
    return codes, sums


def _words(raws: Sequence[bytes]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Buckets of words and pairs of words, those at the start and the end once more, and the row of each."""
    flats = [b" %s " % raw.translate(_FLAT) for raw in raws]
    codes, sums = _prefixes(b"".join(flats))
    inside = codes != _SPACE
    edges = np.flatnonzero(inside[1:] != inside[:-1]) + 1
    begins, ends = edges[::2], edges[1::2]
    hashes = (sums[ends] - sums[begins]) * _DOWN[begins] + _WORD_SEED
    rows = np.searchsorted(np.cumsum([len(flat) for flat in flats]), begins, side="right")
    place, prompts = np.arange(len(rows)), np.arange(len(raws))
    from_start = place - np.searchsorted(rows, prompts)[rows]
    to_end = np.searchsorted(rows, prompts, side="right")[rows] - 1 - place
    pair = np.flatnonzero(rows[1:] == rows[:-1])
    # A pair starts where its first word does, and ends where its second does.
    from_start, to_end = np.concatenate((from_start, from_start[pair])), np.concatenate((to_end, to_end[pair + 1]))
    hashes = np.concatenate((hashes, hashes[pair] * _PAIR_SEED + hashes[pair + 1]))
    single = len(rows)
    rows = np.concatenate((rows, rows[pair]))
    opening, closing = from_start < OPENING, to_end < CLOSING
    hashes = np.concatenate((hashes, hashes[opening] * _OPENING_SEED, hashes[closing] * _CLOSING_SEED))
    buckets = _bucket(hashes)
    buckets[:single] += WORDS
    return buckets, np.concatenate((rows, rows[opening], rows[closing]))


def _characters(raws: Sequence[bytes]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Buckets of character n-grams, and the row of each. None crosses from one prompt to the next."""
    marked = [b" %s " % b" ".join(raw.translate(_MARKED).split()) for raw in raws]
    codes, sums = _prefixes(b"".join(marked))
    lengths = np.array([len(each) for each in marked])
    rows = np.repeat(np.arange(len(raws)), lengths)
    buckets, owners = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for length in CHARACTERS:
        last = len(codes) - length + 1
        if last <= 0:
            continue
        hashes = (sums[length:] - sums[:last]) * _DOWN[:last] + np.uint64(length)
        if len(raws) == 1:
            buckets.append(_bucket(hashes))
            owners.append(rows[:last])
        else:
            whole = rows[:last] == rows[length - 1 :]
            buckets.append(_bucket(hashes[whole]))
            owners.append(rows[:last][whole])
    return np.concatenate(buckets), np.concatenate(owners)


def _counted(raws: Sequence[bytes]) -> Rows:
    word_buckets, word_rows = _words(raws)
    character_buckets, character_rows = _characters(raws)
    keys = np.concatenate((word_buckets, character_buckets))
    if len(raws) > 1:
        keys += np.concatenate((word_rows, character_rows)) << BITS
    keys.sort()
    first = np.flatnonzero(np.concatenate((np.ones(min(len(keys), 1), bool), keys[1:] != keys[:-1])))
    kept = keys[first]
    counts = np.diff(np.append(first, len(keys)))
    starts = np.searchsorted(kept >> BITS, np.arange(len(raws) + 1))
    return Rows(starts, (kept & (BUCKETS - 1)).astype(np.int32), counts.astype(np.float32))


def count(texts: Sequence[str]) -> Rows:
    """Count the n-grams of prompts.

    Args:
        texts: What is asked, one or many.
    """
    rows: list[Rows] = []
    chunk: list[bytes] = []
    size = 0
    with np.errstate(over="ignore"):
        for text in texts:
            raw = window(text)
            if chunk and size + len(raw) + 2 > CHUNK:
                rows.append(_counted(chunk))
                chunk, size = [], 0
            chunk.append(raw)
            size += len(raw) + 2
        if chunk:
            rows.append(_counted(chunk))
    return rows[0] if len(rows) == 1 else _joined(rows)


def _joined(rows: Sequence[Rows]) -> Rows:
    if not rows:
        return Rows(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    offsets = np.cumsum([0, *(len(each.buckets) for each in rows)])
    starts = [each.starts[:-1] + offset for each, offset in zip(rows, offsets, strict=False)]
    return Rows(
        np.concatenate((*starts, offsets[-1:])),
        np.concatenate([each.buckets for each in rows]),
        np.concatenate([each.counts for each in rows]),
    )
