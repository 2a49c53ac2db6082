"""``tierflow kafka``: a real Apache Kafka on this machine."""
# ruff: noqa: PLC0415 - what a command needs is imported when it runs: --help must not wait for Kafka

from pathlib import Path
from typing import Annotated

import typer

from tierflow.options import front_of

app = typer.Typer(no_args_is_help=True, help="Apache Kafka on this machine, for trying out and for tests.")


@app.command()
def fetch(ctx: typer.Context) -> None:
    """Fetch Apache Kafka with Maven, if it does not lie here yet."""
    from tierflow.actions import kafka

    front = front_of(ctx)
    front.run(kafka.fetch(front.console))


@app.command()
def start(
    ctx: typer.Context,
    nodes: Annotated[int, typer.Option(help="1, or 3 (replicated).")] = 1,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="FOLDER", help="Keep records here.", show_default="thrown away")
    ] = None,
    port: Annotated[list[int] | None, typer.Option(help="Of each node; free ones if none.")] = None,
) -> None:
    """Run Apache Kafka in the foreground: fetched with Maven once, needs Java 17. Ctrl-C stops it."""
    from tierflow.actions import kafka

    front = front_of(ctx)
    front.run(kafka.start(front.console, nodes=nodes, folder=data, ports=port or []))
