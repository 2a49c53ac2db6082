"""Becomes another program that dies with its parent: ``python -I -S _guard.py PARENT_PID PROGRAM [ARGUMENT ...]``.

A killed parent (SIGKILL, out of memory) can't stop its children, and a broker that is left behind keeps its port and
half a gigabyte. Linux can send a signal to a child when its parent dies (``prctl(2)``, PR_SET_PDEATHSIG); the setting
survives ``execve``, so it is made here, and then this process becomes the program, under the same process id.

A program of its own, and not ``preexec_fn``: that runs Python between fork and exec in a copy of a process that may
hold other threads' locks, and can deadlock. This costs about 30 ms once. Only the standard library is imported.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_CANNOT_RUN = 127  # what shells answer when a program can't be run


def main(arguments: list[str]) -> None:
    """Set the signal, make sure that the parent is still there, and become the program."""
    parent, program = int(arguments[0]), arguments[1:]
    # SIGKILL rather than SIGTERM: it reaches a stopped (SIGSTOP) child too, and nothing embedded loses by it more than
    # it would by any crash.
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        sys.exit(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
    # The parent may have died before prctl was called; then no signal would ever come.
    if os.getppid() != parent:
        sys.exit("the parent process is gone")
    try:
        os.execv(program[0], program)  # noqa: S606 - no shell is what is wanted; the caller passes a full path
    except OSError as error:
        print(f"cannot run {program[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201 - stderr is the child's log
        sys.exit(_CANNOT_RUN)


if __name__ == "__main__":
    main(sys.argv[1:])
