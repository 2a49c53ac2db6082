"""Files of requests: JSON lines, each a request value and, in keys that begin with an underscore, how it is published.

==================  =================================================================================================
``_headers``        Headers to add or replace, by name; null leaves one out (a request id, say: then it is derived).
``_key``            The record's key; the session, else the request id, where it is left out; null for none.
``_deadline``       How long the request may live from its publication, such as ``30s``.
``_raw_base64``     The exact bytes to publish, in place of a value: for records that are broken on purpose.
``_repeat``         How often the record is published, each time under the same id; 1 where it is left out.
``_note``           Anything; it is not published.
==================  =================================================================================================

Empty lines, and lines that begin with ``#``, are skipped.
"""

import base64
import binascii
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from schemas.errors import ConfigurationError, InputError
from tierflow.durations import duration

MAX_REPEAT: Final = 1_000_000
_KEYS: Final = ("_headers", "_key", "_deadline", "_raw_base64", "_repeat", "_note")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLine:
    """One line of a file.

    Attributes:
        number: Of the line, from 1.
        value: The request's value; None for a line of raw bytes.
        raw: The bytes of such a line.
        headers: To add or replace; None leaves a header out.
        key: Of the record.
        keyed: Whether the line says something of the key.
        lifetime: How long the request may live; None leaves that to the rules.
        repeat: How often to publish it.
        note: What the line says besides.
    """

    number: int = 1
    value: Mapping[str, Any] | None = None
    raw: bytes = b""
    headers: Mapping[str, str | None] = field(default_factory=dict)
    key: str | None = None
    keyed: bool = False
    lifetime: timedelta | None = None
    repeat: int = 1
    note: Any = None

    @property
    def payload(self) -> bytes:
        """The record's value."""
        if self.value is None:
            return self.raw
        return json.dumps(self.value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def read_requests(path: Path) -> list[RequestLine]:
    """All lines of a file.

    Raises:
        InputError: Names file, line and what is wrong with it.
        OSError: The file can't be read.
    """
    with path.open("rb") as file:
        return list(parse_requests(file, str(path)))


def parse_requests(lines: Iterable[bytes], name: str) -> Iterator[RequestLine]:
    """The requests that lines say.

    Args:
        lines: Of a file, in UTF-8.
        name: Of the file, for errors.

    Raises:
        InputError: Names file, line and what is wrong with it.
    """
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text and not text.startswith(b"#"):
            try:
                yield _parsed(text, number)
            except InputError as error:
                raise InputError(f"{name}:{number}: {error}") from error


def _parsed(text: bytes, number: int) -> RequestLine:
    try:
        found = json.loads(text)
    except UnicodeDecodeError as error:
        raise InputError(f"byte {error.start} is no UTF-8") from error
    except ValueError as error:
        raise InputError(f"no JSON: {error}") from error
    if not isinstance(found, dict):
        raise InputError("a line must be a JSON object")
    about = {key: found.pop(key) for key in list(found) if key.startswith("_")}
    unknown = sorted(about.keys() - set(_KEYS))
    if unknown:
        raise InputError(f"{unknown[0]} is not known; there are {', '.join(_KEYS)}")
    raw = _raw(about, found)
    key = about.get("_key")
    if not isinstance(key, str | None) or not _writable(key):
        raise InputError("_key must be text or null")
    return RequestLine(
        number=number,
        value=None if raw is not None else found,
        raw=raw or b"",
        headers=_headers(about.get("_headers", {})),
        key=key,
        keyed="_key" in about,
        lifetime=_lifetime(about.get("_deadline")),
        repeat=_repeat(about.get("_repeat", 1)),
        note=about.get("_note"),
    )


def _raw(about: Mapping[str, Any], value: Mapping[str, Any]) -> bytes | None:
    if "_raw_base64" not in about:
        return None
    if value:
        raise InputError(f"_raw_base64 stands for the whole value, but there is {next(iter(value))} too")
    text = about["_raw_base64"]
    if not isinstance(text, str):
        raise InputError("_raw_base64 must be text")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"_raw_base64 is no base64: {error}") from error


def _writable(text: str | None) -> bool:
    """Whether text can be UTF-8: JSON can say half of a character."""
    return text is None or text == text.encode("utf-8", "ignore").decode()


def _headers(found: object) -> dict[str, str | None]:
    if not isinstance(found, dict) or not all(
        isinstance(value, str | None) and _writable(name) and _writable(value) for name, value in found.items()
    ):
        raise InputError("_headers must be an object of texts (or null to leave one out)")
    return found


def _lifetime(found: object) -> timedelta | None:
    if found is None:
        return None
    if not isinstance(found, str):
        raise InputError("_deadline must be a duration such as 30s")
    try:
        return duration(found, "_deadline")
    except ConfigurationError as error:
        raise InputError(str(error)) from error


def _repeat(found: object) -> int:
    if not isinstance(found, int) or isinstance(found, bool) or not 1 <= found <= MAX_REPEAT:
        raise InputError(f"_repeat must be a whole number from 1 to {MAX_REPEAT}")
    return found
