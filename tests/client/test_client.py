"""The client on a real broker, against a small service that answers as Tierflow does."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from streams.partitioner import partition_of
from tierflow_client import BrokerError, Client, ClientClosedError, InvalidRequestError, NoResultError, Result, Status
from tierflow_client import headers as names

SOON = timedelta(seconds=30)


def ended(request_id: str, output: str, status: str = "answered", **more: object) -> bytes:
    return json.dumps({"request_id": request_id, "status": status, "output": output, **more}).encode()


def with_id(request_id: str, content_type: bytes = b"application/json") -> list[tuple[str, bytes]]:
    return [(names.REQUEST_ID, request_id.encode()), (names.CONTENT_TYPE, content_type)]


@pytest.fixture
async def prefix(any_broker: str) -> str:
    """Topics of a test's own."""
    mine = f"client-{uuid.uuid4().hex[:8]}."
    admin = AIOKafkaAdminClient(bootstrap_servers=any_broker)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(f"{mine}{name}", 3, 1) for name in ("requests", "results", "feedback")])
    finally:
        await admin.close()
    return mine


@asynccontextmanager
async def answering(bootstrap: str, prefix: str, *, twice: bool = False) -> AsyncIterator[None]:
    """Answers each request with its prompt, in capitals."""
    consumer = AIOKafkaConsumer(
        f"{prefix}requests", bootstrap_servers=bootstrap, auto_offset_reset="earliest", fetch_max_wait_ms=20
    )
    async with consumer, AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:

        async def answer() -> None:
            async for record in consumer:
                request_id = names.value_of(record.headers, names.REQUEST_ID)
                value = ended(request_id, json.loads(record.value)["prompt"].upper(), tier="fast")
                for _ in range(1 + twice):
                    await producer.send_and_wait(f"{prefix}results", value, key=record.key, headers=with_id(request_id))

        task = asyncio.create_task(answer())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_asks_starts_and_sends(any_broker: str, prefix: str) -> None:
    async with answering(any_broker, prefix), Client(any_broker, prefix=prefix) as client:
        answer = await client.ask("hello", timeout=SOON)
        assert (answer.output, answer.status, answer.tier) == ("HELLO", Status.ANSWERED, "fast")
        handles = [await client.start(f"number {n}") for n in range(20)]
        found = await asyncio.gather(*(handle.result(SOON) for handle in handles))
        assert [each.output for each in found] == [f"NUMBER {n}" for n in range(20)]
        assert [each.request_id for each in found] == [handle.id for handle in handles]
        assert handles[0].done
        assert (await handles[0].result()).output == "NUMBER 0"  # as often as one likes
        sent = await client.send("nobody waits", request_id="mine", tenant="acme")
        assert sent == "mine"


async def test_records_have_the_headers_and_the_partition_that_java_would_choose(any_broker: str, prefix: str) -> None:
    keys = [f"session-{n}" for n in range(12)]
    async with Client(any_broker, prefix=prefix, tenant="acme") as client:
        for key in keys:
            await client.send("hi", session=key, priority=3)
    found: dict[str, tuple[int, dict[str, bytes]]] = {}
    consumer = AIOKafkaConsumer(
        f"{prefix}requests", bootstrap_servers=any_broker, auto_offset_reset="earliest", fetch_max_wait_ms=20
    )
    async with consumer, asyncio.timeout(30):
        while len(found) < len(keys):
            record = await consumer.getone()
            found[record.key.decode()] = (record.partition, dict(record.headers))
    for key in keys:
        partition, given = found[key]
        assert partition == partition_of(key.encode(), 3)
        assert given[names.TENANT] == b"acme"
        assert given[names.PRIORITY] == b"3"
        assert given[names.CONTENT_TYPE] == b"application/json"


async def test_results_come_once_each_and_strangers_are_skipped(any_broker: str, prefix: str) -> None:
    async with (
        Client(any_broker, prefix=prefix) as client,
        AIOKafkaProducer(bootstrap_servers=any_broker) as producer,
    ):
        topic = f"{prefix}results"
        for value, request_id, content_type in (
            (ended("a", "1"), "a", b"application/json"),
            (ended("a", "1"), "a", b"application/json"),
            (ended("a", "other"), "a", b"application/json"),
            (b"\xc3\x01avro", "b", b"avro/binary"),
            (b"no json", "c", b"application/json"),
            (ended("z", "last"), "z", b"application/json"),
        ):
            headers = with_id(request_id, content_type)
            await producer.send_and_wait(topic, value, key=b"k", headers=headers)
        async with client.results(from_beginning=True) as stream, asyncio.timeout(30):
            first, last = await anext(stream), await anext(stream)
        assert (first.output, last.output) == ("1", "last")
        assert (stream.repeats, stream.conflicts, stream.skipped) == (2, 1, 2)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_a_group_goes_on_where_it_was(any_broker: str, prefix: str) -> None:
    group = f"{prefix}group"
    async with (
        Client(any_broker, prefix=prefix) as client,
        AIOKafkaProducer(bootstrap_servers=any_broker) as producer,
    ):
        for n in range(4):
            value = ended(f"r-{n}", str(n))
            await producer.send_and_wait(f"{prefix}results", value, key=b"k", headers=with_id(f"r-{n}"))
        async with client.results(group=group, from_beginning=True) as stream, asyncio.timeout(60):
            first = [(await anext(stream)).request_id for _ in range(3)]
        # The third was handed out, and nobody asked for more: it may not have been dealt with, so it comes again.
        async with client.results(group=group, from_beginning=True) as stream, asyncio.timeout(60):
            then = [(await anext(stream)).request_id for _ in range(2)]
    assert first == ["r-0", "r-1", "r-2"]
    assert then == ["r-2", "r-3"]


async def test_waiting_ends_in_time_and_can_go_on(any_broker: str, prefix: str) -> None:
    async with Client(any_broker, prefix=prefix) as client:
        handle = await client.start("hello")
        with pytest.raises(NoResultError, match=handle.id):
            await handle.result(timedelta(milliseconds=50))
        async with answering(any_broker, prefix):
            assert (await handle.result(SOON)).output == "HELLO"


async def test_closing_tells_who_waits(any_broker: str, prefix: str) -> None:
    client = Client(any_broker, prefix=prefix)
    await client.open()
    handle = await client.start("hello")
    waits = asyncio.create_task(handle.result())
    stream = client.results()
    reads = asyncio.create_task(anext(stream))
    await stream.open()
    await asyncio.sleep(0)
    await client.aclose()
    with pytest.raises(ClientClosedError):
        await waits
    with pytest.raises(StopAsyncIteration):
        await reads
    with pytest.raises(ClientClosedError):
        await client.send("too late")
    with pytest.raises(ClientClosedError):
        await stream.open()


async def test_repeats_do_not_reach_who_waits(any_broker: str, prefix: str) -> None:
    async with answering(any_broker, prefix, twice=True), Client(any_broker, prefix=prefix) as client:
        results: list[Result] = [await client.ask(f"n{n}", timeout=SOON) for n in range(3)]
    assert [each.output for each in results] == ["N0", "N1", "N2"]


async def test_no_broker_and_no_topic_are_told() -> None:
    with pytest.raises(BrokerError, match=r"127\.0\.0\.1:1"):
        async with Client("127.0.0.1:1", request_timeout_ms=1000):
            pass


async def test_a_wrong_prefix_is_told(any_broker: str) -> None:
    async with Client(any_broker, prefix="nobody.") as client:
        with pytest.raises(BrokerError, match=r"nobody\.results"):
            await client.ask("hello")


async def test_feedback_goes_to_its_topic(any_broker: str, prefix: str) -> None:
    async with Client(any_broker, prefix=prefix, tenant="acme") as client:
        await client.feedback("r-1", 0.5, by="judge", comment="half right")
        with pytest.raises(InvalidRequestError, match="score"):
            await client.feedback("r-1")
    reading = {"auto_offset_reset": "earliest", "fetch_max_wait_ms": 50}
    async with AIOKafkaConsumer(f"{prefix}feedback", bootstrap_servers=any_broker, **reading) as consumer:
        record = await asyncio.wait_for(consumer.getone(), SOON.total_seconds())
    said = json.loads(record.value)
    assert (said["request_id"], said["rating"], said["kind"], record.key) == ("r-1", 0.5, "judge", b"r-1")
    assert names.value_of(record.headers, names.TENANT) == "acme"
