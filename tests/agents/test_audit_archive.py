"""The archive: rows go in once, whatever dies between writing, sealing and noting."""

from typing import Any

import pytest

from agents.audit import reader
from agents.audit.archive import MANIFEST, OPEN, ArchiveWriter, columns, read_manifest, row_of
from agents.audit.reader import ArchiveReader, _whole_lines
from schemas.enums import EventType
from schemas.errors import ConfigurationError
from schemas.flow import ProvenanceEvent


def event(number: int, request_id: str = "r-1", **more) -> ProvenanceEvent:
    values: dict[str, Any] = {
        "event_id": f"e-{number}",
        "event_type": EventType.MODEL_ATTEMPTED,
        "request_id": request_id,
        "time_ms": 1000 + number,
        "recorded_ms": 2000,
        "stage": "worker",
        "source": "/worker/tier.fast/0",
        "epoch": 1,
        "sequence": number,
        "record_id": f"c-{number}",
        "src_topic": "completions",
        "src_partition": 0,
        "src_offset": number,
        "src_timestamp_ms": 1000,
        "reason": "a 'quoted' \"reason\"\nover two lines",
    } | more
    return ProvenanceEvent(**values)


def rows(*numbers: int) -> list[bytes]:
    return [row_of(event(n), ("/audit/completions/0", 1, n, "provenance", 0, n, 5000)) for n in numbers]


def archived(folder) -> list[str]:
    return [row["event_id"] for row in ArchiveReader(folder).query("SELECT event_id FROM events ORDER BY log_offset")]


def test_rows_are_readable_before_and_after_sealing(tmp_path):
    writer = ArchiveWriter(tmp_path)
    assert writer.next_offsets() == {}
    writer.append(rows(0, 1), {0: (0, 2)}, now_ms=10)
    assert archived(tmp_path) == ["e-0", "e-1"]
    segment = writer.seal(now_ms=20)
    assert segment is not None
    assert segment.rows == 2
    writer.append(rows(5), {0: (5, 6)}, now_ms=30)
    assert archived(tmp_path) == ["e-0", "e-1", "e-5"]
    assert writer.next_offsets() == {0: 2}, "what is not sealed is read again"
    assert writer.seal(now_ms=40) is not None
    assert writer.next_offsets() == {0: 6}
    assert writer.seal(now_ms=50) is None
    writer.close()
    stored = ArchiveReader(tmp_path).query("SELECT * FROM events WHERE event_id = ?", ["e-5"])[0]
    assert stored["reason"] == "a 'quoted' \"reason\"\nover two lines"
    assert stored["event_type"] == "model_attempted"
    assert stored["emit_source"] == "/audit/completions/0"
    assert set(stored) == set(columns())


def test_a_death_before_sealing_reads_the_rows_again(tmp_path):
    writer = ArchiveWriter(tmp_path)
    writer.append(rows(0, 1), {0: (0, 2)}, now_ms=10)
    writer.seal(now_ms=20)
    writer.append(rows(2, 3), {0: (2, 4)}, now_ms=30)
    writer.close()  # no seal: as after kill -9
    again = ArchiveWriter(tmp_path)
    assert again.next_offsets() == {0: 2}
    assert archived(tmp_path) == ["e-0", "e-1"]
    again.append(rows(2, 3), {0: (2, 4)}, now_ms=40)
    again.seal(now_ms=50)
    again.close()
    assert archived(tmp_path) == ["e-0", "e-1", "e-2", "e-3"]


def test_a_death_between_file_and_manifest_leaves_no_trace(tmp_path):
    writer = ArchiveWriter(tmp_path)
    writer.append(rows(0), {0: (0, 1)}, now_ms=10)
    writer.seal(now_ms=20)
    writer.append(rows(1), {0: (1, 2)}, now_ms=30)
    writer.seal(now_ms=40)
    writer.close()
    lines = (tmp_path / MANIFEST).read_bytes().splitlines(keepends=True)
    (tmp_path / MANIFEST).write_bytes(lines[0] + lines[1][:30])  # the second line was being written
    again = ArchiveWriter(tmp_path)
    assert len(read_manifest(tmp_path)) == 1
    assert len(list((tmp_path / "segments").glob("*/*.parquet"))) == 1
    assert again.next_offsets() == {0: 1}
    again.close()


def test_a_full_disk_leaves_no_half_line_in_the_manifest(tmp_path):
    writer = ArchiveWriter(tmp_path)
    writer.append(rows(0, 1), {0: (0, 2)}, now_ms=10)
    (tmp_path / MANIFEST).write_bytes(b'{"file":"segments/1970-')  # what fitted of an earlier try, in this very process
    writer.seal(now_ms=20)  # as the archiver does at its end
    writer.close()
    again = ArchiveWriter(tmp_path)
    assert again.next_offsets() == {0: 2}
    assert archived(tmp_path) == ["e-0", "e-1"]
    again.close()


def test_a_row_in_segment_and_open_file_counts_once(tmp_path):
    writer = ArchiveWriter(tmp_path)
    writer.append(rows(0, 1), {0: (0, 2)}, now_ms=10)
    content = (tmp_path / OPEN).read_bytes()
    writer.seal(now_ms=20)
    (tmp_path / OPEN).write_bytes(content)  # a reader that looks between note and truncation
    assert archived(tmp_path) == ["e-0", "e-1"]
    writer.close()


def test_a_row_being_written_does_not_stop_a_reader(tmp_path):
    writer = ArchiveWriter(tmp_path)
    writer.append(rows(0), {0: (0, 1)}, now_ms=10)
    with (tmp_path / OPEN).open("ab") as file:
        file.write(rows(1)[0][:100])
    assert archived(tmp_path) == ["e-0"]
    writer.close()


@pytest.mark.parametrize("chunk", [1, 7, 400, 1 << 20])
def test_a_row_that_is_written_while_somebody_reads_is_not_seen_in_half(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(reader, "_CHUNK", chunk)
    writer = ArchiveWriter(tmp_path)
    with _whole_lines(tmp_path / OPEN) as held:
        assert held is None
    writer.append(rows(0, 1), {0: (0, 2)}, now_ms=10)
    before = (tmp_path / OPEN).read_bytes()
    with (tmp_path / OPEN).open("ab") as file, _whole_lines(tmp_path / OPEN) as held:
        file.write(rows(2)[0][:100])
        file.flush()
        assert held is not None
        assert held.read_bytes() == before
        with _whole_lines(tmp_path / OPEN) as too:  # and who comes now does not see it, either
            assert too is not None
            assert too.read_bytes() == before
    writer.close()


def test_sealing_takes_nothing_from_who_is_reading(tmp_path):
    writer = ArchiveWriter(tmp_path)
    writer.append(rows(0, 1), {0: (0, 2)}, now_ms=10)
    before = (tmp_path / OPEN).read_bytes()
    with _whole_lines(tmp_path / OPEN) as held:
        assert held is not None
        writer.seal(now_ms=20)
        writer.append(rows(2), {0: (2, 3)}, now_ms=30)
        assert held.read_bytes() == before
    writer.close()


def test_one_writer_a_folder(tmp_path):
    writer = ArchiveWriter(tmp_path)
    with pytest.raises(ConfigurationError, match="another process writes the archive"):
        ArchiveWriter(tmp_path)
    writer.close()
    ArchiveWriter(tmp_path).close()


def test_damage_is_named(tmp_path):
    ArchiveWriter(tmp_path).close()
    (tmp_path / MANIFEST).write_text("{}\n")
    with pytest.raises(ConfigurationError, match="line 1"):
        ArchiveWriter(tmp_path)


def test_no_archive_is_said(tmp_path):
    with pytest.raises(ConfigurationError, match="no archive in"):
        ArchiveReader(tmp_path / "nowhere")


def test_an_empty_archive_has_no_rows(tmp_path):
    ArchiveWriter(tmp_path).close()
    assert ArchiveReader(tmp_path).query("SELECT count(*) AS n FROM events") == [{"n": 0}]
