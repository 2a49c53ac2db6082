"""Makes ``data/routing/words.npz`` from the token table of ``wordllama`` 0.4.0.post1 (MIT); run seldom, by hand.

Usage: ``python -m bench.word_vectors TABLE.safetensors TOKENIZER.json`` (both lie in the wheel of wordllama; needs the
packages safetensors and tokenizers)

A word's vector is the mean of those of its tokens, of length one, less the mean of all; kept are the 64 directions in
which the prompts of ``data/routing`` differ most, in whole numbers of one byte.
"""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from agents.classifier.learned.ngrams import words_in
from agents.classifier.training.data import read_corpus

KEPT = 64
LEAST = 2
"""Prompts that a word must occur in that is no token of its own."""
LONGEST = 24
FOLDER = Path("data/routing")


def main(table: str, tokenizer: str) -> None:
    """Write the file."""
    (tokens,) = load_file(table).values()
    split = Tokenizer.from_file(tokenizer)
    corpus = read_corpus(FOLDER)
    texts = [prompt.text for prompt in (*corpus.classes, *corpus.pairs, *corpus.personal)]
    inside = [Counter(words_in(text)) for text in texts]
    found = Counter(word for words in inside for word in words)
    whole = {token[1:].lower().encode() for token in split.get_vocab() if token[:1] == "\u2581" and token[1:].isalpha()}
    often = {word for word, prompts in found.items() if prompts >= LEAST}
    words = sorted(word for word in whole | often if len(word) <= LONGEST)
    coded = split.encode_batch([word.decode("utf-8", "replace") for word in words], add_special_tokens=False)
    vectors = np.array([tokens[each.ids].mean(axis=0) for each in coded], np.float32)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    vectors -= np.average(vectors, axis=0, weights=[found[word] + 1e-3 for word in words])
    place = {word: number for number, word in enumerate(words)}
    pooled = np.zeros((len(texts), vectors.shape[1]), np.float32)
    for row, counts in enumerate(inside):
        known = [word for word in counts if word in place]
        weights = np.array([(1 + np.log(counts[word])) * (np.log(len(texts) / found[word]) + 1) for word in known])
        pooled[row] = weights @ vectors[[place[word] for word in known]] / max(float(np.linalg.norm(weights)), 1e-9)
    pooled -= pooled.mean(axis=0)
    directions = np.linalg.eigh(pooled.T @ pooled)[1][:, ::-1][:, :KEPT]
    short = vectors @ directions
    unit = np.abs(short).max() / 127
    np.savez_compressed(
        FOLDER / "words.npz",
        words=np.frombuffer(b"\n".join(words), np.uint8),
        vectors=np.rint(short / unit).astype(np.int8),
    )
    print(f"{len(words)} words")


if __name__ == "__main__":
    main(*sys.argv[1:])
