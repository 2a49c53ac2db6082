"""A TCP proxy between clients and a broker that knows just enough of Kafka's protocol to lose the right answer.

Kafka frames: four bytes of length, then in a request API key (2), version (2), correlation id (4); in a response the
correlation id (4). Clients are told to come back through the proxy by the broker's second listener.
"""

import asyncio
import contextlib
import struct
from collections import Counter
from dataclasses import dataclass, field
from enum import IntEnum
from types import TracebackType
from typing import Self

from streams.brokers.ports import LOOPBACK

_LENGTH = struct.Struct(">i")
_REQUEST = struct.Struct(">hhi")
_SLICE = 7  # bytes: smaller than any header, so that nothing arrives in one piece


class Api(IntEnum):
    """Requests by their key."""

    PRODUCE = 0
    FETCH = 1
    OFFSET_FETCH = 9
    HEARTBEAT = 12
    INIT_PRODUCER_ID = 22
    ADD_PARTITIONS = 24
    ADD_OFFSETS = 25
    END_TXN = 26
    TXN_OFFSET_COMMIT = 28


@dataclass(eq=False)
class Proxy:
    """One listener in front of one broker; what is wrong with it can be changed at any time.

    Attributes:
        port: Where it listens.
        target: Port of the broker's second listener.
        latency_s: Added to each request.
        sliced: Bytes trickle in pieces of seven.
        deaf: Requests are swallowed.
        mute: Responses are swallowed.
        lose: How many answers of each API are lost, each with its connection, after the broker has acted.
        late: Requests of these APIs are held for so many seconds and delivered then, whoever still waits for them.
        lost: How many answers were lost.
        delivered_late: How many requests came late.
    """

    port: int
    target: int = 0
    latency_s: float = 0.0
    sliced: bool = False
    deaf: bool = False
    mute: bool = False
    lose: Counter[Api] = field(default_factory=Counter)
    late: dict[Api, float] = field(default_factory=dict)
    lost: Counter[Api] = field(default_factory=Counter)
    delivered_late: int = 0
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, LOOPBACK, self.port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.reset()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def reset(self) -> None:
        """Reset every connection, in the middle of whatever it carries."""
        for writer in list(self._writers):
            writer.transport.abort()

    def heal(self) -> None:
        """Nothing is wrong any more."""
        self.latency_s, self.sliced, self.deaf, self.mute = 0.0, False, False, False
        self.lose.clear()
        self.late.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            up_reader, up_writer = await asyncio.open_connection(LOOPBACK, self.target)
        except OSError:
            writer.transport.abort()
            return
        finally:
            self._tasks.discard(task)
        self._writers |= {writer, up_writer}
        asked: dict[int, Api | int] = {}
        pumps = [
            asyncio.create_task(self._requests(reader, up_writer, asked)),
            asyncio.create_task(self._responses(up_reader, writer, asked)),
        ]
        self._tasks.update(pumps)
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._tasks.difference_update(pumps)
            self._writers -= {writer, up_writer}
            for each in (writer, up_writer):
                each.transport.abort()

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: dict[int, Api | int]
    ) -> None:
        while frame := await _frame(reader):
            key, _, correlation = _REQUEST.unpack_from(frame, _LENGTH.size)
            asked[correlation] = key
            if key in self.late:
                task = asyncio.create_task(self._deliver_late(frame, self.late[Api(key)]))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                continue
            if self.latency_s:
                await asyncio.sleep(self.latency_s)
            if not self.deaf:
                await self._write(writer, frame)

    async def _responses(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: dict[int, Api | int]
    ) -> None:
        while frame := await _frame(reader):
            (correlation,) = _LENGTH.unpack_from(frame, _LENGTH.size)
            key = asked.pop(correlation, -1)
            if key in set(Api) and self.lose[Api(key)] > 0:
                self.lose[Api(key)] -= 1
                self.lost[Api(key)] += 1
                return
            if not self.mute:
                await self._write(writer, frame)

    async def _deliver_late(self, frame: bytes, seconds: float) -> None:
        """To the broker, over a connection of its own: the one that it came on is long given up."""
        await asyncio.sleep(seconds)
        _, writer = await asyncio.open_connection(LOOPBACK, self.target)
        writer.write(frame)
        await writer.drain()
        self.delivered_late += 1
        await asyncio.sleep(1)
        writer.close()

    async def _write(self, writer: asyncio.StreamWriter, frame: bytes) -> None:
        if not self.sliced:
            writer.write(frame)
        else:
            for start in range(0, min(len(frame), 400), _SLICE):
                writer.write(frame[start : min(start + _SLICE, 400)])
                await asyncio.sleep(0)
            writer.write(frame[400:])
        with contextlib.suppress(ConnectionError):
            await writer.drain()


async def _frame(reader: asyncio.StreamReader) -> bytes:
    """One frame with its length; empty at the end."""
    try:
        head = await reader.readexactly(_LENGTH.size)
        return head + await reader.readexactly(_LENGTH.unpack(head)[0])
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""
