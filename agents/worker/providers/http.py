"""One POST to one endpoint: connections, time limits, size limit, and what goes wrong on the wire.

Over aiohttp itself: a call through httpx's transport interface on the same pool takes half as much again, and httpx's
own pool collapses with hundreds of connections (``bench/http_clients.py``, ADR 6).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import aiohttp
import httpx
from yarl import URL

from schemas.errors import ConfigurationError, FailureClass, ProviderError
from schemas.settings import EndpointSettings

MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
"""More than this is no answer: the longest outputs (128k tokens with log-probabilities) stay below it."""

CONNECT: Final = timedelta(seconds=10)
"""A host that does not shake hands within this is away. Not less: a thousand calls that begin at once wait for each
other's turn in this process, too."""

IDLE: Final = timedelta(seconds=15)
"""Unused connections are closed after this: earlier than most servers do it, so that a call rarely meets the close."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, whatever its status.

    Attributes:
        status: HTTP status.
        headers: Response headers; names in any case.
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

    Raises:
        ConfigurationError: The base URL is not one.
    """

    def __init__(self, name: str, settings: EndpointSettings) -> None:
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
        self._urls: dict[str, URL] = {}
        self._headers = {
            "content-type": "application/json",
            "accept": "application/json",
            # Answers are short; compressed they cost more CPU than the bytes are worth. What a server compresses all
            # the same is understood.
            "accept-encoding": "identity",
            "user-agent": "tierflow",
        }
        if key := settings.api_key.get_secret_value():
            self._headers["authorization"] = f"Bearer {key}"
        self._headers |= {header.lower(): value.get_secret_value() for header, value in settings.headers.items()}
        self._connections = settings.max_connections
        self._session: aiohttp.ClientSession | None = None

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
        if seconds <= 0:  # to aiohttp 0 is no limit at all
            raise self._error(FailureClass.TIMEOUT, "no time is left for a call")
        limits = aiohttp.ClientTimeout(total=seconds, sock_connect=min(CONNECT.total_seconds(), seconds))
        headers = {**self._headers, "idempotency-key": operation_key}
        session = self._session
        if session is None:
            session = self._session = self._opened()
        try:
            async with session.post(
                self._url(path), data=body, headers=headers, timeout=limits, allow_redirects=False
            ) as response:
                return Reply(response.status, response.headers, await self._body(response))
        except aiohttp.ConnectionTimeoutError as error:
            raise self._error(FailureClass.CONNECTION, f"connection failed ({_kind(error)})") from None
        except TimeoutError:
            raise self._error(FailureClass.TIMEOUT, f"no whole answer within {seconds:g} s") from None
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
            # The library's text may hold a URL, so that only its kind is shown.
            raise self._error(FailureClass.CONNECTION, f"connection failed ({_kind(error)})") from None
        except aiohttp.ClientError as error:
            raise self._error(FailureClass.BAD_OUTPUT, f"no HTTP answer ({_kind(error)})") from None

    async def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _url(self, path: str) -> URL:
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = URL(self._base + path)
        return url

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        """The whole body, decompressed; no more of it than an answer may have."""
        size, chunks = 0, []
        async for chunk in response.content.iter_any():
            size += len(chunk)
            if size > MAX_ANSWER_BYTES:
                raise self._error(
                    FailureClass.BAD_OUTPUT, f"answer above {MAX_ANSWER_BYTES} bytes", status=response.status
                )
            chunks.append(chunk)
        return b"".join(chunks)

    def _opened(self) -> aiohttp.ClientSession:
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
