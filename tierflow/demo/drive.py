"""Sends the workload and gathers how each request ended."""

import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from schemas.edges import Result
from schemas.enums import Status
from schemas.ids import uuid7
from streams.deadletters import ParkedRecord
from streams.runtime import Platform
from tierflow.demo.compare import Answer
from tierflow.demo.workload import Asked, Score
from tierflow.sending import Defaults, open_sender, open_waiter, prepare, publish
from tierflow.wiring import open_codec

REFUSED_BY_BROKER: Final = "the broker refused the record"


@dataclass(slots=True)
class Outcome:
    """What became of one line of the workload."""

    asked: Asked
    request_id: str
    result: Result | None = None
    parked: ParkedRecord | None = None
    unpublished: str = ""
    after: timedelta = timedelta(0)

    @property
    def status(self) -> str:
        """How it ended; ``dead letter`` for what was no request, ``unfinished`` for what did not end in time."""
        if self.result is not None:
            return self.result.status.value
        if self.parked is not None:
            return "dead letter"
        return "unpublished" if self.unpublished else "unfinished"

    def right(self, score: Score) -> bool | None:
        """Whether the answer is right; None if that can't be said."""
        if self.asked.check is None:
            return None
        if self.result is None or self.result.status is not Status.ANSWERED:
            return False
        return bool(score({"check": self.asked.check}, self.result.output or ""))

    def answer(self, arm: str) -> Answer | None:
        """For the comparison; None if it can't be checked."""
        if not self.asked.question or self.result is None:
            return None
        result = self.result
        return Answer(
            arm=arm,
            question=self.asked.question,
            status=result.status.value,
            answer=result.output or "",
            model=result.model,
            tokens_in=result.tokens_in,
            tokens_out=result.tokens_out,
            cost_micros=result.cost_micros,
            cpu_us=result.cpu_us,
        )


@dataclass(slots=True)
class Driven:
    """What the whole workload came to."""

    outcomes: list[Outcome]
    seconds: float
    first_answer_s: float = 0.0
    unreadable: list[str] = field(default_factory=list)


async def drive(
    platform: Platform, asked: Sequence[Asked], *, within: timedelta, tell: Callable[[Outcome, int], None]
) -> Driven:
    """Publish everything, and wait for the ends.

    Args:
        platform: The broker.
        asked: The workload, in order.
        within: Longest time to wait for the last end, and so how long requests may live that say nothing else.
        tell: Called with each outcome as it comes, and how many are still missing.

    Raises:
        DeliveryError: The broker.
    """
    defaults = Defaults(lifetime=within)
    topic = platform.names.topic(defaults.topic)
    began = time.monotonic()
    now_ms = time.time_ns() // 1_000_000
    made = [prepare(each.line, topic, defaults, now_ms=now_ms, new_id=uuid7()) for each in asked]
    outcomes = {
        prepared.request_id: Outcome(each, prepared.request_id) for each, prepared in zip(asked, made, strict=True)
    }
    driven = Driven(list(outcomes.values()), 0.0)
    async with AsyncExitStack() as stack:
        codec = await stack.enter_async_context(open_codec(platform.settings.codec))
        waiter = await stack.enter_async_context(open_waiter(platform, codec))
        sink = await stack.enter_async_context(open_sender(platform))
        for prepared in made:
            waiter.expect(prepared.request_id)
        async for batch in publish(sink, made):
            for sent in batch:
                if sent.error is not None:
                    waiter.forget(sent.prepared.request_id)
                    outcomes[sent.prepared.request_id].unpublished = sent.error.reason
        async for ended in waiter.ended(within):
            outcome = outcomes[ended.request_id]
            outcome.result, outcome.parked, outcome.after = ended.result, ended.parked, ended.after
            if outcome.status == Status.ANSWERED and not driven.first_answer_s:
                driven.first_answer_s = time.monotonic() - began
            tell(outcome, waiter.waiting)
        driven.unreadable = waiter.unreadable
    driven.seconds = time.monotonic() - began
    return driven
