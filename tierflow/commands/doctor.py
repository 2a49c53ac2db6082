"""``tierflow doctor``: what is missing for a start."""
# ruff: noqa: PLC0415 - what a command needs is imported when it runs: --help must not wait for Kafka

from typing import Annotated

import typer

from tierflow.options import CatalogueOption, front_of


def doctor(
    ctx: typer.Context,
    catalogue: CatalogueOption = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask neither broker nor state store.")] = False,
) -> int:
    """Look at everything that Tierflow needs, and say what to do where something is missing.

    Exits with 1 when something fails.
    """
    from tierflow.actions.doctor import doctor as act

    front = front_of(ctx)
    return front.run(act(front, catalogue=catalogue, offline=offline))
