"""What travels in the metadata of a committed offset: sequence, epoch and the offsets done beyond it.

Text form, ASCII, at most 4,096 bytes (``offset.metadata.max.bytes``)::

    tf1 <epoch> <sequence> <bit set in base64, bit i is offset + i>
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass

from schemas.errors import DeliveryError

MAX_BYTES = 4096
"""Kafka's default for the metadata of one offset."""

VERSION = "tf1"


class OffsetMapError(DeliveryError):
    """Metadata that can't be written within the limit, or is not ours."""

    code = "delivery.offset-map"
    retryable = False


@dataclass(frozen=True, slots=True)
class Progress:
    """A partition's state beside its offset.

    Attributes:
        epoch: Epoch of the source's sequence.
        sequence: Last sequence number given out; 0 if none.
        beyond: Offsets done beyond the committed one, ascending.
    """

    epoch: int
    sequence: int
    beyond: tuple[int, ...] = ()


def encode(offset: int, epoch: int, sequence: int, beyond: Sequence[int]) -> str:
    """As metadata text.

    Raises:
        OffsetMapError: It does not fit. The caller must stop taking records before that can happen.
    """
    if not beyond:
        return f"{VERSION} {epoch} {sequence} "
    bits = bytearray((beyond[-1] - offset) // 8 + 1)
    for number in beyond:
        place = number - offset
        bits[place >> 3] |= 1 << (place & 7)
    text = f"{VERSION} {epoch} {sequence} {base64.b64encode(bits).decode()}"
    if len(text) > MAX_BYTES:
        raise OffsetMapError(f"offset map has {len(text)} bytes, at most {MAX_BYTES} fit")
    return text


def decode(offset: int, metadata: str) -> Progress | None:
    """Read metadata back; None if it is empty (a group's initial offset).

    Raises:
        OffsetMapError: Somebody else wrote it; going on would do finished work again.
    """
    if not metadata:
        return None
    parts = metadata.split(" ")
    if len(parts) != 4 or parts[0] != VERSION or not (parts[1].isdigit() and parts[2].isdigit()):
        raise OffsetMapError(f"metadata of offset {offset} was not written by this version: {metadata[:40]!r}")
    try:
        bits = base64.b64decode(parts[3], validate=True)
    except binascii.Error as error:
        raise OffsetMapError(f"metadata of offset {offset} is damaged") from error
    beyond = tuple(
        offset + (index << 3) + bit for index, byte in enumerate(bits) if byte for bit in range(8) if byte >> bit & 1
    )
    return Progress(int(parts[1]), int(parts[2]), beyond)
