"""Request versions that aiokafka 0.14 does not speak and KIP-447 needs, as data for its protocol classes.

Field lists follow Apache Kafka's message definitions (``clients/src/main/resources/common/message``).
"""
# The library ships no types, so its classes are Any to the type checker.
# mypy: disable-error-code="misc, no-any-return"

from collections.abc import Sequence
from io import BytesIO
from typing import Any

from aiokafka.protocol.api import Request, RequestStruct, Response, ResponseHeader_v0
from aiokafka.protocol.commit import OffsetFetchRequest_v1, OffsetFetchRequest_v2, OffsetFetchRequest_v3
from aiokafka.protocol.produce import ProduceRequest_v3, ProduceRequest_v5, ProduceRequest_v7, ProduceRequest_v8
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

from streams.records import TP, OffsetCommit

TXN_OFFSET_COMMIT = 28
OFFSET_FETCH = 9
API_VERSIONS = 18
_NO_TAGS: dict[int, bytes] = {}
_NO_EPOCH = -1  # leader epoch of a committed offset: optional, and only of use for truncation detection


class TxnOffsetCommitResponse_v3(Response):  # noqa: N801 - aiokafka's way to name versions
    API_KEY = TXN_OFFSET_COMMIT
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("name", CompactString("utf-8")),
                (
                    "partitions",
                    CompactArray(("partition_index", Int32), ("error_code", Int16), ("tags", TaggedFields)),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class TxnOffsetCommitRequest_v3(RequestStruct):  # noqa: N801 - aiokafka's way to name versions
    API_KEY = TXN_OFFSET_COMMIT
    API_VERSION = 3
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = TxnOffsetCommitResponse_v3
    SCHEMA = Schema(
        ("transactional_id", CompactString("utf-8")),
        ("group_id", CompactString("utf-8")),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("generation_id", Int32),
        ("member_id", CompactString("utf-8")),
        ("group_instance_id", CompactString("utf-8")),
        (
            "topics",
            CompactArray(
                ("name", CompactString("utf-8")),
                (
                    "partitions",
                    CompactArray(
                        ("partition_index", Int32),
                        ("committed_offset", Int64),
                        ("committed_leader_epoch", Int32),
                        ("committed_metadata", CompactString("utf-8")),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class TxnOffsetCommitRequest(Request[TxnOffsetCommitRequest_v3]):
    """Offsets into a transaction, fenced by the group's generation (KIP-447)."""

    API_KEY = TXN_OFFSET_COMMIT

    def __init__(
        self,
        transactional_id: str,
        producer: tuple[int, int],
        member: tuple[str, int, str, str | None],
        offsets: Sequence[tuple[TP, OffsetCommit]],
    ) -> None:
        self._transactional_id = transactional_id
        self._producer = producer
        self._member = member
        self._offsets = offsets

    def build(self, request_struct_class: type[Any]) -> Any:
        group, generation, member_id, instance_id = self._member
        topics: dict[str, list[Any]] = {}
        for tp, commit in self._offsets:
            partition = (tp.partition, commit.offset, _NO_EPOCH, commit.metadata, _NO_TAGS)
            topics.setdefault(tp.topic, []).append(partition)
        return request_struct_class(
            self._transactional_id,
            group,
            *self._producer,
            generation,
            member_id,
            instance_id,
            [(topic, partitions, _NO_TAGS) for topic, partitions in topics.items()],
            _NO_TAGS,
        )


class OffsetFetchResponse_v7(Response):  # noqa: N801 - aiokafka's way to name versions
    API_KEY = OFFSET_FETCH
    API_VERSION = 7
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("name", CompactString("utf-8")),
                (
                    "partitions",
                    CompactArray(
                        ("partition_index", Int32),
                        ("committed_offset", Int64),
                        ("committed_leader_epoch", Int32),
                        ("metadata", CompactString("utf-8")),
                        ("error_code", Int16),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("error_code", Int16),
        ("tags", TaggedFields),
    )


class OffsetFetchRequest_v7(RequestStruct):  # noqa: N801 - aiokafka's way to name versions
    API_KEY = OFFSET_FETCH
    API_VERSION = 7
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = OffsetFetchResponse_v7
    SCHEMA = Schema(
        ("group_id", CompactString("utf-8")),
        (
            "topics",
            CompactArray(
                ("name", CompactString("utf-8")), ("partition_indexes", CompactArray(Int32)), ("tags", TaggedFields)
            ),
        ),
        ("require_stable", Boolean),
        ("tags", TaggedFields),
    )


class OffsetFetchRequest(
    Request[OffsetFetchRequest_v1 | OffsetFetchRequest_v2 | OffsetFetchRequest_v3 | OffsetFetchRequest_v7]
):
    """Committed offsets with their metadata; from version 7 on, a pending transactional commit is reported as such."""

    API_KEY = OFFSET_FETCH

    def __init__(self, group: str, partitions: Sequence[TP]) -> None:
        self._group = group
        self._partitions = partitions

    def build(self, request_struct_class: type[Any]) -> Any:
        topics: dict[str, list[int]] = {}
        for tp in self._partitions:
            topics.setdefault(tp.topic, []).append(tp.partition)
        if request_struct_class.API_VERSION >= OffsetFetchRequest_v7.API_VERSION:
            flexible = [(topic, partitions, _NO_TAGS) for topic, partitions in topics.items()]
            return request_struct_class(self._group, flexible, True, _NO_TAGS)  # noqa: FBT003 - positional by protocol
        return request_struct_class(self._group, list(topics.items()))


class ProduceRequest(Request[ProduceRequest_v3 | ProduceRequest_v5 | ProduceRequest_v7 | ProduceRequest_v8]):
    """Batches to write. Version 8 answers which record of a batch was refused; aiokafka stops at 7."""

    API_KEY = 0

    def __init__(
        self, transactional_id: str | None, acks: int, timeout_ms: int, batches: Sequence[tuple[TP, bytes | bytearray]]
    ) -> None:
        self._fixed = (transactional_id, acks, timeout_ms)
        self._batches = batches

    def build(self, request_struct_class: type[Any]) -> Any:
        topics: dict[str, list[tuple[int, bytes | bytearray]]] = {}
        for tp, data in self._batches:
            topics.setdefault(tp.topic, []).append((tp.partition, data))
        return request_struct_class(*self._fixed, list(topics.items()))


class ApiVersionsResponse_v3(Response):  # noqa: N801 - aiokafka's way to name versions
    API_KEY = API_VERSIONS
    API_VERSION = 3
    SCHEMA = Schema(
        ("error_code", Int16),
        (
            "api_keys",
            CompactArray(("api_key", Int16), ("min_version", Int16), ("max_version", Int16), ("tags", TaggedFields)),
        ),
        ("throttle_time_ms", Int32),
        ("tags", TaggedFields),
    )


class ApiVersionsRequest_v3(RequestStruct):  # noqa: N801 - aiokafka's way to name versions
    API_KEY = API_VERSIONS
    API_VERSION = 3
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = ApiVersionsResponse_v3
    SCHEMA = Schema(
        ("client_software_name", CompactString("utf-8")),
        ("client_software_version", CompactString("utf-8")),
        ("tags", TaggedFields),
    )

    def parse_response_header(self, read_buffer: BytesIO | bytes) -> Any:
        # The one flexible answer with an old header: it must be readable before versions are agreed on.
        return ResponseHeader_v0.decode(read_buffer)


class ApiVersionsRequest(Request[ApiVersionsRequest_v3]):
    """What the broker speaks and, from version 3 on, its feature levels."""

    API_KEY = API_VERSIONS

    def build(self, request_struct_class: type[Any]) -> Any:
        return request_struct_class("tierflow", "1", _NO_TAGS)


FINALIZED_FEATURES_TAG = 2
_Features = CompactArray(
    ("name", CompactString("utf-8")), ("max_level", Int16), ("min_level", Int16), ("tags", TaggedFields)
)


def feature_levels(answer: Any) -> dict[str, int]:
    """Names and levels of the features that an ApiVersions answer calls finalized."""
    raw = answer.tags.get(FINALIZED_FEATURES_TAG)
    return {name: level for name, level, _, _ in _Features.decode(BytesIO(raw)) or ()} if raw else {}
