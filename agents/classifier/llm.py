"""The stage that asks a language model, for requests that the trained model is unsure of. Never in the way.

All calls of a batch run at once, within one time limit and a bound on calls in flight. Whatever goes wrong, the request
goes on with the word it had, and the decision records why and what it cost. A request that is delivered again brings
along what was asked of it before (see ``paid``), and is asked about only if that is nothing.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from agents.classifier.asking import MAX_TOKENS, question
from agents.classifier.core import ClassGuess, NoRouteError, classify, route_of
from agents.classifier.features import extract
from agents.classifier.intake import Arrival
from agents.classifier.opinion import Heard, Opinion, concluded
from agents.classifier.paid import PaidCalls
from agents.classifier.prompt import Asked, tokens_of
from agents.classifier.sample import Sample
from agents.worker.core import Choice
from registry.snapshot import Snapshot
from schemas.catalogue import Model
from schemas.enums import Outcome
from schemas.errors import CatalogueError
from schemas.headers import Context
from schemas.ids import derived_id
from schemas.money import price_of
from schemas.ports import Clock, ModelCall
from schemas.settings import LlmSettings
from streams.receiver import Seen

log = logging.getLogger(__name__)

REST: Final = timedelta(seconds=30)
"""How long a model is left alone after a batch in which no call was answered."""
_OURS: Final = frozenset({"temperature", "top_p", "max_tokens", "seed", "stop"})
_MILLISECOND: Final = timedelta(milliseconds=1)
_SAID_FOR_SURE: Final = frozenset({"hint", "rule"})


@dataclass(frozen=True, slots=True)
class _Case:
    """A request that is asked about, or was before."""

    arrival: Arrival
    asked: Asked
    context: Context
    guess: ClassGuess

    @property
    def again(self) -> bool:
        """Whether its record was delivered before."""
        return self.arrival.admission.seen is Seen.AGAIN


class LlmStage:
    """Asks a model of the catalogue.

    Args:
        settings: Which model, below which confidence, and what bounds it.
        calls: Makes calls, or finds what was made of them before.
        clock: Wall and monotonic clock.
    """

    def __init__(self, settings: LlmSettings, calls: PaidCalls, clock: Clock) -> None:
        self._settings = settings
        self._calls = calls
        self._clock = clock
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
        """A request that may be in doubt, or that may have been when its record was delivered before."""
        asked, context = arrival.asked, arrival.context
        if asked is None or context is None or not arrival.admission.admitted or asked.request.task_hint is not None:
            return None
        again = arrival.admission.seen is Seen.AGAIN
        judged = arrival.judged if arrival.judged is not None and arrival.judged.applied else None
        corrects = arrival.experience is not None and arrival.experience.corrections
        if not again and judged is not None and judged.confidence >= self._settings.below and not corrects:
            return None  # nearly all requests: a look at the text would cost them more than all the rest here
        features = extract(asked.text)
        if not features.words:
            return None
        guess = classify(asked, features, snapshot, arrival.matched, judged)
        with suppress(NoRouteError):  # another class may have one
            _, guess = route_of(asked, context, guess, snapshot, arrival.experience)
        case = _Case(arrival, asked, context, guess)
        return case if again or self._in_doubt(case) else None

    def _in_doubt(self, case: _Case) -> bool:
        """Whether it will be decided on, and nobody is sure what it is."""
        return (
            case.arrival.error is None
            and case.arrival.key_owner in {"", case.context.request_id}
            and case.guess.stage not in _SAID_FOR_SURE
            and case.guess.confidence < self._settings.below
        )

    async def _ask(self, cases: Sequence[_Case], snapshot: Snapshot, now_ms: int) -> None:
        try:
            model = snapshot.model(self._settings.model)
        except CatalogueError as error:
            self._none(cases, self._settings.model, Heard.FAILED, str(error))
            return
        end = self._clock.monotonic() + self._settings.time_limit.total_seconds()
        again = [case for case in cases if case.again]
        await asyncio.gather(*(self._recall(case, model, end) for case in again))
        cases = [case for case in cases if case.arrival.opinion is None and self._in_doubt(case)]
        if self._clock.monotonic() < self._rests_until:
            self._none(cases, model.ref, Heard.RESTING, "it failed a moment ago")
            return
        open_ = []
        for case in cases:
            if reason := self._barred(case, model, snapshot, now_ms):
                self._none([case], model.ref, Heard.BARRED, reason)
            else:
                open_.append(case)
        if not open_:
            return
        answered = await asyncio.gather(*(self._sampled(case, model, end) for case in open_))
        if not any(answered):
            self._rests_until = self._clock.monotonic() + REST.total_seconds()
            log.warning("no call of %s was answered: it is left alone for %.0f s", model.ref, REST.total_seconds())

    async def _recall(self, case: _Case, model: Model, end: float) -> None:
        """Take up what was asked before the record was delivered again; if nothing was, it's as if it were new."""
        found = await asyncio.gather(*(self._calls.recall(each, end) for each in self._choices(case, model)))
        if any(each is not None for each in found):
            case.arrival.opinion = concluded(model, found, case.guess.task_class, case.guess.confidence)

    async def _sampled(self, case: _Case, model: Model, end: float) -> bool:
        """Ask about one request; whether any call was answered."""
        found = await asyncio.gather(*(self._calls.make(each, end) for each in self._choices(case, model)))
        case.arrival.opinion = concluded(model, found, case.guess.task_class, case.guess.confidence)
        return any(isinstance(each, Sample) and each.attempt.outcome is Outcome.OK for each in found)

    def _choices(self, case: _Case, model: Model) -> list[Choice]:
        """The calls of all samples; the same again for the same request."""
        request_id, cost = case.context.request_id, self._expected(case, model)
        return [
            Choice(
                index=0,
                model=model,
                call=ModelCall(
                    model=model.name,
                    messages=question(case.asked.text, request_id, sample, self._settings.max_chars),
                    timeout=self._settings.time_limit,
                    operation_key=derived_id("classification", request_id, model.ref, str(sample)),
                    max_tokens=min(MAX_TOKENS, model.max_output_tokens),
                    temperature=0.0,
                    extra={name: value for name, value in model.defaults.items() if name not in _OURS},
                ),
                cost_micros=cost,
            )
            for sample in range(self._settings.samples)
        ]

    def _expected(self, case: _Case, model: Model) -> int:
        """Micro-units that a call is expected to cost, and that are counted where nobody knows how it ended."""
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
        cost = self._expected(case, model) * self._settings.samples
        limits = [each for each in (case.asked.request.cost_limit_micros, tenant.max_cost_micros) if each is not None]
        if limits and cost > min(limits):
            return f"asking costs about {cost} micro-units, {min(limits)} are allowed"
        if case.context.deadline_ms - now_ms <= 2 * (self._settings.time_limit // _MILLISECOND):
            return "too little time is left"
        return ""

    @staticmethod
    def _none(cases: Sequence[_Case], model: str, heard: Heard, reason: str) -> None:
        for case in cases:
            case.arrival.opinion = Opinion(model=model, heard=heard, reason=reason)
