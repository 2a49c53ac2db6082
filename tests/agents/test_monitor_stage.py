"""The monitor on real records, without a broker."""

from datetime import timedelta

import pytest

from agents.monitor.core import Kind
from agents.monitor.monitor import Monitor
from schemas.fakes import FakeClock
from schemas.settings import Settings
from streams.connection import BrokerKind, KafkaConnection
from streams.probe import Capabilities
from streams.records import InRecord
from streams.runtime import Platform
from streams.telemetry import Telemetry
from streams.topics import Names
from tests.agents.deciding import CODEC, NOW_MS, snapshot


@pytest.mark.parametrize("timestamp_ms", [-1, 0, NOW_MS - 86_400_000, NOW_MS, 2**62])
def test_a_record_is_missed_a_grace_after_it_was_seen_whatever_its_producer_says_of_the_time(timestamp_ms: int) -> None:
    settings, clock = Settings(), FakeClock(NOW_MS)
    found = Capabilities(transactions=True, reason="", kind=BrokerKind.UNKNOWN, broker="", cluster_id="", brokers=1)
    platform = Platform(settings, KafkaConnection(), found, Names())
    telemetry = Telemetry(settings.telemetry, "monitor", names=Names(), instance="0")
    monitor = Monitor(platform, CODEC, snapshot().catalogue, clock, telemetry)
    monitor.take([InRecord("requests", 0, 7, timestamp_ms, 0, None, b"{}", ())])
    assert not monitor.ledger.check(clock.now_ms())
    clock.advance(settings.monitor.grace + timedelta(seconds=1))
    (offence,) = monitor.ledger.check(clock.now_ms())
    assert (offence.kind, offence.subject) == (Kind.UNHEARD, "requests/0/7")
