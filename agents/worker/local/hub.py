"""Parts of weights from a model hub: only the ranges that are missing, taken up again where a connection broke."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

from agents.worker.local.weights import Weights
from agents.worker.local.wheels import StoppedError
from schemas.errors import WeightsUnavailableError

HUB_VARIABLE = "HF_ENDPOINT"
"""The variable with the hub's address, the same that the publisher's own tools read."""

_TIMEOUT = httpx.Timeout(30.0, connect=10.0)  # seconds of silence, not of the whole transfer
_FRUITLESS = 5  # attempts in a row that bring no byte before giving up
_PAUSE = 0.5  # seconds before the second attempt, doubled each time
_OK, _PARTIAL_CONTENT = 200, 206
_FIRST_SERVER_ERROR = 500
_TRY_AGAIN = (408, 429)


def url_of(weights: Weights, endpoint: str) -> str:
    """Address of the file on a hub that lays its files out as the publisher's does."""
    return f"{endpoint.rstrip('/')}/{weights.hub_repo}/resolve/main/{weights.hub_file}"


def fetch_range(
    client: httpx.Client,
    url: str,
    target: Path,
    offset: int,
    length: int,
    *,
    on_bytes: Callable[[int], None],
    stop: threading.Event,
) -> None:
    """Writes ``length`` bytes of the remote file from ``offset`` on to the same place of the partial file.

    A broken connection is taken up again at the byte where it broke. The bytes are not checked here.

    Raises:
        WeightsUnavailableError: The hub refused, or five attempts in a row brought nothing.
        StoppedError: ``stop`` was set.
    """
    done, fruitless, reason = 0, 0, ""
    while done < length:
        if fruitless == _FRUITLESS:
            raise WeightsUnavailableError(f"{url}: {reason}, {_FRUITLESS} times in a row; what has arrived is kept")
        if fruitless and stop.wait(_PAUSE * 2 ** (fruitless - 1)):
            raise StoppedError
        before = done
        try:
            with target.open("r+b") as file:
                file.seek(offset + done)
                for block in _blocks(client, url, offset + done, offset + length):
                    file.write(block)
                    done += len(block)
                    on_bytes(done)
                    if stop.is_set():
                        raise StoppedError
            reason = "the answer ended early"
        except httpx.TransportError as error:
            reason = f"{type(error).__name__}: {error}"
        except httpx.TooManyRedirects as error:
            raise WeightsUnavailableError(f"{url}: {error}; check {HUB_VARIABLE}") from error
        except _TryAgainError as error:
            reason = str(error)
        fruitless = 0 if done > before else fruitless + 1


class _TryAgainError(Exception):
    """The hub is busy or broken for the moment."""


def _blocks(client: httpx.Client, url: str, start: int, end: int) -> Iterator[bytes]:
    with client.stream(
        "GET", url, headers={"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
    ) as answer:
        status = answer.status_code
        if status >= _FIRST_SERVER_ERROR or status in _TRY_AGAIN:
            raise _TryAgainError(f"HTTP {status}")
        if status not in {_OK, _PARTIAL_CONTENT}:
            raise WeightsUnavailableError(
                f"{url}: HTTP {status}; check {HUB_VARIABLE}, or whether the hub still has the file"
            )
        # A server may ignore the range and send everything: then what lies before it is read and thrown away.
        at = start if status == _PARTIAL_CONTENT else 0
        if status == _PARTIAL_CONTENT and not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise WeightsUnavailableError(f"{url}: answered another range than {start}-{end - 1}")
        for block in answer.iter_raw():  # as it comes: a chunk size would hold bytes back, and lose them when it breaks
            wanted = block[max(start - at, 0) : end - at]
            at += len(block)
            if wanted:
                yield wanted
            if at >= end:
                return


def new_client() -> httpx.Client:
    """A client that follows the hub's redirections to its file store and obeys the usual proxy variables."""
    return httpx.Client(follow_redirects=True, timeout=_TIMEOUT)
