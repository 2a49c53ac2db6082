"""``tierflow feedback``: say how good an answer was."""
# ruff: noqa: PLC0415 - what a command needs is imported when it runs: --help must not wait for Kafka

from typing import Annotated

import typer

from tierflow.choices import Rater
from tierflow.options import front_of


def feedback(
    ctx: typer.Context,
    request_id: Annotated[str, typer.Argument(metavar="REQUEST_ID", help="Whose answer.")],
    score: Annotated[float | None, typer.Option(min=0, max=1, help="0 is bad, 1 is good.")] = None,
    by: Annotated[Rater, typer.Option(help="Who says so: of several the surest counts, a program's word most.")] = (
        Rater.HUMAN
    ),
    comment: Annotated[str, typer.Option(help="Why; kept with the request's story, not learnt from.")] = "",
    task_class: Annotated[
        str, typer.Option("--class", metavar="CLASS", help="What the request really was, such as math or code.")
    ] = "",
    author: Annotated[str, typer.Option(help="Pseudonym of who says it.")] = "",
    tenant: Annotated[str, typer.Option(help="Whose request it is; counts only for that tenant's if given.")] = "",
) -> None:
    """Say how good an answer was, so that routing can learn from it.

    The word goes to the 'feedback' topic. The learner joins it to the decision by the request id; the first word of the
    surest kind counts.
    """
    from schemas.enums import TaskClass
    from tierflow.actions.feedback import feedback as act

    if score is None and not task_class:
        raise typer.BadParameter("give --score, --class or both")
    if task_class and task_class not in {each.value for each in TaskClass}:
        raise typer.BadParameter(f"--class must be one of {', '.join(TaskClass)}")
    front = front_of(ctx)
    front.run(
        act(
            front,
            request_id,
            score=score,
            by=by.value,
            comment=comment,
            task_class=task_class,
            author=author,
            tenant=tenant,
        )
    )
