"""``tierflow tail``: watch a topic."""
# ruff: noqa: PLC0415 - what a command needs is imported when it runs: --help must not wait for Kafka

from typing import Annotated

import typer

from tierflow.choices import Feed
from tierflow.options import front_of


def tail(
    ctx: typer.Context,
    feed: Annotated[Feed, typer.Argument(help="What to watch.")],
    from_beginning: Annotated[bool, typer.Option("--from-beginning", help="What is there already, too.")] = False,
    follow: Annotated[bool, typer.Option(help="Go on until Ctrl-C, or stop at the end.")] = True,
    request: Annotated[str | None, typer.Option(metavar="ID", help="Only what is about this request.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="Stop after so many.")] = None,
) -> None:
    """Watch results, provenance events, dead letters, requests or the monitor's alerts, one a line.

    Reads on its own: no offset is committed, and nobody who works for the flow is disturbed.
    """
    from tierflow.actions.tail import tail as act

    front = front_of(ctx)
    front.run(act(front, feed, from_beginning=from_beginning, follow=follow, request_id=request, limit=limit))
