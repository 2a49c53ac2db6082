"""``tierflow config``: the settings in force."""
# ruff: noqa: PLC0415 - what a command needs is imported when it runs: --help must not wait for pydantic

import typer

from tierflow.options import front_of

app = typer.Typer(no_args_is_help=True, help="The settings: what is in force, and where it can be changed.")


@app.callback()
def _group() -> None:
    """Keeps 'show' a command of its own: with a single one typer would leave its name out."""


@app.command()
def show(ctx: typer.Context) -> None:
    """Show every setting as options, environment and file make it; secrets are masked."""
    from tierflow.actions import config

    config.show(front_of(ctx))
