"""How good the surface classifier is, and whether its confidence is honest.

Usage: ``python -m bench.surface_classes FILE...``; each file is JSON lines (or gzip of them) with ``prompt``,
``source`` and ``label`` or ``class``.

A random split flatters, because prompts of one source look alike. So the table keeps apart the sources that were
looked at when the cues were written, and the confidence table is fitted anew for each source on all others.
"""

import gzip
import json
import sys
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from agents.classifier.features import CONFIDENCE, extract, margin_class, surface_class

LOOKED_AT = frozenset(
    """gsm8k_train llmrouter_mbpp gpteacher_codegen t0_adversarial t0_cosmos t0_dbpedia t0_quartz aqua mmlu nq_open
    banking77 clinc150 gpteacher_roleplay llmrouter_agentverse-logicgrid self_instruct_seed""".split()  # noqa: SIM905 - a list this long reads better as text
)
"""Sources of which some prompts were read while the cues were written."""
EDGES = [margin for margin, _ in CONFIDENCE]


class Guess(NamedTuple):
    """One prompt, guessed."""

    source: str
    label: str
    guess: str
    margin: float
    confidence: float

    @property
    def right(self) -> bool:
        """Whether the guess is the label."""
        return self.label == self.guess


def read(path: Path) -> Iterable[Guess]:
    """All prompts of a file, guessed."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        for line in lines:
            row = json.loads(line)
            features = extract(row["prompt"])
            guess, margin = margin_class(features)
            yield Guess(
                f"{path.stem.split('.')[0]}:{row['source']}",
                row.get("label") or row["class"],
                guess,
                margin,
                surface_class(features)[1],
            )


def share(rows: Sequence[Guess]) -> float:
    return sum(row.right for row in rows) / len(rows) if rows else 0.0


def by(rows: Iterable[Guess], key: Callable[[Guess], str]) -> dict[str, list[Guess]]:
    groups: dict[str, list[Guess]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return groups


def scores(name: str, rows: Sequence[Guess]) -> None:
    classes, sources = by(rows, lambda row: row.label), by(rows, lambda row: f"{row.source}/{row.label}")
    macro = sum(map(share, classes.values())) / len(classes)
    mean = sum(map(share, sources.values())) / len(sources)
    print(f"{name:<34}{len(rows):>7}{share(rows):>10.3f}{macro:>10.3f}{mean:>14.3f}")


def fitted(rows: Sequence[Guess]) -> list[float]:
    """Share of right guesses from one margin to the next, made monotone. A source counts with the root of its size."""
    weight = {source: len(group) ** -0.5 for source, group in by(rows, lambda row: row.source).items()}
    right, all_ = [1e-9] * len(EDGES), [2e-9] * len(EDGES)
    for row in rows:
        slot = max(bisect_right(EDGES, row.margin) - 1, 0)
        right[slot] += weight[row.source] * row.right
        all_[slot] += weight[row.source]
    blocks = [[r, a, 1.0] for r, a in zip(right, all_, strict=True)]
    at = 0
    while at < len(blocks) - 1:
        if blocks[at][0] / blocks[at][1] <= blocks[at + 1][0] / blocks[at + 1][1]:
            at += 1
            continue
        merged = blocks.pop(at + 1)
        blocks[at] = [mine + other for mine, other in zip(blocks[at], merged, strict=True)]
        at = max(at - 1, 0)
    return [r / a for r, a, count in blocks for _ in range(int(count))]


def reliability(name: str, pairs: Sequence[tuple[float, bool]]) -> None:
    print(f"\n{name}\n  confidence      prompts   said   right")
    error = 0.0
    for low in (0.0, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
        high = {0.0: 0.4, 0.9: 1.01}.get(low, low + 0.1)
        inside = [(said, right) for said, right in pairs if low <= said < high]
        if not inside:
            continue
        said = sum(value for value, _ in inside) / len(inside)
        right = sum(value for _, value in inside) / len(inside)
        error += abs(said - right) * len(inside) / len(pairs)
        print(f"  {low:.1f} to {min(high, 1.0):.1f}   {len(inside):>10}{said:>7.2f}{right:>8.2f}")
    print(f"  expected calibration error {error:.3f}")


def main(paths: Sequence[str]) -> int:
    if not paths:
        print(__doc__)
        return 2
    rows = [row for path in paths for row in read(Path(path))]
    looked = [row for row in rows if row.source.split(":")[1] in LOOKED_AT and "classes" in row.source]
    seen = {row.source for row in looked}
    print(f"{'':<34}{'prompts':>7}{'accuracy':>10}{'macro':>10}{'mean source':>14}")
    scores("all", rows)
    scores("sources looked at", looked)
    scores("sources not looked at", [row for row in rows if row.source not in seen])
    for file, group in by(rows, lambda row: row.source.split(":")[0]).items():
        scores(file, group)
    print(f"\n{'class':<12}{'prompts':>8}{'recall':>8}{'precision':>11}")
    guessed = by(rows, lambda row: row.guess)
    for label, group in sorted(by(rows, lambda row: row.label).items()):
        print(f"{label:<12}{len(group):>8}{share(group):>8.2f}{share(guessed[label]):>11.2f}")
    held: list[tuple[float, bool]] = []
    for source, group in by(rows, lambda row: row.source).items():
        table = fitted([row for row in rows if row.source != source])
        held += [(table[max(bisect_right(EDGES, row.margin) - 1, 0)], row.right) for row in group]
    reliability("confidence fitted on the other sources", held)
    reliability("confidence as shipped", [(row.confidence, row.right) for row in rows])
    print("\nfitted on all:", ", ".join(f"({e:g}, {p:.2f})" for e, p in zip(EDGES, fitted(rows), strict=True)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
