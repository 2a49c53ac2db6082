"""``tierflow models``: weights of local models."""
# ruff: noqa: PLC0415 - what a command needs is imported when it runs: --help must not wait for pydantic

from typing import Annotated

import typer

from tierflow.choices import SourceChoice
from tierflow.options import front_of

app = typer.Typer(no_args_is_help=True, help="Weights of local models: list, fetch, verify.")

Names = Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="As 'models list' prints it; all if none.")]
Catalogue = Annotated[str | None, typer.Option(metavar="NAME|PATH", help="Those that this catalogue needs.")]


@app.command(name="list")
def list_(ctx: typer.Context) -> None:
    """Show the weights that can be fetched, and which lie here."""
    from tierflow.actions import models

    models.list_models(front_of(ctx).console)


@app.command()
def fetch(
    ctx: typer.Context,
    names: Names = None,
    catalogue: Catalogue = None,
    source: Annotated[SourceChoice, typer.Option(help="Where from.")] = SourceChoice.AUTO,
    recheck: Annotated[bool, typer.Option("--recheck", help="Hash what is there, and mend it.")] = False,
) -> int:
    """Fetch weights: resumable, checked by hash, kept in a cache that all installations of this user share."""
    from tierflow.actions import models

    console = front_of(ctx).console
    wanted = models.names_of(names or (), catalogue)
    return models.fetch_models(console, wanted, source=source.value, recheck=recheck)


@app.command()
def verify(ctx: typer.Context, names: Names = None, catalogue: Catalogue = None) -> int:
    """Hash the weights that lie here: about a second per gigabyte."""
    from tierflow.actions import models

    return models.verify_models(front_of(ctx).console, models.names_of(names or (), catalogue))
