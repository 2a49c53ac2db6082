"""What operators do with dead letters: list them, look at one, send one again."""

from dataclasses import dataclass

from schemas.errors import InputError, UndecodableError
from schemas.ids import coordinates, uuid7
from streams._aiokafka import LinkError
from streams.connection import BrokerKind, KafkaConnection
from streams.deadletters import ParkedRecord, parse_dead_letter, replay_record
from streams.reading import read_newest, read_one
from streams.topics import Names, dead_letter_topic
from streams.writing import write
