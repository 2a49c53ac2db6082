"""What differs between two snapshots, by the names of things and not by where they stand in a list."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from registry.canonical import canonical
from registry.places import name_of
from registry.snapshot import Snapshot

ABSENT = "-"
"""Stands for what one of the two has not."""


@dataclass(frozen=True, slots=True, order=True)
class Change:
    """One difference.

    Attributes:
        path: Where, as ``models[qwen@1].price.version``.
        before: JSON of the value in the first; ``-`` if it has none.
        after: JSON of the value in the second; ``-`` if it has none.
    """

    path: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.path}: {self.before} -> {self.after}"


def diff(before: Snapshot, after: Snapshot) -> list[Change]:
    """All changed paths, sorted; elements that came or went are one change each. Empty for equal contents."""
    if before.hash == after.hash:
        return []
    changes: list[Change] = []
    _compare("", json.loads(before.content), json.loads(after.content), changes)
    return sorted(changes)


def _compare(path: str, before: object, after: object, changes: list[Change]) -> None:
    if before == after:
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in before.keys() | after.keys():
            _part(f"{path}.{key}" if path else str(key), key, before, after, changes)
    elif isinstance(before, list) and isinstance(after, list) and _named(before) and _named(after):
        old, new = ({name_of(each): each for each in side} for side in (before, after))
        for name in old.keys() | new.keys():
            _part(f"{path}[{name}]", name, old, new, changes)
        if old.keys() == new.keys() and list(old) != list(new):
            changes.append(Change(f"{path} (order)", ", ".join(old), ", ".join(new)))
    else:
        changes.append(Change(path, _text(before), _text(after)))


def _part(
    path: str, key: object, before: Mapping[str, object], after: Mapping[str, object], changes: list[Change]
) -> None:
    name = str(key)
    if name in before and name in after:
        _compare(path, before[name], after[name], changes)
    else:
        old, new = (_text(side[name]) if name in side else ABSENT for side in (before, after))
        changes.append(Change(path, old, new))


def _named(elements: list[object]) -> bool:
    """Whether every element has a name of its own."""
    names = [name_of(each) for each in elements]
    return all(names) and len(set(names)) == len(names)


def _text(value: object) -> str:
    return canonical(value).decode()
