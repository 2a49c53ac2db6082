"""What is wrong with a catalogue, and where it is written."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """Whether a catalogue can be used in spite of it."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A spot in a file.

    Attributes:
        file: The file's path as it was given.
        line: From 1.
        column: From 1, in characters.
    """

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to mend.

    Attributes:
        field: Path of the field, elements of lists by their id: ``models[qwen@1].price.currency``; empty for the file.
        message: What is wrong, and what would be right.
        place: Where it is written; None for a catalogue that was made in code.
        severity: Whether it stops the catalogue from being used.
    """

    field: str
    message: str
    place: Place | None = None
    severity: Severity = Severity.ERROR

    @property
    def is_error(self) -> bool:
        """Whether it stops the catalogue from being used."""
        return self.severity is Severity.ERROR

    def __str__(self) -> str:
        return ": ".join(part for part in (str(self.place or ""), self.field, self.message) if part)


def in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """By file, line and column; those without a place come last.

    What is said twice of one place (an alias repeats what its anchor has) is said once.
    """
    nowhere = Place("\U0010ffff", 0, 0)
    once = {
        (each.place or each.field, each.field.rpartition(".")[2], each.message): each
        for each in reversed(list(problems))
    }
    return tuple(sorted(once.values(), key=lambda each: (each.place or nowhere, each.field, each.message)))
