"""The child process of isolated executors: a question a line in, an answer a line out, both JSON.

``python -m agents.worker.executors.child NAME``. Its first line says that it is ready. It ends with its standard input,
so it does not outlive its parent; while it computes, an alarm does the same.
"""

import json
import math
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from importlib import import_module

from agents.worker.executors import DeclinedError, Question, load

MEMORY = 1 << 30
"""Bytes of address space: an expression that explodes ends this process, not the machine."""


def reply(run: Callable[[Question], str], line: str) -> dict[str, object]:
    """Answer one question.

    Keys of the reply: ``text``, or ``declined`` (why), or ``failed`` (type of the exception); and ``cpu_us``.
    """
    asked = json.loads(line)
    started = time.process_time_ns()
    made: dict[str, object]
    try:
        made = {"text": run(Question(asked["text"], asked["options"]))}
    except DeclinedError as error:
        made = {"declined": str(error)}
    except Exception as error:  # noqa: BLE001 - whatever it raises is the executor's failure, and this process goes on
        made = {"failed": type(error).__name__}
    return {**made, "cpu_us": (time.process_time_ns() - started) // 1000}


def main() -> None:
    """Answer until standard input ends."""
    executor = load(sys.argv[1])
    if executor.needs is not None:
        import_module(executor.needs[0])  # now, not in the time of the first question
    # What an executor prints must not garble the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    answers.write("{}\n")
    for line in sys.stdin:
        signal.alarm(math.ceil(executor.limit.total_seconds()) + 1)
        answers.write(json.dumps(reply(executor.run, line)) + "\n")
        signal.alarm(0)


if __name__ == "__main__":
    main()
