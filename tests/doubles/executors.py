"""Executors as a third party might write them."""

import os
import time
from datetime import timedelta

from agents.worker.executors import Executor, Question


def misbehave(question: Question) -> str:
    """What a third party's executor might do."""
    match question.text:
        case "hang":
            time.sleep(60)
        case "nap":
            time.sleep(0.6)
        case "die":
            os._exit(3)
        case "print":
            print("not an answer")  # noqa: T201 - which is the point
            return "printed"
        case "raise":
            raise RuntimeError("with private text")
        case "eat memory":
            return str(len(bytearray(4 << 30)))
        case "long":
            return "x" * (2 << 20)
    return str(question.options.get("tone", "?"))


MISBEHAVES = Executor(run=misbehave, limit=timedelta(seconds=20))
QUICK = Executor(run=misbehave, isolated=False, limit=timedelta(seconds=0.2))
NO_EXECUTOR = misbehave
