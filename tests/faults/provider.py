"""A model provider as a process of its own that writes down every call before it does anything else.

What it wrote is the truth about calls: agents under test die, their counters with them. Which trick a call meets stands
in its prompt, so that it does not depend on the order in which calls arrive: ``[r-0007 slow=200 trick=busy]``.

    python -m tests.faults.provider --port 4711 --record calls.jsonl
"""

import argparse
import asyncio
import hashlib
import json
import os
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import orjson
from aiohttp import web

from streams.brokers import ChildProcess
from streams.brokers.ports import LOOPBACK, pick_free
from tests.doubles.model_server import Reply, completion

ROOT: Final = Path(__file__).resolve().parents[2]
_ASKED: Final = re.compile(r"\[(?P<who>[^\s\]]+)(?: slow=(?P<slow>\d+))?(?: trick=(?P<trick>[a-z]+))?\]")
SORTING: Final = "You sort requests"
"""How a question begins that asks for a request's class."""
SORTED_AS: Final = "math"
"""The answer to each of them."""
LEAST_MS: Final = 20
MOST_MS: Final = 300
"""Between them calls take what their label says, unless ``slow`` asks for more: never 0, which hides races."""


class Trick(StrEnum):
    """What goes wrong with the first call (or calls) of a request; later ones are answered properly."""

    NONE = "none"
    LATE = "late"
    """The answer is made, and paid for, but comes after the caller's patience ends."""
    BUSY = "busy"
    """429, with a request to wait."""
    BURST = "burst"
    """500, twice."""
    DRIP = "drip"
    """The body comes a few bytes at a time."""
    SHAPE = "shape"
    """JSON that is no completion."""
    EMPTY = "empty"
    """200 and nothing."""
    DOWN = "down"
    """503 for seven calls: longer than the tries in place, of both models, last."""
    OUTAGE = "outage"
    """503, always."""
    DOUBT = "doubt"
    """A proper answer of the model ``small`` that its own probabilities speak against."""
    HUGE = "huge"
    """An answer of 200 kB."""


def prompt(
    who: str, *, slow_ms: int = 0, trick: Trick = Trick.NONE, question: str = "How many are three and four?"
) -> str:
    """What a request must say to be met with a trick."""
    slow = f" slow={slow_ms}" if slow_ms else ""
    tricky = "" if trick is Trick.NONE else f" trick={trick}"
    return f"[{who}{slow}{tricky}] {question}"


@dataclass(frozen=True, slots=True)
class Call:
    """A call as it was written down.

    Attributes:
        who: Label of the request.
        key: Idempotency key.
        model: Which model was asked for.
        number: How many calls of this key there were before it, plus one.
        produced: Whether an answer was made, whoever got it.
    """

    who: str
    key: str
    model: str
    number: int
    produced: bool


class Recorder:
    """The server.

    Args:
        record: File that calls are appended to.
    """

    def __init__(self, record: Path) -> None:
        self._file = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._numbers: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()
        self._calls = 0

    def _write(self, **entry: object) -> None:
        os.write(self._file, json.dumps(entry).encode() + b"\n")

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """Answer one call."""
        asked: dict[str, Any] = orjson.loads(await request.read())
        found = _ASKED.search(" ".join(str(turn.get("content")) for turn in asked["messages"]))
        who = found["who"] if found else "?"
        trick = Trick(found["trick"]) if found and found["trick"] else Trick.NONE
        key = request.headers.get("Idempotency-Key", "")
        self._numbers[key] += 1
        self._calls += 1
        call, number = self._calls, self._numbers[key]
        self._write(call=call, who=who, key=key, number=number, model=asked.get("model"), trick=trick)
        seconds = int(found["slow"]) / 1000 if found and found["slow"] else _usual_s(who)
        await asyncio.sleep(seconds)
        self._asked[who] += 1
        turn = self._asked[who]
        refusal = _refusal(trick, turn)
        if refusal is not None:
            return refusal
        if str(asked["messages"][0].get("content", "")).startswith(SORTING):
            body = completion(Reply(text=SORTED_AS), asked, call)
            self._write(call=call, produced=True)
            return web.Response(body=body, content_type="application/json")
        text = f"Answer: 7 for {who}" + (" x" * 100_000 if trick is Trick.HUGE else "")
        doubted = trick is Trick.DOUBT and asked.get("model") == "small"
        body = completion(Reply(text=text, logprobs=(-4.0,) if doubted else (-0.1,)), asked, call)
        self._write(call=call, produced=True)
        if turn == 1 and trick is Trick.LATE:
            await asyncio.sleep(30)
        if turn == 1 and trick is Trick.DRIP:
            return await _dripped(request, body)
        return web.Response(body=body, content_type="application/json", headers={"x-request-id": f"call-{call}"})


def _usual_s(who: str) -> float:
    drawn = int.from_bytes(hashlib.sha256(who.encode()).digest()[:2], "big") / 0xFFFF
    return (LEAST_MS + drawn * (MOST_MS - LEAST_MS)) / 1000


_BROKEN_FOR: Final = {Trick.BURST: 2, Trick.DOWN: 7, Trick.OUTAGE: sys.maxsize}
"""How many calls of a request meet an error of the server."""


def _refusal(trick: Trick, turn: int) -> web.Response | None:
    """What the n-th call of a request gets in place of an answer; None if it gets one."""
    if turn <= _BROKEN_FOR.get(trick, 0):
        return web.Response(status=500 if trick is Trick.BURST else 503)
    if turn > 1:
        return None
    match trick:
        case Trick.BUSY:
            return web.Response(status=429, headers={"retry-after": "1"})
        case Trick.SHAPE:
            return web.json_response({"answer": "seven", "choices": "none"})
        case Trick.EMPTY:
            return web.Response(body=b"", content_type="application/json")
        case _:
            return None


async def _dripped(request: web.Request, body: bytes) -> web.StreamResponse:
    stream = web.StreamResponse(headers={"content-length": str(len(body))})
    await stream.prepare(request)
    for start in range(0, len(body), 16):
        await stream.write(body[start : start + 16])
        await asyncio.sleep(0.02)
    return stream


@dataclass(frozen=True, slots=True)
class Provider:
    """A running recorder.

    Attributes:
        base_url: Where it answers.
        record: What it wrote.
        process: The process.
    """

    base_url: str
    record: Path
    process: ChildProcess

    def calls(self, prefix: str) -> list[Call]:
        """Calls of requests whose labels begin with ``prefix``, in the order they came."""
        entries = [json.loads(line) for line in self.record.read_text().splitlines()] if self.record.exists() else []
        produced = {entry["call"] for entry in entries if entry.get("produced")}
        return [
            Call(entry["who"], entry["key"], entry["model"], entry["number"], entry["call"] in produced)
            for entry in entries
            if entry.get("who", "").startswith(prefix)
        ]


@asynccontextmanager
async def open_provider(folder: Path) -> AsyncIterator[Provider]:
    """A provider process with its record in a folder."""
    (port,) = pick_free(1)
    record = folder / "calls.jsonl"
    argv = [sys.executable, "-m", "tests.faults.provider", "--port", str(port), "--record", str(record)]
    process = ChildProcess(name="recording provider", argv=argv, log=folder / "provider.log", cwd=ROOT)
    await process.start(ports=[port])
    try:
        yield Provider(f"http://{LOOPBACK}:{port}/v1", record, process)
    finally:
        await process.stop(grace=timedelta(seconds=2))


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until a signal ends the process."""
    parser = argparse.ArgumentParser(prog="tests.faults.provider")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--record", type=Path, required=True)
    given = parser.parse_args(arguments)
    app = web.Application(client_max_size=16 * 1024 * 1024)
    app.router.add_post("/v1/chat/completions", Recorder(given.record).complete)
    # A caller that goes away does not stop the model: the answer is made and counted.
    web.run_app(
        app, host=LOOPBACK, port=given.port, print=lambda *_: None, handler_cancellation=False, shutdown_timeout=0.1
    )


if __name__ == "__main__":
    main()
