"""Reading the archive: one request's story, counts, and whether the books balance."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any, Final

import duckdb

from agents.audit.archive import OPEN, columns, read_manifest
from agents.audit.story import Story, gaps, tell
from schemas.enums import EventType, Status
from schemas.errors import ConfigurationError

_CHUNK: Final = 1 << 20


class ArchiveReader:
    """Reads sealed segments and the rows that are not sealed yet.

    Args:
        folder: The archive's folder.

    Raises:
        ConfigurationError: There is no archive.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ConfigurationError(
                f"no archive in {folder}: name its folder with --archive or start the archive agent"
            )
        self._folder = folder

    def query(self, select: str, parameters: Sequence[object] = ()) -> list[dict[str, Any]]:
        """Run one SELECT over the view ``events`` (each archived record once).

        Args:
            select: SQL; ``?`` stands for parameters.
            parameters: Their values.
        """
        with _whole_lines(self._folder / OPEN) as opened, duckdb.connect(":memory:") as database:
            database.execute(f"CREATE VIEW events AS {self._events(opened)}")
            cursor = database.execute(select, list(parameters))
            names = [column[0] for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def story(self, request_id: str) -> Story:
        """All events of a request; empty if it is unknown."""
        return tell(request_id, self.query("SELECT * FROM events WHERE request_id = ?", [request_id]))

    def stories(self) -> list[Story]:
        """All requests' stories, in the order of their first event. For small archives and tests."""
        rows: dict[str, list[Mapping[str, Any]]] = {}
        for row in self.query("SELECT * FROM events WHERE request_id <> '' ORDER BY time_ms"):
            rows.setdefault(row["request_id"], []).append(row)
        return [tell(request_id, events) for request_id, events in rows.items()]

    def _events(self, opened: Path | None) -> str:
        """Sealed and open rows; a row that is in both for a moment (sealing) counts once."""
        kinds = ", ".join(f"'{name}': '{kind}'" for name, kind in columns().items())
        sources = []
        sealed = [str(self._folder / segment.file) for segment in read_manifest(self._folder)]
        if sealed:
            listed = ", ".join("'" + path.replace("'", "''") + "'" for path in sealed)
            sources.append(f"SELECT * FROM read_parquet([{listed}], union_by_name=true)")
        if opened is not None:
            path = str(opened).replace("'", "''")
            sources.append(f"SELECT * FROM read_json('{path}', format='newline_delimited', columns={{{kinds}}})")
        if not sources:
            typed = ", ".join(f"NULL::{kind} AS {name}" for name, kind in columns().items())
            return f"SELECT {typed} WHERE false"
        union = " UNION ALL BY NAME ".join(sources)
        return f"SELECT DISTINCT ON (log_topic, log_partition, log_offset) * FROM ({union})"


@contextmanager
def _whole_lines(path: Path) -> Iterator[Path | None]:
    """A copy of the open rows as they are now, without a line that is being written; None if there are none.

    A copy, since the writer goes on, and what reads JSON lines would meet half of one at the end.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        yield None
        return
    with NamedTemporaryFile(suffix=".jsonl") as copy:
        with file:
            end = _end_of_lines(file)
            left = end
            while left and (chunk := file.read(min(left, _CHUNK))):
                copy.write(chunk)
                left -= len(chunk)
        copy.flush()
        yield Path(copy.name) if end else None


def _end_of_lines(file: IO[bytes]) -> int:
    """Where the last whole line ends; the file stands at its beginning after."""
    at, end = file.seek(0, os.SEEK_END), 0
    while at and not end:
        begin = max(0, at - _CHUNK)
        file.seek(begin)
        found = file.read(at - begin).rfind(b"\n")
        end = begin + found + 1 if found >= 0 else 0
        at = begin
    file.seek(0)
    return end


@dataclass(slots=True)
class Reconciliation:
    """Whether every accepted request ended once, with a complete story.

    Attributes:
        accepted: Requests accepted.
        ended: Requests ended, by status.
        duplicates_dropped: Records that repeated a request id and were dropped.
        dead_letters: Records parked, by code.
        offending: Request ids with what is wrong with each.
        repeats: Events that came more than once (at-least-once delivery).
    """

    accepted: int = 0
    ended: dict[Status, int] = field(default_factory=dict)
    duplicates_dropped: int = 0
    dead_letters: dict[str, int] = field(default_factory=dict)
    offending: dict[str, list[str]] = field(default_factory=dict)
    repeats: int = 0

    @property
    def balanced(self) -> bool:
        """Accepted equals ended, and nothing offends."""
        return not self.offending and self.accepted == sum(self.ended.values())


def reconcile(stories: Sequence[Story], rows_without_request: Sequence[Mapping[str, Any]] = ()) -> Reconciliation:
    """Balance the books.

    Args:
        stories: All stories.
        rows_without_request: Events of records that never became a request (undecodable ones).
    """
    books = Reconciliation()
    for story in stories:
        kinds = {EventType(event["event_type"]) for event in story.events}
        books.repeats += story.repeats
        for event in story.events:
            _count(books, event)
        if EventType.REQUEST_ACCEPTED not in kinds and EventType.REQUEST_ENDED not in kinds:
            continue
        books.accepted += 1
        if story.status is not None:
            books.ended[story.status] = books.ended.get(story.status, 0) + 1
        wrong = gaps(story)
        if wrong:
            books.offending[story.request_id] = wrong
    for event in rows_without_request:
        _count(books, event)
    return books


def _count(books: Reconciliation, event: Mapping[str, Any]) -> None:
    kind = EventType(event["event_type"])
    if kind is EventType.DEAD_LETTER_PARKED:
        books.dead_letters[event["error_code"]] = books.dead_letters.get(event["error_code"], 0) + 1
    elif kind is EventType.REQUEST_DUPLICATE:
        books.duplicates_dropped += 1


def detail(event: Mapping[str, Any]) -> dict[str, Any]:
    """What only this kind of event has."""
    found: dict[str, Any] = json.loads(event["detail"] or "{}")
    return found
