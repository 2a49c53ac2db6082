"""Dead letters: the original comes back byte for byte, the reason is bounded, and tools find and send them again."""

import os
import uuid

import cramjam
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import InputError, UndecodableError
from schemas.headers import MAX_HEADERS, TABLE, Name, names, value_of
from schemas.ids import id_from_coordinates
from schemas.settings import TopicSettings
from streams.admin import create_topics
from streams.connection import BrokerKind, KafkaConnection
from streams.deadletter_tools import list_dead_letters, read_dead_letter, replay_dead_letter
from streams.deadletters import (
    DIGEST,
    ORIGINAL,
    PACKED,
    ZSTD,
    ParkedRecord,
    dead_letter,
    parse_dead_letter,
    replay_record,
)
from streams.effects import DeadLetter, Disposition
from streams.errors import BrokerUnavailableError, TopicMissingError
from streams.packing import Original, PackedError, pack, unpack
from streams.reading import read_newest
from streams.records import InRecord, OutRecord
from streams.sink import AtLeastOnceSink
from streams.topics import REQUESTS, Names, dead_letter_topic, table
from tests.streams.state_helpers import RealClock, fresh

LETTER = DeadLetter("input.undecodable", "byte 7: not JSON", attempt=3)
NOW = 1_700_000_000_000

OUR_NAMES = [str(name) for name, _, _ in TABLE] + [PACKED, ORIGINAL, ORIGINAL + str(Name.CE_ID)]
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
blob = st.none() | st.binary(max_size=200)
header = st.tuples(st.sampled_from(OUR_NAMES) | text, st.binary(max_size=40))
headers = st.lists(header, max_size=12) | st.lists(header, min_size=MAX_HEADERS + 1, max_size=MAX_HEADERS + 20)


def record(
    value: bytes | None = b"{broken", key: bytes | None = b"k", more: tuple[tuple[str, bytes], ...] = ()
) -> InRecord:
    return InRecord("pre.requests", 4, 17, NOW - 5, 0, key, value, more)


def parked(original: InRecord, letter: DeadLetter = LETTER, **more: int) -> ParkedRecord:
    return parse_dead_letter(stored(written(original, letter, **more)))


def written(original: InRecord, letter: DeadLetter = LETTER, **more: int) -> OutRecord:
    return dead_letter(
        original, letter, topic="pre.dead-letters.classifier", stage="classifier", group="g", now_ms=NOW, **more
    )


def stored(out: OutRecord) -> InRecord:
    return InRecord(out.topic, 2, 9, NOW, 0, out.key, out.value, tuple(out.headers))


@given(key=blob, value=blob, original=headers, cap=st.sampled_from([2_000, 4_000, 1 << 21]))
@settings(max_examples=100, deadline=None)
def test_every_original_comes_back_byte_for_byte(
    key: bytes | None, value: bytes | None, original: list[tuple[str, bytes]], cap: int
) -> None:
    before = record(value, key, tuple(original))
    out = written(before, max_bytes=cap)
    size = len(out.key or b"") + len(out.value or b"") + sum(len(n.encode()) + len(v) for n, v in out.headers)
    assert size <= cap
    after = parse_dead_letter(stored(out))
    if after.original is None:
        assert value_of(out.headers, PACKED) == DIGEST.decode()
    else:
        assert after.original == Original(key, value, tuple(original))


def test_a_plain_dead_letter_looks_like_the_original_to_any_client() -> None:
    before = record(more=(("x", b"1"), ("tierflow.request-id", b"r1"), ("x", b"2"), ("ce_id", b"e1")))
    out = written(before)
    assert (out.topic, out.key, out.value, out.partition) == ("pre.dead-letters.classifier", b"k", b"{broken", None)
    assert out.headers[:4] == [
        ("x", b"1"),
        ("tierflow.request-id", b"r1"),
        ("x", b"2"),
        ("tierflow.original.ce_id", b"e1"),
    ]
    said = dict(out.headers)
    assert said["tierflow.error.code"] == b"input.undecodable"
    assert said["tierflow.error.message"] == b"byte 7: not JSON"
    assert said["tierflow.error.stage"] == b"classifier"
    assert said["tierflow.error.attempt"] == b"3"
    assert said["tierflow.error.disposition"] == b"poison"
    assert said["tierflow.error.first-failed-at"] == b"%d" % NOW
    assert said["tierflow.error.group"] == b"g"
    assert said["__connect.errors.topic"] == b"pre.requests"
    assert said["__connect.errors.partition"] == b"4"
    assert said["__connect.errors.offset"] == b"17"
    assert said["tierflow.causation-id"] == b"e1"
    assert {name for name, where, _ in TABLE if where == "dead letter"} <= names(out.headers)


def test_its_id_is_derived_and_differs_by_stage_and_place() -> None:
    ids = set()
    for stage, offset in (("classifier", 17), ("audit", 17), ("classifier", 18), ("classifier", 17)):
        before = record()._replace(offset=offset)
        out = dead_letter(before, LETTER, topic="t", stage=stage, group="g", now_ms=NOW + offset)
        ids.add(value_of(out.headers, Name.CE_ID))
    assert len(ids) == 3


def test_what_is_read_back_says_what_happened() -> None:
    found = parked(record(more=(("tierflow.request-id", b"r1"),)), DeadLetter("x", "y", Disposition.EXHAUSTED, 2))
    assert (found.topic, found.partition, found.offset) == ("pre.dead-letters.classifier", 2, 9)
    assert (found.source_topic, found.source_partition, found.source_offset) == ("pre.requests", 4, 17)
    assert (found.code, found.message, found.stage, found.group) == ("x", "y", "classifier", "g")
    assert (found.attempt, found.disposition, found.first_failed_ms) == (2, Disposition.EXHAUSTED, NOW)
    assert found.request_id == "r1"
    assert parked(record()).request_id == id_from_coordinates("pre.requests", 4, 17)
    assert parked(record(more=(("tierflow.request-id", b"\xff"),))).request_id == parked(record()).request_id


@pytest.mark.parametrize("message", ["x" * 5_000, "line\nbreak\x00\x1b[31m" + "\U0001f4a5" * 3_000])
def test_messages_are_one_bounded_printable_line(message: str) -> None:
    found = parked(record(), DeadLetter("c", message)).message
    assert len(found) <= 1_000
    assert found.isprintable()


def test_what_was_compressed_far_beyond_the_limit_is_packed() -> None:
    huge = record(b"\0" * 10_000_000, more=((Name.REQUEST_ID.value, b"r1"),))
    out = written(huge)
    assert value_of(out.headers, PACKED) == ZSTD.decode()
    assert len(out.value or b"") < 100_000
    assert value_of(out.headers, Name.REQUEST_ID) == "r1"
    found = parse_dead_letter(stored(out))
    assert found.original == Original(b"k", huge.value, huge.headers)
    assert found.request_id == "r1"


def test_what_can_not_be_kept_at_all_does_not_stall_and_says_where_it_lies() -> None:
    out = written(record(os.urandom(3_000_000)))
    found = parse_dead_letter(stored(out))
    assert found.original is None
    assert len(found.sha256) == 64
    assert (found.source_topic, found.source_partition, found.source_offset) == ("pre.requests", 4, 17)
    with pytest.raises(InputError, match=r"pre\.requests/4/17"):
        replay_record(found, "new")


def test_the_largest_record_of_another_topic_fits_plainly() -> None:
    before = record(os.urandom(TopicSettings().max_message_bytes - 64 * 1024), more=(("ce_id", b"x"),) * MAX_HEADERS)
    assert PACKED not in names(written(before).headers)


@pytest.mark.parametrize(
    ("drop", "put", "said"),
    [
        (Name.ERROR_CODE, None, "tierflow.error.code is missing"),
        (Name.CONNECT_OFFSET, b"x1", "__connect.errors.offset: 'x1' is not a whole number"),
        (Name.ERROR_DISPOSITION, b"bored", "'bored' is not known"),
        (Name.ERROR_ATTEMPT, b"\xff", "tierflow.error.attempt"),
    ],
)
def test_what_is_no_dead_letter_of_ours_is_named(drop: Name, put: bytes | None, said: str) -> None:
    out = stored(written(record()))
    others = tuple(pair for pair in out.headers if pair[0] != drop)
    changed = out._replace(headers=others if put is None else (*others, (drop.value, put)))
    with pytest.raises(UndecodableError) as caught:
        parse_dead_letter(changed)
    assert said in str(caught.value)


def test_damaged_packings_are_named() -> None:
    whole = pack(Original(b"k", None, (("a", b"b"),)))
    assert unpack(whole) == Original(b"k", None, (("a", b"b"),))
    out = stored(written(record(more=(("x", b""),) * 200)))
    for value in (b"", b"junk", whole[:-1], pack(Original(b"k", b"v", ())) + b"\0"):
        with pytest.raises(UndecodableError, match="value of"):
            parse_dead_letter(out._replace(value=value))
    with pytest.raises(UndecodableError, match="not known"):
        parse_dead_letter(out._replace(headers=(*out.headers[:-1], (PACKED, b"rot13"))))


@given(st.binary(max_size=60))
@settings(deadline=None)
def test_packings_of_random_bytes_are_refused_or_whole(data: bytes) -> None:
    packed = bytes(cramjam.zstd.compress(data))
    try:
        original = unpack(packed)
    except PackedError:
        return
    assert unpack(pack(original)) == original


def test_a_replay_is_a_request_of_its_own() -> None:
    before = record(
        more=(
            (Name.REQUEST_ID.value, b"old"),
            (Name.TENANT.value, b"acme"),
            (Name.DEADLINE.value, b"1"),
            (Name.SEQUENCE.value, b"9"),
            (Name.EPOCH.value, b"9"),
            (Name.CE_ID.value, b"event"),
            (Name.CE_SOURCE.value, b"/theirs"),
            (Name.TRACEPARENT.value, b"00-1-1-01"),
            ("mine", b"\x00"),
        )
    )
    out = replay_record(parked(before), "new")
    assert (out.topic, out.key, out.value) == ("pre.requests", b"k", b"{broken")
    assert sorted(out.headers) == sorted(
        [
            (Name.REQUEST_ID.value, b"new"),
            (Name.REPLAY_OF.value, b"old"),
            (Name.TENANT.value, b"acme"),
            (Name.CE_ID.value, b"new"),
            (Name.CE_SOURCE.value, b"/theirs"),
            (Name.TRACEPARENT.value, b"00-1-1-01"),
            ("mine", b"\x00"),
        ]
    )
    other = replay_record(parked(record()), "new", topic="elsewhere", value=b"mended")
    assert (other.topic, other.value) == ("elsewhere", b"mended")
    assert value_of(other.headers, Name.CE_ID) is None
    assert value_of(other.headers, Name.REPLAY_OF) == id_from_coordinates("pre.requests", 4, 17)


class _Nobody:
    membership = None


async def write(connection: KafkaConnection, outputs: list[OutRecord]) -> None:
    sink = AtLeastOnceSink(connection, _Nobody())
    await sink.start()
    await sink.commit(outputs, {})
    await sink.stop()


async def scenario(connection: KafkaConnection, kind: BrokerKind) -> None:
    names_here = Names(f"dlq-{uuid.uuid4().hex}.")
    topics = table(TopicSettings(partitions=3), ("fast",))
    await create_topics(connection, topics, names_here, TopicSettings(partitions=3), kind=kind)
    topic = names_here.topic(dead_letter_topic("classifier"))
    empty = await list_dead_letters(connection, names_here, "classifier", kind=kind)
    assert (empty.parked, empty.unreadable) == ((), ())
    source, now = names_here.topic(REQUESTS), RealClock().now_ms()  # retention starts at the timestamp
    originals = [
        InRecord(source, n % 3, n, NOW, 0, b"k%d" % n, b"{%d" % n, (("n", b"%d" % n), ("ce_id", b"e")))
        for n in range(12)
    ]
    outs = [
        dead_letter(one, LETTER, topic=topic, stage="classifier", group="g", now_ms=NOW)._replace(timestamp_ms=now + n)
        for n, one in enumerate(originals)
    ]
    await write(connection, [*outs, OutRecord(topic, b"k", b"put by hand", timestamp_ms=now + 99)])
    listing = await list_dead_letters(connection, names_here, "classifier", limit=50, kind=kind)
    assert [one.original for one in listing.parked] == [Original(one.key, one.value, one.headers) for one in originals]
    assert len(listing.unreadable) == 1
    assert "is missing" in listing.unreadable[0]
    newest = await list_dead_letters(connection, names_here, "classifier", limit=4, kind=kind)
    assert [one.source_offset for one in newest.parked] == [9, 10, 11]
    one = listing.parked[5]
    again = await read_dead_letter(
        connection, names_here, "classifier", partition=one.partition, offset=one.offset, kind=kind
    )
    assert again == one
    with pytest.raises(InputError, match="no dead letter at"):
        await read_dead_letter(connection, names_here, "classifier", partition=0, offset=10_000, kind=kind)
    with pytest.raises(TopicMissingError, match="no partition 7"):
        await read_dead_letter(connection, names_here, "classifier", partition=7, offset=0, kind=kind)
    with pytest.raises(TopicMissingError):
        await list_dead_letters(connection, names_here, "nobody", kind=kind)
    sent = [await replay_dead_letter(connection, one) for _ in range(2)]
    found = await read_newest(connection, source, 10, kind)
    assert [(r.key, r.value) for r in found] == [(b"k5", b"{5")] * 2
    assert {value_of(r.headers, Name.REQUEST_ID) for r in found} == {value_of(sent[0].headers, Name.REQUEST_ID)}
    assert {value_of(r.headers, Name.REPLAY_OF) for r in found} == {one.request_id}


async def test_listing_showing_and_replaying_on_the_embedded_broker(embedded_broker: str) -> None:
    await scenario(KafkaConnection.at(embedded_broker), BrokerKind.EMBEDDED)


async def test_listing_showing_and_replaying_on_kafka(kafka_broker: str) -> None:
    await scenario(KafkaConnection.at(kafka_broker), BrokerKind.KAFKA)


async def test_reading_says_when_there_is_no_broker() -> None:
    with pytest.raises(BrokerUnavailableError, match=r"127\.0\.0\.1:9"):
        await list_dead_letters(KafkaConnection.at("127.0.0.1:9"), Names(fresh("p")), "classifier")
