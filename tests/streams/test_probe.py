"""What is said of a broker is what it can do."""

import asyncio
from datetime import timedelta

import pytest
from pydantic import SecretStr

from schemas.delivery import DeliveryMode
from schemas.errors import ConfigurationError
from schemas.settings import KafkaSettings, Settings
from streams import probe as probe_module
from streams._aiokafka import Wire
from streams._codes import Code
from streams.connection import BrokerKind, KafkaConnection
from streams.errors import BrokerUnavailableError, NotPermittedError
from streams.probe import probe
from streams.runtime import find_platform


async def test_apache_kafka(kafka_broker: str) -> None:
    found = await probe(KafkaConnection.at(kafka_broker))
    assert (found.transactions, found.reason, found.kind) == (True, "", BrokerKind.KAFKA)
    assert found.mode is DeliveryMode.EXACTLY_ONCE
    assert found.broker.startswith("Apache Kafka 4.")
    assert (found.brokers, bool(found.cluster_id)) == (1, True)
    assert await probe(KafkaConnection.at(kafka_broker)) == found


async def test_many_at_once(kafka_broker: str) -> None:
    """An installation starts, and all its agents try with the same id: the broker is busy, not unable."""
    for _ in range(5):
        found = await asyncio.gather(*(probe(KafkaConnection.at(kafka_broker)) for _ in range(12)))
        assert {each.reason for each in found} == {""}


async def test_transactions_that_nobody_wants(kafka_broker: str) -> None:
    found = await probe(KafkaConnection.at(kafka_broker), transactions=False)
    assert (found.mode, found.reason) == (DeliveryMode.AT_LEAST_ONCE, "none are wanted")


async def test_exactly_once_demanded(kafka_broker: str, embedded_broker: str) -> None:
    def settings(bootstrap: str, delivery: str) -> Settings:
        return Settings.model_validate({"kafka": {"bootstrap": bootstrap, "delivery": delivery}})

    with pytest.raises(
        ConfigurationError, match=r"kafka\.delivery is exactly_once, and Tansu can't do that: the broker"
    ):
        await find_platform(settings(embedded_broker, "exactly_once"))
    assert (await find_platform(settings(kafka_broker, "exactly_once"))).capabilities.transactions
    assert not (await find_platform(settings(kafka_broker, "at_least_once"))).capabilities.transactions


async def test_embedded(embedded_broker: str) -> None:
    found = await probe(KafkaConnection.at(embedded_broker))
    assert (found.transactions, found.kind, found.broker) == (False, BrokerKind.EMBEDDED, "Tansu")
    assert found.mode is DeliveryMode.AT_LEAST_ONCE
    assert found.reason == "the broker gives no producer id: error code -1"


async def test_claims_are_not_believed(kafka_broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that gives ids and takes everything is no broker with transactions."""

    async def take_all(*_: object, **__: object) -> int:
        return Code.OK

    monkeypatch.setattr(Wire, "end_txn", take_all)
    found = await probe(KafkaConnection.at(kafka_broker))
    assert (found.transactions, found.reason) == (
        False,
        "the broker does not fence: a producer of the past got OK (0)",
    )


@pytest.mark.parametrize("call", ["init_producer_id", "end_txn"])
async def test_an_unclear_answer_is_no_answer(kafka_broker: str, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    async def puzzle(*_: object, **__: object) -> object:
        return Code.CORRUPT_MESSAGE if call == "end_txn" else (Code.CORRUPT_MESSAGE, None)

    monkeypatch.setattr(Wire, call, puzzle)
    with pytest.raises(BrokerUnavailableError, match=r"knows transactions, but .*CORRUPT_MESSAGE \(2\)"):
        await probe(KafkaConnection.at(kafka_broker))


async def test_old_broker(kafka_broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(probe_module._NEEDED, 28, ("TxnOffsetCommit", 99))
    found = await probe(KafkaConnection.at(kafka_broker))
    assert (found.transactions, found.reason) == (False, "the broker does not know TxnOffsetCommit version 99")


async def test_trouble_is_not_taken_for_inability(kafka_broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def busy(*_: object) -> tuple[int, None]:
        return Code.COORDINATOR_NOT_AVAILABLE, None

    monkeypatch.setattr(Wire, "init_producer_id", busy)
    with pytest.raises(BrokerUnavailableError, match=r"replication\.factor"):
        await probe(KafkaConnection.at(kafka_broker), limit=timedelta(milliseconds=300))


async def test_missing_rights(kafka_broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object) -> tuple[int, None]:
        return Code.TRANSACTIONAL_ID_NOT_PERMITTED, None

    monkeypatch.setattr(Wire, "init_producer_id", refuse)
    with pytest.raises(NotPermittedError, match=r"tierflow\.probe"):
        await probe(KafkaConnection.at(kafka_broker))


async def test_nobody_there() -> None:
    with pytest.raises(BrokerUnavailableError, match=r"127\.0\.0\.1:1: .*127\.0\.0\.1:2"):
        await probe(KafkaConnection.at("127.0.0.1:1,127.0.0.1:2"))


@pytest.mark.parametrize("more", [{}, {"security_protocol": "SSL"}])
async def test_something_else_there(more: dict[str, str]) -> None:
    """A port that closes, as one does that expects TLS."""

    async def slam(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(slam, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        connection = KafkaConnection(kafka=KafkaSettings(bootstrap=f"127.0.0.1:{port}", **more))  # type: ignore[arg-type]
        with pytest.raises((BrokerUnavailableError, NotPermittedError), match=str(port)):
            await probe(connection)


async def test_sasl_where_none_is_spoken(kafka_broker: str) -> None:
    connection = KafkaConnection(
        kafka=KafkaSettings(
            bootstrap=kafka_broker,
            security_protocol="SASL_PLAINTEXT",
            sasl_username="u",
            sasl_password=SecretStr("top-secret"),
        )
    )
    with pytest.raises((BrokerUnavailableError, NotPermittedError)) as refused:
        await probe(connection)
    assert "top-secret" not in str(refused.value)
