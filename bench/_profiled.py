"""Runs a Tierflow command with a sampling profiler in it.

    python -m bench._profiled OUT.json run worker --tier fast

A timer of the CPU time that the process uses interrupts it some hundred times a second; each time the running function
and its callers are noted. What compiled code takes is counted for the Python function that called it.
"""

import json
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Final

INTERVAL_S: Final = 0.002
"""Of CPU time; the kernel rounds it up to its tick."""

Place = tuple[str, str, int]


class Sampler:
    """Counts where the main thread is."""

    def __init__(self) -> None:
        self.samples = 0
        self.own: Counter[Place] = Counter()
        self.within: Counter[Place] = Counter()

    def start(self) -> None:
        """Sample from now on."""
        signal.signal(signal.SIGPROF, self._note)
        signal.siginterrupt(signal.SIGPROF, False)  # noqa: FBT003 - no system call fails because of it
        signal.setitimer(signal.ITIMER_PROF, INTERVAL_S, INTERVAL_S)

    def stop(self) -> None:
        """Sample no more."""
        signal.setitimer(signal.ITIMER_PROF, 0)

    def clear(self, number: int, frame: FrameType | None) -> None:
        """Forget what was seen, for example the start: a signal handler."""
        del number, frame
        self.samples = 0
        self.own.clear()
        self.within.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        del number
        self.samples += 1
        seen: set[Place] = set()
        leaf = True
        while frame is not None:
            code = frame.f_code
            place = (code.co_filename, code.co_qualname, code.co_firstlineno)
            if leaf:
                self.own[place] += 1
                leaf = False
            if place not in seen:
                seen.add(place)
                self.within[place] += 1
            frame = frame.f_back

    def save(self, path: Path) -> None:
        """Write what was seen as JSON."""
        rows = [[*place, self.own[place], count] for place, count in self.within.most_common()]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"samples": self.samples, "rows": rows}), encoding="utf-8")


def main() -> None:
    """Run the command that follows the first argument."""
    out, arguments = Path(sys.argv[1]), sys.argv[2:]
    from tierflow.cli import main as tierflow  # noqa: PLC0415 - the path of the profile is no argument of its

    sampler = Sampler()
    signal.signal(signal.SIGUSR1, sampler.clear)
    sampler.start()
    sys.argv = ["tierflow", *arguments]
    try:
        tierflow()
    finally:
        sampler.stop()
        sampler.save(out)


if __name__ == "__main__":
    main()
