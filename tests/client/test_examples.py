"""The plain Kafka examples run as they stand in the README."""

import asyncio
import contextlib
import json
import sys
import uuid
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError

from schemas.codec import Codec
from schemas.edges import Request

EXAMPLES = Path(__file__).parents[2] / "examples"


async def _topics(bootstrap: str) -> None:
    """The examples name topics without a prefix, so this broker gets those of a fresh installation."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        listed = set(await admin.list_topics())
        missing = [NewTopic(name, 3, 1) for name in ("requests", "results") if name not in listed]
        if missing:
            with contextlib.suppress(TopicAlreadyExistsError):
                await admin.create_topics(missing)
    finally:
        await admin.close()


async def test_publish(embedded_broker: str) -> None:
    await _topics(embedded_broker)
    prompt = f"What is 17 * 23? {uuid.uuid4()}"
    process = await asyncio.create_subprocess_exec(
        sys.executable, EXAMPLES / "publish.py", embedded_broker, prompt, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    consumer = AIOKafkaConsumer(
        "requests", bootstrap_servers=embedded_broker, auto_offset_reset="earliest", fetch_max_wait_ms=20
    )
    async with consumer, asyncio.timeout(30):
        while (record := await consumer.getone()).key != out.strip():
            pass
    found = dict(record.headers)
    assert found["tierflow.request-id"] == out.strip()
    request = Codec().decode(Request, record.value, found["content-type"].decode())
    assert request.messages[0].parts[0].text == prompt


async def test_subscribe(embedded_broker: str) -> None:
    await _topics(embedded_broker)
    process = await asyncio.create_subprocess_exec(
        sys.executable, EXAMPLES / "subscribe.py", embedded_broker, stdout=asyncio.subprocess.PIPE
    )
    try:
        request_id = str(uuid.uuid4())
        value = json.dumps({"request_id": request_id, "status": "answered", "output": "391", "reason": ""}).encode()
        async with AIOKafkaProducer(bootstrap_servers=embedded_broker) as producer:
            await producer.send_and_wait("results", value)
        assert process.stdout is not None
        async with asyncio.timeout(60):
            while (line := (await process.stdout.readline()).decode().split()) and line[0] != request_id:
                pass
        assert line == [request_id, "answered", "391"]
    finally:
        process.kill()
        await process.wait()


def test_each_is_about_ten_lines() -> None:
    for name in ("publish.py", "subscribe.py"):
        code = (EXAMPLES / name).read_text().split("async def main")[1].splitlines()
        assert sum(bool(line.strip()) for line in code) <= 12
