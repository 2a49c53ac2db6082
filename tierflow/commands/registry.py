"""``tierflow registry``: the rules, as files and as published."""
# ruff: noqa: PLC0415 - what a command needs is imported when it runs: --help must not wait for pydantic

from typing import Annotated

import typer

from tierflow.options import front_of

app = typer.Typer(no_args_is_help=True, help="The rules: check files, publish them, look at what rules, go back.")

Names = Annotated[list[str], typer.Argument(metavar="NAME|PATH...", help="Files, folders, or local, small, cloud.")]
Author = Annotated[str, typer.Option(help="Who does it.", show_default="this user")]
Approver = Annotated[str, typer.Option(help="Who approved it.")]


@app.command()
def check(ctx: typer.Context, names: Names) -> int:
    """Check catalogue files: every problem with file, line and field. Needs no broker."""
    from tierflow.actions import registry

    return registry.check(front_of(ctx), names)


@app.command()
def publish(
    ctx: typer.Context,
    names: Names,
    author: Author = "",
    approver: Approver = "",
    expected: Annotated[
        int | None, typer.Option(min=0, help="Number that rules now, as you know it; another is a conflict.")
    ] = None,
    if_empty: Annotated[bool, typer.Option("--if-empty", help="Only if nothing was published yet.")] = False,
    model: Annotated[
        list[str] | None, typer.Option(metavar="ID=NAME", help="Another model behind a model id of the catalogue.")
    ] = None,
) -> None:
    """Publish a catalogue as the next numbered snapshot; agents take it between two records."""
    from tierflow.actions import registry
    from tierflow.up_options import parse_models

    front = front_of(ctx)
    work = registry.publish_files(
        front,
        names,
        models=parse_models(model or ()),
        author=author,
        approver=approver,
        expected=expected,
        if_empty=if_empty,
    )
    front.run(work)


@app.command()
def show(
    ctx: typer.Context,
    number: Annotated[int | None, typer.Argument(min=1, help="Snapshot; the newest if none.")] = None,
) -> None:
    """Show what rules, and what was published before."""
    from tierflow.actions import registry

    front = front_of(ctx)
    front.run(registry.show(front, number))


@app.command()
def diff(
    ctx: typer.Context,
    before: Annotated[str, typer.Argument(metavar="NUMBER|NAME|PATH")],
    after: Annotated[str | None, typer.Argument(metavar="NUMBER|NAME|PATH", help="What rules now, if none.")] = None,
) -> int:
    """What differs between snapshots or catalogues; exits with 1 if something does."""
    from tierflow.actions import registry

    front = front_of(ctx)
    return front.run(registry.show_diff(front, before, after))


@app.command()
def rollback(
    ctx: typer.Context,
    number: Annotated[int, typer.Argument(min=1, help="Snapshot to go back to.")],
    author: Author = "",
    approver: Approver = "",
) -> None:
    """Let the content of an earlier snapshot rule again, under a new number."""
    from tierflow.actions import registry

    front = front_of(ctx)
    front.run(registry.roll_back(front, number, author=author, approver=approver))
