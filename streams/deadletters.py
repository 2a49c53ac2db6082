"""Dead letters: a record that was given up, with its original bytes and the reason.

A dead letter has the original's key, value and headers, so that any Kafka client sees what was sent. Headers of ours
say why; an original header whose name we need is kept as ``tierflow.original.<name>``. Where that can't be done (a
producer sent hundreds of headers, or compressed far more bytes than the topic takes plain) the original is packed
into the value, and ``tierflow.original-packed`` says so. Both ways it comes back byte for byte.

What does not even fit packed (more random bytes than a record may have) is kept as its hash, sizes and coordinates:
nothing may stall behind it, and until retention ends the original is still where it was read.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

from schemas.errors import InputError, UndecodableError
from schemas.headers import MAX_HEADERS, PROPAGATED, Header, Name, value_of
from schemas.ids import coordinates, derived_id, id_from_coordinates
from schemas.settings import TopicSettings
from streams.effects import DeadLetter, Disposition
from streams.packing import Original, PackedError, pack, unpack
from streams.records import InRecord, OutRecord
from streams.stamping import time_header

ORIGINAL: Final = "tierflow.original."
PACKED: Final = "tierflow.original-packed"
ZSTD: Final = b"zstd"
DIGEST: Final = b"sha256"

MESSAGE_CHARS: Final = 1000
"""Of the error's message: enough for a path and a reason, and never a copy of the content."""
COPIED_BYTES: Final = 256
"""Beside a packed original, headers that follow a request (its id, its tenant) stay readable up to this length."""
RECORD_OVERHEAD: Final = 256
"""Bytes for the batch and the record around key, value and headers, generously."""

_WRITTEN: Final = frozenset(
    str(name)
    for name in (
        Name.CE_SPECVERSION,
        Name.CE_ID,
        Name.CE_SOURCE,
        Name.CE_TYPE,
        Name.CE_TIME,
        Name.CAUSATION_ID,
        Name.ERROR_CODE,
        Name.ERROR_MESSAGE,
        Name.ERROR_STAGE,
        Name.ERROR_ATTEMPT,
        Name.ERROR_DISPOSITION,
        Name.ERROR_FIRST_AT,
        Name.ERROR_GROUP,
        Name.CONNECT_TOPIC,
        Name.CONNECT_PARTITION,
        Name.CONNECT_OFFSET,
    )
)
# A sequence number counts within its source, and the source of a dead letter is another one.
_MOVED: Final = _WRITTEN | {str(Name.SEQUENCE), str(Name.EPOCH), PACKED}
_NOT_REPLAYED: Final = frozenset(
    str(name) for name in (Name.REQUEST_ID, Name.REPLAY_OF, Name.DEADLINE, Name.CE_ID, Name.CAUSATION_ID, Name.SEQUENCE)
) | {str(Name.EPOCH), str(Name.ATTEMPT)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedRecord:
    """A dead letter, read.

    Attributes:
        topic: Dead-letter topic, physical.
        partition: Partition of the dead letter.
        offset: Offset of the dead letter.
        parked_ms: Timestamp of the dead letter, Unix milliseconds.
        original: Key, value and headers as they were; None if only their hash could be kept.
        sha256: Hash over the packed original, hex; empty unless only that could be kept.
        code: Stable error code.
        message: What was wrong.
        stage: Which stage gave up.
        attempt: After how many tries.
        disposition: Poison or exhausted.
        first_failed_ms: Unix milliseconds of the first failure.
        group: Consumer group.
        source_topic: Where the original was read, physical.
        source_partition: Its partition.
        source_offset: Its offset.
    """

    topic: str
    partition: int
    offset: int
    parked_ms: int
    original: Original | None
    sha256: str
    code: str
    message: str
    stage: str
    attempt: int
    disposition: Disposition
    first_failed_ms: int
    group: str
    source_topic: str
    source_partition: int
    source_offset: int

    @property
    def place(self) -> str:
        """Coordinates of the dead letter."""
        return coordinates(self.topic, self.partition, self.offset)

    @property
    def request_id(self) -> str:
        """The request id in the original's headers, else the one that is derived from its coordinates."""
        headers = self.original.headers if self.original is not None else ()
        try:
            named = value_of(headers, Name.REQUEST_ID)
        except InputError:
            named = None
        return named or id_from_coordinates(self.source_topic, self.source_partition, self.source_offset)


def dead_letter(
    record: InRecord,
    letter: DeadLetter,
    *,
    topic: str,
    stage: str,
    group: str,
    now_ms: int,
    max_bytes: int = TopicSettings().max_message_bytes,
) -> OutRecord:
    """The record to write for one that is given up.

    Args:
        record: What could not be handled.
        letter: Why.
        topic: Dead-letter topic, physical.
        stage: Stage that gives up.
        group: Its consumer group.
        now_ms: Unix milliseconds.
        max_bytes: ``max.message.bytes`` of the dead-letter topic.
    """
    ours = _headers(record, letter, stage, group, now_ms)
    if len(record.headers) <= MAX_HEADERS:
        headers = [*(_moved(header) for header in record.headers), *ours]
        if _size(record.key, record.value, headers) <= max_bytes:
            return OutRecord(topic, record.key, record.value, headers)
    ours += [pair for pair in dict(record.headers).items() if pair[0] in PROPAGATED and len(pair[1]) <= COPIED_BYTES]
    original = pack(Original(record.key, record.value, record.headers))
    headers = [*ours, (PACKED, ZSTD)]
    if _size(None, original, headers) <= max_bytes:
        return OutRecord(topic, None, original, headers)
    return OutRecord(topic, None, hashlib.sha256(original).hexdigest().encode(), [*ours, (PACKED, DIGEST)])


def parse_dead_letter(record: InRecord) -> ParkedRecord:
    """Read a dead letter.

    Raises:
        UndecodableError: It is none of ours; names the header that is missing or wrong.
    """
    ours = {name: value for name, value in record.headers if name in _MOVED}
    form = ours.get(PACKED)
    sha256, original = "", None
    if form is None:
        headers = tuple(_restored(header) for header in record.headers if header[0] not in _MOVED)
        original = Original(record.key, record.value, headers)
    elif form == ZSTD:
        try:
            original = unpack(record.value or b"")
        except PackedError as error:
            raise UndecodableError(f"value of {coordinates(*record[:3])}: {error}") from error
    elif form == DIGEST:
        sha256 = (record.value or b"").decode("ascii", "replace")
    else:
        raise UndecodableError(f"header {PACKED}: {form[:40]!r} is not known")
    disposition = _text(ours, Name.ERROR_DISPOSITION)
    if disposition not in set(Disposition):
        raise UndecodableError(f"header {Name.ERROR_DISPOSITION}: {disposition[:40]!r} is not known")
    return ParkedRecord(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        parked_ms=record.timestamp_ms,
        original=original,
        sha256=sha256,
        code=_text(ours, Name.ERROR_CODE),
        message=_text(ours, Name.ERROR_MESSAGE),
        stage=_text(ours, Name.ERROR_STAGE),
        attempt=_number(ours, Name.ERROR_ATTEMPT),
        disposition=Disposition(disposition),
        first_failed_ms=_number(ours, Name.ERROR_FIRST_AT),
        group=_text(ours, Name.ERROR_GROUP),
        source_topic=_text(ours, Name.CONNECT_TOPIC),
        source_partition=_number(ours, Name.CONNECT_PARTITION),
        source_offset=_number(ours, Name.CONNECT_OFFSET),
    )


def replay_record(
    parked: ParkedRecord, new_id: str, *, topic: str | None = None, value: bytes | None = None
) -> OutRecord:
    """The record to send again: a request of its own, with a new id, that says which one it repeats.

    The deadline is left out, as it has passed or soon will: the intake's default applies. So are the numbers that the
    stages gave. What was parked behind the classifier stands for a request that has ended; to ask that one again, send
    the request that the parked record carries, as ``value``, to an intake ``topic``.

    Args:
        parked: The dead letter.
        new_id: Id of the new request.
        topic: Where to, physical; the topic it was read from if None.
        value: Other bytes than the original's.

    Raises:
        InputError: Only the hash of the original was kept.
    """
    if parked.original is None:
        place = coordinates(parked.source_topic, parked.source_partition, parked.source_offset)
        raise InputError(f"{parked.place} has no original bytes (it was too large to park): read them at {place}")
    original = parked.original
    headers = [header for header in original.headers if header[0] not in _NOT_REPLAYED]
    if any(name == Name.CE_ID for name, _ in original.headers):  # an event of its own needs an id of its own
        headers.append((Name.CE_ID.value, new_id.encode()))
    headers.append((Name.REQUEST_ID.value, new_id.encode()))
    headers.append((Name.REPLAY_OF.value, parked.request_id.encode()))
    return OutRecord(topic or parked.source_topic, original.key, original.value if value is None else value, headers)


def _headers(record: InRecord, letter: DeadLetter, stage: str, group: str, now_ms: int) -> list[Header]:
    place = (record.topic, str(record.partition), str(record.offset))
    headers = [
        (Name.CE_SPECVERSION.value, b"1.0"),
        (Name.CE_ID.value, derived_id("dead-letter", stage, *place).encode()),
        (Name.CE_SOURCE.value, f"/{stage}/dead-letters".encode()),
        (Name.CE_TYPE.value, b"tierflow.dead-letter.v1"),
        time_header(now_ms),
        (Name.ERROR_CODE.value, letter.code.encode()),
        (Name.ERROR_MESSAGE.value, _bounded(letter.message).encode()),
        (Name.ERROR_STAGE.value, stage.encode()),
        (Name.ERROR_ATTEMPT.value, b"%d" % letter.attempt),
        (Name.ERROR_DISPOSITION.value, letter.disposition.encode()),
        (Name.ERROR_FIRST_AT.value, b"%d" % now_ms),
        (Name.ERROR_GROUP.value, group.encode()),
        (Name.CONNECT_TOPIC.value, record.topic.encode()),
        (Name.CONNECT_PARTITION.value, b"%d" % record.partition),
        (Name.CONNECT_OFFSET.value, b"%d" % record.offset),
    ]
    cause = _last(record, Name.CE_ID) or _last(record, Name.REQUEST_ID)
    if cause:
        headers.append((Name.CAUSATION_ID.value, cause[:MESSAGE_CHARS]))
    return headers


def _bounded(message: str) -> str:
    """One printable line of bounded length: it becomes a header, a log line and a cell of a table."""
    line = "".join(char if char.isprintable() else " " for char in message[: MESSAGE_CHARS + 1])
    return line if len(line) <= MESSAGE_CHARS else line[: MESSAGE_CHARS - 1] + "…"


def _moved(header: Header) -> Header:
    name, value = header
    return (ORIGINAL + name, value) if name in _MOVED or name.startswith(ORIGINAL) else header


def _restored(header: Header) -> Header:
    name, value = header
    return (name.removeprefix(ORIGINAL), value)


def _size(key: bytes | None, value: bytes | None, headers: list[Header]) -> int:
    fixed = len(key or b"") + len(value or b"") + RECORD_OVERHEAD
    return fixed + sum(len(name.encode()) + len(content) + 6 for name, content in headers)  # 6: lengths as varints


def _last(record: InRecord, name: Name) -> bytes | None:
    return next((value for key, value in reversed(record.headers) if key == name), None)


def _text(headers: dict[str, bytes], name: Name) -> str:
    raw = headers.get(name.value)
    if raw is None:
        raise UndecodableError(f"header {name.value} is missing: this is no dead letter of ours")
    return raw.decode("utf-8", "replace")


def _number(headers: dict[str, bytes], name: Name) -> int:
    text = _text(headers, name)
    if not (text.isascii() and text.isdigit()):
        raise UndecodableError(f"header {name.value}: {text[:40]!r} is not a whole number")
    return int(text)
