"""``tierflow topics``: the topic table, and the broker compared with it."""
# ruff: noqa: PLC0415 - what a command needs is imported when it runs: --help must not wait for Kafka

from typing import Annotated

import typer

from tierflow.options import CatalogueOption, front_of

app = typer.Typer(no_args_is_help=True, help="The topics: list, create, check, describe, and who may use them.")


@app.command(name="list")
def list_(ctx: typer.Context, catalogue: CatalogueOption = None) -> None:
    """Show the topics as they should be."""
    from tierflow.actions import topics

    front = front_of(ctx)
    front.run(topics.list_topics(front, catalogue))


@app.command()
def create(ctx: typer.Context, catalogue: CatalogueOption = None) -> None:
    """Make what is missing, with the first offsets of every group. A second call changes nothing."""
    from tierflow.actions import topics

    front = front_of(ctx)
    front.run(topics.create(front, catalogue))


@app.command()
def check(ctx: typer.Context, catalogue: CatalogueOption = None) -> int:
    """Compare the broker with the table; exits with 1 when something stands in the way of a start."""
    from tierflow.actions import topics

    front = front_of(ctx)
    return front.run(topics.check(front, catalogue))


@app.command()
def describe(ctx: typer.Context, catalogue: CatalogueOption = None) -> None:
    """How full the topics are, and how far each group has read."""
    from tierflow.actions import topics

    front = front_of(ctx)
    front.run(topics.describe(front, catalogue))


@app.command()
def acls(
    ctx: typer.Context,
    catalogue: CatalogueOption = None,
    role: Annotated[list[str] | None, typer.Option(help="Only this role; may be given several times.")] = None,
    principal: Annotated[str, typer.Option(help="Principal of a role.")] = "User:tierflow-{role}",
    apply: Annotated[bool, typer.Option("--apply", help="Make them, instead of showing the commands.")] = False,
) -> int:
    """The rights that each agent, producers and operators need, as kafka-acls.sh commands."""
    from tierflow.actions import topics

    front = front_of(ctx)
    return front.run(topics.acls(front, catalogue, roles=role or (), principal=principal, apply=apply))
