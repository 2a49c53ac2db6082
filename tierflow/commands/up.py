"""``tierflow up``: everything on this machine."""
# ruff: noqa: PLC0415 - what a command needs is imported when it runs: --help must not wait for Kafka

from pathlib import Path
from typing import Annotated

import typer

from tierflow.choices import BrokerChoice, StateChoice
from tierflow.options import front_of


def up(
    ctx: typer.Context,
    broker: Annotated[
        BrokerChoice | None,
        typer.Option(
            help="embedded: in memory, at least once. kafka: Apache Kafka here, exactly once. external: the one "
            "that settings name; also where --bootstrap is given.",
            show_default="embedded",
        ),
    ] = None,
    state: Annotated[
        StateChoice | None,
        typer.Option(help="embedded, or external: the one that settings name.", show_default="embedded"),
    ] = None,
    catalogue: Annotated[
        str | None,
        typer.Option(metavar="NAME|PATH", help="local, small, cloud, a file or a folder.", show_default="local"),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(metavar="ID=NAME", help="Another model behind a model id of the catalogue.")
    ] = None,
    workers: Annotated[
        str, typer.Option(metavar="TIER=N,...", help="Worker processes of a tier, such as fast=2.")
    ] = "",
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads of each local model's server.", show_default="a fair share of the cores"),
    ] = None,
    folder: Annotated[Path | None, typer.Option("--dir", metavar="FOLDER", show_default=".tierflow")] = None,
) -> int:
    """Start broker, state store, local models and all agents, and keep them running until Ctrl-C.

    The other commands find what runs here when they are started in the same folder.
    """
    from tierflow.actions.up import chosen
    from tierflow.actions.up import up as act
    from tierflow.up import UpOptions
    from tierflow.up_options import parse_models, parse_workers

    front = front_of(ctx)
    brokers, states = chosen(front, broker, state)
    options = UpOptions(
        folder=folder or front.options.folder,
        broker=brokers,
        state=states,
        catalogue=catalogue,
        models=parse_models(model or ()),
        workers=parse_workers(workers),
        archive=front.settings_alone.archive.directory if front.explicit("archive", "directory") else None,
        threads=threads,
        log_level=front.options.log_level or "info",
    )
    return front.run(act(front.console, front.settings_alone, options))
