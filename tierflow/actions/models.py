"""``tierflow models``: weights of local models."""

from collections.abc import Sequence

from rich.table import Table

from agents.worker.local.cache import WeightsCache
from agents.worker.local.fetch import Source, fetch
from agents.worker.local.weights import WEIGHTS
from registry.load import load_catalogue
from schemas.errors import WeightsError
from tierflow.console import Console, plain
from tierflow.exits import OK, failure_of
from tierflow.fetching import watching
from tierflow.local_models import local_models


def list_models(console: Console) -> None:
    """Show the weights that can be fetched, and what lies here."""
    cache = WeightsCache()
    table = Table("name", "what", "licence", "size", "here", "good for", title=str(cache.directory))
    for status in cache.statuses():
        weights = status.weights
        here = status.state.value
        if 0 < status.bytes < weights.bytes:
            here += f" ({status.bytes / weights.bytes:.0%})"
        size = f"{weights.bytes / 1e6:,.0f} MB"
        table.add_row(weights.name, weights.title, weights.licence, size, here, weights.about)
        console.emit(
            {
                "name": weights.name,
                "title": weights.title,
                "licence": weights.licence,
                "bytes": weights.bytes,
                "sha256": weights.sha256,
                "state": status.state.value,
                "path": str(status.path),
            }
        )
    console.show(table)


def names_of(names: Sequence[str], catalogue: str | None) -> list[str]:
    """The weights meant: those named, those of a catalogue, or all."""
    wanted = list(names)
    if catalogue is not None:
        wanted += [model.weights for model in local_models(load_catalogue(catalogue))]
    return list(dict.fromkeys(wanted)) or (list(WEIGHTS) if catalogue is None else [])


def fetch_models(console: Console, names: Sequence[str], *, source: str, recheck: bool) -> int:
    """Fetch weights; what is there already is left alone.

    Returns:
        The exit code of the first that could not be had.
    """
    with watching(console) as watcher:
        fetched = fetch(names, watcher, source=Source(source), recheck=recheck)
    for name, path in fetched.paths.items():
        console.line(f"{name}: {path}")
        console.emit({"name": name, "path": str(path)})
    return _tell_errors(console, list(fetched.errors.values()))


def verify_models(console: Console, names: Sequence[str]) -> int:
    """Hash the weights that lie here.

    Returns:
        The exit code of the first that is not as it should be.
    """
    cache = WeightsCache()
    errors: list[WeightsError] = []
    for name in names:
        try:
            path = cache.verify(name)
        except WeightsError as error:
            errors.append(error)
            continue
        console.show(plain(f"{name}: {path} is byte for byte what is pinned", "green"))
        console.emit({"name": name, "path": str(path), "verified": True})
    return _tell_errors(console, errors)


def _tell_errors(console: Console, errors: Sequence[WeightsError]) -> int:
    codes = [console.fail(failure_of(error)) for error in errors]
    return codes[0] if codes else OK
