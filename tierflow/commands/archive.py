"""``tierflow explain`` and ``tierflow reconcile``: what the archive says."""
# ruff: noqa: PLC0415 - what a command needs is imported when it runs: --help must not wait for DuckDB

from typing import Annotated

import typer

from tierflow.options import ArchiveOption, front_of


def explain(
    ctx: typer.Context,
    request_id: Annotated[str, typer.Argument(help="Request id, as 'send' prints it.")],
    archive: ArchiveOption = None,
) -> int:
    """Tell how one request came to its result: decision, calls, checks, escalations, cost.

    Exits with 1 when the story is incomplete or the request unknown.
    """
    from tierflow.actions.archive import explain as act

    front = front_of(ctx)
    return act(front.console, front.archive(archive), request_id)


def reconcile(ctx: typer.Context, archive: ArchiveOption = None) -> int:
    """Balance the books: every accepted request ended once, with a complete story.

    Exits with 1 when they don't balance, and names the requests.
    """
    from tierflow.actions.archive import tell_books

    front = front_of(ctx)
    return tell_books(front.console, front.archive(archive))
