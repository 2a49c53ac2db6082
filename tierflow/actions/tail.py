"""``tierflow tail``."""

import asyncio
import signal
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from agents.monitor.alerts import Alert
from schemas.codec import Codec
from schemas.edges import Result
from schemas.errors import TierflowError
from schemas.flow import ProvenanceEvent
from schemas.headers import AVRO, Name, RawHeaders, value_of
from schemas.ids import coordinates, id_from_coordinates
from streams.deadletters import parse_dead_letter
from streams.log_reader import LogReader, Start, open_log
from streams.records import TP, InRecord
from streams.runtime import Platform
from streams.topics import ALERTS, DEAD_LETTERS, PROVENANCE, REQUESTS, RESULTS, STAGES
from tierflow.choices import Feed
from tierflow.console import one_line, rows
from tierflow.durations import told
from tierflow.front import Front
from tierflow.reach import rules_in_force
from tierflow.wiring import open_codec

_POLL: Final = timedelta(milliseconds=500)
_PREVIEW: Final = 100


@dataclass(frozen=True, slots=True)
class Shown:
    """A record as it is shown.

    Attributes:
        request_id: Which request it is about; empty if none.
        line: For people.
        data: For programs.
    """

    request_id: str
    line: str
    data: Mapping[str, Any]


async def tail(
    front: Front, feed: Feed, *, from_beginning: bool, follow: bool, request_id: str | None, limit: int | None
) -> None:
    """Show records as they come.

    Args:
        front: Surroundings.
        feed: Which.
        from_beginning: Those that are there already, too.
        follow: Go on until interrupted; else stop at the end.
        request_id: Only those about this request.
        limit: Stop after so many.
    """
    platform = await front.platform()
    topics = [platform.names.topic(topic) for topic in await _topics(platform, feed)]
    start = Start.EARLIEST if from_beginning else Start.LATEST
    left = limit
    async with (
        open_codec(front.settings.codec) as codec,
        open_log(platform.connection, topics, kind=platform.capabilities.kind, start=start) as reader,
    ):
        interrupted = _interruption()
        front.console.note(f"{', '.join(topics)} from the {'beginning' if from_beginning else 'end'}")
        ends = {} if follow else await reader.ends()
        while left is None or left > 0:
            if interrupted.is_set():
                raise KeyboardInterrupt
            records = await reader.poll(_POLL)
            for record in records:
                shown = show(record, feed, codec)
                if request_id is not None and shown.request_id != request_id:
                    continue
                front.console.line(shown.line)
                front.console.emit(shown.data)
                left = None if left is None else left - 1
                if left == 0:
                    return
            if not follow and not records and await _at_end(reader, ends):
                return


def _interruption() -> asyncio.Event:
    """Set by Ctrl-C, to be looked at between polls: a cancellation amid one can get lost in the Kafka client."""
    interrupted = asyncio.Event()
    if threading.current_thread() is threading.main_thread():
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupted.set)
    return interrupted


def show(record: InRecord, feed: Feed, codec: Codec) -> Shown:
    """A record of a feed, for people and programs; one that can't be read says so."""
    place = coordinates(*record[:3])
    try:
        match feed:
            case Feed.RESULTS:
                return _result(record, place, codec)
            case Feed.PROVENANCE:
                return _event(record, place, codec)
            case Feed.DEAD_LETTERS:
                return _dead_letter(record, place)
            case Feed.REQUESTS:
                return _request(record, place)
            case Feed.ALERTS:
                return _alert(record, place)
    except TierflowError as error:
        return Shown(
            "", f"{_time(record)}  {place}  can't be read: {error}", {"place": place, "unreadable": str(error)}
        )


async def _topics(platform: Platform, feed: Feed) -> list[str]:
    match feed:
        case Feed.RESULTS:
            return [RESULTS]
        case Feed.PROVENANCE:
            return [PROVENANCE]
        case Feed.DEAD_LETTERS:
            return [f"{DEAD_LETTERS}{stage}" for stage in STAGES]
        case Feed.ALERTS:
            return [ALERTS]
        case Feed.REQUESTS:
            rules = await rules_in_force(platform)
            return [intake.topic for intake in rules.catalogue.intake] if rules is not None else [REQUESTS]


async def _at_end(reader: LogReader, ends: Mapping[TP, int]) -> bool:
    for tp, end in ends.items():
        if await reader.position(tp) < end:
            return False
    return True


def _result(record: InRecord, place: str, codec: Codec) -> Shown:
    content_type = value_of(record.headers, Name.CONTENT_TYPE) or ""
    result = codec.decode(Result, record.value or b"", content_type)
    said = one_line(result.output or "", _PREVIEW) if result.output else one_line(result.reason, _PREVIEW)
    took = told(timedelta(milliseconds=max(0, result.ended_at_ms - result.accepted_at_ms)))
    where = " ".join(filter(None, (result.tier, result.model)))
    parts = [_time(record), result.request_id, result.status.value, where, took, said]
    return Shown(result.request_id, "  ".join(filter(None, parts)), {"place": place, **result.model_dump(mode="json")})


def _event(record: InRecord, place: str, codec: Codec) -> Shown:
    content_type = value_of(record.headers, Name.CONTENT_TYPE) or AVRO
    event = codec.decode(ProvenanceEvent, record.value or b"", content_type)
    fields = {name: getattr(event, name) for name in ProvenanceEvent.__struct_fields__}
    parts = [
        _time(record),
        event.request_id or "-",
        event.event_type.value,
        event.stage,
        event.tier,
        event.model,
        event.status,
        one_line(event.reason, _PREVIEW),
    ]
    return Shown(event.request_id, "  ".join(filter(None, parts)), {"place": place, **rows([fields])[0]})


def _dead_letter(record: InRecord, place: str) -> Shown:
    parked = parse_dead_letter(record)
    data = {
        "place": place,
        "request_id": parked.request_id,
        "stage": parked.stage,
        "code": parked.code,
        "message": parked.message,
        "disposition": parked.disposition.value,
        "attempt": parked.attempt,
        "source": coordinates(parked.source_topic, parked.source_partition, parked.source_offset),
        "parked_ms": parked.parked_ms,
    }
    line = f"{_time(record)}  {parked.request_id}  {parked.stage}  {parked.code}  {one_line(parked.message, _PREVIEW)}"
    return Shown(parked.request_id, f"{line}  at {place}", data)


def _request(record: InRecord, place: str) -> Shown:
    named = _text(record.headers, Name.REQUEST_ID)
    request_id = named or id_from_coordinates(*record[:3])
    value = record.value or b""
    preview = value.decode("utf-8", "backslashreplace")
    data = {
        "place": place,
        "request_id": request_id,
        "tenant": _text(record.headers, Name.TENANT),
        "content_type": _text(record.headers, Name.CONTENT_TYPE),
        "bytes": len(value),
        "preview": preview[:_PREVIEW],
        "timestamp_ms": record.timestamp_ms,
    }
    line = f"{_time(record)}  {request_id}  {len(value)} bytes  {one_line(preview[: 2 * _PREVIEW], _PREVIEW)}"
    return Shown(request_id, line, data)


def _alert(record: InRecord, place: str) -> Shown:
    alert = Alert.decode(record.value or b"")
    line = f"{_time(record)}  {alert.kind.value}  {alert.subject}  {one_line(alert.text, _PREVIEW)}"
    return Shown(alert.subject, line, {"place": place, **asdict(alert)})


def _text(headers: RawHeaders, name: Name) -> str:
    """A header for show: bytes that are no UTF-8 are no reason to stop."""
    return next((raw.decode("utf-8", "backslashreplace") for key, raw in reversed(headers) if key == name), "")


def _time(record: InRecord) -> str:
    try:
        return datetime.fromtimestamp(record.timestamp_ms / 1000, UTC).strftime("%H:%M:%S")
    except (ValueError, OverflowError):  # a producer gives its records any time it likes
        return "??:??:??"
