"""Publish a request with a plain Kafka client: python examples/publish.py BOOTSTRAP "What is 17 * 23?"."""

import asyncio
import json
import sys
import uuid

from aiokafka import AIOKafkaProducer


async def main(bootstrap: str, prompt: str) -> None:
    request_id = str(uuid.uuid4())
    headers = [("tierflow.request-id", request_id.encode()), ("content-type", b"application/json")]
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all") as producer:
        value = json.dumps({"prompt": prompt}).encode()
        await producer.send_and_wait("requests", value, key=request_id.encode(), headers=headers)
    print(request_id)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
