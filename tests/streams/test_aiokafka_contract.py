"""What the access modules take for granted in aiokafka. A failure means: read the new version before allowing it."""

import importlib.metadata
import inspect
from io import BytesIO
from pathlib import Path
from typing import Any

import aiokafka
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.conn import AIOKafkaConnection, create_conn
from aiokafka.consumer.fetcher import Fetcher, PartitionRecords
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState, TopicPartitionState
from aiokafka.protocol.commit import OffsetCommitRequest
from aiokafka.protocol.produce import ProduceResponse_v7, ProduceResponse_v8
from aiokafka.record.default_records import DefaultRecordBatchBuilder, _DefaultRecordBatchPy

from streams import _aiokafka_messages as messages
from streams._aiokafka import BatchWriter, Membership, ProducerId
from streams.records import TP, OffsetCommit, OutRecord

TP_0 = TP("topic", 0)


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_version_is_the_one_that_was_read() -> None:
    assert aiokafka.__version__.split(".")[:2] == ["0", "14"]
    requirement = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert '"aiokafka>=0.14,<0.15"' in requirement
    assert importlib.metadata.version("aiokafka") == aiokafka.__version__


def test_compiled_parts_are_there() -> None:
    """Without them everything works and costs many times as much."""
    assert DefaultRecordBatchBuilder.__module__.endswith("_crecords.default_records")


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (AIOKafkaClient.send, ["self", "node_id", "request", "group"]),
        (AIOKafkaClient.coordinator_lookup, ["self", "coordinator_type", "coordinator_key"]),
        (AIOKafkaClient.force_metadata_update, ["self"]),
        (AIOKafkaClient.add_topic, ["self", "topic"]),
        (AIOKafkaClient.bootstrap, ["self"]),
        (AIOKafkaClient.close, ["self"]),
        (AIOKafkaClient.get_random_node, ["self"]),
        (OffsetCommitRequest.__init__,
         ["self", "consumer_group", "consumer_group_generation_id", "consumer_id", "retention_time", "topics"]),
        (SubscriptionState.abort_waiters, ["self", "exc"]),
        (_DefaultRecordBatchPy._read_msg, ["self", "decode_varint"]),
        (PartitionRecords.__init__,
         ["self", "tp", "records", "aborted_transactions", "fetch_offset", "key_deserializer", "value_deserializer",
          "check_crcs", "isolation_level"]),
    ],
)  # fmt: skip
def test_signatures(function: Any, expected: list[str]) -> None:
    assert parameters(function) == expected


def test_names_that_are_read() -> None:
    assert {"_coordination_task", "generation", "member_id", "group_id", "_group_instance_id"} <= _assigned(
        GroupCoordinator
    )
    assert {"_fetch_task", "_fetch_max_wait_ms", "_fetch_min_bytes"} <= _assigned(Fetcher)
    assert {"_coordinator", "_fetcher", "_subscription", "_client", "_max_partition_fetch_bytes"} <= _assigned(
        AIOKafkaConsumer
    )
    assert isinstance(SubscriptionState.reassignment_in_progress, property)
    assert isinstance(TopicPartitionState.position, property)
    assert isinstance(TopicPartitionState.has_valid_position, property)
    assert "_versions" in _assigned(AIOKafkaConnection)
    assert inspect.iscoroutinefunction(create_conn)
    assert (CoordinationType.GROUP, CoordinationType.TRANSACTION) == (0, 1)
    assert ConnectionGroup.COORDINATION != ConnectionGroup.DEFAULT


def test_heartbeats_rest_during_the_assignment_callback() -> None:
    """Why positions are restored in a task. If this changes, the task may no longer be needed."""
    source = inspect.getsource(GroupCoordinator.ensure_active_group)
    assert source.index("_do_rejoin_group") < source.index("_start_heartbeat_task")


def test_generation_changes_before_the_assignment() -> None:
    """Why the membership is taken at the assignment and kept."""
    source = inspect.getsource(inspect.getmodule(GroupCoordinator))  # type: ignore[arg-type]
    assert source.index("self._coordinator.generation = response.generation_id") < source.index("_on_join_leader")


def test_library_still_lacks_it() -> None:
    """When aiokafka learns KIP-447 itself, most of the access modules can go."""
    assert parameters(AIOKafkaProducer.send_offsets_to_transaction) == ["self", "offsets", "group_id"]


def test_produce_answers() -> None:
    """Versions are told apart by number: record errors come with 8."""
    partition = ProduceResponse_v8.SCHEMA.fields[0].array_of.fields[1].array_of.names
    assert partition[-2:] == ("record_errors", "error_message")
    assert "record_errors" not in ProduceResponse_v7.SCHEMA.fields[0].array_of.fields[1].array_of.names


def test_offset_commit_bytes() -> None:
    """The flexible request, byte for byte after Kafka's TxnOffsetCommitRequest.json."""
    request = messages.TxnOffsetCommitRequest(
        "tid", ProducerId(7, 1), Membership("g", 3, "m", None), [(TP("t", 5), OffsetCommit(9, "x"))]
    ).build(messages.TxnOffsetCommitRequest_v3)
    assert request.encode().hex(" ", -4) == _grouped(
        "04 746964"  # transactional id, compact string
        "02 67"  # group
        "0000000000000007 0001"  # producer id, epoch
        "00000003 02 6d 00"  # generation, member id, no instance id
        "02 02 74 02"  # one topic: its name, one partition
        "00000005 0000000000000009 ffffffff 02 78 00"  # partition, offset, leader epoch, metadata, no tags
        "00 00"  # no tags of topic and request
    )


def test_offset_fetch_bytes() -> None:
    request = messages.OffsetFetchRequest("g", [TP("t", 5), TP("t", 6)])
    assert request.build(messages.OffsetFetchRequest_v7).encode().hex(" ", -4) == _grouped(
        "02 67  02 02 74 03 00000005 00000006 00  01 00"  # group; one topic with two partitions; require stable
    )


def test_versions_are_negotiated() -> None:
    request = messages.OffsetFetchRequest("g", [TP_0])
    assert request.prepare({9: (0, 9)}).API_VERSION == 7
    assert request.prepare({9: (0, 5)}).API_VERSION == 3
    assert messages.ProduceRequest(None, -1, 1, []).prepare({0: (0, 13)}).API_VERSION == 8
    with pytest.raises(NotImplementedError):
        messages.TxnOffsetCommitRequest("t", (1, 1), ("g", 1, "m", None), []).prepare({28: (0, 2)})


def test_feature_levels() -> None:
    raw = messages._Features.encode([("metadata.version", 29, 29, {}), ("group.version", 1, 1, {})])
    answer = messages.ApiVersionsResponse_v3(0, [], 0, {2: raw})
    assert messages.feature_levels(answer) == {"metadata.version": 29, "group.version": 1}
    assert messages.feature_levels(messages.ApiVersionsResponse_v3(0, [], 0, {})) == {}
    assert messages.ApiVersionsRequest_v3("a", "b", {}).parse_response_header(BytesIO(bytes(4))).correlation_id == 0


def test_batches_carry_the_producer() -> None:
    writer = BatchWriter(limit=1000, compression=None, transactional=True)
    assert writer.append(OutRecord("t", b"k", b"v", (("h", b"1"),)), 5) is not None
    batch = _DefaultRecordBatchPy(writer.build(ProducerId(7, 3), 11))
    assert (batch.producer_id, batch.producer_epoch, batch.base_sequence) == (7, 3, 11)
    assert batch.is_transactional
    assert batch.validate_crc()


def test_full_batches_take_no_more() -> None:
    writer = BatchWriter(limit=100, compression=None, transactional=False)
    assert writer.append(OutRecord("t", b"k", bytes(500)), 5) is not None, "the first record is taken whatever its size"
    assert writer.append(OutRecord("t", b"k", b"v"), 5) is None
    batch = _DefaultRecordBatchPy(writer.build(None, 0))
    assert (batch.producer_id, batch.base_sequence, writer.count) == (-1, -1, 1)


def test_only_the_access_modules_know_the_insides() -> None:
    """Producer, consumer, fetcher, coordinator and records are reached through ``streams/_aiokafka*.py`` only."""
    inner = ("aiokafka.conn", "aiokafka.consumer.", "aiokafka.producer.", "aiokafka.record", "aiokafka.protocol.txn")
    root = Path(__file__).parents[2]
    offenders = [
        str(path.relative_to(root))
        for room in ("schemas", "streams", "registry", "agents", "tierflow")
        for path in (root / room).rglob("*.py")
        if not path.name.startswith("_aiokafka")
        and any(f"{verb} {name}" in path.read_text(encoding="utf-8") for verb in ("from", "import") for name in inner)
    ]
    assert offenders == []


def _assigned(cls: type) -> set[str]:
    """Names of attributes that a class gives its objects."""
    source = inspect.getsource(cls)
    return {part.split("=")[0].split(":")[0].strip() for part in source.split("self.")[1:]}


def _grouped(text: str) -> str:
    return bytes.fromhex(text).hex(" ", -4)
