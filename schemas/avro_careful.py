"""Avro binary read with all checks: each function knows the byte where it had to stop.

These are the parts for what is not on a record's straight way (``schemas.avro_read``), and for finding out, after that
failed, which field and byte were wrong.
"""

import struct
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Any, TypeAlias, Union, get_args, get_origin, get_type_hints

from schemas.avro_write import nullable

Read: TypeAlias = Callable[[bytes, int], tuple[Any, int]]
"""From a buffer and a position to a value and the position after it."""

_unpack_double = struct.Struct("<d").unpack_from


class Stopped(ValueError):  # noqa: N818 - says where, the caller says what it means
    """Reading stopped; says what was wrong and where.

    Args:
        why: In a few words.
        position: Byte where it is, from 0.
    """

    def __init__(self, why: str, position: int) -> None:
        super().__init__(f"{why} at byte {position}")
        self.position = position


def number(data: bytes, position: int) -> tuple[int, int]:
    """A zigzag varint of up to 64 bits."""
    start = position
    rest = shift = 0
    while True:
        if position >= len(data):
            raise Stopped("the bytes end", position)
        byte = data[position]
        position += 1
        rest |= (byte & 127) << shift
        if byte < 128:
            break
        shift += 7
        if shift > 63:
            raise Stopped("a number has more than 64 bits", start)
    if rest >> 64:
        raise Stopped("a number has more than 64 bits", start)
    return (rest >> 1) ^ -(rest & 1), position


def size(data: bytes, position: int) -> tuple[int, int]:
    """A length."""
    length, after = number(data, position)
    if length < 0:
        raise Stopped(f"a length is {length}", position)
    return length, after


def _bytes(data: bytes, position: int) -> tuple[bytes, int]:
    length, start = size(data, position)
    end = start + length
    if end > len(data):
        raise Stopped(f"{length} bytes are announced, {len(data) - start} are left", position)
    return data[start:end], end


def _text(data: bytes, position: int) -> tuple[str, int]:
    raw, end = _bytes(data, position)
    try:
        return raw.decode(), end
    except UnicodeDecodeError as error:
        raise Stopped("text is not UTF-8", end - len(raw) + error.start) from None


def int32(data: bytes, position: int) -> tuple[int, int]:
    """An Avro int."""
    value, end = number(data, position)
    if not -(2**31) <= value < 2**31:
        raise Stopped("a number has more than 32 bits", position)
    return value, end


def _boolean(data: bytes, position: int) -> tuple[bool, int]:
    if position >= len(data):
        raise Stopped("the bytes end", position)
    if data[position] > 1:
        raise Stopped(f"a boolean is {data[position]}", position)
    return data[position] == 1, position + 1


def _double(data: bytes, position: int) -> tuple[float, int]:
    if position + 8 > len(data):
        raise Stopped("the bytes end", len(data))
    return _unpack_double(data, position)[0], position + 8


SCALARS: Mapping[str, Read] = {
    "string": _text,
    "bytes": _bytes,
    "int": int32,
    "long": number,
    "boolean": _boolean,
    "double": _double,
}


def _block(data: bytes, position: int) -> tuple[int, int]:
    """Number of items of the block that starts here; a negative one is followed by the block's length in bytes."""
    count, position = number(data, position)
    if count < 0:
        _, position = size(data, position)
        return -count, position
    return count, position


def _array_of(item: Read) -> Read:
    def read(data: bytes, position: int) -> tuple[Any, int]:
        count, position = _block(data, position)
        if not count:
            return (), position
        values: list[Any] = []
        while count:
            for _ in range(count):
                value, position = item(data, position)
                values.append(value)
            count, position = _block(data, position)
        return tuple(values), position

    return read


def _map_of(item: Read) -> Read:
    def read(data: bytes, position: int) -> tuple[dict[str, Any], int]:
        values: dict[str, Any] = {}
        count, position = _block(data, position)
        while count:
            for _ in range(count):
                key, position = _text(data, position)
                values[key], position = item(data, position)
            count, position = _block(data, position)
        return values, position

    return read


def _enum_of(members: tuple[Any, ...]) -> Read:
    def read(data: bytes, position: int) -> tuple[Any, int]:
        index, end = number(data, position)
        if not 0 <= index < len(members):
            raise Stopped(f"value {index} of an enum with {len(members)} values", position)
        return members[index], end

    return read


def _nullable_of(item: Read) -> Read:
    def read(data: bytes, position: int) -> tuple[Any, int]:
        branch, start = number(data, position)
        if branch not in {0, 1}:
            raise Stopped(f"branch {branch} of a union of two", position)
        return item(data, start) if branch else (None, start)

    return read


def _inner(hint: Any) -> Any:
    """The class within ``X | None``, ``tuple[X, ...]`` or ``Mapping[str, X]``."""
    while True:
        origin, arguments = get_origin(hint), get_args(hint)
        if origin in {Union, UnionType}:
            hint = next(argument for argument in arguments if argument is not NoneType)
        elif origin is tuple:
            hint = arguments[0]
        elif origin is not None and issubclass(origin, Mapping):
            hint = arguments[1]
        else:
            return hint


def members_of(schema: Mapping[str, Any], hint: Any) -> tuple[Any, ...]:
    """Enum members in the order of the schema's symbols.

    Raises:
        TypeError: Class and schema don't have the same values.
    """
    hint = _inner(hint)
    values = {str(member): member for member in hint}
    if set(values) != set(schema["symbols"]):
        raise TypeError(f"{hint.__name__} and {schema['name']} in the .avsc have different values")
    return tuple(values[symbol] for symbol in schema["symbols"])


def careful_fields(record: type[Any], schema: Mapping[str, Any]) -> tuple[tuple[str, Read], ...]:
    """A function for each field of a record."""
    hints = get_type_hints(record)
    return tuple(
        (field["name"], reader_of(field["type"], hints[field["name"]], careful_record)) for field in schema["fields"]
    )


def careful_record(record: type[Any], schema: Mapping[str, Any]) -> Read:
    """A record within another, field by field; made only to find out what is wrong, so it has no value."""
    fields = careful_fields(record, schema)

    def read(data: bytes, position: int) -> tuple[None, int]:
        for _, item in fields:
            _, position = item(data, position)
        return None, position

    return read


def reader_of(schema: Any, hint: Any, record_of: Callable[[type[Any], Mapping[str, Any]], Read]) -> Read:
    """A function for any type that our schemas use.

    Args:
        schema: The type.
        hint: The Python type that it stands for.
        record_of: Makes the functions of records within it.
    """
    inner = nullable(schema)
    if inner is not None:
        return _nullable_of(reader_of(inner, hint, record_of))
    if isinstance(schema, str):
        return SCALARS[schema]
    read: Read
    match schema["type"]:
        case "enum":
            read = _enum_of(members_of(schema, hint))
        case "array":
            read = _array_of(reader_of(schema["items"], hint, record_of))
        case "map":
            read = _map_of(reader_of(schema["values"], hint, record_of))
        case "record":
            read = record_of(_inner(hint), schema)
        case other:
            read = reader_of(other, hint, record_of)
    return read
