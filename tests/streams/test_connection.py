"""Settings become client arguments in one place, and wrong ones are named."""

import logging
import ssl
from datetime import timedelta
from pathlib import Path

import pytest
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.partitioner import murmur2 as reference
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from schemas.errors import ConfigurationError
from schemas.settings import KafkaSettings, LoopSettings
from streams._aiokafka import mute_payload_logs
from streams.connection import BrokerKind, KafkaConnection
from streams.partitioner import murmur2, partition_of


@given(st.binary(max_size=80))
def test_partitioner_is_java_s(key: bytes) -> None:
    assert murmur2(key) == reference(key)
    assert partition_of(key, 7) == (reference(key) & 0x7FFFFFFF) % 7


def test_unsafe_defaults_are_overridden() -> None:
    arguments = KafkaConnection.at("a:1, b:2").consumer_arguments("g", BrokerKind.KAFKA)
    assert arguments["bootstrap_servers"] == ["a:1", "b:2"]
    assert arguments["enable_auto_commit"] is False
    assert arguments["isolation_level"] == "read_committed"
    assert arguments["auto_offset_reset"] == "none"
    assert arguments["partition_assignment_strategy"] == (RangePartitionAssignor,)
    assert arguments["rebalance_timeout_ms"] == 10_000
    assert arguments["session_timeout_ms"] == 15_000
    assert arguments["fetch_max_wait_ms"] == 500
    assert arguments["max_partition_fetch_bytes"] > 2 * 1024 * 1024


def test_embedded_broker_is_asked_otherwise() -> None:
    connection = KafkaConnection.at("a:1")
    arguments = connection.consumer_arguments("g", BrokerKind.EMBEDDED)
    assert (arguments["fetch_max_wait_ms"], arguments["session_timeout_ms"]) == (5, 6_000)
    assert arguments["heartbeat_interval_ms"] == 1_000
    assert connection.fetch_wait_idle(BrokerKind.EMBEDDED) == timedelta(milliseconds=80)
    chosen = KafkaConnection(loop=LoopSettings(fetch_wait=timedelta(milliseconds=7)))
    assert chosen.consumer_arguments("g", BrokerKind.EMBEDDED)["fetch_max_wait_ms"] == 7


@pytest.mark.parametrize(
    ("kafka", "loop", "message"),
    [
        ({"bootstrap": " "}, {}, "kafka.bootstrap is empty"),
        ({}, {"revoke_budget": timedelta(seconds=15)}, "kafka.request_timeout .20 s. must be above"),
        ({"security_protocol": "SASL_SSL", "sasl_mechanism": "GSSAPI"}, {}, "kafka.sasl_mechanism GSSAPI"),
        ({"security_protocol": "SASL_SSL", "sasl_username": "u"}, {}, "kafka.sasl_username and kafka.sasl_password"),
    ],
)
def test_contradictions_are_named(kafka: dict[str, object], loop: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        KafkaConnection(kafka=KafkaSettings(**kafka), loop=LoopSettings(**loop))  # type: ignore[arg-type]


def test_secrets_go_to_the_client_and_nowhere_else() -> None:
    connection = KafkaConnection(
        kafka=KafkaSettings(
            security_protocol="SASL_SSL",
            sasl_mechanism="SCRAM-SHA-512",
            sasl_username="user",
            sasl_password=SecretStr("top-secret"),
            ssl_key_password=SecretStr("also-secret"),
        )
    )
    arguments = connection.client_arguments("test")
    assert arguments["sasl_plain_password"] == "top-secret"
    assert arguments["client_id"] == "tierflow-test"
    assert isinstance(arguments["ssl_context"], ssl.SSLContext)
    assert "secret" not in repr(connection)


def test_plain_connections_carry_no_credentials() -> None:
    arguments = KafkaConnection.at("a:1").client_arguments()
    assert not [name for name in arguments if name.startswith(("sasl", "ssl"))]


def test_certificates(tmp_path: Path) -> None:
    broken = tmp_path / "ca.pem"
    broken.write_text("no certificate")
    with pytest.raises(ConfigurationError, match=r"kafka\.ssl_cafile .*ca\.pem"):
        KafkaConnection(kafka=KafkaSettings(security_protocol="SSL", ssl_cafile=broken)).ssl_context()
    with pytest.raises(ConfigurationError, match=r"kafka\.ssl_certfile .*missing\.pem"):
        KafkaConnection(kafka=KafkaSettings(ssl_certfile=tmp_path / "missing.pem")).ssl_context()
    lax = KafkaConnection(kafka=KafkaSettings(ssl_check_hostname=False)).ssl_context()
    assert lax.check_hostname is False
    assert lax.verify_mode is ssl.CERT_REQUIRED


def test_payloads_and_passwords_are_not_logged() -> None:
    """The library logs whole requests at DEBUG, SASL's among them."""
    root, inner = logging.getLogger("aiokafka"), logging.getLogger("aiokafka.conn")
    before = root.level, inner.level
    try:
        root.setLevel(logging.DEBUG)
        inner.setLevel(logging.NOTSET)
        mute_payload_logs()
        assert inner.getEffectiveLevel() == logging.INFO
    finally:
        root.setLevel(before[0])
        inner.setLevel(before[1])
