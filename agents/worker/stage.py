"""The worker as the loop sees it: an Assignment in, a Completion out (or the request's end, when it came too late)."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Final, Protocol

from msgspec.structs import replace

from agents.results import end_failed, end_request
from agents.worker import core, outcome
from agents.worker.calls import OUT_OF_TIME, Caller
from agents.worker.core import Work
from agents.worker.journal import Journal
from agents.worker.providers import Providers
from agents.worker.steps import StepRunner, TooLateError
from registry.errors import RegistryBehindError
from registry.snapshot import Snapshot
from schemas.codec import Codec
from schemas.edges import Request
from schemas.enums import DataClass, Outcome, Status
from schemas.errors import (
    CatalogueError,
    DeadlineExceededError,
    TierflowError,
    UndecodableError,
)
from schemas.flow import Assignment, Completion, Slip
from schemas.headers import Name, propagate
from schemas.ids import derived_id
from schemas.ports import Clock, Sleep
from schemas.settings import WorkerSettings
from streams.effects import DeadLetter, Effects, Emit, View
from streams.errors import EffectsRefusedError
from streams.operations import Operations
from streams.records import InRecord
from streams.topics import COMPLETIONS, tier_topic, worker_name

SNAPSHOT_WAIT: Final = timedelta(seconds=2)
"""How long a call waits for a snapshot that its assignment was decided under; then the record is offered again."""

WAIT: Final = Effects(done=False)
DEFAULT_CONCURRENCY: Final = 64
"""Where the tier is not in the catalogue (any more)."""


class Holder(Protocol):
    """Snapshots, as ``registry.holder`` keeps them."""

    @property
    def current(self) -> Snapshot:
        """The latest one."""
        ...

    def pinned(self, number: int) -> Snapshot:
        """The one that a record was decided under."""
        ...

    async def at_least(self, number: int, timeout: timedelta) -> Snapshot:  # noqa: ASYNC109 - as it is defined there
        """The current one, once its number is at least ``number``."""
        ...


class WorkerStage:
    """Runs the steps of one tier.

    Args:
        tier: Tier id.
        codec: Reads and writes records.
        operations: Claims and the answer journal; closed with the stage.
        providers: Who answers; closed with the stage.
        holder: Snapshots.
        settings: Retries, and what follows an unknown outcome.
        clock: Wall and monotonic clock.
        owner: Names this process in attempts.
        sleep: Waits.
    """

    def __init__(
        self,
        tier: str,
        codec: Codec,
        operations: Operations,
        providers: Providers,
        holder: Holder,
        settings: WorkerSettings,
        clock: Clock,
        owner: str,
        *,
        sleep: Sleep | None = None,
    ) -> None:
        self._tier = tier
        self._codec = codec
        self._providers = providers
        self._holder = holder
        self._clock = clock
        waits = sleep or _sleep
        self._journal = Journal(operations, clock=clock, sleep=waits)

        def latest() -> Snapshot:
            return holder.current

        caller = Caller(providers=providers, latest=latest, settings=settings, clock=clock, sleep=waits, owner=owner)
        self._steps = StepRunner(codec=codec, journal=self._journal, caller=caller, latest=latest, clock=clock)
        # A slip says nothing of the request: those of one plan are equal, and there are few plans.
        self._slip: Callable[[bytes], Slip] = lru_cache(maxsize=256)(lambda raw: codec.decode(Slip, raw))

    @property
    def name(self) -> str:
        """``worker-<tier>``."""
        return worker_name(self._tier)

    @property
    def inputs(self) -> Sequence[str]:
        """The tier's topic."""
        return (tier_topic(self._tier),)

    @property
    def concurrency(self) -> int:
        """As the catalogue says for the tier."""
        try:
            return self._holder.current.tier(self._tier).concurrency
        except CatalogueError:
            return DEFAULT_CONCURRENCY

    async def start(self) -> None:
        """Nothing: connections are opened when they are needed."""

    async def stop(self) -> None:
        """Abandon open claims, so that others need not wait for them, and close connections."""
        await self._journal.close()
        await self._providers.close()

    async def prepare(self, records: Sequence[InRecord], view: View[Snapshot]) -> None:
        """Nothing: what a record needs is asked for while others are being worked on."""

    async def handle(self, record: InRecord, view: View[Snapshot]) -> Effects:
        """Run the step.

        Raises:
            StateStoreError: Nothing was claimed; the record should be offered again.
            UndecodableError: The record is no Assignment of ours.
        """
        work = await self._read(record)
        if work is None:
            return WAIT
        try:
            value = await self._steps.run(work)
        except TooLateError:
            return Effects((self._expired(record, view, work.assignment),))
        return Effects((self._emit(record, work.assignment, value),))

    def fail(self, record: InRecord, view: View[Snapshot], error: TierflowError) -> Effects:
        """A dead letter, and a ``failed`` result as far as the record can be read.

        A completion that can't be written goes out without its output instead: its calls were made, and stay told.
        """
        if isinstance(error, EffectsRefusedError):
            shorter = [self._without_output(emit, error) for emit in error.outputs]
            if any(shorter):
                return Effects([emit for emit in shorter if emit is not None])
        dead = DeadLetter(code=error.code, message=str(error))
        content_type = self._codec.content_type
        try:
            assignment = self._codec.decode(Assignment, record.value or b"")
            content_type = assignment.request_content_type
        except TierflowError:
            assignment = None
        end = end_failed(
            record,
            view,
            self._codec,
            error,
            assignment,
            causation_id=_header(record, Name.CE_ID),
            content_type=content_type,
        )
        return Effects(() if end is None else (end,), (dead,))

    def _without_output(self, emit: Emit, error: EffectsRefusedError) -> Emit | None:
        """The completion as a failed one; None if it is none, or had no output to leave out."""
        if emit.record != "completion":
            return None
        completion = self._codec.decode(Completion, emit.value)
        if completion.outcome is not Outcome.OK:
            return None
        return replace(emit, value=self._codec.encode(outcome.unwritable(completion, error.reason)))

    # -- reading -------------------------------------------------------------------------------------------------------

    async def _read(self, record: InRecord) -> Work | None:
        """Everything that the step needs; None while the snapshot that it was decided under is not here."""
        raw = record.value or b""
        assignment = self._codec.decode(Assignment, raw)
        if self._holder.current.number < assignment.registry_chosen and not self._late(assignment):
            try:
                await self._holder.at_least(assignment.registry_chosen, SNAPSHOT_WAIT)
            except RegistryBehindError:
                return None
        slip = self._slip(assignment.slip)
        if not 0 <= assignment.step_index < len(slip.steps):
            raise UndecodableError(f"Assignment: step {assignment.step_index} of a slip with {len(slip.steps)} steps")
        step = slip.steps[assignment.step_index]
        return Work(
            assignment=assignment,
            raw=raw,
            step=step,
            request=self._codec.decode(Request, assignment.request, assignment.request_content_type),
            parameters=core.read_parameters(step.parameters),
            pinned=self._holder.pinned(assignment.registry_chosen),
            data_class=DataClass(_header(record, Name.DATA_CLASS) or DataClass.INTERNAL),
            tries=int(_header(record, Name.ATTEMPT) or 1),
        )

    def _late(self, assignment: Assignment) -> bool:
        return self._clock.now_ms() >= assignment.deadline_ms

    def _emit(self, record: InRecord, assignment: Assignment, value: bytes) -> Emit:
        names, headers = [assignment.request_id, str(assignment.step_index)], propagate(record.headers)
        if tries := _header(record, Name.ATTEMPT):
            names.append(f"try-{tries}")
            headers.append((Name.ATTEMPT.value, tries.encode()))
        return Emit(
            topic=COMPLETIONS,
            key=record.key,
            value=value,
            record="completion",
            id=derived_id("completion", *names),
            headers=headers,
            causation_id=_header(record, Name.CE_ID),
            content_type=self._codec.content_type,
        )

    def _expired(self, record: InRecord, view: View[Snapshot], assignment: Assignment) -> Emit:
        return end_request(
            headers=record.headers,
            key=record.key,
            status=Status.EXPIRED,
            now_ms=self._clock.now_ms(),
            mode=view.mode,
            codec=self._codec,
            source=assignment.source,
            accepted_at_ms=assignment.accepted_at_ms,
            request_content_type=assignment.request_content_type,
            causation_id=_header(record, Name.CE_ID),
            error_code=DeadlineExceededError.code,
            reason=f"{OUT_OF_TIME} before step {assignment.step_id} began",
            assignment=assignment,
        )


def _header(record: InRecord, name: Name) -> str:
    for key, raw in reversed(record.headers):
        if key == name:
            return raw.decode(errors="replace")
    return ""


async def _sleep(duration: timedelta) -> None:
    await asyncio.sleep(duration.total_seconds())
