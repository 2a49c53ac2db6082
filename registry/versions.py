"""Which version a bare id means: the newest one that may be used."""

import re
from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar

from schemas.catalogue import Model, ModelStatus


class Versioned(Protocol):
    """Something with an id and a version: a model, a prompt."""

    @property
    def id(self) -> str:
        """Name."""
        ...

    @property
    def version(self) -> str:
        """Version of what has that name."""
        ...


T = TypeVar("T", bound=Versioned)

_PREFERENCE: Mapping[ModelStatus, int] = {
    ModelStatus.ACTIVE: 3,
    ModelStatus.DEPRECATED: 2,
    ModelStatus.RETIRED: 1,
    ModelStatus.DRAFT: 0,
}
"""A bare id means the newest active version; a deprecated one only if none is active. The others are found so that it
can be said why they are not used."""


def version_key(version: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts versions as people do: 1.9 before 1.10, 2025-04-14 before 2026-01-02."""
    return tuple(
        (1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.findall(r"[0-9]+|[A-Za-z]+", version)
    )


def by_reference(entries: Iterable[T]) -> dict[str, T]:
    """Entries by ``id@version``, and by ``id`` the one that the bare id means."""
    index: dict[str, T] = {}
    for entry in sorted(entries, key=_rank):
        index[f"{entry.id}@{entry.version}"] = entry
        index[entry.id] = entry  # the last one stays: the highest rank
    return index


def _rank(entry: Versioned) -> tuple[int, tuple[tuple[int, int, str], ...]]:
    status = _PREFERENCE[entry.status] if isinstance(entry, Model) else 0
    return status, version_key(entry.version)
