"""A training run from a data folder to a weights file with its card."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from agents.classifier.learned.store import save
from agents.classifier.training.data import read_corpus
from agents.classifier.training.fit import train
from agents.classifier.training.folds import class_report, pair_scores, routing_report
from agents.classifier.training.tiers import Answered, with_tiers

NAME: Final = "router-2"
SEED: Final = 7
Tell = Callable[[str], None]


def data_hash(folder: Path) -> str:
    """SHA-256 over names and contents of all files of a data folder."""
    digest = hashlib.sha256()
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        raw = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{len(raw)}\0".encode())
        digest.update(raw)
    return digest.hexdigest()


def run(
    folder: Path,
    out: Path | None,
    *,
    seed: int = SEED,
    folds: bool = False,
    labels: Sequence[Path] = (),
    answered: Answered | None = None,
    lineage: Mapping[str, Any],
    tell: Tell,
) -> Mapping[str, Any]:
    """Train, and write weights and card.

    Args:
        folder: Data, laid out as ``data/routing``.
        out: The weights file; nothing is written if None.
        seed: Of all chance.
        folds: Whether routing is scored on folds, too; takes as long again.
        labels: Files of labelled prompts of one's own traffic.
        answered: Checked answers of one's own models, whose P(good) is learnt, too.
        lineage: What the card says of this run beside its own findings: date, code version.
        tell: Told what is being done.

    Returns:
        The card.

    Raises:
        InputError: The data can't be used; names file, line and field.
        MissingExtraError: SciPy isn't installed.
    """
    corpus = read_corpus(folder, labels)
    model, prepared, found = train(corpus, version=NAME, seed=seed, tell=tell)
    scores: dict[str, Any] = {"classes": class_report(found, prepared.labels.prompts)}
    if folds:
        scores["routing"] = routing_report(pair_scores(prepared, model.confidence, seed, tell))
    if answered is not None:
        model = with_tiers(model, answered)
    card = {
        "trained_on": {
            "prompts_with_class": len(corpus.classes),
            "questions_with_weak_and_strong": len(corpus.pairs),
            "questions_with_nine_models": len(corpus.multi),
            "personal_data": len(corpus.personal),
            "word_vectors": corpus.meanings.words if corpus.meanings is not None else 0,
            "sources": len(model.heads["source"]),
            "labels": [{"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for path in labels],
            "questions_of_own_models": len(answered.prompts) if answered is not None else 0,
            "own_models": list(answered.models) if answered is not None else [],
            "data_sha256": data_hash(folder),
        },
        "seed": seed,
        "scores_on_held_out": scores,
        **lineage,
    }
    return save(model, out, name=NAME, card=card) if out is not None else card
