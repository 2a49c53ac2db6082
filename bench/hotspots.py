"""Where the CPU time of each agent goes, at load: functions by the samples in which they ran themselves.

    python -m bench.hotspots [--broker embedded kafka]

A timer of the process's own CPU time samples each agent while requests run through all of them; the start is left out.
What compiled code takes (sockets, Avro, JSON, hashes) is counted for the Python function that called it. Microseconds
are a function's share of the samples times the agent's CPU time a request. The worker of the tier that the requests go
to is shown; the others idle.
"""

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench._house import ROOT, open_house, warm_up
from bench._meters import CpuMeter
from bench._options import COMMIT, Options, alone, show
from tierflow.choices import BrokerChoice

RATE: Final = 150.0
TOP: Final = 14
AGENTS: Final = ("classifier", "worker-fast", "guardrail", "audit", "archive")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """A function: microseconds a request in itself, and with all that it called."""

    place: str
    own_us: float
    within_us: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One agent's time, in microseconds a request."""

    agent: str
    us: float
    samples: int
    spots: Sequence[Spot]
    areas: Sequence[tuple[str, float]]


async def measure(broker: BrokerChoice, options: Options, rate: float = RATE) -> list[Profile]:
    """Profiles of all agents that the requests go through."""
    folder = options.folder / broker.value / "profiles"
    async with open_house(broker, options.folder) as house:
        await house.start_all(profiles=folder)
        async with house.load() as load:
            await warm_up(load, max(3.0, options.warm_s / 2), rate)
            for child in house.agents.values():
                os.kill(child.pid, signal.SIGUSR1)
            meter = CpuMeter(house.pids())
            count = int(rate * options.seconds)
            await load.run(count, rate)
            await asyncio.sleep(2.0)  # audit and archive read along, a little behind
            usage = meter.read()
        await house.stop()
    return [_profile(agent, folder / f"{agent}.json", usage.of(agent), count) for agent in AGENTS]


def _profile(agent: str, path: Path, cpu_s: float, requests: int) -> Profile:
    data = json.loads(path.read_text(encoding="utf-8"))
    us = 1e6 * cpu_s / requests
    share = us / max(1, data["samples"])
    areas: Counter[str] = Counter()
    spots = []
    for file, function, line, own, within in data["rows"]:
        areas[_area(file)] += own
        spots.append(Spot(place=f"{_short(file)}:{line} {function}", own_us=own * share, within_us=within * share))
    return Profile(
        agent=agent,
        us=us,
        samples=data["samples"],
        spots=sorted(spots, key=lambda spot: -spot.own_us),
        areas=[(area, count * share) for area, count in areas.most_common()],
    )


def _short(file: str) -> str:
    path = Path(file)
    if path.is_relative_to(ROOT) and ".venv" not in path.parts:
        return str(path.relative_to(ROOT))
    return str(Path(*path.parts[-2:]))


def _area(file: str) -> str:
    """Whose code it is: a room of ours, a library, or a module of Python's own."""
    path = Path(file)
    if "site-packages" in path.parts:
        return path.parts[path.parts.index("site-packages") + 1]
    if path.is_relative_to(ROOT):
        return "/".join(path.relative_to(ROOT).parts[:2])
    return f"python {path.parent.name if path.parent.name != 'python3.11' else path.stem}"


async def main(options: Options) -> None:
    """Measure and print."""
    for broker in options.brokers:
        for profile in await measure(broker, options):
            title = f"{profile.agent}: {profile.us:,.0f} us a request at {RATE:g}/s, {COMMIT[broker]}"
            rows = [[spot.place, spot.own_us, spot.within_us] for spot in profile.spots[:TOP]]
            areas = ", ".join(f"{area} {us:,.0f}" for area, us in profile.areas[:12])
            show(title, ["function", "own us", "with callees us"], rows, f"{profile.samples} samples. By code: {areas}")


if __name__ == "__main__":
    alone("hotspots", main, __doc__)
