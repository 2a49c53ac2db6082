"""``tierflow dlq``: dead letters."""
# ruff: noqa: PLC0415 - what a command needs is imported when it runs: --help must not wait for Kafka

from typing import Annotated

import typer

from tierflow.choices import StageChoice
from tierflow.options import front_of

app = typer.Typer(no_args_is_help=True, help="Dead letters: list them, look at one, send one again.")

Place = Annotated[str, typer.Argument(metavar="STAGE/PARTITION/OFFSET", help="As 'dlq list' prints it.")]


@app.command(name="list")
def list_(
    ctx: typer.Context,
    stage: Annotated[list[StageChoice] | None, typer.Argument(help="Only of these stages.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Newest of each stage.")] = 50,
) -> None:
    """List the newest dead letters with their reasons."""
    from tierflow.actions import dlq

    front = front_of(ctx)
    front.run(dlq.list_(front, [each.value for each in stage or ()], limit))


@app.command()
def show(ctx: typer.Context, place: Place) -> None:
    """Show one dead letter: why, its original headers, and the beginning of its value."""
    from tierflow.actions import dlq

    front = front_of(ctx)
    front.run(dlq.show(front, place))


@app.command()
def replay(
    ctx: typer.Context,
    place: Place,
    topic: Annotated[str | None, typer.Option(help="Intake topic, without the prefix; where it came from.")] = None,
    again: Annotated[
        str | None,
        typer.Option(metavar="ID", help="New request id. Without it a second replay is dropped as a duplicate."),
    ] = None,
) -> None:
    """Send a dead letter again, as a request of its own that says which one it repeats."""
    from tierflow.actions import dlq

    front = front_of(ctx)
    front.run(dlq.replay(front, place, topic=topic, again=again))
