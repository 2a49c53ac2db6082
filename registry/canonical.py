"""One text for one content, so that a hash of it means the content and not how it was written down.

JSON with sorted keys and without white space (as RFC 8785 does, but with Python's numbers). Sets are sorted lists,
durations are ISO 8601 in seconds. Defaults are written out: what a catalogue means must not change when the program
does.
"""

import hashlib
import json
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from datetime import timedelta
from enum import Enum

from pydantic import BaseModel


def plain(value: object) -> object:
    """A value of a catalogue as JSON knows it."""
    if isinstance(value, BaseModel):
        return {name: plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(each) for key, each in value.items()}
    if isinstance(value, AbstractSet):
        return sorted((plain(each) for each in value), key=str)
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return _iso(value) if isinstance(value, timedelta) else value


def canonical(value: object) -> bytes:
    """The one text of a plain value.

    Raises:
        ValueError: It holds a number that JSON has not (infinity, not a number).
    """
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def digest(content: bytes) -> str:
    """SHA-256 as 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def _iso(duration: timedelta) -> str:
    micros = duration // timedelta(microseconds=1)
    sign, micros = ("-", -micros) if micros < 0 else ("", micros)
    seconds, rest = divmod(micros, 1_000_000)
    fraction = f".{rest:06}".rstrip("0") if rest else ""
    return f"{sign}PT{seconds}{fraction}S"
