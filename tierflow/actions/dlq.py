"""``tierflow dlq``: dead letters listed, looked at, and sent again."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from rich.table import Table

from schemas.codec import Codec
from schemas.errors import InputError, UndecodableError
from schemas.flow import Assignment, Completion
from schemas.headers import AVRO, Name, value_of
from schemas.ids import coordinates
from streams.deadletter_tools import list_dead_letters, read_dead_letter, replay_dead_letter
from streams.deadletters import ParkedRecord
from streams.runtime import Platform
from streams.topics import DEAD_LETTERS, STAGES
from tierflow.console import clean, one_line, plain
from tierflow.front import Front
from tierflow.reach import rules_in_force
from tierflow.wiring import open_codec

_PREVIEW = 4000


async def list_(front: Front, stages: Sequence[str], limit: int) -> None:
    """Show the newest dead letters of each stage."""
    platform = await front.platform()
    table = Table("place", "parked", "request", "code", "why", "source")
    for stage in stages or STAGES:
        listing = await list_dead_letters(
            platform.connection, platform.names, stage, limit=limit, kind=platform.capabilities.kind
        )
        for parked in listing.parked:
            source = coordinates(parked.source_topic, parked.source_partition, parked.source_offset)
            table.add_row(
                _short(parked, platform),
                _time(parked.parked_ms),
                plain(one_line(parked.request_id, 40)),
                plain(parked.code),
                plain(one_line(parked.message, 80)),
                plain(source),
            )
            front.console.emit(_about(parked, platform))
        for reason in listing.unreadable:
            front.console.warn(f"no dead letter of ours: {reason}")
    front.console.show(table if table.row_count else plain("no dead letters"))


async def show(front: Front, place: str) -> None:
    """Show one dead letter with its original headers and the beginning of its value."""
    parse_place(place, front.settings.topics.prefix)  # a wrong one needs no broker to be told
    platform = await front.platform()
    parked = await _read(platform, place)
    console = front.console
    for name, value in _about(parked, platform).items():
        console.line(f"{name}: {value}")
    original = parked.original
    if original is None:
        console.line(f"the original was too large to park; SHA-256 {parked.sha256}")
        console.emit(_about(parked, platform))
        return
    headers = {name: raw.decode("utf-8", "backslashreplace") for name, raw in original.headers}
    console.line("headers:")
    for name, text in headers.items():
        console.line(f"    {clean(name)}: {one_line(text, 200)}")
    value = original.value or b""
    text = value[:_PREVIEW].decode("utf-8", "backslashreplace")
    console.line(f"value, {len(value)} bytes{', beginning' if len(value) > _PREVIEW else ''}:")
    console.line(text)
    key = None if original.key is None else original.key.decode("utf-8", "backslashreplace")
    console.emit({**_about(parked, platform), "key": key, "headers": headers, "bytes": len(value), "hex": value.hex()})


async def replay(front: Front, place: str, *, topic: str | None, again: str | None) -> None:
    """Send a dead letter again as a request of its own.

    Args:
        front: Surroundings.
        place: Of the dead letter.
        topic: Logical intake topic; where it came from, or the first one, if None.
        again: Id of the new request; derived from the place if None, so that a second replay is dropped as a duplicate.

    Raises:
        InputError: There is no such dead letter, its bytes were not kept, or no request is in it.
    """
    parse_place(place, front.settings.topics.prefix)  # a wrong one needs no broker to be told
    platform = await front.platform()
    parked = await _read(platform, place)
    async with open_codec(front.settings.codec) as codec:
        request, behind = as_request(parked, codec)
    target = None if topic is None else platform.names.topic(topic)
    if behind and target is None:
        rules = await rules_in_force(platform)
        target = platform.names.topic(rules.catalogue.intake[0].topic if rules is not None else "requests")
    written = await replay_dead_letter(platform.connection, request, new_id=again, topic=target)
    new_id = value_of(written.headers, Name.REQUEST_ID) or ""
    front.console.line(f"sent again as {new_id} to {written.topic}, a replay of {parked.request_id}")
    front.console.emit({"request_id": new_id, "topic": written.topic, "replay_of": parked.request_id})


def as_request(parked: ParkedRecord, codec: Codec) -> tuple[ParkedRecord, bool]:
    """The dead letter as the request that it stands for, and whether that was dug out of a record of a later stage.

    Raises:
        InputError: Its bytes were not kept, or it is no record that carries a request.
    """
    if parked.stage == "classifier":
        return parked, False
    if parked.stage not in {"worker", "guardrail"}:
        raise InputError(f"dead letters of {parked.stage} carry no request: there is nothing to send again")
    original = parked.original
    if original is None:
        raise InputError(f"{parked.place} has no original bytes (it was too large to park)")
    content_type = value_of(original.headers, Name.CONTENT_TYPE) or AVRO
    try:
        value = original.value or b""
        if parked.stage == "guardrail":
            value = codec.decode(Completion, value, content_type).assignment
            content_type = AVRO
        assignment = codec.decode(Assignment, value, content_type)
    except UndecodableError as error:
        raise InputError(f"{parked.place}: no request can be read out of it: {error}") from error
    headers = tuple(pair for pair in original.headers if pair[0] != Name.CONTENT_TYPE)
    headers += ((Name.CONTENT_TYPE.value, assignment.request_content_type.encode()),)
    return replace(parked, original=original._replace(value=assignment.request, headers=headers)), True


async def _read(platform: Platform, place: str) -> ParkedRecord:
    stage, partition, offset = parse_place(place, platform.names.prefix)
    return await read_dead_letter(
        platform.connection,
        platform.names,
        stage,
        partition=partition,
        offset=offset,
        kind=platform.capabilities.kind,
    )


def parse_place(place: str, prefix: str = "") -> tuple[str, int, int]:
    """Stage, partition and offset of ``classifier/0/12`` or ``dead-letters.classifier/0/12``.

    Raises:
        InputError: It is neither.
    """
    parts = place.removeprefix(prefix).removeprefix(DEAD_LETTERS).split("/")
    if len(parts) != 3 or not all(part.isascii() and part.isdecimal() for part in parts[1:]):
        raise InputError(f"{place} is no place of a dead letter: give stage/partition/offset, such as classifier/0/12")
    if parts[0] not in STAGES:
        raise InputError(f"{place}: no stage {parts[0]}; there are {', '.join(STAGES)}")
    return parts[0], int(parts[1]), int(parts[2])


def _short(parked: ParkedRecord, platform: Platform) -> str:
    topic = platform.names.logical(parked.topic).removeprefix(DEAD_LETTERS)
    return coordinates(topic, parked.partition, parked.offset)


def _about(parked: ParkedRecord, platform: Platform) -> dict[str, Any]:
    return {
        "place": _short(parked, platform),
        "request_id": parked.request_id,
        "code": parked.code,
        "message": parked.message,
        "stage": parked.stage,
        "disposition": parked.disposition.value,
        "attempt": parked.attempt,
        "parked_ms": parked.parked_ms,
        "source": coordinates(parked.source_topic, parked.source_partition, parked.source_offset),
        "group": parked.group,
    }


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
