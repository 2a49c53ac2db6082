"""Content above the inline cap in a directory that the stages share: the claim check's cloakroom.

A file is named by the SHA-256 of its content, written beside its place and moved into it in one step, so a reader sees
all of it or nothing, and two writers of the same content can't harm each other. Each read is checked against the hash.
"""

import asyncio
import hashlib
import os
import re
from pathlib import Path
from typing import Final

from schemas.errors import InvalidRequestError, StateStoreError

SCHEME: Final = "blob:sha256:"
"""A ``dataref`` names the content, not the place, so that the directory can be moved."""

_DATAREF: Final = re.compile(r"blob:sha256:([0-9a-f]{64})")
_HEX: Final = re.compile(r"[0-9a-f]{64}")


def dataref_of(content: bytes) -> str:
    """The name of a content."""
    return SCHEME + hashlib.sha256(content).hexdigest()


def digest_in(dataref: str, sha256: str) -> str:
    """The hash in a ``dataref`` of ours, which must be the one that is expected.

    Raises:
        InvalidRequestError: Another kind of reference, no hash, or another hash.
    """
    match = _DATAREF.fullmatch(dataref)
    if match is None:
        raise InvalidRequestError("dataref", f"must be of the form {SCHEME}<64 hex digits>")
    if _HEX.fullmatch(sha256) is None:
        raise InvalidRequestError("sha256", "must be 64 lower-case hex digits")
    if match[1] != sha256:
        raise InvalidRequestError("sha256", "is not the hash that dataref names")
    return sha256


class DirectoryBlobs:
    """A ``BlobStore`` in a directory.

    Args:
        directory: Made when something is first put.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def put(self, content: bytes, media_type: str) -> str:
        """Store and return the ``dataref``. The media type travels in the record, not here.

        Raises:
            StateStoreError: The content could not be written.
        """
        del media_type
        dataref = dataref_of(content)
        try:
            await asyncio.to_thread(_write, self._path(dataref.removeprefix(SCHEME)), content)
        except OSError as error:
            raise StateStoreError(f"the blob store can't be written: {error.strerror or error}") from error
        return dataref

    async def get(self, dataref: str, sha256: str) -> bytes:
        """Read and verify.

        Raises:
            InvalidRequestError: The reference is none of ours, there is no such content, or it is not what it was.
            StateStoreError: The content could not be read.
        """
        digest = digest_in(dataref, sha256)
        try:
            content = await asyncio.to_thread(self._path(digest).read_bytes)
        except FileNotFoundError:
            raise InvalidRequestError("dataref", "nothing is stored under it") from None
        except OSError as error:
            raise StateStoreError(f"the blob store can't be read: {error.strerror or error}") from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise InvalidRequestError("dataref", "the stored content is damaged: its hash is another")
        return content

    def _path(self, digest: str) -> Path:
        return self._directory / digest[:2] / digest


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        with beside.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # the record that names it may be committed a moment later
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
