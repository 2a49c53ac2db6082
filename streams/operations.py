"""Claim and journal of work that costs money when it is done twice.

An operation (one paid call) is claimed before it starts and its answer is journaled before anything follows from it.
A record that is delivered again finds the answer, or the claim of whoever still works on it, or what a dead owner left.
The promise is not "once", which nobody can keep, but: a rebalance or a restart alone causes no second call, and a call
that may have happened is known to the next owner.
"""

import asyncio
import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from schemas.errors import StateStoreError, TierflowError
from schemas.ports import ANSWER_SUFFIX, ClaimState, Clock, Sleep, StateStore
from streams.claims import Claim, Event, Phase

_LOG = logging.getLogger(__name__)

FIRST_LOOK: Final = timedelta(milliseconds=50)
"""Before a waiter looks again: about what an answer needs that is on its way into the journal."""
LONGEST_LOOK: Final = timedelta(milliseconds=500)
"""What the pause grows to; a thousand waiters then cost the store 4,000 small reads a second."""
_DOUBTS = 10_000  # claims whose reply was lost and that nobody repeated; each is a key and a token


@dataclass(frozen=True, slots=True)
class Answered:
    """The journal has the answer."""

    value: bytes


@dataclass(frozen=True, slots=True)
class Mine:
    """The caller has to do the work.

    Attributes:
        claim: To note, answer or abandon.
        orphan: What an earlier owner noted whose lease died before it answered: its call may have happened. The store
            keeps that note until ``note`` replaces it, so note again (with what it says) before the next call.
    """

    claim: Claim
    orphan: bytes | None = None


@dataclass(frozen=True, slots=True)
class Theirs:
    """Somebody is at work on it, possibly another task of this process: ``wait`` for them.

    Attributes:
        owner: Which process.
    """

    owner: str


class Operations:
    """Claims and journal of one process.

    Every method raises ``StateStoreError`` when the store does not answer; the same call can then be made again.

    Args:
        store: Where leases, notes and answers are.
        owner: Names this run of this process; never used again by a later run.
        lease: Lifetime of a claim that is not renewed. All held ones are renewed each third of it.
        ttl: How long answers and notes are kept.
        clock: Wall and monotonic clock.
        sleep: Waits.
    """

    def __init__(
        self,
        store: StateStore,
        *,
        owner: str,
        lease: timedelta,
        ttl: timedelta,
        clock: Clock,
        sleep: Sleep | None = None,
    ) -> None:
        self._store = store
        self._owner = owner
        self._lease = lease
        self._ttl = ttl
        self._clock = clock
        self._sleep = sleep or _sleep
        self._running: dict[str, Claim] = {}
        self._doubtful: dict[str, str] = {}
        self._numbers = 0
        self._renewer: asyncio.Task[None] | None = None

    @property
    def running(self) -> int:
        """Claims of this process that have not ended."""
        return len(self._running)

    async def claim(self, key: str, note: bytes) -> Answered | Mine | Theirs:
        """Ask for the right to do the work.

        Args:
            key: Operation key.
            note: What the next owner should know if this process dies from now on, such as the call about to be made.
        """
        if key in self._running:
            return Theirs(self._owner)
        # A claim whose reply was lost may stand: under the same token the store gives it again, and does not take its
        # note for a dead owner's.
        token = self._doubtful.pop(key, None) or self._next_token()
        claim = Claim(key, token, note, self._clock.monotonic())
        self._running[key] = claim
        try:
            reply = await self._store.claim(_entry(key), token, self._lease, note, self._ttl)
        except BaseException:
            self._doubt(key, token)
            self._end(claim, Event.REFUSED, None)
            raise
        if reply.state is ClaimState.MINE:
            claim.on(Event.GRANTED)
            self._keep_renewing()
            return Mine(claim, reply.value)
        self._end(claim, Event.REFUSED, reply.value)
        if reply.state is ClaimState.ANSWERED:
            return Answered(reply.value or b"")
        return Theirs(reply.owner.rpartition("/")[0])

    async def touched(self, key: str) -> bool:
        """Whether anybody has begun it: there is an answer, somebody at work, or a note of somebody who was."""
        return await self._store.touched(_entry(key))

    async def note(self, claim: Claim, note: bytes) -> bool:
        """Replace what the next owner would find.

        Returns:
            False if the lease is no longer held (``claim.lost`` says so too): another owner may be at work.
        """
        _require_open(claim)
        noted = await self._store.annotate(_entry(claim.key), claim.token, note, self._ttl)
        if claim.open:
            claim.note = note
            if not noted:
                claim.on(Event.LAPSED)
        return noted

    async def answer(self, claim: Claim, value: bytes) -> bytes:
        """Journal the answer and drop the lease, in one step.

        Returns:
            What the journal holds: ``value``, or the answer of another owner who was first while the lease was lost.

        Raises:
            StateStoreError: The claim stands and goes on being renewed: answer again, or abandon it.
        """
        _require_open(claim)
        first = await self._store.settle(_entry(claim.key), claim.token, value, self._ttl)
        journaled = value if first is None else first
        if claim.open:
            self._end(claim, Event.SETTLED, journaled)
        return journaled

    async def abandon(self, claim: Claim) -> None:
        """Give up without an answer; does nothing if the claim has ended. The next owner finds the note at once.

        Raises:
            StateStoreError: The lease could not be dropped; it is not renewed any more, and dies by itself.
        """
        if not claim.open:
            return
        self._end(claim, Event.ABANDONED, None)
        await self._store.release(_entry(claim.key), claim.token.encode())

    async def wait(self, key: str, until_ms: int) -> bytes | None:
        """Wait for the answer of whoever is at work on it.

        Args:
            key: Operation key.
            until_ms: Unix milliseconds at which to give up.

        Returns:
            The journaled answer; None as soon as nobody holds a lease any more, or when the time is over.
        """
        pause = FIRST_LOOK
        while True:
            claim = self._running.get(key)
            if claim is not None:
                left_s = max(0.0, (until_ms - self._clock.now_ms()) / 1000)
                ended, _ = await asyncio.wait({claim.ended}, timeout=left_s)
                if not ended:
                    return None
                if (answer := claim.ended.result()) is not None:
                    return answer
            # The lease first: it is dropped together with the answer's arrival, so no lease and no answer means dead.
            lease = await self._store.get(_entry(key))
            answer = await self._store.get(_entry(key) + ANSWER_SUFFIX)
            if answer is not None or lease is None:
                return answer
            left = timedelta(milliseconds=until_ms - self._clock.now_ms())
            if left <= timedelta(0):
                return None
            await self._sleep(min(pause, left))
            pause = min(pause * 2, LONGEST_LOOK)

    async def renew_all(self) -> None:
        """Renew every lease once; the background task does this each third of the lease."""
        await asyncio.gather(*(self._renew(claim) for claim in list(self._running.values()) if claim.open))

    async def close(self) -> None:
        """Stop renewing and abandon what is still claimed, so that other owners need not wait for the leases to die."""
        if self._renewer is not None:
            self._renewer.cancel()
            await asyncio.gather(self._renewer, return_exceptions=True)
        claims = list(self._running.values())
        for outcome in await asyncio.gather(*(self.abandon(claim) for claim in claims), return_exceptions=True):
            if isinstance(outcome, StateStoreError):
                _LOG.warning("a lease was not dropped and will die by itself: %s", outcome)
            elif isinstance(outcome, BaseException):
                raise outcome

    async def _renew(self, claim: Claim) -> None:
        asked_at = self._clock.monotonic()
        entry = _entry(claim.key)
        try:
            held = await self._store.renew(entry, claim.token.encode(), self._lease)
            if not held:
                held = await self._regain(claim, entry)
        except StateStoreError:
            # The store is away: the lease lives on until its time is over.
            held = asked_at - claim.renewed_at < self._lease.total_seconds()
            if not held and claim.open:
                claim.on(Event.LAPSED)
            return
        if not claim.open:
            return
        if held:
            claim.renewed_at = asked_at
        elif claim.phase is Phase.HELD:
            _LOG.warning("lost the lease of operation %s while working on it", claim.key)
        claim.on(Event.RENEWED if held else Event.LAPSED)

    async def _regain(self, claim: Claim, entry: str) -> bool:
        """Take a lease that ran out (a stall, a store that was restarted empty) unless somebody came in between."""
        if not claim.open:
            return False
        reply = await self._store.claim(entry, claim.token, self._lease, claim.note, self._ttl)
        if reply.state is not ClaimState.MINE:
            return False
        if reply.value is not None or not claim.open:
            # Somebody came, noted and died, which is for the next claimant to see; or the work ended meanwhile.
            await self._store.release(entry, claim.token.encode())
            return False
        return True

    def _keep_renewing(self) -> None:
        if self._renewer is None or self._renewer.done():
            self._renewer = asyncio.get_running_loop().create_task(self._renew_forever(), name="lease renewer")

    async def _renew_forever(self) -> None:
        while self._running:
            await self._sleep(self._lease / 3)
            await self.renew_all()

    def _end(self, claim: Claim, event: Event, answer: bytes | None) -> None:
        claim.on(event)
        self._running.pop(claim.key, None)
        if not claim.ended.done():
            claim.ended.set_result(answer)

    def _next_token(self) -> str:
        self._numbers += 1
        return f"{self._owner}/{self._numbers}"

    def _doubt(self, key: str, token: str) -> None:
        if len(self._doubtful) >= _DOUBTS:
            del self._doubtful[next(iter(self._doubtful))]
        self._doubtful[key] = token


def _require_open(claim: Claim) -> None:
    if not claim.open:
        raise TierflowError(f"claim of {claim.key} is {claim.phase}: it can't be noted or answered any more")


def _entry(key: str) -> str:
    return f"operation:{key}"


async def _sleep(duration: timedelta) -> None:
    await asyncio.sleep(duration.total_seconds())
