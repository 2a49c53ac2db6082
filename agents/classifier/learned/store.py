"""The weights file: one versioned, compressed set of arrays whose SHA-256 is part of the model's version."""

import hashlib
import io
import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from agents.classifier.cues import CLASSES
from agents.classifier.learned.forest import Forest
from agents.classifier.learned.inputs import NAMES
from agents.classifier.learned.linear import Linear
from agents.classifier.learned.model import Model, Outcomes
from agents.classifier.learned.ngrams import BUCKETS
from agents.classifier.learned.sureness import Confidence
from schemas.errors import ConfigurationError

FORMAT: Final = 2
"""Of the file; raised when features or arrays change their meaning."""
SHIPPED: Final = "router-2.npz"
_HASH_DIGITS: Final = 8
_ARRAYS: Final = {"linear": Linear._fields, "forest": Forest._fields}


def save(model: Model, path: Path, *, name: str, card: Mapping[str, Any]) -> Mapping[str, Any]:
    """Write a model and its card. The weights hold no date: two equal trainings give the same bytes.

    Args:
        model: What to write.
        path: Where to; replaced in one step. The card lies beside it, as JSON.
        name: Version without checksum, such as ``router-2``.
        card: Lineage: data, folds, scores, date, code version.

    Returns:
        The card with version, size and SHA-256.
    """
    arrays: dict[str, NDArray[Any]] = {f"linear.{field}": getattr(model.linear, field) for field in _ARRAYS["linear"]}
    arrays["linear.idf"] = model.linear.idf.astype(np.float16)
    forests = {f"expert.{source}": forest for source, forest in model.experts.items()}
    forests |= {f"outcomes.{key}": outcomes.forest for key, outcomes in model.outcomes.items()}
    for key, forest in forests.items():
        arrays |= {f"{key}.{field}": getattr(forest, field) for field in _ARRAYS["forest"]}
    arrays["confidence"] = model.confidence.weights
    arrays["subject_gain"] = model.subject_gain
    meta = {
        "format": FORMAT,
        "name": name,
        "classes": [each.value for each in CLASSES],
        "dense": list(NAMES),
        "heads": [[head, list(labels)] for head, labels in model.heads.items()],
        "sharpness": model.confidence.sharpness,
        "sensitive": list(model.sensitive),
        "experts": list(model.experts),
        "levels": dict(model.levels),
        "outcomes": [[key, list(outcomes.models)] for key, outcomes in model.outcomes.items()],
    }
    arrays["meta"] = np.frombuffer(json.dumps(meta, sort_keys=True).encode(), np.uint8)
    packed = io.BytesIO()
    np.savez_compressed(packed, **{key: arrays[key] for key in sorted(arrays)})  # type: ignore[arg-type]
    raw = packed.getvalue()
    found = hashlib.sha256(raw).hexdigest()
    full = {"version": f"{name}+{found[:_HASH_DIGITS]}", "sha256": found, "bytes": len(raw), **card}
    path.parent.mkdir(parents=True, exist_ok=True)
    # The card last: weights without their card are refused, not taken for something else.
    _replace(path, raw)
    _replace(card_path(path), json.dumps(full, indent=1, ensure_ascii=False).encode() + b"\n")
    return full


def _replace(path: Path, raw: bytes) -> None:
    fresh = path.with_name(f"{path.name}.fresh")
    fresh.write_bytes(raw)
    fresh.replace(path)


def card_path(path: Path) -> Path:
    """Where the card of a weights file lies."""
    return path.with_suffix(".json")


def load(path: Path) -> Model:
    """Read a model, and hold it against the checksum of its card.

    Args:
        path: Of the weights file.

    Raises:
        ConfigurationError: A file isn't there, isn't what its card says, or was made for other features.
    """
    card = read_card(path)
    raw = _bytes(path)
    found = hashlib.sha256(raw).hexdigest()
    if found != card.get("sha256"):
        raise ConfigurationError(
            f"{path}: SHA-256 is {found}, its card says {card.get('sha256')}; train or fetch it again"
        )
    try:
        with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
            meta = json.loads(bytes(arrays["meta"]))
            _check(meta, path)
            return _model(arrays, meta, f"{meta['name']}+{found[:_HASH_DIGITS]}")
    except (ValueError, KeyError, OSError, EOFError, BadZipFile) as error:
        raise ConfigurationError(f"{path}: is no weights file of this version: {error}") from error


def read_card(path: Path) -> Mapping[str, Any]:
    """The card of a weights file.

    Raises:
        ConfigurationError: It isn't there or can't be read.
    """
    beside = card_path(path)
    try:
        card = json.loads(_bytes(beside))
    except ValueError as error:
        raise ConfigurationError(f"{beside}: is no model card: {error}") from error
    if not isinstance(card, dict):
        raise ConfigurationError(f"{beside}: is no model card")
    return card


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path}: the classifier can't be read: {error.strerror}") from error


def _check(meta: Mapping[str, Any], path: Path) -> None:
    if meta["format"] != FORMAT:
        raise ConfigurationError(f"{path}: has format {meta['format']}, this program reads {FORMAT}; train it again")
    if meta["classes"] != [each.value for each in CLASSES] or meta["dense"] != list(NAMES):
        raise ConfigurationError(f"{path}: was trained for other classes or features; train it again")


def _model(arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any], version: str) -> Model:
    def forest(key: str) -> Forest:
        return Forest(*(arrays[f"{key}.{field}"] for field in _ARRAYS["forest"]))

    linear = Linear(*(arrays[f"linear.{field}"] for field in _ARRAYS["linear"]))
    linear = linear._replace(idf=linear.idf.astype(np.float32))
    outputs = sum(len(labels) for _, labels in meta["heads"])
    if linear.table.shape != (BUCKETS, outputs):
        raise ValueError(f"the table has shape {linear.table.shape}, expected {(BUCKETS, outputs)}")
    return Model(
        version=version,
        linear=linear,
        heads={head: tuple(labels) for head, labels in meta["heads"]},
        confidence=Confidence(arrays["confidence"], float(meta["sharpness"])),
        sensitive=(float(meta["sensitive"][0]), float(meta["sensitive"][1])),
        subject_gain=arrays["subject_gain"],
        experts={source: forest(f"expert.{source}") for source in meta["experts"]},
        levels={source: float(level) for source, level in meta["levels"].items()},
        outcomes={
            key: Outcomes(models=tuple(models), forest=forest(f"outcomes.{key}")) for key, models in meta["outcomes"]
        },
    )


def shipped_path() -> Path:
    """Where the weights lie that come with the package."""
    return Path(str(files("agents.classifier.learned") / "weights" / SHIPPED))


@cache
def shipped() -> Model:
    """The model that comes with the package, read once.

    Raises:
        ConfigurationError: The file is missing or damaged.
    """
    return load(shipped_path())
