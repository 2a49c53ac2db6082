"""Runs a step under claims: one sample or several, journaled, added up to a Completion."""

import asyncio
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from agents.worker import core, outcome, prompting, samples
from agents.worker.calls import OUT_OF_TIME, Caller
from agents.worker.core import Work
from agents.worker.journal import Journal, StillTheirsError
from agents.worker.outcome import NOTHING_CALLED, Outcomes
from registry.snapshot import Snapshot
from schemas.codec import Codec
from schemas.enums import Outcome
from schemas.errors import FailureClass
from schemas.flow import Attempt, Completion
from schemas.ports import Clock
from streams.claims import Claim


class TooLateError(Exception):
    """The deadline passed before any call of the step."""


class StepRunner:
    """Turns work into Completions.

    Args:
        codec: Writes records.
        journal: Claims and outcomes.
        caller: Makes the calls.
        latest: Returns the snapshot whose prohibitions hold now.
        clock: Wall clock.
    """

    def __init__(
        self, *, codec: Codec, journal: Journal, caller: Caller, latest: Callable[[], Snapshot], clock: Clock
    ) -> None:
        self._codec = codec
        self._journal = journal
        self._caller = caller
        self._latest = latest
        self._clock = clock

    async def run(self, work: Work) -> bytes:
        """The step's Completion, encoded: from the journal, or made now and journaled.

        Raises:
            TooLateError: The deadline passed before any call; nothing is journaled.
            StateStoreError: Nothing was claimed; ask again later.
        """
        count = self._samples(work)
        if count > 1:
            return await self._sampled(work, count)
        return await self._once(core.step_key(work), work, 0, core.left_micros(work, 0), whole=True)

    def _samples(self, work: Work) -> int:
        """How many samples to draw: as many as asked for, different and affordable."""
        if work.parameters.samples == 1:
            return 1
        choice = core.choose(work, self._latest(), first=0, sample=0, left=None)
        if isinstance(choice, core.Barred):
            return 1
        wanted = core.samples_of(work, choice.model)
        left = core.left_micros(work, 0)
        if left is None or choice.cost_micros == 0:
            return wanted
        return max(1, min(wanted, left // choice.cost_micros))

    async def _once(self, key: str, work: Work, sample: int, share: int | None, *, whole: bool) -> bytes:
        """One sample: the Completion of the whole step, or a part of it."""
        noted = self._caller.first(work, sample, share)
        note = outcome.note_of([noted[1]]) if noted else NOTHING_CALLED
        own = b""

        async def run(claim: Claim, orphan: bytes | None) -> bytes:
            nonlocal own
            outcomes = await self._caller.run(
                work,
                sample,
                share=share,
                earlier=outcome.read_note(orphan),
                # A dead owner's empty note still stands in the store in place of ours.
                noted=noted if orphan is None else None,
                note=lambda text: self._journal.note(claim, text),
            )
            if whole and not outcomes.attempts and outcomes.error == OUT_OF_TIME:
                if noted is not None:
                    await self._journal.note(claim, NOTHING_CALLED)
                raise TooLateError
            own = self._encoded(work, outcomes, whole=whole)
            return own

        try:
            return self._told(await self._journal.once(key, note, work.assignment.deadline_ms, run), own)
        except StillTheirsError as error:
            return self._unanswered(work, sample, error.owner, whole=whole)

    def _told(self, value: bytes, own: bytes) -> bytes:
        """The journaled Completion, with the calls that were made here all the same.

        The journal keeps the first outcome, which may be that of an earlier owner who was only slow.

        Args:
            value: As journaled.
            own: What was to be journaled here; empty if nothing was.
        """
        if not own or own == value:
            return value
        completion = self._codec.decode(Completion, value)
        known = {outcome.call_of(self._codec.decode(Attempt, each)) for each in completion.attempts}
        made = [self._codec.decode(Attempt, each) for each in self._codec.decode(Completion, own).attempts]
        untold = [attempt for attempt in made if outcome.call_of(attempt) not in known]
        if not untold:
            return value
        count = len(completion.attempts)
        numbered = [replace(attempt, number=number) for number, attempt in enumerate(untold, count + 1)]
        return self._codec.encode(
            replace(
                completion,
                attempts=(*completion.attempts, *(self._codec.encode(attempt) for attempt in numbered)),
                tokens_in=completion.tokens_in + sum(attempt.tokens_in for attempt in untold),
                tokens_out=completion.tokens_out + sum(attempt.tokens_out for attempt in untold),
                billed_micros=completion.billed_micros + sum(attempt.billed_micros for attempt in untold),
                cpu_us=completion.cpu_us + sum(attempt.cpu_us for attempt in untold),
            )
        )

    async def _sampled(self, work: Work, count: int) -> bytes:
        """Several samples at once, each claimed and journaled for itself, and the vote over them."""
        own = b""

        async def run(claim: Claim, orphan: bytes | None) -> bytes:
            nonlocal own
            del claim, orphan  # the claims of the samples say what was called
            left = core.left_micros(work, 0)
            share = None if left is None else left // count
            parts = await asyncio.gather(
                *(self._once(core.sample_key(work, at), work, at, share, whole=False) for at in range(count)),
                return_exceptions=True,  # or the others would go on unseen
            )
            done = [part for part in parts if isinstance(part, bytes)]
            for part in parts:
                if isinstance(part, BaseException):
                    raise part
            own = self._voted(work, [self._codec.decode(Completion, part) for part in done])
            return own

        try:
            deadline_ms = work.assignment.deadline_ms
            return self._told(await self._journal.once(core.step_key(work), NOTHING_CALLED, deadline_ms, run), own)
        except StillTheirsError as error:
            return self._unanswered(work, 0, error.owner)

    def _voted(self, work: Work, parts: Sequence[Completion]) -> bytes:
        """The step's Completion from those of its samples."""
        raw = [attempt for part in parts for attempt in part.attempts]
        if not raw and all(part.error == OUT_OF_TIME for part in parts):
            raise TooLateError
        attempts = [
            self._codec.encode(replace(self._codec.decode(Attempt, each), number=number))
            for number, each in enumerate(raw, 1)
        ]
        marker = work.parameters.final_answer or samples.MARKER
        given = [part.output_text if part.outcome is Outcome.OK else None for part in parts]
        found = samples.vote(given, marker)
        chosen = parts[found.index] if found else next((p for p in parts if p.outcome is Outcome.OK), parts[0])
        output = chosen.output_text
        if found and work.parameters.final_answer:
            output = samples.marked_answer(output, marker)
        return self._codec.encode(
            replace(
                chosen,
                assignment=work.raw,
                attempts=tuple(attempts),
                output_text=output,
                output_sha256=outcome.digest(output),
                agreement=found.agreement if found else None,
                tokens_in=sum(part.tokens_in for part in parts),
                tokens_out=sum(part.tokens_out for part in parts),
                billed_micros=sum(part.billed_micros for part in parts),
                cpu_us=sum(part.cpu_us for part in parts),
                completed_at_ms=self._clock.now_ms(),
                registry_checked=self._latest().number,
            )
        )

    def _encoded(self, work: Work, outcomes: Outcomes, *, whole: bool = True) -> bytes:
        latest, text = self._latest(), ""
        if outcomes.answer is not None:
            text = self._output(work, outcomes.answer.text, whole=whole)
            outcomes = outcome.capped(outcomes, text, latest.catalogue.policies.max_inline_bytes)
        record = outcome.completion(
            work if whole else replace(work, raw=b""),  # a part stays in the journal, where nobody reads that
            outcomes,
            [self._codec.encode(attempt) for attempt in outcomes.attempts],
            now_ms=self._clock.now_ms(),
            checked=latest.number,
            text=text,
        )
        return self._codec.encode(record)

    def _output(self, work: Work, text: str, *, whole: bool) -> str:
        """The step's output from a model's text; a sample keeps its final answer's surroundings until the vote."""
        if work.parameters.program:
            text = samples.computed(text, prompting.question_of(work.request)) or text
        if whole and work.parameters.final_answer:
            text = samples.marked_answer(text, work.parameters.final_answer)
        return text

    def _unanswered(self, work: Work, sample: int, owner: str, *, whole: bool = True) -> bytes:
        """The Completion when the deadline came while somebody else held the claim: a call whose end is unknown."""
        choice = core.choose(work, self._latest(), first=0, sample=sample, left=None)
        now_ms = self._clock.now_ms()
        made: tuple[Attempt, ...] = ()
        if isinstance(choice, core.Choice):
            made = (outcome.begun(choice, number=1, owner=owner, now_ms=now_ms),)
        late = Outcomes(attempts=made, failure=FailureClass.TIMEOUT.value, error=f"{OUT_OF_TIME}, {owner} at work")
        return self._encoded(work, late, whole=whole)
