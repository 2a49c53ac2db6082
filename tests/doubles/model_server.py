"""A model server for tests and benchmarks: real HTTP on loopback, OpenAI-compatible, as kind or as nasty as asked.

In a test: ``async with ModelServer() as server: server.play(error(429, retry_after="1"), Reply())``. As a process of
its own, for benchmarks: ``python -m tests.doubles.model_server --port 0 --latency-ms 10``; it prints its base URL on
the first line. ``GET /stats`` says what it counted.
"""

import argparse
import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

import orjson
from aiohttp import web

LOOPBACK = "127.0.0.1"


class Trick(StrEnum):
    """What goes wrong on the wire."""

    NONE = "none"
    EMPTY = "empty"
    """200 and no byte of a body."""
    DRIP = "drip"
    """Headers at once, then the body a byte at a time, each after ``latency_s``."""
    HALF = "half"
    """Headers and half of the promised body, then the connection ends."""
    HANG_UP = "hang_up"
    """The connection ends before any header."""
    STALL = "stall"
    """Nothing, until the client gives up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """How one call is answered. Without ``body`` a proper completion is made from the other fields."""

    text: str = "Answer: 42"
    status: int = 200
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    latency_s: float = 0.0
    trick: Trick = Trick.NONE
    finish: str = "stop"
    logprobs: tuple[float, ...] = (-0.1, -0.3)
    """Of the tokens, where the call asks for them."""
    tool_calls: tuple[Mapping[str, object], ...] = ()
    usage: Mapping[str, object] | None = None
    changes: Mapping[str, object] = field(default_factory=dict)
    """Fields put over those of the completion; None takes one out."""


def error(status: int, code: str = "", message: str = "as scripted", **headers: str) -> Reply:
    """An error in OpenAI's shape. Header names take underscores for dashes."""
    body = orjson.dumps({"error": {"message": message, "type": "scripted", "code": code or None}})
    return Reply(status=status, body=body, headers={key.replace("_", "-"): value for key, value in headers.items()})


@dataclass(frozen=True, slots=True)
class Seen:
    """A call as it came in."""

    body: Any
    headers: Mapping[str, str]
    path: str


def completion(reply: Reply, asked: Mapping[str, Any], number: int) -> bytes:
    """The body of a proper answer."""
    message: dict[str, Any] = {"role": "assistant", "content": reply.text}
    if reply.tool_calls:
        message |= {"content": None, "tool_calls": list(reply.tool_calls)}
    choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": reply.finish}
    if asked.get("logprobs"):
        choice["logprobs"] = {
            "content": [{"token": "t", "logprob": value, "top_logprobs": []} for value in reply.logprobs]
        }
    words = sum(len(str(turn.get("content", "")).split()) for turn in asked.get("messages", ()))
    made: dict[str, Any] = {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": str(asked.get("model", "")),
        "choices": [choice],
        "usage": reply.usage
        or {"prompt_tokens": words, "completion_tokens": len(reply.text.split()), "total_tokens": words},
    }
    made |= reply.changes
    return orjson.dumps({key: value for key, value in made.items() if value is not None})


class ModelServer:
    """The server; an async context manager.

    Attributes:
        default: How calls are answered when nothing is scripted for them.
        seen: Every call, in order of arrival (only kept with ``remember``).
        by_key: Calls per idempotency key.
        by_model: Calls per model name.
        open: Calls being answered now.
        most_open: The most there were at a time.
    """

    def __init__(self, *, port: int = 0, default: Reply | None = None, remember: bool = True) -> None:
        self.default = default or Reply()
        self.seen: list[Seen] = []
        self.by_key: Counter[str] = Counter()
        self.by_model: Counter[str] = Counter()
        self.calls = 0
        self.open = 0
        self.most_open = 0
        self._script: dict[str, deque[Reply]] = {}
        self._port = port
        self._remember = remember
        self._runner: web.AppRunner | None = None

    @property
    def base_url(self) -> str:
        """What an OpenAI client takes as its base."""
        return f"http://{LOOPBACK}:{self._port}/v1"

    def play(self, *replies: Reply, model: str = "") -> None:
        """Replies to the next calls (of ``model``, or of any), one each; then the default again."""
        self._script.setdefault(model, deque()).extend(replies)

    async def start(self) -> None:
        """Listen; a free port is picked if none was given."""
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_get("/stats", self._stats)
        app.router.add_route("*", "/elsewhere/{rest:.*}", self._complete)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.2)
        await self._runner.setup()
        site = web.TCPSite(self._runner, LOOPBACK, self._port, backlog=2048)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Close the port and every connection."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _stats(self, request: web.Request) -> web.Response:
        return web.json_response(
            {"calls": self.calls, "most_open": self.most_open, "repeated": sum(n - 1 for n in self.by_key.values())}
        )

    def _next(self, model: str) -> Reply:
        for name in (model, ""):
            if waiting := self._script.get(name):
                return waiting.popleft()
        return self.default

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        asked = orjson.loads(raw) if raw else {}
        model = str(asked.get("model", ""))
        self.calls += 1
        number = self.calls
        self.by_model[model] += 1
        if key := request.headers.get("Idempotency-Key"):
            self.by_key[key] += 1
        if self._remember:
            self.seen.append(Seen(asked, dict(request.headers), request.path))
        reply = self._next(model)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            return await self._answer(request, reply, asked, number)
        finally:
            self.open -= 1

    async def _answer(
        self, request: web.Request, reply: Reply, asked: Mapping[str, Any], number: int
    ) -> web.StreamResponse:
        if reply.trick is Trick.STALL:
            await asyncio.sleep(3600)
        if reply.latency_s and reply.trick is not Trick.DRIP:
            await asyncio.sleep(reply.latency_s)
        transport = request.transport
        if reply.trick is Trick.HANG_UP:
            if transport is not None:
                transport.abort()
            return web.Response()
        body = completion(reply, asked, number) if reply.body is None else reply.body
        if reply.trick is Trick.EMPTY:
            body = b""
        headers = {"x-request-id": f"req-{number}", **reply.headers}
        if reply.trick in {Trick.HALF, Trick.DRIP}:
            headers["content-length"] = str(len(body))
            stream = web.StreamResponse(status=reply.status, headers=headers)
            await stream.prepare(request)
            if reply.trick is Trick.HALF:
                await stream.write(body[: len(body) // 2])
                if transport is not None:
                    transport.close()
                return stream
            for byte in body:
                await stream.write(bytes((byte,)))
                await asyncio.sleep(reply.latency_s)
            return stream
        return web.Response(status=reply.status, body=body, headers=headers, content_type="application/json")


async def _serve(given: argparse.Namespace) -> None:
    reply = Reply(text=given.text, latency_s=given.latency_ms / 1000)
    async with ModelServer(port=given.port, default=reply, remember=False) as server:
        print(server.base_url, flush=True)  # noqa: T201 - how its parent learns the port
        await asyncio.Event().wait()


def main() -> None:
    """Serve until a signal ends the process."""
    parser = argparse.ArgumentParser(prog="tests.doubles.model_server", description="OpenAI-compatible model double")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--text", default="Answer: 42")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
