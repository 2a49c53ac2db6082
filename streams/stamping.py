"""From what a stage wants written to what goes to the broker: the hop's own headers are added here, and only here."""

from datetime import UTC, datetime

from schemas.delivery import DeliveryMode
from schemas.headers import Header, Name
from streams.effects import Emit
from streams.records import OutRecord
from streams.topics import Names

_SPEC: Header = (Name.CE_SPECVERSION.value, b"1.0")
_ID = Name.CE_ID.value
_TYPE = Name.CE_TYPE.value
_TIME = Name.CE_TIME.value
_SOURCE = Name.CE_SOURCE.value
_CONTENT_TYPE = Name.CONTENT_TYPE.value
_CAUSATION = Name.CAUSATION_ID.value
_SEQUENCE = Name.SEQUENCE.value
_EPOCH = Name.EPOCH.value


class Stamper:
    """Adds CloudEvents, sequence and mode headers.

    Args:
        names: Physical topic names.
        mode: What the broker can do.
    """

    __slots__ = ("_content_types", "_mode", "_names", "_topics", "_types")

    def __init__(self, names: Names, mode: DeliveryMode) -> None:
        self._names = names
        self._mode: Header = (Name.DELIVERY_MODE.value, mode.encode())
        self._topics: dict[str, str] = {}
        self._types: dict[str, Header] = {}
        self._content_types: dict[str, Header] = {}

    def stamp(self, emit: Emit, *, source: bytes, epoch: int, sequence: int, time: Header) -> OutRecord:
        """The record to write."""
        topic = self._topics.get(emit.topic)
        if topic is None:
            topic = self._topics[emit.topic] = self._names.topic(emit.topic)
        record_type = self._types.get(emit.record)
        if record_type is None:
            record_type = self._types[emit.record] = (_TYPE, f"tierflow.{emit.record}.v1".encode())
        content_type = self._content_types.get(emit.content_type)
        if content_type is None:
            content_type = self._content_types[emit.content_type] = (_CONTENT_TYPE, emit.content_type.encode())
        headers = [
            *emit.headers,
            _SPEC,
            (_ID, emit.id.encode()),
            (_SOURCE, source),
            record_type,
            time,
            content_type,
            (_SEQUENCE, b"%d" % sequence),
            (_EPOCH, b"%d" % epoch),
            self._mode,
        ]
        if emit.causation_id:
            headers.append((_CAUSATION, emit.causation_id.encode()))
        return OutRecord(topic, emit.key, emit.value, headers, emit.partition)


def time_header(now_ms: int) -> Header:
    """``ce_time`` for a whole batch, RFC 3339 with milliseconds."""
    text = datetime.fromtimestamp(now_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return (_TIME, text.encode())
