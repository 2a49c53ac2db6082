"""The wire, against a real server on loopback."""

import asyncio
import gzip
import socket
import time
from datetime import timedelta

import pytest
from pydantic import SecretStr

from agents.worker.providers.http import MAX_ANSWER_BYTES, Endpoint
from schemas.errors import ConfigurationError, FailureClass, ProviderError
from schemas.settings import EndpointSettings
from tests.doubles.model_server import ModelServer, Reply, Trick

KEY = "sk-very-secret"
SECOND = timedelta(seconds=5)


@pytest.fixture
async def server():
    async with ModelServer() as server:
        yield server


@pytest.fixture
async def endpoint(server):
    endpoint = Endpoint(
        "here",
        EndpointSettings(base_url=server.base_url + "/", api_key=SecretStr(KEY), headers={"X-Team": SecretStr("a1")}),
    )
    yield endpoint
    await endpoint.close()


async def failure(endpoint, within=SECOND) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await endpoint.post("/chat/completions", b"{}", operation_key="k", within=within)
    assert KEY not in str(caught.value)
    return caught.value


async def test_sends_key_own_headers_and_idempotency_key_and_nothing_of_the_library(server, endpoint):
    reply = await endpoint.post("/chat/completions", b'{"model":"m"}', operation_key="op-1", within=SECOND)
    assert reply.status == 200
    assert reply.headers["x-request-id"] == "req-1"
    sent = {name.lower(): value for name, value in server.seen[0].headers.items()}
    assert sent["authorization"] == f"Bearer {KEY}"
    assert sent["idempotency-key"] == "op-1"
    assert sent["x-team"] == "a1"
    assert sent["accept-encoding"] == "identity"
    assert "cookie" not in sent


async def test_connections_are_used_again(server, endpoint):
    for _ in range(5):
        await endpoint.post("/chat/completions", b"{}", operation_key="k", within=SECOND)
    assert len({seen.headers["Host"] for seen in server.seen}) == 1
    assert server.most_open == 1
    assert len(endpoint._session.connector._conns) == 1


@pytest.mark.parametrize(
    ("trick", "expected"),
    [
        (Trick.STALL, FailureClass.TIMEOUT),
        (Trick.DRIP, FailureClass.TIMEOUT),
        (Trick.HANG_UP, FailureClass.CONNECTION),
        (Trick.HALF, FailureClass.CONNECTION),
    ],
)
async def test_what_goes_wrong_on_the_wire_has_a_class(server, endpoint, trick, expected):
    server.play(Reply(trick=trick, latency_s=0.05))
    error = await failure(endpoint, timedelta(seconds=0.3))
    assert error.failure is expected
    assert "here (127.0.0.1:" in str(error)
    reply = await endpoint.post("/chat/completions", b"{}", operation_key="k", within=SECOND)
    assert reply.status == 200  # the pool is whole again


async def test_no_time_is_not_all_the_time_there_is(server, endpoint):
    server.default = Reply(trick=Trick.STALL)
    async with asyncio.timeout(5):
        assert (await failure(endpoint, timedelta(0))).failure is FailureClass.TIMEOUT
    assert server.calls == 0


async def test_slow_but_whole_answer_is_an_answer(server, endpoint):
    server.play(Reply(trick=Trick.DRIP, latency_s=0.001, body=b'{"a":1}'))
    assert (await endpoint.post("/chat/completions", b"{}", operation_key="k", within=SECOND)).body == b'{"a":1}'


async def test_no_server_is_a_connection_failure():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can start to
        endpoint = Endpoint("gone", EndpointSettings(base_url=f"http://127.0.0.1:{taken.getsockname()[1]}/v1"))
        assert (await failure(endpoint)).failure is FailureClass.CONNECTION
        await endpoint.close()


async def test_what_is_no_http_is_bad_output():
    async def chat(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(chat, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    endpoint = Endpoint("odd", EndpointSettings(base_url=f"http://127.0.0.1:{port}/v1"))
    assert (await failure(endpoint)).failure is FailureClass.BAD_OUTPUT
    await endpoint.close()
    server.close()
    await server.wait_closed()


async def test_an_answer_that_never_ends_is_cut_off(server, endpoint):
    server.play(Reply(body=b"x" * (MAX_ANSWER_BYTES + 1)))
    error = await failure(endpoint)
    assert error.failure is FailureClass.BAD_OUTPUT
    assert str(MAX_ANSWER_BYTES) in str(error)


async def test_a_small_body_that_unpacks_to_a_large_one_is_cut_off(server, endpoint):
    server.play(Reply(body=gzip.compress(bytes(MAX_ANSWER_BYTES + 1)), headers={"content-encoding": "gzip"}))
    assert (await failure(endpoint)).failure is FailureClass.BAD_OUTPUT


async def test_a_redirect_is_not_followed(server, endpoint):
    server.play(Reply(status=307, headers={"location": server.base_url.replace("/v1", "/elsewhere/")}))
    reply = await endpoint.post("/chat/completions", b"{}", operation_key="k", within=SECOND)
    assert reply.status == 307
    assert [seen.path for seen in server.seen] == ["/v1/chat/completions"]


async def test_cancelling_ends_the_call_and_closes_its_connection(server, endpoint):
    server.play(Reply(trick=Trick.STALL))
    call = asyncio.create_task(endpoint.post("/chat/completions", b"{}", operation_key="k", within=SECOND))
    while not server.open:
        await asyncio.sleep(0.01)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    until = time.monotonic() + 5
    while server.open and time.monotonic() < until:
        await asyncio.sleep(0.01)
    assert server.open == 0


@pytest.mark.parametrize(
    "url", ["", "models.example/v1", "ftp://models.example", "http://", "http://me:pw@models.example", "http://a/?k=1"]
)
def test_a_wrong_base_url_names_the_setting(url):
    with pytest.raises(ConfigurationError, match=r"worker\.endpoints\.x\.base_url"):
        Endpoint("x", EndpointSettings(base_url=url))


def test_the_key_is_not_shown():
    endpoint = Endpoint("x", EndpointSettings(base_url="http://models.example/v1", api_key=SecretStr(KEY)))
    assert KEY not in repr(endpoint)
