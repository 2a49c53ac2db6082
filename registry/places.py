"""Where each value of a catalogue is written, and what to call it in a message."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from pydantic import BaseModel

from registry.problems import Place

Path: TypeAlias = tuple[str | int, ...]
"""Way from the top of a catalogue to a value: names of fields and positions in lists."""


def name_of(element: object) -> str:
    """What people call an element of a list: ``id@version``, ``id`` or its topic; empty if it has no name."""
    name, topic, version = (
        element.get(key) if isinstance(element, Mapping) else getattr(element, key, None)
        for key in ("id", "topic", "version")
    )
    name = name or topic
    if not isinstance(name, str):
        return ""
    return f"{name}@{version}" if isinstance(version, str) else name


@dataclass(frozen=True, slots=True)
class Places:
    """The places of a catalogue's values, by path.

    Attributes:
        values: Where each value starts.
        keys: Where each key of a mapping stands.
        names: Names of list elements that have one.
    """

    values: dict[Path, Place] = field(default_factory=dict)
    keys: dict[Path, Place] = field(default_factory=dict)
    names: dict[Path, str] = field(default_factory=dict)

    def of(self, path: Path) -> Place | None:
        """Where a value is written; where its surroundings are, if it is not there itself."""
        for end in range(len(path), -1, -1):
            if (place := self.values.get(path[:end])) is not None:
                return place
        return None

    def of_key(self, path: Path) -> Place | None:
        """Where the name of a field is written."""
        return self.keys.get(path) or self.of(path)

    def label(self, path: Path) -> str:
        """A path as text: ``plans[cascade].steps[first].tier``."""
        text = ""
        for end, part in enumerate(path, 1):
            if isinstance(part, int):
                text += f"[{self.names.get(path[:end], part)}]"
            else:
                text += f".{part}" if text else part
        return text

    def without(self, element: Path) -> "Places":
        """The places of what is left when an element of a list is taken out: those behind it move up."""
        *head, index = element
        prefix = tuple(head)

        def moved(path: Path) -> Path | None:
            if len(path) <= len(prefix) or path[: len(prefix)] != prefix:
                return path
            at = path[len(prefix)]
            if not isinstance(at, int) or not isinstance(index, int) or at < index:
                return path
            return None if at == index else (*prefix, at - 1, *path[len(prefix) + 1 :])

        return Places(
            {new: place for path, place in self.values.items() if (new := moved(path)) is not None},
            {new: place for path, place in self.keys.items() if (new := moved(path)) is not None},
            {new: name for path, name in self.names.items() if (new := moved(path)) is not None},
        )


def names_only(value: object) -> Places:
    """Places of something that was made in code: nothing has a line, elements have their names."""
    places = Places()

    def walk(value: object, path: Path) -> None:
        if isinstance(value, BaseModel):
            for name in type(value).model_fields:
                walk(getattr(value, name), (*path, name))
        elif isinstance(value, Sequence) and not isinstance(value, str):
            for index, element in enumerate(value):
                if name := name_of(element):
                    places.names[(*path, index)] = name
                walk(element, (*path, index))

    walk(value, ())
    return places
