"""One connection to the state store: opened, greeted, and turned into replies.

redis-py reads the URL and makes the TLS context, hiredis packs and parses.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import hiredis
import redis.exceptions
from redis.asyncio import Connection, ConnectionPool, SSLConnection

from schemas.errors import ConfigurationError, StateStoreError
from schemas.settings import StateSettings

Command = tuple[str | bytes | int, ...]
pack: Callable[[Command], bytes] = hiredis.pack_command  # type: ignore[assignment]  # its stub knows one-word commands

REASON_CHARS: Final = 200
"""Of what the server says, in our messages."""


class Wire(asyncio.Protocol):
    """Bytes to replies. ``on_replies`` is called with what one read gave, ``on_lost`` once, at the end."""

    def __init__(self) -> None:
        self.on_replies: Callable[[list[Any]], None] = ignore
        self.on_lost: Callable[[Exception | None], None] = ignore
        self.transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Parse, and hand over what is complete."""
        reader = self._reader
        replies = []
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:  # RESP2 knows no booleans: False is "need more"
                replies.append(reply)
        except hiredis.ProtocolError as error:
            self.lose(error)
            return
        if replies:
            self.on_replies(replies)

    def connection_lost(self, exc: Exception | None) -> None:
        """The other side, or the network, ended it."""
        self.lose(exc)

    def lose(self, error: Exception | None) -> None:
        """End the connection at once; safe to call again."""
        if self.transport is not None:
            self.transport.abort()
        on_lost, self.on_lost, self.on_replies = self.on_lost, ignore, ignore
        on_lost(error)


async def open_wire(connection: Connection, on_connect: Sequence[Command]) -> Wire:
    """Connect, log in, and send the commands that open each connection.

    Raises:
        OSError: No connection.
        StateStoreError: The server refused one of the commands, or closed the connection.
    """
    loop = asyncio.get_running_loop()
    context: ssl.SSLContext | None = None
    if isinstance(connection, SSLConnection):
        context = await asyncio.to_thread(connection.ssl_context.get)  # reads certificate files
    transport, wire = await loop.create_connection(Wire, connection.host, int(connection.port), ssl=context)
    try:
        raw: socket.socket = transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # finds peers that went without a word
        await _greet(wire, transport, [*_hello(connection), *on_connect])
    except BaseException:
        wire.on_lost = ignore
        wire.lose(None)
        raise
    return wire


async def _greet(wire: Wire, transport: asyncio.WriteTransport, hello: Sequence[Command]) -> None:
    greeted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    missing = len(hello)

    def on_replies(replies: list[Any]) -> None:
        nonlocal missing
        missing -= len(replies)
        refusals = [reply for reply in replies if isinstance(reply, hiredis.ReplyError)]
        if greeted.done():
            return
        if refusals:
            greeted.set_exception(StateStoreError(f"refused: {str(refusals[0])[:REASON_CHARS]}"))
        elif missing <= 0:
            greeted.set_result(None)

    def on_lost(error: Exception | None) -> None:
        if not greeted.done():
            greeted.set_exception(StateStoreError(f"closed the connection ({why(error)})"))

    wire.on_replies, wire.on_lost = on_replies, on_lost
    transport.write(b"".join(pack(command) for command in hello))
    await greeted
    if transport.is_closing():  # lost after the last reply, before anybody listens for it
        raise StateStoreError("closed the connection")


def read_url(settings: StateSettings) -> Connection:
    """The URL as redis-py reads it: host, port, database, user, password, TLS options."""
    try:
        connection = ConnectionPool.from_url(settings.url.get_secret_value()).make_connection()  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, redis.exceptions.RedisError):
        connection = None
    if not isinstance(connection, Connection):
        # Without the cause: its text can hold the URL, and with it the password.
        raise ConfigurationError(
            "state.url is wrong: give redis://[user:password@]host:port/database, or rediss:// with redis-py's options"
        ) from None
    return connection


def _hello(connection: Connection) -> list[Command]:
    hello: list[Command] = []
    if connection.password:
        user = (connection.username,) if connection.username else ()
        hello.append(("AUTH", *user, connection.password))
    if connection.db:
        hello.append(("SELECT", int(connection.db)))
    hello.append(("CLIENT", "SETNAME", "tierflow"))
    return hello


def why(error: Exception | None) -> str:
    """A few words on what ended or prevented a connection."""
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer in time"
    return str(error)[:REASON_CHARS] or type(error).__name__ if error is not None else "closed by the server"


def ignore(_: object) -> None:
    """Nobody listens."""
