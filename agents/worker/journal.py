"""Work that is done once: claimed before it starts, its outcome journaled before anything follows from it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final, TypeVar

from schemas.errors import StateStoreError
from schemas.ports import Clock, Sleep
from streams import faults
from streams.claims import Claim
from streams.operations import Answered, Mine, Operations, Theirs

log = logging.getLogger(__name__)

T = TypeVar("T")

PAUSE: Final = timedelta(milliseconds=500)
"""Before asking a state store again that was away while an answer has to be kept."""


class ClaimLostError(Exception):
    """The lease ran out while the work went on: somebody else may be doing it now."""


class StillTheirsError(Exception):
    """Somebody else was at work until the time was over.

    Args:
        owner: Which process.
    """

    def __init__(self, owner: str) -> None:
        super().__init__(owner)
        self.owner = owner


class Journal:
    """Runs work under claims.

    Args:
        operations: Claims and answers in the state store.
        clock: Wall clock.
        sleep: Waits.
    """

    def __init__(self, operations: Operations, *, clock: Clock, sleep: Sleep | None = None) -> None:
        self._operations = operations
        self._clock = clock
        self._sleep = sleep or _sleep

    async def once(
        self, key: str, note: bytes, until_ms: int, work: Callable[[Claim, bytes | None], Awaitable[bytes]]
    ) -> bytes:
        """The outcome of ``work``, or what the journal already has under this key.

        Args:
            key: Operation key.
            note: What the next owner should know if this process dies now.
            until_ms: Unix milliseconds after which nobody else's outcome is waited for.
            work: Does it; gets the claim, and the note of an earlier owner who died.

        Raises:
            StateStoreError: Nothing was claimed; ask again later.
            StillTheirsError: The time is over and somebody else is at work.
        """
        while True:
            match await self._operations.claim(key, note):
                case Answered(value):
                    return value
                case Theirs(owner):
                    value_or_none = await self._operations.wait(key, until_ms)
                    if value_or_none is not None:
                        return value_or_none
                    if self._clock.now_ms() >= until_ms:
                        raise StillTheirsError(owner)
                case Mine(claim, orphan):
                    try:
                        if faults.armed:
                            await faults.reach(faults.Point.AFTER_CLAIM)
                        return await self._keep(claim, await work(claim, orphan))
                    except ClaimLostError:
                        log.info("operation %s goes on under another claim", key)
                    finally:
                        await self._abandon(claim)

    async def touched(self, key: str) -> bool:
        """Whether anybody has begun the work of this key.

        Raises:
            StateStoreError: The store does not say.
        """
        return await self._operations.touched(key)

    async def note(self, claim: Claim, note: bytes) -> None:
        """Tell the next owner before going on. Waits for a state store that is away.

        Raises:
            ClaimLostError: Somebody else may be at work: nothing must be called under this claim any more.
        """
        if not await self._insist(lambda: self._operations.note(claim, note)):
            raise ClaimLostError

    async def close(self) -> None:
        """Abandon what is still claimed."""
        await self._operations.close()

    async def _keep(self, claim: Claim, value: bytes) -> bytes:
        """Journal the outcome. It was paid for, so it is held until the state store takes it, however long that is."""
        journaled = await self._insist(lambda: self._operations.answer(claim, value))
        if faults.armed:
            await faults.reach(faults.Point.AFTER_JOURNAL)
        return journaled

    async def _insist(self, ask: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await ask()
            except StateStoreError as error:
                log.warning("state store is away, an outcome waits for it: %s", error)
                await self._sleep(PAUSE)

    async def _abandon(self, claim: Claim) -> None:
        """Let go of a claim that was not answered; does nothing for one that was."""
        try:
            await self._operations.abandon(claim)
        except StateStoreError as error:
            log.warning("claim %s ends by itself: %s", claim.key, error)


async def _sleep(duration: timedelta) -> None:
    await asyncio.sleep(duration.total_seconds())
