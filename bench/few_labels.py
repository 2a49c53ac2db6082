"""What labels of one's own traffic bring: chat-style prompts of two public sources, with and without 248 labels.

Usage: ``python -m bench.few_labels [--data FOLDER] [--labels N] [--seed N]``

Both sources are left out of training; then some of their prompts, drawn at random, are given as ``train --labels``
would give them, and the others are judged. Kinds of prompts repeat within a source, so strangers gain less.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from agents.classifier.cues import CLASSES
from agents.classifier.training.data import LABELLED, read_corpus
from agents.classifier.training.fit import only, prepare
from agents.classifier.training.folds import CHAT_STYLE
from agents.classifier.training.ridge import solve
from agents.classifier.training.targets import columns_of


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/routing"))
    parser.add_argument("--labels", type=int, default=248)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    corpus = read_corpus(given.data)
    chat = [prompt for prompt in corpus.classes if prompt.source in CHAT_STYLE]
    others = [prompt for prompt in corpus.classes if prompt.source not in CHAT_STYLE]
    order = np.random.default_rng(given.seed).permutation(len(chat)).tolist()
    known, asked = order[: given.labels], order[given.labels :]
    truth = np.array([CLASSES.index(label) for row in asked if (label := chat[row].label)])
    source = np.array([chat[row].source for row in asked])
    for labels in ([], [replace(chat[row], source=LABELLED) for row in known]):
        # Those asked stand among the prompts without a class: seen by no head.
        test = [replace(chat[row], label=None, domain="", source="") for row in asked]
        prepared = prepare(replace(corpus, classes=[*others, *labels], pairs=[], personal=test))
        targets = only(prepared.targets, columns_of(prepared.labels.heads, ("class",)))
        first = prepared.labels.class_rows
        fit = solve(prepared.made, targets, np.arange(first))
        right = fit.scores(prepared.made, np.arange(first, first + len(test))).argmax(axis=1) == truth
        parts = ", ".join(f"{name} {right[source == name].mean():.3f}" for name in CHAT_STYLE)
        print(f"{len(labels):>4} labels: {right.mean():.3f} of {len(test)} ({parts})")


if __name__ == "__main__":
    main()
