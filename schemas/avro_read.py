"""Our own records from Avro binary: one straight function a class, made from its ``.avsc`` when it is first needed.

The other half of ``avro_write``, for bytes that were written with exactly the class's schema. The straight function has
no check per field: a slice beyond the end is silently short in Python, so the position runs past the end, and the next
index or the caller's look at the end finds it out. What is wrong is then told by the careful functions of
``schemas.avro_careful``.

The fields are read into local variables and handed over by position: with names a class of 61 fields takes five times
as long to make.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from textwrap import indent
from typing import Any, Final, get_type_hints

from msgspec import Struct

from schemas.avro_careful import Read, Stopped, careful_fields, int32, members_of, number, reader_of, size
from schemas.avro_write import nullable, require_same_fields

_unpack_double = struct.Struct("<d").unpack_from


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


def _straight_texts(general: Read) -> Read:
    """An array of text in one block, as all writers make it; anything else is left to ``general``."""

    def read(data: bytes, position: int) -> tuple[Any, int]:
        count = data[position]
        if not count:
            return (), position + 1
        if count & 129:
            return general(data, position)
        start = position
        position += 1
        values = []
        for _ in range(count >> 1):
            length = data[position]
            if length & 129:
                return general(data, start)
            position += 1
            end = position + (length >> 1)
            values.append(data[position:end].decode())
            position = end
        return (tuple(values), position + 1) if data[position] == 0 else general(data, start)

    return read


def _straight_doubles(general: Read) -> Read:
    """As ``_straight_texts``: all items of the block at once."""

    def read(data: bytes, position: int) -> tuple[Any, int]:
        count = data[position]
        if not count:
            return (), position + 1
        end = position + 1 + (count >> 1) * 8
        if count & 129 or data[end]:
            return general(data, position)
        return unpack_from(f"<{count >> 1}d", data, position + 1), end + 1

    unpack_from = struct.unpack_from
    return read


def _straight_longs(general: Read) -> Read:
    """As ``_straight_texts``."""

    def read(data: bytes, position: int) -> tuple[Any, int]:
        count = data[position]
        if not count:
            return (), position + 1
        if count & 129:
            return general(data, position)
        start = position
        position += 1
        values = []
        for _ in range(count >> 1):
            n = data[position]
            if n < 128:
                values.append((n >> 1) ^ -(n & 1))
                position += 1
            else:
                value, position = _long(data, position)
                values.append(value)
        return (tuple(values), position + 1) if data[position] == 0 else general(data, start)

    return read


def _straight_map_of_doubles(general: Read) -> Read:
    """As ``_straight_texts``."""

    def read(data: bytes, position: int) -> tuple[Any, int]:
        count = data[position]
        if not count:
            return {}, position + 1
        if count & 129:
            return general(data, position)
        start = position
        position += 1
        values = {}
        for _ in range(count >> 1):
            length = data[position]
            if length & 129:
                return general(data, start)
            end = position + 1 + (length >> 1)
            values[data[position + 1 : end].decode()] = _unpack_double(data, end)[0]
            position = end + 8
        return (values, position + 1) if data[position] == 0 else general(data, start)

    return read


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
    {to}, p = {kind}_(data, p)"""
_DOUBLE = """\
{to} = double(data, p)[0]
p += 8"""
_TABLE = """\
{to} = {table}[data[p]]
p += 1"""
_NULLABLE = """\
n = data[p]
p += 1
if n == 2:
{inner}
elif n:
    raise ValueError
else:
    {to} = None"""
_SCALARS: Final[Mapping[str, str]] = {
    "string": _TEXT.replace("{decode}", ".decode()").replace("{empty}", '""'),
    "bytes": _TEXT.replace("{decode}", "").replace("{empty}", 'b""'),
    "long": _NUMBER.replace("{kind}", "long"),
    "int": _NUMBER.replace("{kind}", "int"),
    "double": _DOUBLE,
    "boolean": _TABLE.replace("{table}", "booleans"),
}


_STRAIGHT: Final[Mapping[tuple[str, str], Callable[[Read], Read]]] = {
    ("array", "string"): _straight_texts,
    ("array", "double"): _straight_doubles,
    ("array", "long"): _straight_longs,
    ("map", "double"): _straight_map_of_doubles,
}


class _Straight:
    """The text of a class's straight function, and the names that it uses."""

    def __init__(self, record: type[Any]) -> None:
        self.names: dict[str, Any] = {"size": size, "long_": _long, "int_": int32, "double": _unpack_double}
        self.names["booleans"] = (False, True)
        self._hints = get_type_hints(record)

    def field(self, name: str, schema: Any, to: str) -> str:
        """Lines that read a field and put it where ``to`` says."""
        inner = nullable(schema)
        if inner is not None:
            return _NULLABLE.format(to=to, inner=indent(self.field(name, inner, to), "    "))
        if isinstance(schema, str):
            return _SCALARS[schema].format(to=to)
        if schema["type"] == "enum" and len(schema["symbols"]) <= 64:
            members = members_of(schema, self._hints[name])
            self.names[f"members_{name}"] = {2 * index: member for index, member in enumerate(members)}
            return _TABLE.format(to=to, table=f"members_{name}")
        read = reader_of(schema, self._hints[name], _compile)
        straight = _STRAIGHT.get((schema["type"], str(schema.get("items") or schema.get("values"))))
        if straight is not None:
            read = straight(read)
        self.names[f"read_{name}"] = read
        return f"{to}, p = read_{name}(data, p)"


def _compile(record: type[Any], schema: Mapping[str, Any]) -> Read:
    """The straight function of a class. ``exec`` runs text made from our own ``.avsc`` files only.

    A record of ours comes out as itself; a pydantic model as a dict that it has still to validate.
    """
    require_same_fields(record, schema)
    as_itself = issubclass(record, Struct)
    straight = _Straight(record)
    lines = [] if as_itself else ["record = {}"]
    for name, kind in ((str(field["name"]), field["type"]) for field in schema["fields"]):
        lines.append(straight.field(name, kind, f"of_{name}" if as_itself else f"record[{name!r}]"))
    if issubclass(record, Struct):
        straight.names["Made"] = record
        lines.append(f"record = Made({', '.join(f'of_{name}' for name in record.__struct_fields__)})")
    lines.append("return record, p")
    exec("def read(data, p):\n" + indent("\n".join(lines), "    "), straight.names)  # noqa: S102 - as dataclasses do
    return straight.names["read"]  # type: ignore[no-any-return]


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
        return f"{left} bytes are left after the record, from byte {position} on" if left else "not as Avro is written"


def record_reader(record: type[Any], schema: Mapping[str, Any]) -> RecordReader:
    """Make the reader of a class.

    Raises:
        TypeError: Class and schema differ, or the schema uses a type that we don't.
    """
    return RecordReader(_compile(record, schema), careful_fields(record, schema))
