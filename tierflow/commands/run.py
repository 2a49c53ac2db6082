"""``tierflow run``: one agent in the foreground."""
# ruff: noqa: PLC0415 - what a command needs is imported when it runs: --help must not wait for Kafka

from typing import Annotated

import typer

from tierflow.choices import AgentKind
from tierflow.options import front_of


def run(
    ctx: typer.Context,
    agent: Annotated[AgentKind, typer.Argument(help="Which agent.")],
    tier: Annotated[str | None, typer.Option(help="Tier that a worker works for.")] = None,
    instance: Annotated[
        str | None,
        typer.Option(
            help="Name among its kind; the same after a restart, another in each process.", show_default=False
        ),
    ] = None,
) -> None:
    """Run one agent until SIGTERM or Ctrl-C, then drain it.

    Start as many as there is work for: those of a kind share it. A second signal ends the agent at once, which loses
    nothing.
    """
    from tierflow.actions.run import run as act
    from tierflow.event_loop import new_event_loop

    front = front_of(ctx, log_level="info")
    work = act(front.settings, agent, tier=tier, instance=instance)
    front.run(work, new_event_loop)
