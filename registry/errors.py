"""What can go wrong with the rules, beside the errors that all rooms know.

The tree, below ``schemas.errors``::

    CatalogueError
    ├── CatalogueProblemsError   files or a catalogue with problems; has all of them, each with its place
    └── SnapshotFormatError      bytes that are no snapshot, or not the one that their hash names
    RegistryConflictError        compare-and-set lost: somebody published first
    RegistryBehindError          this process has not seen a snapshot yet that a record was decided under
"""

from collections.abc import Sequence
from typing import ClassVar

from registry.problems import Problem
from schemas.errors import CatalogueError, RegistryConflictError, TierflowError

__all__ = [
    "CatalogueError",
    "CatalogueProblemsError",
    "RegistryBehindError",
    "RegistryConflictError",
    "SnapshotFormatError",
]


class CatalogueProblemsError(CatalogueError):
    """A catalogue that can't become a snapshot.

    Args:
        problems: Every problem that was found; the message has one line for each.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n".join([f"the catalogue has {count}:", *(f"  {each}" for each in problems)]))
        self.problems = tuple(problems)


class SnapshotFormatError(CatalogueError):
    """Bytes that can't be read as a snapshot, or whose content has another hash than they state."""

    code: ClassVar[str] = "configuration.snapshot-format"


class RegistryBehindError(TierflowError):
    """The snapshot that a record was decided under has not arrived here in time."""

    code: ClassVar[str] = "registry.behind"
    retryable: ClassVar[bool] = True
    exit_code: ClassVar[int] = 75
