"""What each process of an installation uses while nothing is to be done, as a share of one core.

    python -m bench.idle [--broker embedded kafka]

All agents have run some requests and then had some seconds to come to rest.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from bench._house import open_house, require_all
from bench._meters import CpuMeter
from bench._options import COMMIT, Options, alone, show
from tierflow.choices import BrokerChoice

GOAL: Final = 0.02
REST_S: Final = 5.0


async def measure(broker: BrokerChoice, options: Options) -> Mapping[str, float]:
    """Share of a core that each process used, by name."""
    async with open_house(broker, options.folder) as house:
        await house.start_all()
        async with house.load() as load:
            await require_all(load, 60, 60.0)
        await asyncio.sleep(REST_S)
        meter = CpuMeter(house.pids())
        await asyncio.sleep(options.seconds)
        return {name: used / options.seconds for name, used in meter.read().seconds.items()}


async def main(options: Options) -> None:
    """Measure and print."""
    shares = {broker: await measure(broker, options) for broker in options.brokers}
    show(
        f"Idle over {options.seconds:g} s: share of a core in percent; goal: agents < {100 * GOAL:g}",
        ["process", *(COMMIT[broker] for broker in shares)],
        [[name, *(f"{100 * share[name]:.1f}" for share in shares.values())] for name in next(iter(shares.values()))],
    )


if __name__ == "__main__":
    alone("idle", main, __doc__)
