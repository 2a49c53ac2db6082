"""One sample of a step: call, try again, fall back, until there is an answer or nothing more to try."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

from agents.worker import core, outcome
from agents.worker.core import Barred, Choice, Work
from agents.worker.outcome import Outcomes
from agents.worker.providers import Providers
from agents.worker.retry import Failed, Fallback, Policy, Retry, Room, next_try
from registry.snapshot import Snapshot
from schemas.enums import Outcome
from schemas.errors import FailureClass, ProviderError
from schemas.flow import Attempt
from schemas.ports import Clock, ModelAnswer, Sleep
from schemas.settings import WorkerSettings
from streams import faults

log = logging.getLogger(__name__)

MOST_UNKNOWN: Final = 3
"""A call that so many workers did not survive, or did not report, is not made once more."""

OUT_OF_TIME: Final = "the deadline passed"

Note = Callable[[bytes], Awaitable[None]]


class Caller:
    """Makes calls.

    Args:
        providers: Who answers.
        latest: Returns the snapshot whose prohibitions hold now.
        settings: Retries, and what follows an unknown outcome.
        clock: Wall and monotonic clock.
        sleep: Waits between tries.
        owner: Names this process in attempts.
    """

    def __init__(
        self,
        *,
        providers: Providers,
        latest: Callable[[], Snapshot],
        settings: WorkerSettings,
        clock: Clock,
        sleep: Sleep,
        owner: str,
    ) -> None:
        self._providers = providers
        self._latest = latest
        self._settings = settings
        self._clock = clock
        self._sleep = sleep
        self._owner = owner
        milliseconds = timedelta(milliseconds=1)
        self._policy = Policy(
            max_retries=settings.max_retries,
            base_ms=settings.retry_base / milliseconds,
            cap_ms=settings.retry_cap / milliseconds,
        )

    def first(self, work: Work, sample: int, share: int | None) -> tuple[Choice, Attempt] | None:
        """The first call of a sample, as it goes into the note of the claim; None if none can be made."""
        now_ms = self._clock.now_ms()
        if now_ms >= work.assignment.deadline_ms:
            return None
        choice = core.choose(work, self._latest(), first=0, sample=sample, left=share)
        if isinstance(choice, Barred):
            return None
        return choice, outcome.begun(choice, number=1, owner=self._owner, now_ms=now_ms)

    async def run(
        self,
        work: Work,
        sample: int,
        *,
        share: int | None,
        earlier: Sequence[Attempt] = (),
        noted: tuple[Choice, Attempt] | None = None,
        note: Note,
    ) -> Outcomes:
        """Call until there is an answer, or nothing more to try.

        Args:
            work: The step.
            sample: Which sample of it, from 0.
            share: Cost allowance of this sample; None if unlimited.
            earlier: Attempts of a dead owner; the last one's end may be unknown.
            noted: The first call, if the claim was taken with a note of it.
            note: Tells the next owner what is about to be done; may raise to end the work.
        """
        attempts = list(earlier)
        index = 0
        if attempts:
            noted = None
            stop = self._given_up(attempts)
            if stop is not None:
                return stop
            index = _index_of(work, attempts[-1])
        again: Choice | None = None
        while True:
            now_ms = self._clock.now_ms()
            if now_ms >= work.assignment.deadline_ms:
                return _ended(attempts, FailureClass.TIMEOUT, OUT_OF_TIME)
            left = None if share is None else share - sum(attempt.billed_micros for attempt in attempts)
            if noted is not None:
                (choice, attempt), noted = noted, None
            else:
                found = again or core.choose(work, self._latest(), first=index, sample=sample, left=left)
                if isinstance(found, Barred):
                    return _ended(attempts, found.failure, found.reason)
                choice = found
                attempt = outcome.begun(choice, number=len(attempts) + 1, owner=self._owner, now_ms=now_ms)
                noted = choice, attempt
                await note(outcome.note_of([*attempts, attempt]))
                continue  # the state store may have been away: is there still time?
            result = await self._call(work, choice, attempt)
            if faults.armed:
                await faults.reach(faults.Point.AFTER_CALL)
            attempts.append(result[0])
            if result[0].outcome is Outcome.OK:
                return Outcomes(attempts=tuple(attempts), answer=result[1], model=choice.model.ref)
            index, again, ended = await self._after(work, sample, choice, attempts, result[2], share)
            if ended is not None:
                return ended

    async def _call(self, work: Work, choice: Choice, attempt: Attempt) -> tuple[Attempt, ModelAnswer | None, float]:
        """One call: its attempt, its answer if there is one, and the milliseconds that the provider asks to wait."""
        started = self._clock.monotonic()
        call, within = choice.call, core.time_for(work, self._clock.now_ms())
        if within != call.timeout:
            call = replace(call, timeout=within)
        try:
            calling = self._providers.of(choice.model).complete(call)
            answer = await (faults.during(faults.Point.DURING_CALL, calling) if faults.armed else calling)
        except ProviderError as error:
            took = self._since(started)
            return outcome.failed(attempt, error, took), None, (error.retry_after_s or 0.0) * 1000
        except Exception as error:  # a provider's mistake is a failed attempt; the request must not suffer from it
            log.exception("provider of %s raised what it should not", choice.model.ref)
            wrapped = ProviderError(FailureClass.UNKNOWN, f"{attempt.provider}: {type(error).__name__} in the provider")
            return outcome.failed(attempt, wrapped, self._since(started)), None, 0.0
        return outcome.answered(attempt, choice, answer, self._since(started)), answer, 0.0

    async def _after(
        self, work: Work, sample: int, choice: Choice, attempts: list[Attempt], wait_ms: float, share: int | None
    ) -> tuple[int, Choice | None, Outcomes | None]:
        """What follows a failed call: the index of the next model, the same call if it is made again, or the end."""
        last = attempts[-1]
        failure = FailureClass(last.failure)
        left = None if share is None else share - sum(attempt.billed_micros for attempt in attempts)
        latest = self._latest()
        room = Room(
            now_ms=self._clock.now_ms(),
            deadline_ms=work.assignment.deadline_ms,
            left_micros=left,
            cost_micros=choice.cost_micros,
            others=core.others(work, latest, choice.index, sample, left),
        )
        tries = sum(1 for each in attempts if each.requested_model == choice.model.ref)
        failed = Failed(failure=failure, operation_key=choice.call.operation_key, tries=tries, retry_after_ms=wait_ms)
        match next_try(failed, room, self._policy):
            case Retry(delay_ms):
                await self._sleep(timedelta(milliseconds=delay_ms))
                return choice.index, self._still(work, choice), None
            case Fallback(index):
                return index, None, None
            case stop:
                return 0, None, _ended(attempts, failure, f"{last.error} ({stop.reason})")

    def _still(self, work: Work, choice: Choice) -> Choice | None:
        """The same call, unless it was forbidden meanwhile."""
        tier, data_class = work.assignment.tier, work.data_class
        return None if self._latest().prohibited(choice.model, tier=tier, data_class=data_class) else choice

    def _given_up(self, attempts: Sequence[Attempt]) -> Outcomes | None:
        """The end, where no further call may follow those of dead owners."""
        unknown = sum(1 for attempt in attempts if attempt.outcome is Outcome.UNKNOWN)
        if attempts[-1].outcome is not Outcome.UNKNOWN:
            return None
        if self._settings.unknown_policy == "fail":
            return _ended(attempts, FailureClass.UNKNOWN, "a worker died during the call, which is not made again here")
        if unknown >= MOST_UNKNOWN:
            return _ended(attempts, FailureClass.UNKNOWN, f"{unknown} workers died during the call")
        return None

    def _since(self, started: float) -> int:
        return round((self._clock.monotonic() - started) * 1000)


def _index_of(work: Work, attempt: Attempt) -> int:
    """Where a dead owner had come to among the step's models."""
    models = work.step.models
    return models.index(attempt.requested_model) if attempt.requested_model in models else 0


def _ended(attempts: Sequence[Attempt], failure: FailureClass, error: str) -> Outcomes:
    return Outcomes(attempts=tuple(attempts), failure=failure.value, error=error)
