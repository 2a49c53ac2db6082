"""CPU time and memory of other processes, as the operating system counts them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

MIB = 1024 * 1024


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used, user and system, all threads; without its children's."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def peak_mib(pid: int) -> float:
    """Most memory that a process ever had resident; what it has now where the system does not remember the most."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return resident_mib(pid)


def resident_mib(pid: int) -> float:
    """Memory of a process now."""
    return float(psutil.Process(pid).memory_info().rss / MIB)


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds of named processes over a span."""

    seconds: Mapping[str, float]

    def of(self, *starts: str) -> float:
        """CPU seconds of all processes whose name begins with one of these words."""
        return sum(used for name, used in self.seconds.items() if name.startswith(starts))


class CpuMeter:
    """CPU seconds of processes from now on.

    Args:
        pids: By name.
    """

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = dict(pids)
        self._before = {name: cpu_seconds(pid) for name, pid in self._pids.items()}

    def read(self) -> Usage:
        """What each has used since."""
        return Usage({name: cpu_seconds(pid) - self._before[name] for name, pid in self._pids.items()})
