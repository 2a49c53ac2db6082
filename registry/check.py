"""What ``tierflow registry check`` says of files: every problem, and what the catalogue holds."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from registry.load import read_catalogue
from registry.problems import Problem
from registry.snapshot import Snapshot
from schemas.catalogue import Catalogue


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Outcome of a check.

    Attributes:
        errors: What must be mended, in the order of the files.
        warnings: What should be looked at.
        summary: Name, hash and counts, for people; empty if there are errors.
        hash: Content hash that the catalogue would be published with; empty if there are errors.
        files: Files that were read.
    """

    errors: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    summary: str
    hash: str
    files: tuple[Path, ...]

    @property
    def ok(self) -> bool:
        """Whether it can be published."""
        return not self.errors


def check_files(paths: Sequence[str | Path], *, retention: timedelta | None = None) -> Report:
    """Read and check catalogue files.

    Args:
        paths: Files, folders or names of shipped catalogues; together they are one catalogue.
        retention: How long intake and tier topics keep records; deadlines must be shorter.

    Raises:
        CatalogueError: There is no such file or folder.
    """
    loaded = read_catalogue(*paths, retention=retention)
    summary = content_hash = ""
    if loaded.catalogue is not None:
        content_hash = Snapshot.from_catalogue(loaded.catalogue).hash
        summary = f"{_summary(loaded.catalogue)}; content {content_hash[:12]}"
    return Report(
        errors=loaded.errors, warnings=loaded.warnings, summary=summary, hash=content_hash, files=loaded.files
    )


def _summary(catalogue: Catalogue) -> str:
    tiers = " < ".join(tier.id for tier in sorted(catalogue.tiers, key=lambda tier: tier.rank))
    states = Counter(model.status.value for model in catalogue.models)
    models = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    counts = [
        _count(len(catalogue.prompts), "prompt"),
        _count(len(catalogue.plans), "plan"),
        _count(len(catalogue.routes), "route"),
        _count(len(catalogue.tenants), "tenant"),
        _count(len(catalogue.intake), "intake topic"),
    ]
    return f"{catalogue.name}: tiers {tiers}; models {models}; {', '.join(counts)}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
