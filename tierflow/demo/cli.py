"""``tierflow demo``: the main job."""
# ruff: noqa: PLC0415 - what a command needs is imported when it runs: --help must not wait for Kafka

from pathlib import Path
from typing import Annotated

import typer

from tierflow.choices import BrokerChoice
from tierflow.options import front_of


def demo(
    ctx: typer.Context,
    requests: Annotated[Path, typer.Option(metavar="JSONL", help="What to send.")] = Path("examples/requests.jsonl"),
    catalogue: Annotated[str, typer.Option(help="Name (local, small, cloud), file or folder.")] = "local",
    model: Annotated[
        list[str] | None, typer.Option(metavar="ID=NAME", help="Another model behind a model id of the catalogue.")
    ] = None,
    broker: Annotated[BrokerChoice, typer.Option(help="Which broker to start or use.")] = BrokerChoice.EMBEDDED,
    sample: Annotated[int | None, typer.Option(min=1, help="Send so many of the ordinary requests.")] = None,
    seed: Annotated[int, typer.Option(help="Of the draw of a sample.")] = 0,
    timeout: Annotated[str, typer.Option(metavar="DURATION", help="Longest time for all requests.")] = "15m",
    everything_to: Annotated[
        str, typer.Option(metavar="TIER", help="Don't route: send everything to one tier, for comparison.")
    ] = "",
    record: Annotated[
        Path | None, typer.Option(metavar="JSONL", help="Record the answers in this file, for later comparisons.")
    ] = None,
) -> int:
    """Start everything on this machine, send real requests through it, and give an account of what came out.

    Exits with 1 if a request was lost, ended twice, or has an incomplete story.
    """
    from tierflow.demo.main import DemoOptions, demonstrate
    from tierflow.durations import duration
    from tierflow.up_options import parse_models

    front = front_of(ctx)
    options = DemoOptions(
        requests=requests,
        catalogue=catalogue,
        models=parse_models(model or ()),
        broker=broker,
        sample=sample,
        seed=seed,
        within=duration(timeout, "--timeout"),
        everything_to=everything_to,
        record=record,
    )
    return front.run(demonstrate(front, options))
