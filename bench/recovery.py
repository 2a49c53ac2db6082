"""How long a request waits at most because an agent was killed: started again under its name, or taken over.

    python -m bench.recovery [--nodes 3]

An installation with the settings that users have, an instant model, requests at 30/s. An agent gets SIGKILL amid them.
``started again``: the same instance at once, as ``tierflow up`` and any supervisor do; nobody else of its kind runs.
``taken over``: nobody starts it again, and another of its kind, which shared the work, gets the rest when the session
has ended. The longest latency of a result is what the kill cost: until then its partitions stood still. All results are
then read anew by librdkafka, to see that none is missing and none is there twice.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench._house import House, open_house, warm_up
from bench._load import Load, Ran
from bench._options import Options, alone, show
from streams.records import TP
from tests.faults.reading import read_all
from tierflow.choices import BrokerChoice

RATE: Final = 30.0
BEFORE_S: Final = 2.0
"""Of load before the kill."""
AGAIN_S: Final = 8.0
"""Of load, where the agent is started again."""
OVER_S: Final = 22.0
"""Of load, where the session has to end first."""
OTHER: Final = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """What one kill did."""

    agent: str
    how: str
    ran: Ran
    twice: int


async def _killed(house: House, load: Load, kind: str, *, again: bool) -> Recovery:
    tier = house.catalogue.tiers[0].id if kind == "worker" else ""
    name = f"worker-{tier}" if tier else kind
    other = None if again else await house.start(kind, tier, identity=OTHER)
    if other is not None:
        await load.run(int(RATE * 6), RATE)  # both are at work
    before = await asyncio.to_thread(_results, house)
    running = asyncio.create_task(load.run(int(RATE * (AGAIN_S if again else OVER_S)), RATE))
    await asyncio.sleep(BEFORE_S)
    await house.agents[name].kill()
    if again:
        await house.start(kind, tier)
    ran = await running
    after = await asyncio.to_thread(_results, house)
    if other is not None:
        await house.start(kind, tier)
        await house.stop(f"{name} {OTHER}")
        await load.run(int(RATE * 2), RATE)
    new = after - before
    how = "started again" if again else "taken over"
    return Recovery(agent=kind, how=how, ran=ran, twice=sum(new.values()) - len(new))


def _results(house: House) -> "Counter[bytes | None]":
    topic = house.platform.names.topic("results")
    tps = [TP(topic, number) for number in range(house.settings.topics.partitions)]
    return Counter(record.key for record in read_all(house.bootstrap, tps))


async def measure(options: Options) -> Sequence[Recovery]:
    """Kill one agent after the other, both ways."""
    async with open_house(BrokerChoice.KAFKA, options.folder, nodes=options.nodes) as house:
        await house.start_all()
        async with house.load() as load:
            await warm_up(load, options.warm_s)
            return [
                await _killed(house, load, kind, again=again)
                for again in (True, False)
                for kind in ("classifier", "worker", "guardrail")
            ]


async def main(options: Options) -> None:
    """Measure and print."""
    show(
        f"An agent is killed, Apache Kafka, {options.cluster}, {RATE:g}/s",
        ["agent", "and then", "requests", "missing", "twice", "p50 ms", "longest s"],
        [
            [each.agent, each.how, each.ran.sent, each.ran.missing, each.twice, each.ran.p50_ms,
             each.ran.longest_ms / 1000]
            for each in await measure(options)
        ],
        "Session 15 s, transactions end after 10 s: the defaults.",
    )  # fmt: skip


if __name__ == "__main__":
    alone("recovery", main, __doc__)
