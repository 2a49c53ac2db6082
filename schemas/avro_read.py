"""Our own records from Avro binary: one straight function a class, made from its ``.avsc`` when it is first needed.

The other half of ``avro_write``, for bytes that were written with exactly the class's schema. Each function exists twice:

* straight: no check per field. A slice beyond the end is silently short in Python, so the position runs past the end and
  the next index, or the caller's look at the end, finds it out.
* careful: one small function a field with all checks, run only after the straight one failed, to name field and byte.

A frozen dataclass with 63 fields takes 26 us to make through ``__init__`` (``object.__setattr__`` for each field). Here
the fields are set on an instance of a bare class with the same slots, which then becomes the frozen class: 1.5 us.
CPython allows that assignment only between classes of equal layout, so a mistake is a ``TypeError``, not damage.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from schemas.avro_write import field_names, nullable

Read = Callable[[bytes, int], tuple[Any, int]]
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


def _long(data: bytes, position: int) -> tuple[int, int]:
    """As ``number``, faster for what is long on the hot path: Unix milliseconds take six bytes."""
    try:
        a, b, c, d, e, f = data[position : position + 6]
    except ValueError:
        return number(data, position)
    if f < 128 and a & b & c & d & e & 128:
        rest = (a & 127) | (b & 127) << 7 | (c & 127) << 14 | (d & 127) << 21 | (e & 127) << 28 | f << 35
        return (rest >> 1) ^ -(rest & 1), position + 6
    return number(data, position)


def _size(data: bytes, position: int) -> tuple[int, int]:
    length, after = number(data, position)
    if length < 0:
        raise Stopped(f"a length is {length}", position)
    return length, after


def _bytes(data: bytes, position: int) -> tuple[bytes, int]:
    length, start = _size(data, position)
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


def _int(data: bytes, position: int) -> tuple[int, int]:
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


_SCALARS: Mapping[str, Read] = {
    "string": _text,
    "bytes": _bytes,
    "int": _int,
    "long": number,
    "boolean": _boolean,
    "double": _double,
}


def _block(data: bytes, position: int) -> tuple[int, int]:
    """Number of items of the block that starts here; a negative one is followed by the block's length in bytes."""
    count, position = number(data, position)
    if count < 0:
        _, position = _size(data, position)
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


def _members(schema: Mapping[str, Any], hint: Any) -> tuple[Any, ...]:
    """Enum members in the order of the schema's symbols.

    Raises:
        TypeError: Class and schema don't have the same values.
    """
    values = {str(member): member for member in hint}
    if set(values) != set(schema["symbols"]):
        raise TypeError(f"{hint.__name__} and {schema['name']} in the .avsc have different values")
    return tuple(values[symbol] for symbol in schema["symbols"])


def _record_of(fields: tuple[tuple[str, Read], ...]) -> Read:
    """A record, field by field with all checks; made only to find out what is wrong, so it has no value."""

    def read(data: bytes, position: int) -> tuple[None, int]:
        for _, item in fields:
            _, position = item(data, position)
        return None, position

    return read


def _careful_fields(record: type[Any], schema: Mapping[str, Any]) -> tuple[tuple[str, Read], ...]:
    hints = get_type_hints(record)
    return tuple(
        (field["name"], _reader_of(field["type"], hints[field["name"]], careful=True)) for field in schema["fields"]
    )


def _reader_of(schema: Any, hint: Any, *, careful: bool) -> Read:
    """A function for any type that our schemas use; ``hint`` is the Python type that it stands for."""
    inner = nullable(schema)
    if inner is not None:
        return _nullable_of(_reader_of(inner, hint, careful=careful))
    if isinstance(schema, str):
        return _SCALARS[schema]
    match schema["type"]:
        case "enum":
            return _enum_of(_members(schema, _inner(hint)))
        case "array":
            return _array_of(_reader_of(schema["items"], hint, careful=careful))
        case "map":
            return _map_of(_reader_of(schema["values"], hint, careful=careful))
        case "record":
            record = _inner(hint)
            return _record_of(_careful_fields(record, schema)) if careful else _compile(record, schema)
        case other:
            return _reader_of(other, hint, careful=careful)


_TEXT = """\
    n = data[p]
    p += 1
    if n:
        if n & 129:
            n, p = size(data, p - 1)
        else:
            n >>= 1
        q = p + n
        {to} = data[p:q]{decode}
        p = q
    else:
        {to} = {empty}"""
_NUMBER = """\
    n = data[p]
    if n < 128:
        {to} = (n >> 1) ^ -(n & 1)
        p += 1
    else:
        {to}, p = {long}(data, p)"""
_DOUBLE = """\
    {to} = double(data, p)[0]
    p += 8"""
_OTHER = "    {to}, p = read{position}(data, p)"


def _compile(record: type[Any], schema: Mapping[str, Any]) -> Read:
    """The straight function of a class. ``exec`` runs text made from our own ``.avsc`` files only.

    A dataclass comes out as itself; a pydantic model as a dict that it has still to validate.
    """
    wanted = tuple(str(field["name"]) for field in schema["fields"])
    if field_names(record) != wanted:
        raise TypeError(f"{record.__name__} and its .avsc differ: {field_names(record)} and {wanted}")
    as_itself = is_dataclass(record)
    hints = get_type_hints(record)
    names: dict[str, Any] = {"size": _size, "long": _long, "int_": _int, "double": _unpack_double}
    names |= {"new": object.__new__, "Frozen": record, "Bare": type(record.__name__, (), {"__slots__": wanted})}
    lines = ["def read(data, p):", "    record = new(Bare)" if as_itself else "    record = {}"]
    for position, field in enumerate(schema["fields"]):
        name, kind = field["name"], field["type"]
        to = f"record.{name}" if as_itself else f"record[{name!r}]"
        match kind:
            case "string":
                lines.append(_TEXT.format(to=to, decode=".decode()", empty='""'))
            case "bytes":
                lines.append(_TEXT.format(to=to, decode="", empty='b""'))
            case "long" | "int":
                lines.append(_NUMBER.format(to=to, long="long" if kind == "long" else "int_"))
            case "double":
                lines.append(_DOUBLE.format(to=to))
            case _:
                names[f"read{position}"] = _reader_of(kind, hints[name], careful=False)
                lines.append(_OTHER.format(to=to, position=position))
    if as_itself:
        lines.append("    record.__class__ = Frozen")
    lines.append("    return record, p")
    exec("\n".join(lines), names)  # noqa: S102 - as dataclasses and named tuples are made
    return names["read"]  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class RecordReader:
    """Reads records of one class.

    Attributes:
        read: Straight. On wrong bytes it raises anything, or returns a position other than the end.
        fields: Careful, by field.
    """

    read: Read
    fields: tuple[tuple[str, Read], ...]

    def explain(self, data: bytes, position: int) -> str:
        """Field and byte at which ``data`` stops being this record, after ``read`` failed."""
        for name, read in self.fields:
            try:
                _, position = read(data, position)
            except Stopped as stopped:
                return f"field {name}: {stopped}"
        left = len(data) - position
        return f"{left} bytes are left after the record, from byte {position} on" if left > 0 else "the bytes end early"


def record_reader(record: type[Any], schema: Mapping[str, Any]) -> RecordReader:
    """Make the reader of a class.

    Raises:
        TypeError: Class and schema differ, or the schema uses a type that we don't.
    """
    return RecordReader(_compile(record, schema), _careful_fields(record, schema))
