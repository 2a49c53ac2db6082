"""Heads as JSON and back: arrays as base64 of little-endian numbers. numpy only."""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.classifier.learned.forest import Forest
from agents.classifier.learning.heads import NOTHING, Heads, Line
from schemas.errors import UndecodableError


def pack(heads: Heads) -> Mapping[str, Any]:
    """Heads as a JSON object; an empty one for heads that know nothing."""
    if not heads.lines:
        return {}
    return {
        "version": heads.version,
        "lines": {
            model: [*(_packed(part) for part in (line.centre, line.spread, line.slopes)), round(line.offset, 6)]
            for model, line in sorted(heads.lines.items())
        },
        "forests": {
            model: [[*map(_packed, forest)], list(forest.leaves.shape)]
            for model, forest in sorted(heads.forests.items())
        },
    }


def unpack(found: Mapping[str, Any]) -> Heads:
    """Heads from a JSON object.

    Raises:
        UndecodableError: They are damaged.
    """
    if not found:
        return NOTHING
    try:
        return Heads(
            version=int(found["version"]),
            lines={model: _line(*parts) for model, parts in found["lines"].items()},
            forests={model: _forest(parts, shape) for model, (parts, shape) in found["forests"].items()},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UndecodableError(f"heads can't be read: {error!r}") from error


def _line(centre: str, spread: str, slopes: str, offset: float) -> Line:
    return Line(_floats(centre), _floats(spread), _floats(slopes), float(offset))


def _forest(parts: list[str], shape: list[int]) -> Forest:
    trees, leaves, outputs = shape
    columns = np.frombuffer(base64.b64decode(parts[0]), "<i4").reshape(trees, -1).astype(np.int32)
    return Forest(
        columns=columns,
        cuts=_floats(parts[1]).reshape(columns.shape),
        leaves=_floats(parts[2]).reshape(trees, leaves, outputs),
        base=_floats(parts[3]),
    )


def _packed(part: NDArray[Any]) -> str:
    kind = "<i4" if part.dtype.kind == "i" else "<f4"
    return base64.b64encode(np.ascontiguousarray(part, kind).tobytes()).decode()


def _floats(text: str) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(text), "<f4").astype(np.float32)
