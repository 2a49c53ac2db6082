"""The classifier as a stage: intake topics in; assignments, or results of what ends at intake, out."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

from msgspec.structs import replace

from agents.classifier.core import Choice, NoRouteError, decide
from agents.classifier.experience import Experience
from agents.classifier.intake import Arrival, SecondOpinion, read_arrival, record_id, scope_key
from agents.classifier.judge import Judge
from agents.classifier.opinion import charged, totals
from agents.classifier.telling import Teller
from agents.plan import make_slip
from agents.results import end_request, receipt_json
from agents.signals import NO_SIGNALS, Signals
from registry.snapshot import Snapshot
from schemas.codec import Codec
from schemas.enums import Status
from schemas.errors import DeadlineExceededError, InputError, TierflowError, UndecodableError
from schemas.flow import Assignment, Slip
from schemas.headers import Context, Name
from schemas.ids import derived_id
from streams.effects import DeadLetter, Disposition, Effects, Emit, View
from streams.receiver import Receiver
from streams.records import InRecord
from streams.topics import REQUESTS, Names, tier_topic

log = logging.getLogger(__name__)

NAME: Final = "classifier"
_SLIPS: Final = 512
"""Encoded slips kept: one for each plan, start and set of permitted models that occurs."""


class ClassifierStage:
    """Reads requests, refuses what must be refused, and hands the rest to a tier.

    Args:
        codec: Reads and writes records.
        receiver: Knows which request ids were seen.
        signals: What is known of the world now; asked once a request.
        intake: Logical intake topics.
        names: Physical topic names.
        exploration: Share of requests that try any permitted candidate, so that it stays known what the others are
            worth and what they cost.
        exploration_cap: Micro-units that such a try may cost more than the best candidate; None for no cap.
        judge: The trained model; without one, and where it has no answer, the surface classifier decides.
        experience: What was learnt from outcomes, as of now; None where that doesn't count.
        second: Asks a language model about requests whose class is in doubt; None asks nobody.
        trace: Makes the ``traceparent`` of a request that brings none; sampled or not is its choice. Left out, such
            requests are not sampled.
    """

    def __init__(
        self,
        *,
        codec: Codec,
        receiver: Receiver,
        signals: Callable[[], Signals] = lambda: NO_SIGNALS,
        intake: Sequence[str] = (REQUESTS,),
        names: Names = Names(),  # noqa: B008 - frozen
        exploration: float = 0.0,
        exploration_cap: int | None = None,
        judge: Judge | None = None,
        experience: Callable[[], Experience | None] = lambda: None,
        second: SecondOpinion | None = None,
        trace: Callable[[str], str] | None = None,
    ) -> None:
        self._codec = codec
        self._receiver = receiver
        self._signals = signals
        self._intake = tuple(intake)
        self._names = names
        self._exploration = exploration
        self._exploration_cap = exploration_cap
        self._judge = judge
        self._experience = experience
        self._second = second
        self._trace = trace
        self._tell = Teller(names, codec)
        self._slips: dict[tuple[int, str, str, int, tuple[tuple[str, ...], ...]], tuple[Slip, bytes]] = {}

    @property
    def name(self) -> str:
        """``classifier``."""
        return NAME

    @property
    def inputs(self) -> Sequence[str]:
        """Intake topics."""
        return self._intake

    @property
    def concurrency(self) -> int:
        """0: it decides at once."""
        return 0

    async def start(self) -> None:
        """Nothing to open."""

    async def stop(self) -> None:
        """Nothing to close."""

    async def prepare(self, records: Sequence[InRecord], view: View[Snapshot]) -> Sequence[object]:
        """Read a batch, and ask the idempotent receiver about all of it in one go.

        Raises:
            StateStoreError: Nothing is lost; the batch is offered again.
        """
        arrivals = [self._read(record, view) for record in records]
        accepted = [(each, each.context.request_id) for each in arrivals if each.context is not None]
        admissions = await self._receiver.admit([(request_id, each.source) for each, request_id in accepted])
        keyed: list[tuple[Arrival, str, str]] = []
        for (each, request_id), admission in zip(accepted, admissions, strict=True):
            each.admission = admission
            if admission.admitted and each.error is None and each.asked is not None and each.context is not None:
                key = scope_key(each.asked.request, each.context)
                if key:
                    keyed.append((each, key, request_id))
        if keyed:
            owners = await asyncio.gather(*(self._receiver.bind(key, request_id) for _, key, request_id in keyed))
            for (each, _, _), owner in zip(keyed, owners, strict=True):
                each.key_owner = owner
        self._judge_all(arrivals)
        if self._second is not None:
            await self._second.ask(arrivals, view.rules, view.now_ms)
        return arrivals

    def _judge_all(self, arrivals: Sequence[Arrival]) -> None:
        """Ask the trained model about all requests that will be decided, in one pass."""
        experience = self._experience()
        if experience is not None:  # the state that the judge's heads are of: nothing is awaited between the two
            for arrival in arrivals:
                arrival.experience = experience
        if self._judge is None:
            return
        asked = [(each, each.asked.text) for each in arrivals if each.asked is not None and _to_judge(each)]
        if asked:
            judged = self._judge([text for _, text in asked])
            for (each, _), said in zip(asked, judged, strict=True):
                each.judged = said

    def _read(self, record: InRecord, view: View[Snapshot]) -> Arrival:
        arrival = read_arrival(
            record,
            topic=self._names.logical(record.topic),
            snapshot=view.rules,
            codec=self._codec,
            now_ms=view.now_ms,
        )
        if self._trace is not None and arrival.context is not None and _untraced(record):
            arrival.context = replace(arrival.context, traceparent=self._trace(arrival.context.request_id))
        return arrival

    def handle(self, record: InRecord, view: View[Snapshot]) -> Effects:
        """Decide what becomes of a request."""
        arrival = view.prepared if isinstance(view.prepared, Arrival) else self._read(record, view)
        context, error = arrival.context, arrival.error
        if context is None or isinstance(error, UndecodableError):
            return Effects(dead_letters=(_dead_letter(error),))
        if not arrival.admission.admitted:
            return Effects(outputs=(self._tell.duplicate(record, arrival, context, view),))
        if error is not None:
            return self._end(record, arrival, context, view, Status.REFUSED, error.code, str(error))
        if arrival.key_owner not in {"", context.request_id}:
            return self._end(record, arrival, context, view, Status.DUPLICATE, duplicate_of=arrival.key_owner)
        if view.now_ms >= context.deadline_ms:
            late = view.now_ms - context.deadline_ms
            reason = f"the deadline was over for {late} ms when the request came to its turn"
            return self._end(record, arrival, context, view, Status.EXPIRED, DeadlineExceededError.code, reason)
        return self._route(record, arrival, context, view)

    def _route(self, record: InRecord, arrival: Arrival, context: Context, view: View[Snapshot]) -> Effects:
        if arrival.asked is None:
            raise TierflowError("an arrival without error has no request")
        try:
            choice = decide(
                arrival.asked,
                view.rules,
                self._signals(),
                view.now_ms,
                context=context,
                matched=arrival.matched,
                exploration=self._exploration,
                exploration_cap=self._exploration_cap,
                judged=arrival.judged,
                experience=arrival.experience,
                opinion=arrival.opinion,
            )
        except NoRouteError as error:
            return self._end(record, arrival, context, view, error.status, error.code, str(error))
        except InputError as error:
            return self._end(record, arrival, context, view, Status.REFUSED, error.code, str(error))
        return Effects(outputs=(self._assign(record, arrival, context, view, choice),))

    def _assign(
        self, record: InRecord, arrival: Arrival, context: Context, view: View[Snapshot], choice: Choice
    ) -> Emit:
        slip, slip_bytes = self._slip(choice, view.rules)
        step, request_id, decision = slip.steps[0], context.request_id, choice.decision
        request = arrival.asked.request if arrival.asked else None
        assignment = Assignment(
            request_id=request_id,
            request=record.value or b"",
            request_content_type=arrival.content_type,
            decision=self._codec.encode(decision),
            slip=slip_bytes,
            plan_id=slip.plan_id,
            plan_hash=slip.plan_hash,
            step_id=step.step_id,
            step_index=0,
            tier=step.tier,
            task_class=decision.task_class.value,
            has_output_schema=request is not None and request.output_schema is not None,
            accepted_at_ms=view.now_ms,
            assigned_at_ms=view.now_ms,
            deadline_ms=context.deadline_ms,
            cost_left_micros=choice.cost_limit,
            registry_chosen=view.rules.number,
            registry_checked=view.rules.number,
            source=arrival.source,
            receipt=_receipt(arrival, view.rules, decision.route_id),
        )
        if arrival.opinion is not None and arrival.opinion.calls:
            assignment = charged(assignment, arrival.opinion)
        return Emit(
            topic=tier_topic(step.tier),
            key=_key(record, request_id),
            value=self._codec.encode(assignment),
            record="assignment",
            id=derived_id("assignment", request_id, "0"),
            headers=context.headers(),
            causation_id=record_id(record) or request_id,
            content_type=self._codec.content_type,
        )

    def _slip(self, choice: Choice, snapshot: Snapshot) -> tuple[Slip, bytes]:
        kind = (snapshot.number, snapshot.hash, choice.plan.id, choice.start, choice.models)
        found = self._slips.get(kind)
        if found is None:
            if len(self._slips) >= _SLIPS:
                self._slips.clear()
            slip = make_slip(choice.plan, snapshot, start=choice.start, models=choice.models)
            found = self._slips[kind] = slip, self._codec.encode(slip)
        return found

    def _end(
        self,
        record: InRecord,
        arrival: Arrival,
        context: Context,
        view: View[Snapshot],
        status: Status,
        code: str = "",
        reason: str = "",
        *,
        duplicate_of: str = "",
    ) -> Effects:
        opinion = arrival.opinion
        called: tuple[Emit, ...] = ()
        if opinion is not None and opinion.calls:
            called = self._tell.calls(record, opinion, context, view)
        emit = end_request(
            headers=context.headers(),
            key=_key(record, context.request_id),
            status=status,
            now_ms=view.now_ms,
            mode=view.mode,
            codec=self._codec,
            source=arrival.source,
            accepted_at_ms=view.now_ms,
            request_content_type=arrival.content_type,
            causation_id=record_id(record) or context.request_id,
            error_code=code,
            reason=reason,
            duplicate_of=duplicate_of,
            receipt=_receipt(arrival, view.rules),
            registry_number=view.rules.number,
            before=totals(opinion) if opinion is not None and called else {},
        )
        return Effects(outputs=(*called, emit))

    def fail(self, record: InRecord, view: View[Snapshot], error: TierflowError) -> Effects:
        """A dead letter, and a ``failed`` result if the record was accepted. Never raises."""
        letters = (_dead_letter(error, Disposition.EXHAUSTED),)
        try:
            arrival = view.prepared if isinstance(view.prepared, Arrival) else self._read(record, view)
            if arrival.context is None or not arrival.admission.admitted:
                return Effects(dead_letters=letters)
            ended = self._end(record, arrival, arrival.context, view, Status.FAILED, error.code, str(error))
        except Exception:
            log.exception("no result could be written for %s/%d/%d", record.topic, record.partition, record.offset)
            return Effects(dead_letters=letters)
        return Effects(outputs=ended.outputs, dead_letters=letters)


def _to_judge(arrival: Arrival) -> bool:
    """Whether a request's text is worth a look: it will be decided on, and nobody has said what it is."""
    return (
        arrival.error is None
        and arrival.admission.admitted
        and arrival.asked is not None
        and arrival.asked.request.task_hint is None
        and all(rule.task_class is None for rule in arrival.matched)
    )


def _dead_letter(error: TierflowError | None, disposition: Disposition = Disposition.POISON) -> DeadLetter:
    if error is None:
        return DeadLetter(code=TierflowError.code, message="the record could not be read", disposition=disposition)
    return DeadLetter(code=error.code, message=str(error), disposition=disposition)


def _untraced(record: InRecord) -> bool:
    return all(name != Name.TRACEPARENT.value for name, _ in record.headers)


def _key(record: InRecord, request_id: str) -> bytes:
    return record.key if record.key is not None else request_id.encode()


def _receipt(arrival: Arrival, snapshot: Snapshot, route: str = "") -> str:
    request = arrival.asked.request if arrival.asked else None
    currency = snapshot.catalogue.models[0].price.currency if snapshot.catalogue.models else "USD"
    if request is None or not request.metadata:
        return _plain_receipt(request.session or "" if request else "", route, currency)
    return receipt_json(metadata=dict(request.metadata), session=request.session or "", route=route, currency=currency)


@lru_cache(maxsize=512)
def _plain_receipt(session: str, route: str, currency: str) -> str:
    """Most requests have no metadata, and so the same few receipts."""
    return receipt_json(metadata={}, session=session, route=route, currency=currency)
