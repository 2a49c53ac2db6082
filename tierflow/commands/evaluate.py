"""``tierflow eval``: how good the routing is, on labelled data of one's own."""
# ruff: noqa: PLC0415 - what a command needs is imported when it runs: --help must not wait for numpy

from pathlib import Path
from typing import Annotated

import typer

from tierflow.options import front_of

app = typer.Typer(no_args_is_help=True, help="Score the routing on labelled data.")


@app.command()
def router(
    ctx: typer.Context,
    data: Annotated[
        list[Path],
        typer.Option("--data", metavar="FILE", help="Labelled JSON lines (.gz too), see docs/classifier.md."),
    ],
    report: Annotated[Path | None, typer.Option("--report", metavar="FILE", help="Write all scores as JSON.")] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw quality against cost, as SVG.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="FILE", help="Weights file.", show_default="the shipped one")
    ] = None,
    prices: Annotated[
        Path | None, typer.Option("--prices", metavar="FILE", help="JSON: model -> input_usd_per_mtok.")
    ] = None,
) -> None:
    """Score the classifier as it is on labelled prompts: classes, routing, calibration, speed."""
    from tierflow.actions import evaluate

    evaluate.router(front_of(ctx).console, data, report=report, plot=plot, weights=weights, prices=prices)


@app.command()
def tiers(
    ctx: typer.Context,
    data: Annotated[
        Path, typer.Option("--data", metavar="FILE", help="Questions with a check, as data/live has them.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Outcomes; those that are there are kept.")],
    catalogue: Annotated[str, typer.Option(metavar="NAME|PATH", help="Whose models are asked.")] = "local",
    model: Annotated[list[str] | None, typer.Option(metavar="ID", help="Only these.", show_default="all")] = None,
    checker: Annotated[Path, typer.Option("--check", metavar="FILE", help="Program with score(row, answer).")] = Path(
        "examples/check.py"
    ),
    limit: Annotated[int | None, typer.Option(help="Only the first so many questions.", show_default="all")] = None,
) -> None:
    """Ask every model of a catalogue, check the answers, keep the outcomes; a second run goes on where it stopped."""
    from tierflow.actions import tiers as action

    front = front_of(ctx)
    front.run(
        action.tiers(front, data=data, out=out, catalogue=catalogue, models=model or (), checker=checker, limit=limit)
    )
