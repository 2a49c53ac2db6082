"""What operators do with dead letters: list them, look at one, send one again."""

from dataclasses import dataclass

from schemas.errors import InputError, UndecodableError
from schemas.ids import coordinates, derived_id
from streams.connection import BrokerKind, KafkaConnection
from streams.deadletters import ParkedRecord, parse_dead_letter, replay_record
from streams.reading import read_newest, read_one
from streams.records import OutRecord
from streams.sink import AtLeastOnceSink
from streams.topics import Names, dead_letter_topic


@dataclass(frozen=True, slots=True)
class Listing:
    """Dead letters of a stage.

    Attributes:
        parked: Oldest first.
        unreadable: Coordinates of records in the topic that are no dead letters of ours, each with the reason.
    """

    parked: tuple[ParkedRecord, ...]
    unreadable: tuple[str, ...]


class _Nobody:
    """Writes without being a member of a group."""

    membership = None


async def list_dead_letters(
    connection: KafkaConnection,
    names: Names,
    stage: str,
    *,
    limit: int = 100,
    kind: BrokerKind = BrokerKind.UNKNOWN,
) -> Listing:
    """The newest dead letters of a stage.

    Args:
        connection: Where.
        names: Physical topic names.
        stage: Which stage's topic.
        limit: Most to return.
        kind: What answers.

    Raises:
        TopicMissingError: The stage has no dead-letter topic.
        BrokerUnavailableError: No answer.
    """
    parked, unreadable = [], []
    for record in await read_newest(connection, names.topic(dead_letter_topic(stage)), limit, kind):
        try:
            parked.append(parse_dead_letter(record))
        except UndecodableError as error:
            unreadable.append(f"{coordinates(*record[:3])}: {error}")
    return Listing(tuple(parked), tuple(unreadable))


async def read_dead_letter(
    connection: KafkaConnection,
    names: Names,
    stage: str,
    *,
    partition: int,
    offset: int,
    kind: BrokerKind = BrokerKind.UNKNOWN,
) -> ParkedRecord:
    """One dead letter.

    Raises:
        InputError: There is none at this place.
        UndecodableError: What is there is no dead letter of ours.
        TopicMissingError: The stage has no dead-letter topic, or not this partition.
        BrokerUnavailableError: No answer.
    """
    topic = names.topic(dead_letter_topic(stage))
    record = await read_one(connection, topic, partition, offset, kind)
    if record is None:
        raise InputError(f"no dead letter at {coordinates(topic, partition, offset)}: list them to see which there are")
    return parse_dead_letter(record)


async def replay_dead_letter(
    connection: KafkaConnection,
    parked: ParkedRecord,
    *,
    new_id: str | None = None,
    topic: str | None = None,
    value: bytes | None = None,
) -> OutRecord:
    """Send a dead letter again, as a request of its own (see ``replay_record``).

    Args:
        connection: Where.
        parked: The dead letter.
        new_id: Id of the new request; derived from the dead letter's place if None, so that a second replay of the same
            one is dropped as a duplicate.
        topic: Where to, physical; the topic it was read from if None.
        value: Other bytes than the original's.

    Returns:
        What was written.

    Raises:
        InputError: Only the hash of the original was kept.
        DeliveryError: It could not be written, or perhaps was.
    """
    record = replay_record(parked, new_id or derived_id("replay", parked.place), topic=topic, value=value)
    sink = AtLeastOnceSink(connection, _Nobody())
    await sink.start()
    try:
        await sink.commit([record], {})
    finally:
        await sink.stop()
    return record
