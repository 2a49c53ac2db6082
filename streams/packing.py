"""A record's key, value and headers as one run of bytes, and back: for dead letters that can't keep them in place."""

from typing import Final, NamedTuple

import cramjam

from schemas.headers import Header

_NONE: Final = 0  # lengths are stored plus one, so that 0 says "there is none"


class PackedError(Exception):
    """Bytes that were not packed here."""


class Original(NamedTuple):
    """A record as its producer wrote it.

    Attributes:
        key: Original bytes.
        value: Original bytes.
        headers: In their order.
    """

    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]


def pack(original: Original) -> bytes:
    """Length-prefixed parts, compressed with Zstandard: a producer may have compressed what it sent, we can too."""
    out = bytearray()
    for part in (original.key, original.value):
        _put(out, part)
    for name, value in original.headers:
        _put(out, name.encode())
        _put(out, value)
    return bytes(cramjam.zstd.compress(bytes(out)))


def unpack(packed: bytes) -> Original:
    """What ``pack`` was given.

    Raises:
        PackedError: The bytes are damaged, or were never packed.
    """
    try:
        data = bytes(cramjam.zstd.decompress(packed))
    except cramjam.DecompressionError as error:
        raise PackedError(f"is not Zstandard: {error}") from error
    parts: list[bytes | None] = []
    position = 0
    while position < len(data):
        part, position = _take(data, position)
        parts.append(part)
    if len(parts) < 2 or len(parts) % 2:
        raise PackedError(f"has {len(parts)} parts")
    try:
        headers = tuple((_sure(parts[i]).decode(), _sure(parts[i + 1])) for i in range(2, len(parts), 2))
    except UnicodeDecodeError as error:
        raise PackedError("has a header whose name is not UTF-8") from error
    return Original(parts[0], parts[1], headers)


def _put(out: bytearray, part: bytes | None) -> None:
    length = _NONE if part is None else len(part) + 1
    while length > 0x7F:
        out.append(length & 0x7F | 0x80)
        length >>= 7
    out.append(length)
    if part:
        out += part


def _take(data: bytes, position: int) -> tuple[bytes | None, int]:
    length = shift = 0
    while True:
        if position >= len(data) or shift > 56:
            raise PackedError(f"ends within a length at byte {position}")
        byte = data[position]
        position += 1
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte <= 0x7F:
            break
    if length == _NONE:
        return None, position
    end = position + length - 1
    if end > len(data):
        raise PackedError(f"ends within a part at byte {len(data)}")
    return data[position:end], end


def _sure(part: bytes | None) -> bytes:
    if part is None:
        raise PackedError("has a header without name or value")
    return part
