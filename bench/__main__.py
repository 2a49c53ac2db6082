"""Runs benchmarks: ``python -m bench [names]``; without names all that measure the flow."""

import argparse
import importlib
from typing import Final

from bench._options import add_arguments, run

NAMES: Final = {
    "latency": "the whole path at 60/s, beside as many bare hops",
    "hop": "the classifier's hop alone, beside a bare copy loop",
    "pipeline": "CPU per 1,000 requests of each agent, with a model that answers at once",
    "inflight": "1,000 calls of a second in flight in one worker",
    "idle": "what agents use when nothing is to be done",
    "memory": "memory with 10,000 requests queued, beside 100",
    "modes": "a hop in exactly-once beside at-least-once and bare copy loops",
    "fencing": "what two remedies against zombies cost",
    "fencing_faults": "the same two under aimed faults",
    "hotspots": "where the CPU time goes in each agent",
}


def main() -> None:
    """Command line."""
    listed = "\n".join(f"  {name:14} {what}" for name, what in NAMES.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=f"{(__doc__ or '').strip()}\n\n{listed}",
        epilog="Others, with options of their own: python -m bench.codec, bench.copyloop, bench.http_clients, "
        "bench.effort, bench.learning, bench.surface_classes",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="name", choices=[*NAMES, []], help="which; all if none is given")
    add_arguments(parser)
    given = parser.parse_args()
    run([importlib.import_module(f"bench.{name}").main for name in given.names or NAMES], given)


if __name__ == "__main__":
    main()
