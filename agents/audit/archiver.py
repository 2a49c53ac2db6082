"""The archive agent: reads the provenance topic and writes it to the archive folder, each record once."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import timedelta

from msgspec.structs import replace

from agents.audit.archive import ArchiveWriter, row_of
from schemas.codec import Codec
from schemas.errors import BrokerUnavailableError, UndecodableError
from schemas.flow import ProvenanceEvent
from schemas.headers import AVRO, Name
from schemas.ports import Clock
from schemas.settings import ArchiveSettings
from streams.connection import BrokerKind, KafkaConnection
from streams.log_reader import LogReader, open_log
from streams.records import TP, InRecord
from streams.topics import PROVENANCE, Names

log = logging.getLogger(__name__)

POLL_WAIT = timedelta(milliseconds=500)
"""How long to wait for records; bounds how late a seal by age can be."""

POLL_RECORDS = 2_000
"""Most rows written at once."""

BACK_OFF_S = 1.0
"""Pause after the broker was away, seconds."""


class Archiver:
    """Moves provenance events into the archive.

    Its place in the topic is the archive's own manifest, so nothing is lost or written twice when it dies.

    Args:
        connection: Where the broker is.
        kind: What answers there.
        names: Physical topic names.
        codec: Reads events.
        settings: Folder, size and age of segments.
        clock: Wall clock.
    """

    def __init__(
        self,
        *,
        connection: KafkaConnection,
        kind: BrokerKind,
        names: Names,
        codec: Codec,
        settings: ArchiveSettings,
        clock: Clock,
    ) -> None:
        self._connection = connection
        self._kind = kind
        self._topic = names.topic(PROVENANCE)
        self._codec = codec
        self._settings = settings
        self._clock = clock
        self.unreadable = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Archive until ``stop`` is set; then seal what is open.

        Raises:
            ConfigurationError: Another process writes to the folder, or the manifest is damaged.
            OffsetsLostError: The topic no longer holds what should be archived next: retention was too short.
        """
        writer = ArchiveWriter(self._settings.directory)
        try:
            while not stop.is_set():
                try:
                    await self._session(writer, stop)
                except BrokerUnavailableError as error:
                    log.warning("archive waits for the broker: %s", error)
                    writer.discard()
                    await asyncio.sleep(BACK_OFF_S)
        finally:
            await asyncio.to_thread(writer.seal, self._clock.now_ms())
            writer.close()

    async def _session(self, writer: ArchiveWriter, stop: asyncio.Event) -> None:
        offsets = {TP(self._topic, partition): offset for partition, offset in writer.next_offsets().items()}
        async with open_log(self._connection, [self._topic], kind=self._kind, offsets=offsets) as reader:
            while not stop.is_set():
                await self._step(writer, reader)

    async def _step(self, writer: ArchiveWriter, reader: LogReader) -> None:
        records = await reader.poll(POLL_WAIT, POLL_RECORDS)
        now_ms = self._clock.now_ms()
        if records:
            lines, ranges = self._rows(records)
            writer.append(lines, ranges, now_ms)
        age_ms = now_ms - writer.since_ms if writer.rows else 0
        full = writer.rows >= self._settings.segment_rows
        if full or age_ms >= self._settings.segment_age.total_seconds() * 1000:
            segment = await asyncio.to_thread(writer.seal, now_ms)
            if segment is not None:
                log.info("sealed %s with %d events", segment.file, segment.rows)

    def _rows(self, records: Sequence[InRecord]) -> tuple[list[bytes], dict[int, tuple[int, int]]]:
        lines: list[bytes] = []
        ranges: dict[int, tuple[int, int]] = {}
        for record in records:
            known = ranges.get(record.partition)
            ranges[record.partition] = (known[0] if known else record.offset, record.offset + 1)
            found = dict(record.headers)
            content_type = found.get(Name.CONTENT_TYPE.value, AVRO.encode()).decode()
            try:
                event = self._codec.decode(ProvenanceEvent, record.value or b"", content_type)
            except UndecodableError as error:
                self.unreadable += 1
                log.error("provenance record %s/%d/%d can't be read: %s", *record[:3], error)  # noqa: TRY400 - no bug
                continue
            source = found.get(Name.CE_SOURCE.value, b"").decode()
            epoch = int(found.get(Name.EPOCH.value, b"0"))
            sequence = int(found.get(Name.SEQUENCE.value, b"0"))
            if not event.sequence:
                # A stage wrote this event itself: it is numbered by its own header, not by a flow record's.
                event = replace(event, source=source, epoch=epoch, sequence=sequence)
            emitted = (source, epoch, sequence, PROVENANCE, record.partition, record.offset, record.timestamp_ms)
            lines.append(row_of(event, emitted))
        return lines, ranges
