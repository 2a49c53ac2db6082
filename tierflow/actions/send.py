"""``tierflow send``."""

import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from rich.table import Table

from schemas.enums import Status
from schemas.errors import OutputRefusedError
from schemas.ids import uuid7
from streams.runtime import Platform
from tierflow.console import Console, one_line
from tierflow.durations import told
from tierflow.exits import NOT_SO, OK, NoAnswerError
from tierflow.front import Front
from tierflow.requests_file import RequestLine
from tierflow.sending import Defaults, Ended, Prepared, Sent, Waiter, open_sender, open_waiter, prepare, publish
from tierflow.wiring import open_codec


async def send(
    front: Front, lines: Sequence[RequestLine], defaults: Defaults, *, wait: timedelta | None, single: bool
) -> int:
    """Publish requests, and wait for their ends if asked to.

    Args:
        front: Surroundings.
        lines: What to publish.
        defaults: Headers for lines that don't name them.
        wait: How long to wait for results; None does not.
        single: One prompt: its answer is the output.

    Raises:
        DeliveryError: The broker.
        NoAnswerError: Not all results came in time; names the requests.
        OutputRefusedError: The broker refuses a record, such as one above the topic's limit.
    """
    platform = await front.platform()
    topic = platform.names.topic(defaults.topic)
    now_ms = time.time_ns() // 1_000_000
    prepared = [prepare(line, topic, defaults, now_ms=now_ms, new_id=uuid7()) for line in lines]
    quiet = single and wait is not None
    if wait is None:
        await _publish(front.console, platform, prepared, None, quiet=quiet)
        return OK
    async with open_codec(front.settings.codec) as codec, open_waiter(platform, codec) as waiter:
        await _publish(front.console, platform, prepared, waiter, quiet=quiet)
        return await _tell_ends(front.console, waiter, wait, single=single)


async def _publish(
    console: Console, platform: Platform, prepared: Sequence[Prepared], waiter: Waiter | None, *, quiet: bool
) -> None:
    def expected() -> Iterator[Prepared]:
        for each in prepared:
            if waiter is not None:
                waiter.expect(each.request_id)
            yield each

    refused: list[OutputRefusedError] = []
    async with open_sender(platform) as sink:
        async for batch in publish(sink, expected()):
            for sent in batch:
                _tell_sent(console, sent, quiet=quiet)
                if sent.error is not None:
                    refused.append(sent.error)
                    if waiter is not None:
                        waiter.forget(sent.prepared.request_id)
    if refused:
        said = f"{len(refused)} of {len(prepared)} requests were not published: {refused[0].reason}"
        raise OutputRefusedError(refused[0].index, said)


def _tell_sent(console: Console, sent: Sent, *, quiet: bool) -> None:
    made = sent.prepared
    if console.as_json:
        told_of = {"request_id": made.request_id, "line": made.line.number, "published": made.line.repeat}
        console.emit(told_of if sent.error is None else {**told_of, "published": 0, "error": sent.error.reason})
    elif sent.error is not None:
        console.warn(f"line {made.line.number}: not published: {sent.error.reason}")
    elif quiet:
        console.note(f"sent as {made.request_id}")
    else:
        console.line(made.request_id or f"line {made.line.number}: published without an id")


async def _tell_ends(console: Console, waiter: Waiter, wait: timedelta, *, single: bool) -> int:
    counts: dict[str, int] = {}
    last: Ended | None = None
    async for ended in waiter.ended(wait):
        last = ended
        status = ended.result.status.value if ended.result is not None else "dead letter"
        counts[status] = counts.get(status, 0) + 1
        console.emit(_as_json(ended))
        if not single:
            console.line(_line(ended))
    for problem in waiter.unreadable:
        console.warn(f"a record could not be read: {problem}")
    if waiter.missing:
        named = ", ".join(waiter.missing[:3]) + (" …" if waiter.waiting > 3 else "")
        raise NoAnswerError(f"{waiter.waiting} requests have no result after {told(wait)}: {named}")
    if single and last is not None:
        return _tell_answer(console, last)
    if not console.as_json and counts:
        table = Table("status", "requests")
        for status, count in sorted(counts.items()):
            table.add_row(status, str(count))
        console.show(table)
    return OK


def _tell_answer(console: Console, ended: Ended) -> int:
    """The answer alone goes to standard output, so that it can be piped; what it cost goes beside it."""
    result = ended.result
    if result is not None and result.status is Status.ANSWERED:
        console.line(result.output or result.output_parts)
        console.note(_line(ended, output=False))
        return OK
    console.warn(_line(ended))
    return NOT_SO


def _line(ended: Ended, *, output: bool = True) -> str:
    after = told(ended.after)
    if ended.parked is not None:
        return f"{ended.request_id}  dead letter  {after}  {ended.parked.code}: {one_line(ended.parked.message)}"
    result = ended.result
    assert result is not None  # noqa: S101 - one of the two is there
    where = " ".join(filter(None, (result.tier, result.model)))
    said = one_line(result.output or "", 80) if result.status is Status.ANSWERED else one_line(result.reason)
    parts = [ended.request_id, result.status.value, where, after, said if output else ""]
    return "  ".join(filter(None, parts))


def _as_json(ended: Ended) -> dict[str, Any]:
    after_ms = ended.after // timedelta(milliseconds=1)
    if ended.result is not None:
        return {**ended.result.model_dump(mode="json"), "after_ms": after_ms}
    parked = ended.parked
    assert parked is not None  # noqa: S101 - one of the two is there
    return {
        "request_id": ended.request_id,
        "status": "dead_letter",
        "error_code": parked.code,
        "reason": parked.message,
        "place": parked.place,
        "after_ms": after_ms,
    }
