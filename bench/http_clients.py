"""What a model call costs with one HTTP client or another: POST JSON to a model double in a process of its own.

``python -m bench.http_clients [--seconds 2] [--latency-ms 10]`` prints CPU milliseconds of this process a call, and
calls a second. The double's CPU is out; JSON (orjson) on both sides of the call is in, since each client has to do it.
"""

import argparse
import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import aiohttp
import httpx
import orjson
from httpx_aiohttp import AiohttpTransport
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from agents.worker.providers.http import Endpoint
from schemas.settings import EndpointSettings

Call = Callable[[bytes], Awaitable[bytes]]

PAYLOAD = {
    "model": "instant",
    "messages": [
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": "What is the capital of Australia? Answer with the city only."},
    ],
    "max_tokens": 64,
    "temperature": 0.0,
}
HEADERS = {"authorization": "Bearer secret", "content-type": "application/json", "idempotency-key": "operation-1"}
LIMITS = httpx.Limits(max_connections=1024, max_keepalive_connections=1024)
TIMEOUT = httpx.Timeout(30, connect=5)


async def httpx_default(stack: AsyncExitStack, url: str) -> Call:
    client = await stack.enter_async_context(httpx.AsyncClient(limits=LIMITS, timeout=TIMEOUT, trust_env=False))

    async def call(body: bytes) -> bytes:
        return (await client.post(url, content=body, headers=HEADERS)).content

    return call


async def httpx_over_aiohttp(stack: AsyncExitStack, url: str) -> Call:
    transport = AiohttpTransport(limits=LIMITS)
    client = await stack.enter_async_context(httpx.AsyncClient(transport=transport, timeout=TIMEOUT))

    async def call(body: bytes) -> bytes:
        return (await client.post(url, content=body, headers=HEADERS)).content

    return call


async def httpx_transport_only(stack: AsyncExitStack, url: str) -> Call:
    transport = await stack.enter_async_context(AiohttpTransport(limits=LIMITS))
    where, extensions = httpx.URL(url), {"timeout": TIMEOUT.as_dict()}

    async def call(body: bytes) -> bytes:
        request = httpx.Request("POST", where, headers=HEADERS, content=body, extensions=extensions)
        response = await transport.handle_async_request(request)
        try:
            return await response.aread()
        finally:
            await response.aclose()

    return call


async def aiohttp_session(stack: AsyncExitStack, url: str) -> Call:
    session = await stack.enter_async_context(
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=1024),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=30, sock_connect=5),
            headers=HEADERS,
        )
    )

    async def call(body: bytes) -> bytes:
        async with session.post(url, data=body, allow_redirects=False) as response:
            return await response.read()

    return call


async def endpoint_of_ours(stack: AsyncExitStack, url: str) -> Call:
    path = "/chat/completions"
    settings = EndpointSettings(base_url=url.removesuffix(path), api_key=SecretStr("secret"))
    endpoint = Endpoint("bench", settings)
    stack.push_async_callback(endpoint.close)
    within = timedelta(seconds=30)

    async def call(body: bytes) -> bytes:
        return (await endpoint.post(path, body, operation_key="operation-1", within=within)).body

    return call


CLIENTS = {
    "httpx, own transport": httpx_default,
    "httpx over httpx-aiohttp": httpx_over_aiohttp,
    "httpx's transport API only, over httpx-aiohttp": httpx_transport_only,
    "the worker's endpoint (aiohttp, with limits and errors)": endpoint_of_ours,
    "aiohttp": aiohttp_session,
}


async def measure(name: str, url: str, at_once: int, seconds: float) -> tuple[float, float]:
    """CPU milliseconds a call, and calls a second."""
    async with AsyncExitStack() as stack:
        call = await CLIENTS[name](stack, url)

        async def once() -> None:
            answer = orjson.loads(await call(orjson.dumps(PAYLOAD)))
            if not answer["choices"][0]["message"]["content"]:
                raise SystemExit("the double answered nothing")

        await asyncio.gather(*(once() for _ in range(at_once)))  # connections are open from here on
        done = 0

        async def worker(until: float) -> None:
            nonlocal done
            while time.perf_counter() < until:
                await once()
                done += 1

        cpu, start = time.process_time(), time.perf_counter()
        await asyncio.gather(*(worker(start + seconds) for _ in range(at_once)))
        spent, took = time.process_time() - cpu, time.perf_counter() - start
        return spent / done * 1000, done / took


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.http_clients", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--latency-ms", type=float, default=10.0)
    parser.add_argument("--only", default="", help="clients whose name contains this")
    given = parser.parse_args()
    double = subprocess.Popen(
        [sys.executable, "-m", "tests.doubles.model_server", "--latency-ms", str(given.latency_ms)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    try:
        url = (double.stdout.readline() if double.stdout else "").strip() + "/chat/completions"
        levels = (32, 256, 1000)
        table = Table(title=f"CPU ms a call (calls/s), model answers after {given.latency_ms:g} ms")
        table.add_column("client")
        for level in levels:
            table.add_column(f"{level} at once", justify="right")
        for name in (name for name in CLIENTS if given.only in name):
            cells = [asyncio.run(measure(name, url, level, given.seconds)) for level in levels]
            table.add_row(name, *(f"{cpu:.3f} ({rate:,.0f})" for cpu, rate in cells))
        Console().print(table)
    finally:
        double.terminate()
        double.wait()


if __name__ == "__main__":
    main()
