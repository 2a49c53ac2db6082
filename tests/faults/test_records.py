"""Records that no honest producer sends, and places where nothing can be written or read any more."""

import asyncio
import random
from collections.abc import Sequence

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from schemas.edges import Request
from schemas.errors import ConfigurationError, OffsetsLostError
from schemas.headers import AVRO, JSON, Name
from schemas.request_json import request_from_json
from schemas.wire import SINGLE_OBJECT
from tests.faults.conftest import OpenWorld
from tests.faults.oracle import CODEC
from tests.faults.provider import prompt
from tests.faults.world import PARTITIONS, World
from tierflow.environment import with_section
from tierflow_client.request import make_record

pytestmark = pytest.mark.timeout(240)

Headers = Sequence[tuple[str, bytes]]


def poison() -> list[tuple[str, bytes | None, Headers]]:
    """Name, value and headers of each kind."""
    drawn = random.Random(7)  # the same bytes each time
    good = CODEC.encode(_request())
    json, avro = ((Name.CONTENT_TYPE.value, JSON.encode()),), ((Name.CONTENT_TYPE.value, AVRO.encode()),)
    made = make_record(prompt("poison"))
    return [
        ("random bytes", drawn.randbytes(400), avro),
        ("random bytes without a type", drawn.randbytes(400), ()),
        ("wrong magic", b"\x07" + good[1:], avro),
        ("unknown schema", SINGLE_OBJECT + drawn.randbytes(8) + good[10:], avro),
        ("trailing bytes", good + b"\x00", avro),
        ("one byte short", good[:-1], avro),
        ("no value", None, json),
        ("empty", b"", json),
        ("half an object", b'{"prompt": "h', json),
        ("ten thousand headers", made.value, [*made.headers, *((f"h{n}", b"x") for n in range(10_000))]),
        ("a request id that is not UTF-8", made.value, [*json, (Name.REQUEST_ID.value, b"\xff\xfe")]),
        ("a deadline that is no number", made.value, [*json, (Name.DEADLINE.value, b"tomorrow")]),
        ("a tenant that nobody knows", made.value, [*json, (Name.TENANT.value, b"nobody")]),
    ]


def _request() -> Request:
    return request_from_json(make_record(prompt("poison")).value)


async def test_poison_is_dead_lettered_or_refused_and_stops_nothing(on_kafka: OpenWorld) -> None:
    async with on_kafka() as world:
        await world.start_flow()
        for number, (name, value, headers) in enumerate(poison()):
            world.send(1)
            world.poison.add(world.send_raw(f"poison-{number}".encode(), value, headers))
            assert name
        world.send(PARTITIONS)
        found = await world.verdict()
        parked = found.sorted.dead_places
        assert len(world.poison) == len(poison())
        assert len(parked) >= 8, "what can't be decoded was never accepted: it has a dead letter and no result"


async def test_poison_between_stages_ends_its_request(on_kafka: OpenWorld) -> None:
    async with on_kafka() as world:
        await world.start_flow()
        world.send(4)
        assert await world.settled()
        for topic, stage in (("tier.fast", "worker"), ("completions", "guardrail")):
            place = world.send_raw(b"k", b"\x00 no record", (("x", b"y"),), topic=topic)
            world.poison.add(place)
            assert stage
        world.send(4)
        await world.settled()
        found = await world.evidence()
        # The audit stage reads these topics too, and parks what it can't read in its own dead-letter topic.
        parked = {topic: world.platform.names.topic(f"dead-letters.{topic}") for topic in ("worker", "guardrail")}
        for topic in parked.values():
            assert sum(1 for record in found.records if record.topic == topic) == 1
        assert set(found.sorted.result_ids.values()) == {1}


async def test_what_can_not_be_dead_lettered_is_not_passed_over(on_kafka: OpenWorld) -> None:
    async with on_kafka() as world:
        await world.start_flow()
        assert await world.settled(frozenset(world.send(2)))
        world.configure("dead-letters.classifier", max_message_bytes="200")  # a transaction's marker fits
        world.poison.add(place := world.send_raw(b"k", b"\x00 no record"))
        topic, partition, offset = place.split("/")
        world.send(PARTITIONS)
        refused = "an output of"
        async with asyncio.timeout(40):
            while refused not in world.agent("classifier").log.read_text():
                await asyncio.sleep(0.1)
        await asyncio.sleep(2)
        group = world.platform.names.group("classifier")
        assert _committed(world, group, topic, int(partition)) <= int(offset), "it must not pass what is nowhere"
        world.configure("dead-letters.classifier", max_message_bytes="1000000")
        await world.verdict()


def _committed(world: World, group: str, topic: str, partition: int) -> int:
    consumer = Consumer({"bootstrap.servers": world.platform.connection.kafka.bootstrap, "group.id": group})
    try:
        (found,) = consumer.committed([TopicPartition(topic, partition)], timeout=20)
        return int(found.offset)
    finally:
        consumer.close()


async def test_lost_offsets_are_refused_loudly(on_kafka: OpenWorld) -> None:
    async with on_kafka() as world:
        world.send(4)
        group = world.platform.names.group("classifier")
        admin = AdminClient({"bootstrap.servers": world.platform.connection.kafka.bootstrap})
        admin.delete_consumer_groups([group])[group].result(20)
        await world.start("classifier")
        assert await world.gone("classifier") == OffsetsLostError.exit_code
        said = world.agent("classifier").log.read_text()
        assert "has no committed offset" in said
        assert group in said
        assert {world.platform.names.logical(record.topic) for record in world.tail.records} <= {"requests"}


async def test_offsets_that_the_log_no_longer_holds_are_refused_loudly(on_kafka: OpenWorld) -> None:
    async with on_kafka() as world:
        world.send(12, keys=1)
        topic = world.platform.names.topic("requests")
        admin = AdminClient({"bootstrap.servers": world.platform.connection.kafka.bootstrap})
        gone = [TopicPartition(topic, number, 1) for number in range(PARTITIONS)]
        futures = admin.delete_records(gone, request_timeout=20)
        for future in futures.values():
            if future.exception(20) is None:
                break
        await world.start("classifier")
        assert await world.gone("classifier") != 0
        assert "no longer holds" in world.agent("classifier").log.read_text()


async def test_topics_below_policy_refuse_a_start_unless_told_otherwise(on_kafka: OpenWorld) -> None:
    async with on_kafka() as world:
        stricter = with_section(world.settings, "topics", min_insync=2, replication=3)
        await world.start("guardrail", settings=stricter)
        assert await world.gone("guardrail") == ConfigurationError.exit_code
        said = world.agent("guardrail").log.read_text()
        for words in ("has 1 replicas, 3 are configured", "min.insync.replicas is 1, 2 is configured", "enforce"):
            assert words in said
        await world.start("guardrail", settings=with_section(stricter, "topics", enforce=False))
        for kind in ("audit", "worker", "classifier"):
            await world.start(kind)
        world.send(4)
        await world.verdict()
        assert "below policy" in world.agent("guardrail").log.read_text()
