"""The stage that asks a language model, for requests that the trained model is unsure of. Never in the way.

All calls of a batch run at once, within one time limit and a bound on calls in flight. Whatever goes wrong, the request
goes on with the word it had, and the decision records why and what it cost.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from agents.classifier.asking import MAX_TOKENS, answer, question
from agents.classifier.core import ClassGuess, NoRouteError, classify, route_of
from agents.classifier.features import extract
from agents.classifier.intake import Arrival
from agents.classifier.opinion import Call, Heard, Opinion, weighed
from agents.classifier.prompt import Asked, tokens_of
from agents.worker.core import bill
from registry.snapshot import Snapshot
from schemas.catalogue import Model
from schemas.enums import Outcome, TaskClass
from schemas.errors import CatalogueError, FailureClass, ProviderError
from schemas.headers import Context
from schemas.ids import derived_id
from schemas.money import price_of
from schemas.ports import Clock, ModelCall, Provider
from schemas.settings import LlmSettings

log = logging.getLogger(__name__)

REST: Final = timedelta(seconds=30)
"""How long a model is left alone after a batch in which no call was answered."""
_OURS: Final = frozenset({"temperature", "top_p", "max_tokens", "seed", "stop"})
_MILLISECOND: Final = timedelta(milliseconds=1)
_SAID_FOR_SURE: Final = frozenset({"hint", "rule"})


@dataclass(slots=True)
class _Case:
    """A request that is asked about."""

    arrival: Arrival
    asked: Asked
    context: Context
    guess: ClassGuess
    expected: int
    """Micro-units that a call is expected to cost."""
    calls: list[Call]
    samples: list[TaskClass | None]
    failure: str = ""


class LlmStage:
    """Asks a model of the catalogue.

    Args:
        settings: Which model, below which confidence, and what bounds it.
        provider: Finds what answers for a model; raises ``ProviderError`` where local settings have nothing.
        clock: Wall and monotonic clock.
    """

    def __init__(self, settings: LlmSettings, provider: Callable[[Model], Provider], clock: Clock) -> None:
        self._settings = settings
        self._provider = provider
        self._clock = clock
        self._free = asyncio.Semaphore(settings.max_concurrency)
        self._rests_until = float("-inf")

    async def ask(self, arrivals: Sequence[Arrival], snapshot: Snapshot, now_ms: int) -> None:
        """Ask about those that nobody is sure of."""
        try:
            cases = [case for each in arrivals if (case := self._case(each, snapshot)) is not None]
            if cases:
                await self._ask(cases, snapshot, now_ms)
        except Exception:  # a request never fails for this
            log.exception("asking a language model failed; requests go on without its word")

    def _case(self, arrival: Arrival, snapshot: Snapshot) -> _Case | None:
        """A request that will be decided and whose class is in doubt on its route."""
        asked, context = arrival.asked, arrival.context
        if asked is None or context is None or arrival.error is not None or not arrival.admission.admitted:
            return None
        judged = arrival.judged if arrival.judged is not None and arrival.judged.applied else None
        corrects = arrival.experience is not None and arrival.experience.corrections
        if judged is not None and judged.confidence >= self._settings.below and not corrects:
            return None  # nearly all requests: a look at the text would cost them more than all the rest here
        features = extract(asked.text)
        if not features.words or arrival.key_owner not in {"", context.request_id}:
            return None
        guess = classify(asked, features, snapshot, arrival.matched, judged)
        if guess.stage in _SAID_FOR_SURE:
            return None
        with suppress(NoRouteError):  # another class may have one
            _, guess = route_of(asked, context, guess, snapshot, arrival.experience)
        if guess.confidence >= self._settings.below:
            return None
        return _Case(arrival, asked, context, guess, 0, [], [])

    async def _ask(self, cases: Sequence[_Case], snapshot: Snapshot, now_ms: int) -> None:
        try:
            model = snapshot.model(self._settings.model)
        except CatalogueError as error:
            self._none(cases, self._settings.model, Heard.FAILED, str(error))
            return
        if self._clock.monotonic() < self._rests_until:
            self._none(cases, model.ref, Heard.RESTING, "it failed a moment ago")
            return
        open_ = []
        for case in cases:
            case.expected = self._expected(case, model)
            if reason := self._barred(case, model, snapshot, now_ms):
                case.arrival.opinion = Opinion(model=model.ref, heard=Heard.BARRED, reason=reason)
            else:
                open_.append(case)
        if not open_:
            return
        limit = self._settings.time_limit.total_seconds()
        tasks = [
            asyncio.create_task(self._sample(case, model, sample, self._clock.monotonic() + limit))
            for case in open_
            for sample in range(self._settings.samples)
        ]
        await asyncio.gather(*tasks)
        for case in open_:
            case.arrival.opinion = self._opinion(case, model)
        if not any(call.outcome is Outcome.OK for case in open_ for call in case.calls):
            self._rests_until = self._clock.monotonic() + REST.total_seconds()
            log.warning("%s answered nothing and is left alone for %.0f s", model.ref, REST.total_seconds())

    def _expected(self, case: _Case, model: Model) -> int:
        messages = question(case.asked.text, case.context.request_id, 0, self._settings.max_chars)
        tokens = sum(tokens_of(str(message.content)) for message in messages)
        price = model.price
        return price_of(tokens, price.input_micros_per_million) + price_of(MAX_TOKENS, price.output_micros_per_million)

    def _barred(self, case: _Case, model: Model, snapshot: Snapshot, now_ms: int) -> str:
        """Why a request may not be shown to the model, or should not; empty if it may."""
        if reason := snapshot.prohibited(model, data_class=case.context.data_class):
            return reason
        tenant = snapshot.tenant(case.context.tenant)
        if tenant is None:
            return "its tenant is not known"
        cost = case.expected * self._settings.samples
        limits = [each for each in (case.asked.request.cost_limit_micros, tenant.max_cost_micros) if each is not None]
        if limits and cost > min(limits):
            return f"asking costs about {cost} micro-units, {min(limits)} are allowed"
        if case.context.deadline_ms - now_ms <= 2 * (self._settings.time_limit // _MILLISECOND):
            return "too little time is left"
        return ""

    async def _sample(self, case: _Case, model: Model, sample: int, end: float) -> None:
        try:
            async with asyncio.timeout(end - self._clock.monotonic()):
                await self._free.acquire()
        except TimeoutError:
            case.failure = case.failure or Heard.BUSY.value
            return
        try:
            left = end - self._clock.monotonic()
            if left > 0:
                await self._call(case, model, sample, timedelta(seconds=left))
            else:
                case.failure = case.failure or Heard.BUSY.value
        finally:
            self._free.release()

    async def _call(self, case: _Case, model: Model, sample: int, within: timedelta) -> None:
        request_id = case.context.request_id
        call = ModelCall(
            model=model.name,
            messages=question(case.asked.text, request_id, sample, self._settings.max_chars),
            timeout=within,
            operation_key=derived_id("classification", request_id, model.ref, str(sample)),
            max_tokens=min(MAX_TOKENS, model.max_output_tokens),
            temperature=0.0,
            extra={name: value for name, value in model.defaults.items() if name not in _OURS},
        )
        began_ms, began = self._clock.now_ms(), self._clock.monotonic()
        outcome, error, micros, found = Outcome.OK, "", 0, None
        try:
            async with asyncio.timeout(within.total_seconds()):
                found = await self._provider(model).complete(call)
            micros = bill(found, model.price, case.expected)
            case.samples.append(answer(found.text))
        except TimeoutError:
            outcome, error, micros = Outcome.TIMEOUT, "no answer in time", case.expected
        except ProviderError as failure:
            late = failure.failure is FailureClass.TIMEOUT
            outcome, error = Outcome.TIMEOUT if late else Outcome.FAILED, str(failure)
            micros = case.expected if late else 0
        except Exception as failure:
            log.exception("provider of %s raised what it should not", model.ref)
            outcome, error = Outcome.FAILED, type(failure).__name__
        if outcome is not Outcome.OK:
            case.failure = (Heard.LATE if outcome is Outcome.TIMEOUT else Heard.FAILED).value
        case.calls.append(
            Call(
                outcome=outcome,
                operation_key=call.operation_key,
                started_at_ms=began_ms,
                duration_ms=round((self._clock.monotonic() - began) * 1000),
                tokens_in=0 if found is None else found.tokens_in,
                tokens_out=0 if found is None else found.tokens_out,
                billed_micros=micros,
                cpu_us=0 if found is None else found.cpu_us,
                error=error,
            )
        )

    def _opinion(self, case: _Case, model: Model) -> Opinion:
        heard, task_class, confidence = Heard.FAILED, None, 0.0
        if case.failure:
            heard = Heard(case.failure)
        else:
            heard, task_class, confidence = weighed(case.samples, case.guess.task_class, case.guess.confidence)
        return Opinion(
            model=model.ref,
            provider=model.endpoint,
            heard=heard,
            task_class=task_class,
            confidence=confidence,
            calls=tuple(case.calls),
            reason=next((call.error for call in case.calls if call.error), ""),
        )

    @staticmethod
    def _none(cases: Sequence[_Case], model: str, heard: Heard, reason: str) -> None:
        for case in cases:
            case.arrival.opinion = Opinion(model=model, heard=heard, reason=reason)
