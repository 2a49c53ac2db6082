"""Which agent processes an installation has, and how each is started."""

import hashlib
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import tierflow
from schemas.catalogue import Catalogue
from schemas.errors import ConfigurationError
from schemas.settings import LoopSettings
from streams.topics import worker_name
from tierflow.choices import AgentKind
from tierflow.processes import Program

_ROOT: Final = Path(tierflow.__file__).resolve().parent.parent


def team(catalogue: Catalogue, workers: Mapping[str, int]) -> list[tuple[AgentKind, str, int]]:
    """Kind, tier (of workers) and number of each agent, in the order of their start.

    Args:
        catalogue: Says which tiers there are.
        workers: Worker processes by tier; one where it says nothing.

    Raises:
        ConfigurationError: A tier that the catalogue does not have.
    """
    tiers = [tier.id for tier in sorted(catalogue.tiers, key=lambda tier: tier.rank)]
    unknown = sorted(workers.keys() - set(tiers))
    if unknown:
        raise ConfigurationError(
            f"no tier {', '.join(unknown)} in catalogue {catalogue.name}; it has {', '.join(tiers)}"
        )
    # Readers first: who starts last is what lets requests in.
    readers = (AgentKind.ARCHIVE, AgentKind.LEARNER, AgentKind.AUDIT, AgentKind.GUARDRAIL)
    first = [(kind, "", 1) for kind in readers]
    return [*first, *((AgentKind.WORKER, tier, workers.get(tier, 1)) for tier in tiers), (AgentKind.CLASSIFIER, "", 1)]


def group_of(kind: AgentKind, tier: str) -> str:
    """Name of the group of processes that an agent belongs to."""
    return worker_name(tier) if kind is AgentKind.WORKER else kind.value


def member_name(group: str, number: int) -> str:
    """Name of one process of a group."""
    return f"{group}-{number}"


def worker_names(catalogue: Catalogue, workers: Mapping[str, int]) -> list[tuple[str, str]]:
    """Name and tier of each worker process, cheapest tier first."""
    return [
        (member_name(group_of(kind, tier), number), tier)
        for kind, tier, count in team(catalogue, workers)
        if kind is AgentKind.WORKER
        for number in range(1, count + 1)
    ]


def drain_order(catalogue: Catalogue) -> list[str]:
    """Groups in the order in which they are stopped: what feeds others first."""
    tiers = [group_of(AgentKind.WORKER, tier.id) for tier in sorted(catalogue.tiers, key=lambda tier: tier.rank)]
    return ["classifier", *tiers, "guardrail", "audit", "archive", "learner"]


def programs(
    agents: Sequence[tuple[AgentKind, str, int]],
    *,
    environment: Callable[[AgentKind, str], Mapping[str, str]],
    logs: Path,
    identity: str,
    log_level: str,
    loop: LoopSettings,
) -> list[Program]:
    """What to run for each agent of a team.

    Args:
        agents: Kind, tier and number of each.
        environment: Makes the environment of an agent, from its kind and name, at each start.
        logs: Folder of the logs.
        identity: Tells this installation's processes from those of others at the same broker.
        log_level: Of the agents.
        loop: How long a drain may take.
    """
    made = []
    for kind, tier, count in agents:
        for number in range(1, count + 1):
            group = group_of(kind, tier)
            name = member_name(group, number)
            argv = [sys.executable, "-P", "-m", "tierflow", "--log-level", log_level, "run", kind.value]
            argv += ["--tier", tier] if tier else []
            argv += ["--instance", f"{identity}-{number}"]
            made.append(
                Program(
                    name=name,
                    group=group,
                    argv=argv,
                    log=logs / f"{name}.log",
                    env=_findable(kind, name, environment),
                    cwd=Path.cwd(),  # relative paths in settings mean the same there
                    grace=loop.drain_grace + loop.commit_timeout + loop.revoke_budget,
                )
            )
    return made


def identity_of(folder: Path) -> str:
    """A name for this installation's processes: the same at each start, another in each folder and on each machine."""
    host = socket.gethostname()
    return f"{host}-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:6]}"


def _findable(
    kind: AgentKind, name: str, environment: Callable[[AgentKind, str], Mapping[str, str]]
) -> Callable[[], Mapping[str, str]]:
    """The environment with our packages findable, also when they lie in a checkout that was never installed.

    The child does not look into its working folder (``-P``): what lies there could be named like one of ours.
    """

    def made() -> Mapping[str, str]:
        found = dict(environment(kind, name))
        if _ROOT.name not in {"site-packages", "dist-packages"}:
            found["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_ROOT), found.get("PYTHONPATH", ""))))
        return found

    return made
