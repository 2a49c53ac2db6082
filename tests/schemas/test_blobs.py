"""The directory-backed blob store: content-addressed, atomic, verified."""

import asyncio
import hashlib
import os
from pathlib import Path

import pytest

from schemas.blobs import SCHEME, DirectoryBlobs
from schemas.errors import InvalidRequestError, StateStoreError

CONTENT = b"content" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
DATAREF = SCHEME + DIGEST


def files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


async def test_content_is_found_again_by_its_hash(tmp_path: Path) -> None:
    blobs = DirectoryBlobs(tmp_path / "blobs")
    assert await blobs.put(CONTENT, "text/plain") == DATAREF
    assert await blobs.put(CONTENT, "text/html") == DATAREF
    assert await DirectoryBlobs(tmp_path / "blobs").get(DATAREF, DIGEST) == CONTENT
    assert files(tmp_path) == [tmp_path / "blobs" / DIGEST[:2] / DIGEST]
    empty = await blobs.put(b"", "")
    assert await blobs.get(empty, hashlib.sha256(b"").hexdigest()) == b""


async def test_many_writers_of_one_content_leave_one_file(tmp_path: Path) -> None:
    await asyncio.gather(*(DirectoryBlobs(tmp_path).put(CONTENT, "") for _ in range(20)))
    assert [path.read_bytes() for path in files(tmp_path)] == [CONTENT]


async def test_damage_and_loss_are_found_and_writing_again_mends_them(tmp_path: Path) -> None:
    blobs = DirectoryBlobs(tmp_path)
    await blobs.put(CONTENT, "")
    (stored,) = files(tmp_path)
    stored.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(InvalidRequestError, match="damaged"):
        await blobs.get(DATAREF, DIGEST)
    await blobs.put(CONTENT, "")
    assert await blobs.get(DATAREF, DIGEST) == CONTENT
    stored.unlink()
    with pytest.raises(InvalidRequestError, match="nothing is stored"):
        await blobs.get(DATAREF, DIGEST)


@pytest.mark.parametrize(
    ("dataref", "sha256", "said"),
    [
        ("https://example.com/x", DIGEST, "^dataref: must be of the form"),
        (SCHEME + "../../../etc/passwd", DIGEST, "^dataref: must be of the form"),
        (DATAREF + "\n", DIGEST, "^dataref: must be of the form"),
        (DATAREF, "../" * 21 + "x", "^sha256: must be 64"),
        (DATAREF, "0" * 64, "^sha256: is not the hash"),
    ],
)
async def test_a_reference_can_not_lead_elsewhere(tmp_path: Path, dataref: str, sha256: str, said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        await DirectoryBlobs(tmp_path).get(dataref, sha256)


async def test_a_directory_that_can_not_be_used_is_retryable(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StateStoreError, match="can't be written"):
        await DirectoryBlobs(tmp_path / "taken").put(CONTENT, "")
    blobs = DirectoryBlobs(tmp_path / "ok")
    (tmp_path / "ok" / DIGEST[:2] / DIGEST).mkdir(parents=True)
    with pytest.raises(StateStoreError, match="can't be read"):
        await blobs.get(DATAREF, DIGEST)


async def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StateStoreError, match="No space left"):
        await DirectoryBlobs(tmp_path).put(CONTENT, "")
    assert files(tmp_path) == []
