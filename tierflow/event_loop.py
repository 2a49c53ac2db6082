"""What an agent's process runs on: an event loop, and garbage collection that suits a long run."""

import asyncio
import gc
import sys
from typing import Final

YOUNG: Final = 10_000
"""New objects between two looks for cycles (Python's own: 700). A batch of records makes thousands of objects, hardly
any of them in a cycle; what waits for the next look stays below a few MB."""


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Uvloop's event loop, which takes a tenth off an agent's CPU time (``bench/hop.py``); Python's own on Windows."""
    if sys.platform == "win32":
        return asyncio.new_event_loop()
    import uvloop  # noqa: PLC0415 - not there on Windows

    return uvloop.new_event_loop()


def settle_memory() -> None:
    """Look for cycles less often, and never again at what was made so far: modules, rules and weights stay for good."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG)
