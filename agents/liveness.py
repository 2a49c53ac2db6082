"""Which tiers have somebody to work for them: workers leave a short-lived mark in the state store, classifiers look.

A mark is a hint, not a lock: it keeps requests from tiers where nobody reads, and costs one small write every few
seconds. While nothing is known (store away, everything just started) no tier is ruled out, because a request that waits
in a topic is better off than one that is turned away.
"""

import asyncio
import logging
from collections.abc import Sequence
from datetime import timedelta

from schemas.errors import StateStoreError
from schemas.ports import Clock, StateStore

log = logging.getLogger(__name__)

BEAT = timedelta(seconds=3)
"""How often a worker renews its mark, and a classifier looks."""

LIFETIME = timedelta(seconds=20)
"""How long a mark lasts: several beats, and longer than the rebalance that follows a worker's death."""


def _key(tier: str) -> str:
    return f"live:{tier}"


async def keep_marked(store: StateStore, tier: str) -> None:
    """Renew the mark of ``tier`` until cancelled."""
    while True:
        try:
            await store.put(_key(tier), b"1", LIFETIME)
        except StateStoreError as error:
            log.debug("no mark for tier %s: %s", tier, error)
        await asyncio.sleep(BEAT.total_seconds())


class LiveTiers:
    """What a classifier knows about tiers.

    Args:
        store: Where the marks are.
        tiers: Tier ids to look for.
        clock: Monotonic clock.
    """

    def __init__(self, store: StateStore, tiers: Sequence[str], clock: Clock) -> None:
        self._store = store
        self._tiers = tuple(tiers)
        self._clock = clock
        self._since = clock.monotonic()
        self._live: frozenset[str] | None = None

    @property
    def live(self) -> frozenset[str] | None:
        """Tiers with a mark; None while that says nothing."""
        return self._live

    async def look(self) -> None:
        """Look once."""
        try:
            marks = await asyncio.gather(*(self._store.get(_key(tier)) for tier in self._tiers))
        except StateStoreError:
            self._live = None
            return
        found = frozenset(tier for tier, mark in zip(self._tiers, marks, strict=True) if mark is not None)
        settled = self._clock.monotonic() - self._since > LIFETIME.total_seconds()
        complete = len(found) == len(self._tiers)
        self._live = found if found and (complete or settled) else None

    async def keep_looking(self) -> None:
        """Look every few seconds until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(BEAT.total_seconds())
