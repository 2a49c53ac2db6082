"""What all benchmarks take, how they print, and how one is run by itself."""

import argparse
import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from tierflow.choices import BrokerChoice

BROKERS: Final = (BrokerChoice.EMBEDDED, BrokerChoice.KAFKA)

COMMIT: Final = {
    BrokerChoice.EMBEDDED: "embedded broker, at least once",
    BrokerChoice.KAFKA: "Apache Kafka, exactly once",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How long and on what.

    Attributes:
        folder: Logs of everything that is started; gone after the run unless it was named.
        brokers: Brokers to measure on.
        seconds: Length of one measurement.
        warm_s: Load before the first one: a cold JVM takes some 20 s until its numbers stand.
        scale: Share of the records of benchmarks that count records instead of seconds.
        nodes: Nodes of Apache Kafka, 1 or 3; with three, everything is on three of them and acknowledged by two.
    """

    folder: Path
    brokers: Sequence[BrokerChoice] = BROKERS
    seconds: float = 20.0
    warm_s: float = 20.0
    scale: float = 1.0
    nodes: int = 1

    def records(self, count: int) -> int:
        """How many records to use where ``count`` are the full measure."""
        return max(20, int(count * self.scale))

    @property
    def cluster(self) -> str:
        """The cluster in words, for titles."""
        return "one node" if self.nodes == 1 else "three nodes, acknowledged by two at least"


Bench = Callable[[Options], Awaitable[None]]


def quick(options: Options) -> Options:
    """Long enough to see that everything works; the numbers say nothing."""
    return Options(
        folder=options.folder, brokers=options.brokers, seconds=2.0, warm_s=1.0, scale=0.02, nodes=options.nodes
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that every benchmark understands."""
    parser.add_argument("--broker", nargs="+", choices=[each.value for each in BROKERS], help="only on these brokers")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of one measurement (default 20)")
    parser.add_argument("--warm", type=float, default=20.0, help="seconds of load before the first one (default 20)")
    parser.add_argument("--nodes", type=int, choices=(1, 3), default=1, help="nodes of Apache Kafka (default 1)")
    parser.add_argument("--quick", action="store_true", help="a look at whether it works; the numbers say nothing")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the logs of what is started there")


def options_of(given: argparse.Namespace, folder: Path) -> Options:
    """Options from parsed arguments."""
    brokers = tuple(BrokerChoice(name) for name in given.broker) if given.broker else BROKERS
    options = Options(folder=folder, brokers=brokers, seconds=given.seconds, warm_s=given.warm, nodes=given.nodes)
    return quick(options) if given.quick else options


def run(benches: Sequence[Bench], given: argparse.Namespace) -> None:
    """Run benchmarks one after the other."""
    with tempfile.TemporaryDirectory(prefix="tierflow-bench-") as scratch:
        folder = (given.keep or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)

        async def all_of_them() -> None:
            for bench in benches:
                await bench(options_of(given, folder))

        asyncio.run(all_of_them())


def alone(name: str, bench: Bench, doc: str | None) -> None:
    """Command line of one benchmark."""
    parser = argparse.ArgumentParser(prog=f"python -m bench.{name}", description=(doc or "").strip().splitlines()[0])
    add_arguments(parser)
    run([bench], parser.parse_args())


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], note: str = "") -> None:
    """Print a table; the first column is text, the others are numbers."""
    table = Table(title=title, title_justify="left", caption=note or None, caption_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, str) else _number(cell) for cell in row))
    # Wide enough for every column also where output goes to a file.
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    console.print(table)
    console.print()


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
