"""Reading past records that aiokafka can't decode.

Kafka does not check header names. aiokafka decodes them as UTF-8 and gives up at the first that is something else, for
ever, since it asks for the same batch again. This reader goes through one fetch answer in the library's own way,
aborted transactions included, with a record decoder that lets such names pass.
"""

import struct
from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.errors import CorruptRecordException, KafkaError
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.default_records import _DefaultRecordBatchPy, _DefaultRecordPy
from aiokafka.record.legacy_records import LegacyRecordBatch
from aiokafka.record.util import decode_varint

from streams.records import TP

_WAIT_MS = 100
_MIN_BYTES = 1
_MAX_BYTES = 50 * 1024 * 1024
_FRAME = struct.Struct(">qi")  # base offset, and the length of what follows
_MAGIC_AT = 16  # format number of a batch; the same place in all formats


async def read_around(
    consumer: AIOKafkaConsumer, positions: Mapping[TP, int]
) -> dict[TP, tuple[list[ConsumerRecord], int]]:
    """One fetch of each partition; nothing is sought: where the consumer stands is for the caller to say.

    Returns:
        Of partitions where there was something: records, and the offset behind them. One that can't be read now is left
        out, and what was read of the others is not lost over it.

    Raises:
        KafkaError: A partition can't be read, and the others brought nothing.
    """
    found: dict[TP, tuple[list[ConsumerRecord], int]] = {}
    problem: KafkaError | None = None
    for tp, offset in positions.items():
        try:
            records, behind = await read_leniently(consumer, tp, offset)
        except KafkaError as error:
            problem = error
            continue
        if behind != offset:
            found[tp] = records, behind
    if problem is not None and not found:
        raise problem
    return found


async def read_leniently(consumer: AIOKafkaConsumer, tp: TP, offset: int) -> tuple[list[ConsumerRecord], int]:
    """One fetch of one partition.

    Returns:
        Records, and the offset behind them (also behind what holds no records for us, such as aborted transactions).

    Raises:
        KafkaError: The broker did not answer, or refused.
    """
    client = consumer._client  # noqa: SLF001 - part of this project's access to the library
    node = client.cluster.leader_for_partition(tp)
    if node is None or node < 0:
        await client.force_metadata_update()
        return [], offset
    limit = consumer._max_partition_fetch_bytes  # noqa: SLF001 - part of this project's access to the library
    request = FetchRequest(
        _WAIT_MS, _MIN_BYTES, _MAX_BYTES, READ_COMMITTED, [(tp.topic, [(tp.partition, offset, limit)])], rack_id=""
    )
    answer = await client.send(node, request)
    _, code, _, *parts = answer.topics[0][1][0]
    if code:
        raise KafkaError(f"{tp}: fetch answered error code {code}")
    aborted = parts[-3] if answer.API_VERSION >= 11 else parts[-2]  # 11 put the preferred replica between
    records = PartitionRecords(
        tp,
        _Batches(parts[-1]),
        aborted,
        offset,
        None,
        None,
        True,  # noqa: FBT003 - check_crcs, positional in the library
        READ_COMMITTED,
    )
    found = list(records)
    return found, records.next_fetch_offset


class _Batches:
    """The batches of a fetch answer, as the library's reader asks for them."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def has_next(self) -> bool:
        return self._end() <= len(self._data)

    def next_batch(self) -> Any:
        start, self._position = self._position, self._end()
        batch = memoryview(self._data)[start : self._position]
        magic = batch[_MAGIC_AT]
        # Formats before 2 have no headers, so nothing in them needs this reader.
        return _LenientBatch(batch) if magic >= 2 else LegacyRecordBatch(batch, magic)

    def _end(self) -> int:
        """Where the batch at the present position ends; behind the data when it isn't there in full."""
        after_length = self._position + _FRAME.size
        if after_length > len(self._data):
            return after_length
        _, length = _FRAME.unpack_from(self._data, self._position)
        return after_length + int(length)


class _LenientBatch(_DefaultRecordBatchPy):  # type: ignore[misc] # final only for type checkers: the hook is _read_msg
    """A batch (format 2) whose header names may be any bytes."""

    def _read_msg(self, decode_varint: Any = decode_varint) -> Any:
        data, position = self._buffer, self._pos
        length, position = decode_varint(data, position)
        end = position + length
        position += 1  # attributes of a record: none is defined
        time_delta, position = decode_varint(data, position)
        offset_delta, position = decode_varint(data, position)
        key, position = _field(data, position)
        value, position = _field(data, position)
        count, position = decode_varint(data, position)
        headers = []
        for _ in range(count):
            name, position = _field(data, position)
            content, position = _field(data, position)
            headers.append(((name or b"").decode("utf-8", "backslashreplace"), content))
        if position != end:
            raise CorruptRecordException(f"record at offset {self.base_offset + offset_delta} has a wrong length")
        self._pos: int = end
        by_broker = self.timestamp_type == self.LOG_APPEND_TIME
        timestamp = self.max_timestamp if by_broker else self.first_timestamp + time_delta
        return _DefaultRecordPy(self.base_offset + offset_delta, timestamp, self.timestamp_type, key, value, headers)


def _field(data: bytearray, position: int) -> tuple[bytes | None, int]:
    length, position = decode_varint(data, position)
    if length < 0:
        return None, position
    return bytes(data[position : position + length]), position + length
