"""``tierflow explain`` and ``tierflow reconcile``: what the archive says."""

from pathlib import Path

from rich.table import Table

from agents.audit.reader import ArchiveReader, Reconciliation, reconcile
from agents.audit.story import gaps
from tierflow.console import Console, plain
from tierflow.exits import NOT_SO, OK, UnknownRequestError
from tierflow.story_view import story_data, story_tree

_NAMED = 20
"""Offending requests that are listed for people; programs get all."""


def explain(console: Console, archive: Path, request_id: str) -> int:
    """Tell one request's story.

    Returns:
        0 when it is complete.

    Raises:
        ConfigurationError: There is no archive.
        UnknownRequestError: The archive does not know the request.
    """
    story = ArchiveReader(archive).story(request_id)
    if not story.events:
        raise UnknownRequestError(
            f"no event of request {request_id} in {archive}: it was never accepted, or is not archived yet "
            "(that takes a second or two), or lies in another archive (--archive)"
        )
    console.show(story_tree(story))
    console.emit(story_data(story))
    return NOT_SO if gaps(story) else OK


def books(archive: Path) -> Reconciliation:
    """The books of an archive.

    Raises:
        ConfigurationError: There is no archive.
    """
    reader = ArchiveReader(archive)
    without = reader.query("SELECT * FROM events WHERE request_id = ''")
    return reconcile(reader.stories(), without)


def tell_books(console: Console, archive: Path) -> int:
    """Show whether the books balance.

    Returns:
        0 when they do.

    Raises:
        ConfigurationError: There is no archive.
    """
    found = books(archive)
    console.show(books_table(found))
    for request_id, wrong in list(found.offending.items())[:_NAMED]:
        console.show(plain(f"{request_id}: {'; '.join(wrong)}", "red"))
    if len(found.offending) > _NAMED:
        console.show(plain(f"and {len(found.offending) - _NAMED} more (--json lists all)", "red"))
    console.show(
        plain("the books balance", "green") if found.balanced else plain("THE BOOKS DO NOT BALANCE", "bold red")
    )
    console.emit(
        {
            "balanced": found.balanced,
            "accepted": found.accepted,
            "ended": {status.value: count for status, count in sorted(found.ended.items())},
            "duplicates_dropped": found.duplicates_dropped,
            "dead_letters": found.dead_letters,
            "repeats": found.repeats,
            "offending": found.offending,
            "archive": str(archive),
        }
    )
    return OK if found.balanced else NOT_SO


def books_table(found: Reconciliation) -> Table:
    """The books for people."""
    table = Table("", "requests", title="reconciliation")
    table.add_row("accepted", str(found.accepted))
    for status, count in sorted(found.ended.items()):
        table.add_row(f"  {status.value}", str(count))
    in_flight = found.accepted - sum(found.ended.values())
    if in_flight:
        table.add_row("  not ended", str(in_flight), style="red")
    table.add_section()
    table.add_row("duplicates dropped", str(found.duplicates_dropped))
    for code, count in sorted(found.dead_letters.items()):
        table.add_row(plain(f"dead letters: {code}"), str(count))
    if found.repeats:
        table.add_row("events that came twice", str(found.repeats))
    return table
