"""The archive: provenance events as Parquet segments in a folder, with a manifest that says which files count.

Layout::

    <folder>/manifest.jsonl            one line a sealed segment: file, SHA-256, rows, offset ranges, times
    <folder>/segments/<day>/<id>.parquet
    <folder>/open.jsonl                rows not sealed yet, readable at once
    <folder>/lock                      held by the one process that writes

The manifest is the truth about what is archived, and where reading the topic goes on: a segment counts from the moment
its line is on disk. Whatever lies there without a line was in the making when the process died and is thrown away; its
rows are read from the topic again. So a row is archived once, whatever dies.
"""

import fcntl
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import IO, Any

import duckdb
import msgspec
import orjson

from schemas.errors import ConfigurationError
from schemas.flow import ProvenanceEvent

MANIFEST = "manifest.jsonl"
OPEN = "open.jsonl"

EMITTED = ("emit_source", "emit_epoch", "emit_sequence", "log_topic", "log_partition", "log_offset", "log_timestamp_ms")
"""Columns beside the event's own: who wrote the provenance record, its number there, and where it lies."""

_TYPES = {"string": "VARCHAR", "int": "INTEGER", "long": "BIGINT", "double": "DOUBLE", "enum": "VARCHAR"}


def columns() -> dict[str, str]:
    """Column names and DuckDB types of the archive, from the event's Avro schema."""
    schema = orjson.loads((files("schemas") / "avro" / "provenance_event.avsc").read_bytes())
    found = {}
    for column in schema["fields"]:
        kind = column["type"]
        found[column["name"]] = _TYPES[kind if isinstance(kind, str) else kind["type"]]
    return found | {
        "emit_source": "VARCHAR",
        "emit_epoch": "BIGINT",
        "emit_sequence": "BIGINT",
        "log_topic": "VARCHAR",
        "log_partition": "INTEGER",
        "log_offset": "BIGINT",
        "log_timestamp_ms": "BIGINT",
    }


@dataclass(frozen=True, slots=True)
class Segment:
    """A sealed file.

    Attributes:
        file: Path below the folder.
        sha256: Of the file.
        rows: Number of events.
        ranges: Per partition of the provenance topic, first offset and the one after the last.
        sealed_ms: Unix milliseconds.
    """

    file: str
    sha256: str
    rows: int
    ranges: Mapping[str, tuple[int, int]]
    sealed_ms: int


def read_manifest(folder: Path) -> list[Segment]:
    """All sealed segments, oldest first.

    Raises:
        ConfigurationError: A line can't be read; names it.
    """
    path = folder / MANIFEST
    if not path.exists():
        return []
    segments: list[Segment] = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            entry = orjson.loads(line)
            segments.append(
                Segment(
                    entry["file"],
                    entry["sha256"],
                    entry["rows"],
                    {key: (first, after) for key, (first, after) in entry["ranges"].items()},
                    entry["sealed_ms"],
                )
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(f"{path} line {number} can't be read: {error}") from error
    return segments


@dataclass(slots=True)
class _Open:
    file: IO[bytes]
    rows: int = 0
    ranges: dict[str, tuple[int, int]] = field(default_factory=dict)
    since_ms: int = 0


class ArchiveWriter:
    """Appends rows and seals segments. One process a folder.

    Args:
        folder: Made if missing.

    Raises:
        ConfigurationError: Another process writes there, or the manifest is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "segments").mkdir(parents=True, exist_ok=True)
        self._lock = (folder / "lock").open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise ConfigurationError(
                f"another process writes the archive in {folder}: run one archive agent a folder"
            ) from error
        try:
            _cut_broken_tail(folder / MANIFEST)
            self._segments = read_manifest(folder)
        except ConfigurationError:
            self._lock.close()
            raise
        self._drop_unsealed()
        self._open = self._fresh()
        columns_sql = ", ".join(f"'{name}': '{kind}'" for name, kind in columns().items())
        self._select = f"SELECT * FROM read_json(?, format='newline_delimited', columns={{{columns_sql}}})"

    @property
    def rows(self) -> int:
        """Rows not sealed yet."""
        return self._open.rows

    @property
    def since_ms(self) -> int:
        """When the oldest row that is not sealed came in, Unix milliseconds; 0 if there is none."""
        return self._open.since_ms

    def next_offsets(self) -> dict[int, int]:
        """Per partition the offset to read next, from what is sealed."""
        found: dict[int, int] = {}
        for segment in self._segments:
            for partition, (_, after) in segment.ranges.items():
                found[int(partition)] = max(found.get(int(partition), 0), after)
        return found

    def discard(self) -> None:
        """Throw away what is not sealed; it is read from the topic again.

        A new file takes the old one's place: who reads the old one just now still has all of it.
        """
        before, self._open = self._open, self._fresh()
        before.file.close()

    def _fresh(self) -> _Open:
        fresh = self._folder / f"{OPEN}.new"
        file = fresh.open("wb")
        fresh.replace(self._folder / OPEN)
        return _Open(file)

    def append(self, lines: Sequence[bytes], ranges: Mapping[int, tuple[int, int]], now_ms: int) -> None:
        """Add rows as JSON lines.

        Args:
            lines: One JSON object each, without a line break.
            ranges: Per partition, the first offset among them and the one after the last.
            now_ms: Unix milliseconds.
        """
        opened = self._open
        if lines:
            opened.file.write(b"\n".join(lines) + b"\n")
            opened.file.flush()
        opened.rows += len(lines)
        opened.since_ms = opened.since_ms or now_ms
        for partition, (first, after) in ranges.items():
            begun = opened.ranges.get(str(partition))
            opened.ranges[str(partition)] = (begun[0] if begun else first, after)

    def seal(self, now_ms: int) -> Segment | None:
        """Make the open rows a Parquet segment; None if there are none. Runs for a while: call it in a thread."""
        opened = self._open
        if not opened.rows:
            return None
        os.fsync(opened.file.fileno())
        day = datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y-%m-%d")
        name = "-".join(f"{partition}.{first}" for partition, (first, _) in sorted(opened.ranges.items()))
        relative = f"segments/{day}/{hashlib.sha256(name.encode()).hexdigest()[:16]}.parquet"
        target = self._folder / relative
        target.parent.mkdir(exist_ok=True)
        scratch = target.with_suffix(".tmp")
        with duckdb.connect(":memory:") as database:
            database.execute("SET threads = 1")
            database.execute(
                f"COPY ({self._select} ORDER BY request_id, src_topic, src_partition, src_offset, part) "
                f"TO '{_quoted(scratch)}' (FORMAT parquet, COMPRESSION zstd)",
                [str(self._folder / OPEN)],
            )
        digest = hashlib.sha256(scratch.read_bytes()).hexdigest()
        _sync_file(scratch)
        scratch.rename(target)
        _sync_folder(target.parent)
        segment = Segment(relative, digest, opened.rows, dict(opened.ranges), now_ms)
        self._note(segment)
        self.discard()
        return segment

    def close(self) -> None:
        """Release files and lock; rows that are not sealed are read from the topic again by the next one."""
        self._open.file.close()
        self._lock.close()

    def _note(self, segment: Segment) -> None:
        line = orjson.dumps(
            {
                "file": segment.file,
                "sha256": segment.sha256,
                "rows": segment.rows,
                "ranges": segment.ranges,
                "sealed_ms": segment.sealed_ms,
            }
        )
        _cut_broken_tail(self._folder / MANIFEST)  # of a try that a full disk broke off
        with (self._folder / MANIFEST).open("ab") as manifest:
            manifest.write(line + b"\n")
            manifest.flush()
            os.fsync(manifest.fileno())
        self._segments.append(segment)

    def _drop_unsealed(self) -> None:
        known = {segment.file for segment in self._segments}
        for path in (self._folder / "segments").glob("*/*"):
            if str(path.relative_to(self._folder)) not in known:
                path.unlink()


def row_of(event: ProvenanceEvent, emitted: Sequence[Any]) -> bytes:
    """An archive row as a JSON line.

    Args:
        event: The event.
        emitted: Values for ``EMITTED``, in that order.
    """
    return msgspec.json.encode(event)[:-1] + b"," + orjson.dumps(dict(zip(EMITTED, emitted, strict=True)))[1:]


def _cut_broken_tail(path: Path) -> None:
    """A line without its end was being written when the process died, or the disk was full: it never counted."""
    if not path.exists():
        return
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
