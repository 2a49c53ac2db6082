"""Asking a broker who it is, over a connection of aiokafka's own making, so that refusals keep their reasons."""

import ssl
from collections.abc import Mapping
from typing import Any, NamedTuple

from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest

from streams._aiokafka import LinkError
from streams._aiokafka_messages import API_VERSIONS, ApiVersionsRequest, feature_levels


class AuthenticationError(Exception):
    """The broker refused the credentials, or TLS did."""


class Greeting(NamedTuple):
    """What a broker says of itself.

    Attributes:
        versions: Lowest and highest version of each request it speaks, by API key.
        features: Levels of its features; empty before Kafka 2.7 and at brokers without any.
        cluster_id: Name of the cluster, often random.
        brokers: How many there are.
    """

    versions: Mapping[int, tuple[int, int]]
    features: Mapping[str, int]
    cluster_id: str
    brokers: int


async def greet(arguments: Mapping[str, Any]) -> Greeting:
    """Ask the first broker that answers who it is, over a connection made for this.

    Raises:
        LinkError: None answered; says why for each address.
        AuthenticationError: One answered and refused the credentials, or TLS failed.
    """
    problems: list[str] = []
    options = {name: value for name, value in arguments.items() if name != "bootstrap_servers"}
    for host, port, _ in collect_hosts(arguments["bootstrap_servers"], randomize=False):
        try:
            return await _greet_one(host, port, options)
        except (ssl.SSLError, SaslAuthenticationFailed, UnsupportedSaslMechanismError, IllegalSaslStateError) as error:
            raise AuthenticationError(f"{host}:{port}: {error}") from error
        except TimeoutError:
            problems.append(f"{host}:{port}: no answer; does the port expect TLS or SASL?")
        except KafkaConnectionError as error:
            problems.append(f"{host}:{port}: {error}; does the port expect TLS or SASL?")
        except (OSError, KafkaError) as error:
            problems.append(f"{host}:{port}: {error}")
    raise LinkError("; ".join(problems))


async def _greet_one(host: str, port: int, options: Mapping[str, Any]) -> Greeting:
    connection = await create_conn(host, port, **options)
    try:
        versions = dict(connection._versions)  # noqa: SLF001 - this module's job
        features: Mapping[str, int] = {}
        if versions.get(API_VERSIONS, (0, 0))[1] >= 3:
            features = feature_levels(await connection.send(ApiVersionsRequest()))
        metadata = await connection.send(MetadataRequest([]))
        return Greeting(versions, features, getattr(metadata, "cluster_id", None) or "", len(metadata.brokers))
    finally:
        await connection.close()
