"""Brokers and a state store to start from here: embedded ones out of wheels, and the real Apache Kafka."""

from streams.brokers.distribution import KAFKA_VERSION, kafka_available, resolve_kafka
from streams.brokers.embedded import EmbeddedBroker, EmbeddedState
from streams.brokers.kafka import KafkaCluster
from streams.brokers.process import ChildProcess, ChildState

__all__ = [
    "KAFKA_VERSION",
    "ChildProcess",
    "ChildState",
    "EmbeddedBroker",
    "EmbeddedState",
    "KafkaCluster",
    "kafka_available",
    "resolve_kafka",
]
