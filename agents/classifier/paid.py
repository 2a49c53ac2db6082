"""Paid calls of the classifier: claimed and journaled as those of workers, and in the way of no request.

A call is claimed before it is made, with a note of it, and its outcome is journaled before the record that tells of it
is committed. So whoever gets a record after a crash finds the answer, or that there was a call whose end nobody knows.
A caller waits no longer than it says: what is not journaled by then goes on being journaled behind it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final

from agents.classifier.asking import answer
from agents.classifier.opinion import Heard
from agents.classifier.sample import Sample, read_sample
from agents.worker import outcome
from agents.worker.core import Choice
from agents.worker.journal import Journal, StillTheirsError
from agents.worker.outcome import NOTHING_CALLED
from schemas.catalogue import Model
from schemas.enums import Outcome
from schemas.errors import FailureClass, ProviderError, StateStoreError
from schemas.flow import Attempt
from schemas.ports import Clock, Provider
from streams import faults
from streams.claims import Claim

log = logging.getLogger(__name__)

MARGIN_S: Final = 0.1
"""Before the end of a wait, in which somebody else's claim is found to be still theirs; a quarter of short waits."""

Work = Callable[[Claim, bytes | None], Awaitable[bytes]]


class _NothingDoneError(Exception):
    """Nobody has made this call, and nobody does now."""


@dataclass(slots=True)
class _Making:
    """A call that is being made."""

    made: asyncio.Future[Sample] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    began: bool = False


class PaidCalls:
    """Makes calls under claims, and finds what earlier owners made of theirs.

    Args:
        journal: Claims and outcomes; closed with this.
        provider: Finds what answers for a model; raises ``ProviderError`` where local settings have nothing.
        clock: Wall and monotonic clock.
        owner: Names this process in attempts.
        max_concurrency: Calls in flight, those included whose outcome is not journaled yet.
    """

    def __init__(
        self, journal: Journal, provider: Callable[[Model], Provider], clock: Clock, *, owner: str, max_concurrency: int
    ) -> None:
        self._journal = journal
        self._provider = provider
        self._clock = clock
        self._owner = owner
        self._free = asyncio.Semaphore(max_concurrency)
        self._running: set[asyncio.Task[bytes]] = set()

    async def close(self) -> None:
        """Stop what is still running, and abandon its claims: the next owner finds their notes."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._journal.close()

    async def make(self, choice: Choice, end: float) -> Sample | Heard:
        """Make a call, unless there is an outcome of it already.

        Args:
            choice: The call; its operation key is that of the claim.
            end: Monotonic seconds at which to go on without it.

        Returns:
            What came of it; ``BUSY`` or ``UNCLAIMED`` where it was not made.
        """
        try:
            async with asyncio.timeout(end - self._clock.monotonic()):
                await self._free.acquire()
        except TimeoutError:
            return Heard.BUSY
        if self._clock.monotonic() >= end:
            self._free.release()
            return Heard.BUSY
        begun, making = self._begun(choice), _Making()
        note = Sample(begun).to_bytes()

        async def work(claim: Claim, orphan: bytes | None) -> bytes:
            if orphan:
                return orphan
            if orphan is not None:
                await self._journal.note(claim, note)
            within = end - self._clock.monotonic()
            if within <= 0:
                await self._journal.note(claim, NOTHING_CALLED)
                raise _NothingDoneError
            making.began = True
            sample = await self._call(choice, begun, within)
            making.made.set_result(sample)
            return sample.to_bytes()

        task = self._start(self._once(choice, note, end, work))
        task.add_done_callback(lambda _: self._free.release())
        await asyncio.wait({task}, timeout=max(0.0, end - self._clock.monotonic()))
        if not task.done():
            if not making.began:
                return Heard.UNCLAIMED
            # It ends with the limit, too; only the state store can take longer.
            either: set[asyncio.Future[Any]] = {task, making.made}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        return making.made.result() if making.made.done() and not task.done() else self._found(task, choice)

    async def recall(self, choice: Choice, end: float) -> Sample | Heard | None:
        """What came of a call that an earlier owner of the record may have made; makes none.

        Args:
            choice: The call.
            end: Monotonic seconds at which to go on without an answer.

        Returns:
            The journaled outcome; one that is unknown where the owner died, or is still at it; None where it was never
            begun; ``UNCLAIMED`` where the state store does not say.
        """

        async def work(claim: Claim, orphan: bytes | None) -> bytes:
            del claim
            if orphan:
                return orphan
            raise _NothingDoneError

        async def look() -> bytes:
            if not await self._journal.touched(choice.call.operation_key):
                raise _NothingDoneError
            return await self._once(choice, NOTHING_CALLED, end, work)

        task = self._start(look())
        await asyncio.wait({task}, timeout=max(0.0, end - self._clock.monotonic()))
        if task.done() and isinstance(task.exception(), _NothingDoneError):
            return None
        return self._found(task, choice)

    async def _once(self, choice: Choice, note: bytes, end: float, work: Work) -> bytes:
        left = end - self._clock.monotonic()
        until_ms = self._clock.now_ms() + round(1000 * (left - min(MARGIN_S, left / 4)))
        return await self._journal.once(choice.call.operation_key, note, until_ms, work)

    def _start(self, work: Coroutine[Any, Any, bytes]) -> "asyncio.Task[bytes]":
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[bytes]") -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, so that nobody is told it was not

    def _found(self, task: "asyncio.Task[bytes]", choice: Choice) -> Sample | Heard:
        if not task.done() or task.cancelled():
            return Heard.UNCLAIMED
        try:
            return read_sample(task.result())
        except StillTheirsError as error:
            return Sample(self._begun(choice, error.owner))
        except (StateStoreError, _NothingDoneError) as error:
            log.debug("call %s is not made: %r", choice.call.operation_key, error)
            return Heard.UNCLAIMED
        except Exception:
            log.exception("call %s could not be made", choice.call.operation_key)
            return Heard.FAILED

    def _begun(self, choice: Choice, owner: str = "") -> Attempt:
        return outcome.begun(choice, number=1, owner=owner or self._owner, now_ms=self._clock.now_ms())

    async def _call(self, choice: Choice, begun: Attempt, within: float) -> Sample:
        """One call, within seconds."""
        started = self._clock.monotonic()
        try:
            async with asyncio.timeout(within):
                calling = self._provider(choice.model).complete(replace(choice.call, timeout=timedelta(seconds=within)))
                found = await (faults.during(faults.Point.DURING_CALL, calling) if faults.armed else calling)
        except TimeoutError:
            error = ProviderError(FailureClass.TIMEOUT, "no answer in time")
            sample = Sample(outcome.failed(begun, error, self._since(started)))
        except ProviderError as error:
            sample = Sample(outcome.failed(begun, error, self._since(started)))
        except Exception as error:  # a provider's mistake is a failed call; the request must not suffer from it
            log.exception("provider of %s raised what it should not", choice.model.ref)
            wrapped = ProviderError(FailureClass.UNKNOWN, f"{begun.provider}: {type(error).__name__} in the provider")
            sample = Sample(outcome.failed(begun, wrapped, self._since(started)))
        else:
            attempt = outcome.answered(begun, choice, found, self._since(started))
            sample = Sample(attempt, answer(found.text) if attempt.outcome is Outcome.OK else None)
        if faults.armed:
            await faults.reach(faults.Point.AFTER_CALL)
        return sample

    def _since(self, started: float) -> int:
        return round((self._clock.monotonic() - started) * 1000)
