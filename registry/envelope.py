"""A snapshot as bytes: JSON that says its number and hash, who published it, and the content that the hash is of.

Number, hash and content mean the same in every version of the format, so that old and new programs agree on which
record counts, also when an old one can't understand the content.
"""

import json
from dataclasses import dataclass
from typing import Final

from registry.canonical import canonical, digest
from registry.errors import SnapshotFormatError

FORMAT: Final = 1
"""Version of the content's shape. Added optional fields leave it; it rises when older programs must not go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What is known of a snapshot without understanding it.

    Attributes:
        number: From 1, without gaps.
        hash: SHA-256 of the content, 64 hex digits.
        content: Canonical JSON of the catalogue.
        author: Who published it.
        approver: Who approved it; empty if nobody was asked.
        published_ms: Unix milliseconds.
        format: Version of the content's shape.
    """

    number: int
    hash: str
    content: bytes
    author: str = ""
    approver: str = ""
    published_ms: int = 0
    format: int = FORMAT

    def to_bytes(self) -> bytes:
        """One line of JSON; the content is its last field."""
        head = canonical(
            {
                "approver": self.approver,
                "author": self.author,
                "format": self.format,
                "hash": self.hash,
                "number": self.number,
                "published_ms": self.published_ms,
            }
        )
        return head[:-1] + b',"content":' + self.content + b"}"


def open_envelope(value: bytes) -> Envelope:
    """Reads an envelope and checks that the content has the hash that it states.

    Raises:
        SnapshotFormatError: It is no envelope, or the hash is another.
    """
    try:
        raw = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise SnapshotFormatError(f"no snapshot: {error}") from error
    if not isinstance(raw, dict):
        raise SnapshotFormatError("no snapshot: not a JSON object")
    found = {name: _field(raw, name, kind) for name, kind in _FIELDS.items()}
    try:
        content = canonical(found["content"])
    except (ValueError, RecursionError) as error:
        raise SnapshotFormatError(f"no snapshot: content: {error}") from error
    stated, actual = str(found["hash"]), digest(content)
    if stated != actual:
        raise SnapshotFormatError(
            f"snapshot {found['number']} states hash {stated[:12]} but its content has {actual[:12]}: it was changed"
        )
    number = raw["number"]
    if number < 1:
        raise SnapshotFormatError(f"no snapshot: number {number} is below 1")
    return Envelope(
        number=number,
        hash=stated,
        content=content,
        author=raw["author"],
        approver=raw["approver"],
        published_ms=raw["published_ms"],
        format=raw["format"],
    )


_FIELDS: Final[dict[str, type]] = {
    "number": int,
    "hash": str,
    "content": dict,
    "author": str,
    "approver": str,
    "published_ms": int,
    "format": int,
}


def _field(raw: dict[str, object], name: str, kind: type) -> object:
    value = raw.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise SnapshotFormatError(f"no snapshot: field {name} is {'missing' if value is None else 'of the wrong type'}")
    return value
