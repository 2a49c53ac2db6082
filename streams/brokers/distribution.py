"""Apache Kafka's jars: resolved once by Maven into a cache of the user's, then used offline."""

import asyncio
import hashlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from schemas.errors import ConfigurationError, ProcessError
from streams.brokers.locks import FileLock
from streams.brokers.process import ChildProcess

KAFKA_VERSION = "4.2.0"
JAVA_AT_LEAST = 17  # what Kafka 4 brokers need

_POM = Path(__file__).with_name("pom.xml")
_CACHE_VARIABLE = "TIERFLOW_CACHE"
_JAVA_VERSION = re.compile(r'version "(?:1\.)?(\d+)')  # 17.0.15, and 1.8.0_292 for Java 8
_JAVA_ANSWERS_WITHIN_S = 20.0  # a first start from a cold disk
_INSTALL_JAVA = (
    f"install Java {JAVA_AT_LEAST} or newer (Debian, Ubuntu: apt-get install openjdk-{JAVA_AT_LEAST}-jre-headless), "
    "or set JAVA_HOME to one"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaDistribution:
    """What it takes to run a Kafka class.

    Attributes:
        java: The Java program.
        libs: Folder of the jars.
    """

    java: Path
    libs: Path

    def command(self, main: str, *arguments: str, options: tuple[str, ...] = ()) -> tuple[str, ...]:
        """The command line that runs a class of Kafka's."""
        return (str(self.java), *options, "-cp", str(self.libs / "*"), main, *arguments)


def cache_dir() -> Path:
    """Folder for what is fetched once a user: ``TIERFLOW_CACHE``, else ``~/.cache/tierflow``."""
    chosen = os.environ.get(_CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "tierflow"


def find_java() -> Path:
    """The Java program: that of ``JAVA_HOME`` if it is set, else the first on the path.

    Raises:
        ConfigurationError: There is none, it does not run, or it is too old.
    """
    home = os.environ.get("JAVA_HOME")
    if home:
        java = Path(home) / "bin" / "java"
        if not os.access(java, os.X_OK):
            raise ConfigurationError(f"JAVA_HOME is {home}, but there is no program {java}: {_INSTALL_JAVA}")
    else:
        found = shutil.which("java")
        if found is None:
            raise ConfigurationError(f"Apache Kafka needs Java, and there is no java on the path: {_INSTALL_JAVA}")
        java = Path(found)
    try:
        answer = subprocess.run(  # noqa: S603 - the user's own Java, fixed argument
            [java, "-version"], capture_output=True, text=True, timeout=_JAVA_ANSWERS_WITHIN_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigurationError(f"{java} does not run ({error}): {_INSTALL_JAVA}") from error
    said = answer.stderr + answer.stdout
    version = _JAVA_VERSION.search(said)
    if version is None:
        raise ConfigurationError(f"{java} -version tells no version ({said.strip()[:200]!r}): {_INSTALL_JAVA}")
    if int(version[1]) < JAVA_AT_LEAST:
        raise ConfigurationError(f"{java} is Java {version[1]}, too old for Apache Kafka: {_INSTALL_JAVA}")
    return java


def kafka_available() -> str | None:
    """Why a local Apache Kafka can't be had, or None if nothing speaks against it.

    Asks no network: jars that are not in the cache yet may still fail to resolve.
    """
    try:
        find_java()
        if not _home().is_dir():
            _find_maven()
    except ConfigurationError as error:
        return str(error)
    return None


async def resolve_kafka(*, within: timedelta = timedelta(minutes=10)) -> KafkaDistribution:
    """Find Java and Kafka's jars; Maven downloads them (43 MB) if this user has none yet.

    Several processes may call it at once: one resolves, the others wait for it.

    Args:
        within: How long the download may take, and how long to wait for another process that does it.

    Raises:
        ConfigurationError: No Java, too old a Java, no Maven, or a cache folder that can't be written.
        ProcessError: Maven failed or took too long; the message has the last lines of what it said.
    """
    java = await asyncio.to_thread(find_java)
    home = _home()
    if not await asyncio.to_thread(home.is_dir):
        maven = await asyncio.to_thread(_find_maven)
        lock = FileLock(home.with_suffix(".lock"))
        try:
            await lock.acquire(within=within)
            if not await asyncio.to_thread(home.is_dir):  # another process may have been faster
                await _fetch(maven, home, within)
        except OSError as error:
            raise ConfigurationError(f"the cache can't be written: {error}; set {_CACHE_VARIABLE}") from error
        finally:
            lock.release()
    return KafkaDistribution(java=java, libs=home / "libs")


def _home() -> Path:
    """A complete set of jars has this folder; it appears in one step, and its name changes with what is pinned."""
    pinned = hashlib.sha256(_POM.read_bytes()).hexdigest()[:12]
    return cache_dir() / f"kafka-{KAFKA_VERSION}" / pinned


def _find_maven() -> Path:
    found = shutil.which("mvn")
    if found is None:
        raise ConfigurationError(
            "Apache Kafka's jars are fetched with Maven, and there is no mvn on the path: install Maven "
            "(Debian, Ubuntu: apt-get install maven)"
        )
    return Path(found)


async def _fetch(maven: Path, home: Path, within: timedelta) -> None:
    """Resolve into a folder beside ``home``, and rename it when it is complete. The caller holds the lock."""
    partial = home.with_suffix(".partial")
    log = home.with_suffix(".log")

    def prepare() -> None:
        shutil.rmtree(partial, ignore_errors=True)  # of one that was killed
        partial.mkdir(parents=True)
        log.unlink(missing_ok=True)
        shutil.copyfile(_POM, partial / "pom.xml")  # our own folder may be read-only

    await asyncio.to_thread(prepare)
    child = ChildProcess(
        name="Maven",
        argv=(
            str(maven),
            "--batch-mode",
            "--no-transfer-progress",
            "--strict-checksums",
            "--file",
            str(partial / "pom.xml"),
            "dependency:copy-dependencies",
            "-DincludeScope=runtime",
            f"-DoutputDirectory={partial / 'libs'}",
        ),
        log=log,
        env=os.environ,  # proxies and mirrors are set there
        cwd=partial,
    )
    await child.start()
    status = await child.wait(within=within)
    jar = partial / "libs" / f"kafka_2.13-{KAFKA_VERSION}.jar"
    if status != 0 or not await asyncio.to_thread(jar.is_file):
        raise ProcessError(f"Maven could not resolve Apache Kafka {KAFKA_VERSION}; {await child.log_tail()}")
    await asyncio.to_thread(partial.rename, home)
