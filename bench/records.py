"""What it costs to make a record between stages: as the struct that it is, and as a frozen dataclass of its fields.

python -m bench.records
"""

import timeit
from dataclasses import field, make_dataclass
from typing import Any, Final

from msgspec import Struct
from rich.console import Console
from rich.table import Table

from schemas.flow import Assignment, Attempt, Completion, Decision, ProvenanceEvent

RECORDS: Final = (Decision, Assignment, Attempt, Completion, ProvenanceEvent)
TIMES: Final = 5_000
REPEATS: Final = 9


def microseconds(statement: str, **names: Any) -> float:
    """Of one run, the best of several."""
    return min(timeit.repeat(statement, globals=names, number=TIMES, repeat=REPEATS)) / TIMES * 1e6


def measure(record: type[Struct]) -> tuple[int, float, float, float]:
    """Fields; microseconds as a dataclass, as a struct by name, and by position."""
    names = record.__struct_fields__
    frozen = make_dataclass("Frozen", [(name, object, field()) for name in names], frozen=True, slots=True)
    by_name = ", ".join(f"{name}=value" for name in names)
    by_position = ", ".join("value" for _ in names)
    return (
        len(names),
        microseconds(f"make({by_name})", make=frozen, value=""),
        microseconds(f"make({by_name})", make=record, value=""),
        microseconds(f"make({by_position})", make=record, value=""),
    )


def main() -> None:
    """Measure and print."""
    table = Table("record", "fields", "frozen dataclass, us", "struct by name, us", "struct by position, us")
    for record in RECORDS:
        count, *times = measure(record)
        table.add_row(record.__name__, str(count), *(f"{time:.2f}" for time in times))
    Console().print(table)


if __name__ == "__main__":
    main()
