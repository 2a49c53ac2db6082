"""``tierflow classifier``: train it, score it on folds, read its card."""
# ruff: noqa: PLC0415 - what a command needs is imported when it runs: --help must not wait for numpy

from pathlib import Path
from typing import Annotated

import typer

from tierflow.options import front_of

app = typer.Typer(no_args_is_help=True, help="The classifier: train, evaluate, card, what it learned in the flow.")

Data = Annotated[Path, typer.Option("--data", metavar="FOLDER", help="Labelled data, laid out as the project's.")]
Seed = Annotated[int, typer.Option(help="The same seed and data give the same weights.")]
Weights = Annotated[
    Path | None, typer.Option("--weights", metavar="FILE", help="Weights file.", show_default="the shipped one")
]


@app.command()
def train(
    ctx: typer.Context,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Weights file to write; its card lies beside it.")],
    data: Data = Path("data"),
    seed: Seed = 7,
    outcomes: Annotated[
        Path | None,
        typer.Option("--outcomes", metavar="FILE", help="Checked answers of one's own models, as 'eval tiers' writes."),
    ] = None,
    questions: Annotated[
        Path | None, typer.Option("--questions", metavar="FILE", help="Their questions, if outcomes hold no prompts.")
    ] = None,
    leave_out: Annotated[
        Path | None,
        typer.Option("--leave-out", metavar="FILE", help="Questions that outcomes are not to be learnt from, by id."),
    ] = None,
    labels: Annotated[
        list[Path] | None,
        typer.Option(
            "--labels", metavar="FILE", help="Labelled prompts of one's own traffic: prompt and label a line."
        ),
    ] = None,
    folds: Annotated[bool, typer.Option("--folds", help="Score routing on folds, too; takes as long again.")] = False,
) -> None:
    """Train from the labelled data; under two minutes on two cores. Needs the extra 'train'."""
    from tierflow.actions import classifier

    classifier.train(
        front_of(ctx).console,
        data,
        out,
        seed=seed,
        folds=folds,
        outcomes=outcomes,
        questions=questions,
        labels=labels or (),
        leave_out=leave_out,
    )


@app.command()
def evaluate(
    ctx: typer.Context,
    data: Data = Path("data"),
    seed: Seed = 7,
    report: Annotated[Path | None, typer.Option("--report", metavar="FILE", help="Write the scores as JSON.")] = None,
) -> None:
    """Score the training on folds and left-out sources, never on prompts that a fit has seen."""
    from tierflow.actions import classifier

    classifier.evaluate(front_of(ctx).console, data, report, seed=seed)


@app.command()
def card(ctx: typer.Context, weights: Weights = None) -> None:
    """Show the model card: version, checksum, lineage, held-out scores."""
    from tierflow.actions import classifier

    classifier.card(front_of(ctx).console, weights)


@app.command()
def learned(ctx: typer.Context) -> int:
    """Show what was learnt from outcomes in the flow: counters, corrections, heads and whether they were promoted."""
    from tierflow.actions.learned import learned as act

    front = front_of(ctx)
    return front.run(act(front))
