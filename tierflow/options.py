"""What command modules share: the way to the global options, and options that several commands have."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from tierflow.front import Front

CatalogueOption = Annotated[
    str | None,
    typer.Option("--catalogue", metavar="NAME|PATH", help="Catalogue that names tiers and intake topics."),
]
ArchiveOption = Annotated[
    Path | None, typer.Option("--archive", metavar="FOLDER", help="Folder of the archive.", show_default=False)
]


def front_of(ctx: typer.Context, *, log_level: str = "warning") -> "Front":
    """The surroundings of a command; logging is set up as options say.

    Args:
        ctx: The command's context.
        log_level: Where ``--log-level`` says nothing.
    """
    from tierflow.front import set_up_logging  # noqa: PLC0415 - heavy, and --help must not wait for it

    front = cast("Front", ctx.obj)
    set_up_logging(front.options.log_level or log_level)
    return front
