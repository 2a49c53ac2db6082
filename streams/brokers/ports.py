"""Loopback ports: picking free ones, and saying clearly when a wanted one is taken."""

import secrets
import socket
from collections.abc import Iterable
from pathlib import Path

from schemas.errors import ConfigurationError, ProcessError

LOOPBACK = "127.0.0.1"

# Ports are picked below the range from which the kernel gives ports to outgoing connections. From inside it, a client
# that reconnects to a dead broker can be given the broker's own port, connect to itself, and keep the broker from
# coming back; and any connection made between picking and listening can take the port.
_LOWEST = 20_000
_EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_EPHEMERAL_LOWEST = 32_768  # Linux's default, and below that of macOS (49152)
_TRIES = 200


def is_free(port: int) -> bool:
    """Whether nothing listens on the loopback port (a socket in TIME_WAIT does not count)."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def require_free(ports: Iterable[int]) -> None:
    """Check ports that somebody chose.

    Raises:
        ConfigurationError: One is no port number, or is in use.
    """
    for port in ports:
        if not 1 <= port <= 65_535:
            raise ConfigurationError(f"{port} is no port number: choose one from 1 to 65535")
        if not is_free(port):
            raise ConfigurationError(
                f"port {port} on {LOOPBACK} is in use: choose another one, or stop what listens there"
            )


def pick_free(count: int) -> tuple[int, ...]:
    """Pick distinct free loopback ports.

    Raises:
        ProcessError: Too few are free.
    """
    lowest, beyond = _LOWEST, _ephemeral_start()
    if beyond - lowest < 1_000:  # a machine with a range of its own making: then anywhere
        lowest, beyond = 1_024, 65_536
    picked: list[int] = []
    for _ in range(_TRIES * count):
        # Not `random`: test runners seed it alike in every worker, and all would pick the same ports.
        port = lowest + secrets.randbelow(beyond - lowest)
        if port not in picked and is_free(port):
            picked.append(port)
            if len(picked) == count:
                return tuple(picked)
    raise ProcessError(f"found no {count} free ports on {LOOPBACK} between {lowest} and {beyond - 1}")


def _ephemeral_start() -> int:
    try:
        return int(_EPHEMERAL_RANGE.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return _EPHEMERAL_LOWEST
