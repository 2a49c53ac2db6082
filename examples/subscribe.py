"""Watch results with a plain Kafka client: python examples/subscribe.py BOOTSTRAP. Ctrl-C ends it."""

import asyncio
import json
import sys
from contextlib import suppress

from aiokafka import AIOKafkaConsumer


async def main(bootstrap: str) -> None:
    reading = {"isolation_level": "read_committed", "auto_offset_reset": "earliest", "group_id": "my-service"}
    async with AIOKafkaConsumer("results", bootstrap_servers=bootstrap, **reading) as consumer:
        async for record in consumer:
            result = json.loads(record.value)
            print(result["request_id"], result["status"], result["output"] or result["reason"], flush=True)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))
