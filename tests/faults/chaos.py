"""Seeded random faults on top of the aimed ones: ``make chaos MINUTES=30 SEED=7``.

Rounds of a minute: requests flow, agents are killed, frozen, stopped and joined, brokers and the state store are killed
or paused; then everything runs again, settles, and the oracle judges the round. What happens in a round follows from
the seed and the round's number; a failing seed is printed, with the folder that holds all logs, and plays the same
faults again.

    python -m tests.faults.chaos --minutes 30 --seed 7 --nodes 3
"""

import argparse
import asyncio
import contextlib
import logging
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from schemas.enums import Outcome
from streams.brokers import ChildState, EmbeddedState, KafkaCluster
from tests.faults.provider import Trick, open_provider
from tests.faults.world import FLOW, TRANSACTION, World, measure_at_rest, open_world

ROUND_S = 60.0
"""How long faults go on before everything has to settle."""
PACE_S = (0.5, 4.0)
"""Between two faults."""
SETTLED_WITHIN_S = 120.0
_USUAL = [Trick.NONE] * 12
_TRICKS = [*_USUAL, *(trick for trick in Trick if trick is not Trick.LATE)]


@dataclass
class Chaos:
    """One run.

    Attributes:
        world: What is hurt.
        cluster: Its broker.
        state: Its state store.
        dice: Seeded.
        nodes: How many brokers.
        done: How often each fault happened.
        rests_s: Seconds from the end of each round's faults until everything had ended.
        unknown: Calls whose end nobody knows, which were made again or given up.
    """

    world: World
    cluster: KafkaCluster
    state: EmbeddedState
    dice: random.Random
    nodes: int
    done: dict[str, int] = field(default_factory=dict)
    rests_s: list[float] = field(default_factory=list)
    unknown: int = 0

    def actions(self) -> Sequence[Callable[[], Awaitable[None]]]:
        """What can happen, the usual things more often."""
        usual = [self.kill, self.kill, self.kill, self.freeze, self.freeze, self.stop, self.join, self.disturb]
        return [*usual, self.pause_state, self.broker] if self.nodes > 1 else [*usual, self.pause_state]

    async def round(self, number: int, seconds: float) -> int:
        """Load and faults for a while, then peace; how many ids were judged.

        Raises:
            AssertionError: The oracle found something.
        """
        self.dice.seed(f"{self.dice.random()}-{number}")
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for _ in range(self.dice.randint(1, 3)):
                self.world.send(self.dice.randint(1, 6), trick=self.dice.choice(_TRICKS), keys=12)
            action = self.dice.choice(self.actions())
            self.done[action.__name__] = self.done.get(action.__name__, 0) + 1
            await action()
            await asyncio.sleep(self.dice.uniform(*PACE_S))
            self.world.look_at_offsets()
        began = time.monotonic()
        await self.peace()
        await self.world.settled(within_s=SETTLED_WITHIN_S)
        self.rests_s.append(time.monotonic() - began)
        found = await self.world.verdict(within_s=1)
        events = {event.event_id: event for _, event in found.sorted.events}
        self.unknown = sum(event.status == Outcome.UNKNOWN for event in events.values())
        return len(self.world.sent)

    async def peace(self) -> None:
        """Everybody runs again."""
        for node in range(1, self.nodes + 1):
            if self.cluster.state(node) is not ChildState.RUNNING:
                await self.cluster.restart(node)
        for label, child in list(self.world.agents.items()):
            if child.state is ChildState.PAUSED:
                child.resume()
            if child.state is ChildState.EXITED and label.endswith("-first"):
                await self._start(label)

    def _victim(self) -> str:
        return self.dice.choice(sorted(self.world.agents))

    async def _start(self, label: str) -> None:
        kind, _, name = label.rpartition("-")
        await self.world.start(kind.removesuffix("-fast"), name=name)

    async def kill(self) -> None:
        """SIGKILL, and a start a moment later."""
        label = self._victim()
        await self.world.agents[label].kill()
        self.world.crashes += "worker" in label
        await asyncio.sleep(self.dice.uniform(0, 1))
        await self._start(label)

    async def freeze(self) -> None:
        """SIGSTOP for less or more than the session."""
        label = self._victim()
        child = self.world.agents[label]
        if child.state is not ChildState.RUNNING:
            return
        child.pause()
        self.world.crashes += "worker" in label
        await asyncio.sleep(self.dice.uniform(0.2, 2.5 * TRANSACTION.total_seconds()))
        child.resume()

    async def stop(self) -> None:
        """SIGTERM, and a start."""
        label = self._victim()
        await self.world.agents[label].stop()
        self.world.crashes += "worker" in label
        await self._start(label)

    async def join(self) -> None:
        """One more of a kind, or one less."""
        kind = self.dice.choice(FLOW)
        label = f"{'worker-fast' if kind == 'worker' else kind}-more"
        child = self.world.agents.get(label)
        if child is not None and child.state is ChildState.RUNNING:
            await child.stop()
            self.world.crashes += kind == "worker"
        else:
            await self.world.start(kind, name="more")

    async def disturb(self) -> None:
        """Two rebalances of a group."""
        await self.world.disturb(self.dice.choice(("worker-fast", "classifier", "guardrail")), for_s=0.5)

    async def pause_state(self) -> None:
        """The state store answers nothing for a while."""
        self.state.pause()
        self.world.crashes += 1  # leases may die meanwhile
        await asyncio.sleep(self.dice.uniform(0.5, 5))
        self.state.resume()

    async def broker(self) -> None:
        """A node dies or stands still, and comes back."""
        node = self.dice.randint(1, self.nodes)
        if self.dice.random() < 0.5:
            await self.cluster.kill(node)
            await asyncio.sleep(self.dice.uniform(0, 5))
            await self.cluster.restart(node)
        else:
            self.cluster.pause(node)
            await asyncio.sleep(self.dice.uniform(0.5, 8))
            self.cluster.resume(node)
        self.world.crashes += 1  # members may lose their sessions


async def run(minutes: float, seed: int, nodes: int, folder: Path) -> int:
    """Rounds until the time is over; the exit status."""
    say = sys.stdout.write
    say(f"chaos: seed {seed}, {minutes:g} minutes, {nodes} nodes, logs in {folder}\n")
    topics = {"replication": nodes, "min_insync": max(1, nodes - 1)}
    settings = {"group.min.session.timeout.ms": "1000"}
    async with (
        KafkaCluster(nodes=nodes, work_dir=folder / "kafka", settings=settings) as cluster,
        EmbeddedState(work_dir=folder) as state,
        open_provider(folder) as provider,
        open_world(cluster.bootstrap, state.url, provider, folder, watched=nodes == 1, topics=topics) as world,
    ):
        world.at_rest = await measure_at_rest(world)
        await world.start("monitor")
        monitor = world.agents.pop("monitor-first")  # it watches, and is left alone
        chaos = Chaos(world, cluster, state, random.Random(seed), nodes)
        until, number = time.monotonic() + minutes * 60, 0
        try:
            while time.monotonic() < until:
                number += 1
                count = await chaos.round(number, min(ROUND_S, max(10.0, until - time.monotonic())))
                say(f"round {number}: {count} ids, every one ended once; faults so far {chaos.done}\n")
                sys.stdout.flush()
        except AssertionError as error:
            repeat = f"make chaos MINUTES={minutes:g} SEED={seed} NODES={nodes}"
            say(f"FAILED in round {number}: {error}\nrepeat with: {repeat}\n")
            return 1
        finally:
            with contextlib.suppress(Exception):
                await monitor.stop()
        alarms = [line for line in monitor.log.read_text().splitlines() if "ALARM" in line]
        calls = len(world.provider.calls(world.prefix))
        say(f"{len(world.sent)} ids, {sum(chaos.done.values())} faults {chaos.done}\n")
        say(f"0 lost, 0 twice, 0 incomplete stories; {calls} calls, {chaos.unknown} of unknown end\n")
        say(
            f"after a round's last fault everything had ended within {statistics.median(chaos.rests_s):.0f} s "
            f"(median; at most {max(chaos.rests_s):.0f} s), starts included\n"
        )
        say("the monitor raised no alarm\n" if not alarms else "alarms:\n" + "\n".join(alarms[:20]) + "\n")
    return 0


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="tests.faults.chaos", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--nodes", type=int, choices=(1, 3), default=1)
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    seed = random.SystemRandom().randrange(1_000_000) if given.seed is None else given.seed
    folder = Path(tempfile.mkdtemp(prefix="tierflow-chaos-"))
    return asyncio.run(run(given.minutes, seed, given.nodes, folder))


if __name__ == "__main__":
    sys.exit(main())
