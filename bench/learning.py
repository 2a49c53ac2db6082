"""How fast routing learns from outcomes: a simulated stream over the public labels.

Usage: ``python -m bench.learning [--data FOLDER] [--outcomes N] [--seeds N]``

Mixed traffic of three kinds (MMLU and GSM8K with Mixtral or GPT-4; eleven tasks with Gemma 2 9B or Nemotron 51B) goes
to one router with a weak and a strong model. It starts with the prior of the classes, knows no outcome, and sees of
each request only that of the model it chose. After every so many outcomes its scores are measured on fold 0, which is
never in the stream. Features come from the shipped weights: class labels of these sources are in them, no outcome is.
"""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from agents.classifier.cues import CLASSES
from agents.classifier.learned.inputs import look
from agents.classifier.learned.model import PRIOR_GAIN, Model
from agents.classifier.learned.store import shipped
from agents.classifier.learning.learner import Asked, Learner
from agents.classifier.learning.outcomes import Decided, Outcome
from agents.classifier.metrics import routing
from agents.classifier.training.data import read_prompts
from schemas.ids import chance

WEAK, STRONG = "weak", "strong"
STRONG_SHARE = 0.75
"""Of good answers, expected of a strong model before there is any outcome."""
PRIORS = {
    WEAK: {task_class: STRONG_SHARE - gain for task_class, gain in PRIOR_GAIN.items()},
    STRONG: dict.fromkeys(PRIOR_GAIN, STRONG_SHARE),
}
COST_WEIGHT = 0.1
"""A strong answer must be right by 10 points more often to be worth its price."""
EXPLORED = 0.2
"""Share of requests that take either model: of one that is never chosen nothing is learnt."""
POINTS = (0, 250, 500, 1000, 2000, 3000)
CHEAP_OF_MULTI, DEAR_OF_MULTI = "gemma-2-9b-it", "llama-3.1-nemotron-51b-instruct"


class Row(NamedTuple):
    """A question with both outcomes; the stream shows one of them."""

    asked: Asked
    weak: float
    strong: float
    fold: int
    kind: str


def rows_of(folder: Path, model: Model) -> list[Row]:
    prompts = [*read_prompts(folder / "pairs.jsonl.gz"), *read_prompts(folder / "multi.jsonl.gz")]
    view = model.view(look([prompt.text for prompt in prompts]))
    best, domains = view.classes.argmax(axis=1), view.domains.argmax(axis=1)
    rows = []
    for number, prompt in enumerate(prompts):
        scores = prompt.scores or {WEAK: prompt.weak or 0.0, STRONG: prompt.strong or 0.0}
        weak, strong = (WEAK, STRONG) if prompt.scores is None else (CHEAP_OF_MULTI, DEAR_OF_MULTI)
        asked = Asked(
            task_class=CLASSES[best[number]],
            columns=tuple(view.columns[number].tolist()),
            domain=model.heads["domain"][domains[number]],
        )
        kind = prompt.source if prompt.scores is None else "multi"
        rows.append(Row(asked, scores[weak], scores[strong], prompt.fold, kind))
    return rows


def measure(learner: Learner, test: Sequence[Row]) -> dict[str, float]:
    """APGR on the mix, and on each kind."""
    good = learner.good([row.asked for row in test])
    scores = (good[STRONG] - good[WEAK]).astype(float)
    weak, strong = np.array([row.weak for row in test]), np.array([row.strong for row in test])
    kinds = np.array([row.kind for row in test])
    found = {"mixed": routing(scores, weak, strong).apgr}
    for kind in np.unique(kinds):
        inside = kinds == kind
        found[str(kind)] = routing(scores[inside], weak[inside], strong[inside]).apgr
    return found


def stream(rows: Sequence[Row], seed: int, most: int) -> dict[int, dict[str, float]]:
    """Scores after each of ``POINTS`` outcomes."""
    traffic = [row for row in rows if row.fold != 0]
    random.Random(seed).shuffle(traffic)
    test = [row for row in rows if row.fold == 0]
    learner = Learner({WEAK: 0.0, STRONG: 1.0}, cost_weight=COST_WEIGHT, priors=PRIORS, seed=seed)
    found = {0: measure(learner, test)}
    for number, row in enumerate(traffic[:most], 1):
        request_id = f"{seed}-{number}"
        choice = learner.choose(row.asked)
        draw = chance(request_id, "bench")
        taken = (WEAK if draw < EXPLORED / 2 else STRONG) if draw < EXPLORED else choice
        propensity = EXPLORED / 2 + (1 - EXPLORED) * (taken == choice)
        decided = Decided(
            request_id=request_id,
            tenant="",
            task_class=row.asked.task_class,
            domain=row.asked.domain,
            model=taken,
            propensity=propensity,
            columns=row.asked.columns,
        )
        learner.learn(Outcome(decided=decided, good=row.weak if taken == WEAK else row.strong, kind="program"))
        if number in POINTS:
            found[number] = measure(learner, test) | {"heads in use": float(learner.heads.version)}
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/routing"))
    parser.add_argument("--outcomes", type=int, default=3000, help="length of the stream")
    parser.add_argument("--seeds", type=int, default=3, help="streams whose mean is told")
    given = parser.parse_args()
    rows = rows_of(given.data, shipped())
    runs = [stream(rows, seed, given.outcomes) for seed in range(given.seeds)]
    names = ("mixed", "mmlu", "gsm8k", "multi", "heads in use")
    print(f"{'outcomes':>9}" + "".join(f"{name:>14}" for name in names) + f"   mean of {given.seeds} streams, APGR")
    for point in runs[0]:
        means = [np.mean([run[point].get(name, 0.0) for run in runs]) for name in names]
        print(f"{point:>9}" + "".join(f"{mean:>14.3f}" for mean in means))


if __name__ == "__main__":
    main()
