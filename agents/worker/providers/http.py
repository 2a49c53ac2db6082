"""One POST to one endpoint: connections, time limits, size limit, and what goes wrong on the wire.

Built on httpx's transport interface (so its ``MockTransport`` fits), not on its client: a client's own work (cookies,
redirects, authentication flows, merging) costs as much again as the call, and none of it is wanted here. The transport
underneath is aiohttp's connection pool: httpx's own collapses with hundreds of connections (``bench/http_clients.py``).
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from schemas.errors import ConfigurationError, FailureClass, ProviderError
from schemas.settings import EndpointSettings

MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
"""More than this is no answer: the longest outputs (128k tokens with log-probabilities) stay below it."""

CONNECT: Final = timedelta(seconds=5)
"""A host that does not shake hands within this is away."""

IDLE: Final = timedelta(seconds=15)
"""Unused connections are closed after this: earlier than most servers do it, so that a call rarely meets the close."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, whatever its status.

    Attributes:
        status: HTTP status.
        headers: Response headers, names in lower case.
        body: The whole body, decompressed.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class Endpoint:
    """A place that serves models: its connections, and the key that is sent nowhere else.

    The URL of every call is made from the settings alone and redirects are not followed, so neither a catalogue nor an
    answer can move the key to another host.

    Args:
        name: Name in local settings.
        settings: Base URL, key, headers, size of the pool.
        transport: Stands in for the network in tests.

    Raises:
        ConfigurationError: The base URL is not one.
    """

    def __init__(
        self, name: str, settings: EndpointSettings, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        where = f"worker.endpoints.{name}.base_url"
        try:
            base = httpx.URL(settings.base_url)
        except httpx.InvalidURL as error:
            raise ConfigurationError(f"{where}: {error}") from None
        if base.scheme not in {"http", "https"} or not base.host:
            raise ConfigurationError(f"{where}: must start with http:// or https:// and a host")
        if base.userinfo or base.query:
            raise ConfigurationError(f"{where}: holds a user, password or query; put the key into api_key or headers")
        self.name = name
        self._base = settings.base_url.rstrip("/")
        self._place = f"{name} ({base.host}{f':{base.port}' if base.port else ''})"
        self._urls: dict[str, httpx.URL] = {}
        self._headers: list[tuple[str, str]] = [
            ("content-type", "application/json"),
            ("accept", "application/json"),
            # Answers are short; compressed they cost more CPU than the bytes are worth, and can't be bounded as read.
            ("accept-encoding", "identity"),
            ("user-agent", "tierflow"),
        ]
        if key := settings.api_key.get_secret_value():
            self._headers.append(("authorization", f"Bearer {key}"))
        self._headers += [(header.lower(), value.get_secret_value()) for header, value in settings.headers.items()]
        self._connections = settings.max_connections
        self._transport = transport

    def __repr__(self) -> str:
        return f"Endpoint({self._place})"

    async def post(self, path: str, body: bytes, *, operation_key: str, within: timedelta) -> Reply:
        """POST JSON and read the whole answer.

        Args:
            path: Below the base URL, with a leading slash.
            body: JSON.
            operation_key: Sent as ``Idempotency-Key``.
            within: From now to the last byte of the answer.

        Raises:
            ProviderError: CONNECTION, TIMEOUT or BAD_OUTPUT (too large, no HTTP). A status is never an error here.
        """
        seconds = within.total_seconds()
        limits = {"connect": min(CONNECT.total_seconds(), seconds), "read": seconds, "pool": seconds}
        request = httpx.Request(
            "POST",
            self._url(path),
            headers=[*self._headers, ("idempotency-key", operation_key)],
            content=body,
            extensions={"timeout": limits},
        )
        try:
            async with asyncio.timeout(seconds):
                return await self._exchange(request)
        except (TimeoutError, httpx.ReadTimeout, httpx.WriteTimeout):
            raise self._error(FailureClass.TIMEOUT, f"no whole answer within {seconds:g} s") from None
        except httpx.TransportError as error:
            # Covers a connect or pool timeout and every broken connection. The library's text may hold a URL, so that
            # only its kind is shown.
            raise self._error(FailureClass.CONNECTION, f"connection failed ({_kind(error)})") from None
        except (httpx.DecodingError, aiohttp.ClientError) as error:
            raise self._error(FailureClass.BAD_OUTPUT, f"no HTTP answer ({_kind(error)})") from None

    async def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.aclose()

    def _url(self, path: str) -> httpx.URL:
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = httpx.URL(self._base + path)
        return url

    async def _exchange(self, request: httpx.Request) -> Reply:
        if self._transport is None:
            self._transport = AiohttpTransport(client=self._session)
        response = await self._transport.handle_async_request(request)
        response.request = request
        # httpx.Headers would try encodings on all of them at the first look.
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers.raw}
        # Asked for identity; a server that compresses all the same is understood.
        plain = headers.get("content-encoding", "identity") == "identity"
        try:
            size, chunks = 0, []
            raw = plain and not response.is_stream_consumed  # as a mock transport's is
            async for chunk in response.aiter_raw() if raw else response.aiter_bytes():
                size += len(chunk)
                if size > MAX_ANSWER_BYTES:
                    raise self._error(
                        FailureClass.BAD_OUTPUT, f"answer above {MAX_ANSWER_BYTES} bytes", status=response.status_code
                    )
                chunks.append(chunk)
        finally:
            await response.aclose()
        return Reply(response.status_code, headers, b"".join(chunks))

    def _session(self) -> aiohttp.ClientSession:
        """The pool: made within the event loop that uses it."""
        connector = aiohttp.TCPConnector(
            limit=self._connections,
            ssl=httpx.create_ssl_context(trust_env=False),
            keepalive_timeout=IDLE.total_seconds(),
        )
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

    def _error(self, failure: FailureClass, text: str, *, status: int | None = None) -> ProviderError:
        return ProviderError(failure, f"{self._place}: {text}", status=status)


def _kind(error: BaseException) -> str:
    cause = error.__cause__
    return type(error).__name__ if cause is None else f"{type(error).__name__} from {type(cause).__name__}"
