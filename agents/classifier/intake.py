"""What comes in: a producer's record becomes an arrival, with all that can be wrong with it found and named."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from agents.classifier.core import matching
from agents.classifier.experience import Experience
from agents.classifier.judged import Judged
from agents.classifier.opinion import Opinion
from agents.classifier.prompt import Asked, look_through
from registry.snapshot import Snapshot
from schemas.catalogue import Intake, Rule
from schemas.codec import Codec
from schemas.content_types import sniff
from schemas.edges import Request
from schemas.enums import Action, Delivery, IdempotencyScope
from schemas.errors import DeniedError, InputError, InvalidRequestError, TooLargeError, UndecodableError
from schemas.headers import Context, Name
from schemas.ids import coordinates
from schemas.request_checks import check_request
from schemas.requests import content_type_of, request_context, salvaged_context
from streams.receiver import FIRST, Admission
from streams.records import InRecord

_PASSES: Final = frozenset({Action.ALLOW, Action.OBSERVE})
"""What a rule may ask for without ending the request."""


@dataclass(slots=True, kw_only=True)
class Arrival:
    """A record of an intake topic, read once and handed from ``prepare`` to ``handle``."""

    source: str
    """Coordinates."""
    content_type: str = ""
    """Of the request, without parameters; found out where the producer did not say."""
    context: Context | None = None
    """None for a record that was never accepted."""
    asked: Asked | None = None
    """None for a request that can't be read."""
    matched: tuple[Rule, ...] = ()
    """Rules that match its text."""
    judged: Judged | None = None
    """What the trained model says of its text."""
    experience: Experience | None = None
    """What was learnt from outcomes by the time it was judged."""
    opinion: Opinion | None = None
    """What a language model says of it, or why not; None where none was asked."""
    error: InputError | None = None
    """Why it is no request (``UndecodableError``), or why it's refused."""
    admission: Admission = FIRST
    """What the idempotent receiver knows of its id."""
    key_owner: str = ""
    """Request id that its idempotency key is bound to; empty without a key."""


class SecondOpinion(Protocol):
    """Asks somebody else about requests; writes what was heard into ``Arrival.opinion``."""

    async def ask(self, arrivals: Sequence[Arrival], snapshot: Snapshot, now_ms: int) -> None:
        """Ask, within a time limit; never raises."""
        ...


def read_arrival(record: InRecord, *, topic: str, snapshot: Snapshot, codec: Codec, now_ms: int) -> Arrival:
    """Read a record and check it against the rules.

    Args:
        record: Of an intake topic.
        topic: The topic's logical name.
        snapshot: What rules.
        codec: Reads it.
        now_ms: Unix milliseconds.

    Raises:
        StateStoreError: The schema registry must be asked and is away.
    """
    arrival = Arrival(source=coordinates(record.topic, record.partition, record.offset))
    intake = snapshot.intake(topic)
    request: Request | None = None
    try:
        value, arrival.content_type = _content(record, arrival)
        if arrival.error is None:
            request = codec.decode(Request, value, arrival.content_type)
            check_request(request, len(value), snapshot.catalogue.policies.max_inline_bytes)
    except UndecodableError as error:
        arrival.error = error
        return arrival
    except (InvalidRequestError, TooLargeError) as error:
        arrival.error = error
    if arrival.error is None and request is not None and intake is not None:
        try:
            arrival.context = request_context(
                record.headers,
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                timestamp_ms=record.timestamp_ms,
                intake=intake,
                now_ms=now_ms,
                request=request,
            )
            arrival.asked = look_through(request)
            arrival.matched = matching(arrival.asked, snapshot)
            check_permitted(arrival.asked, arrival.context, arrival.matched, snapshot)
        except InputError as error:
            arrival.error = error
    elif intake is None:
        arrival.error = DeniedError(f"{topic} is no intake topic (snapshot {snapshot.number})")
    if arrival.context is None:
        arrival.context = salvaged_context(
            record.headers,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            timestamp_ms=record.timestamp_ms,
            intake=intake or Intake(topic=topic),
            now_ms=now_ms,
        )
    return arrival


def _content(record: InRecord, arrival: Arrival) -> tuple[bytes, str]:
    """The value and its content type; a header that can't be read is noted, and the bytes say what they are."""
    if record.value is None:
        raise UndecodableError("byte 0: the record has no value")
    try:
        return record.value, content_type_of(record.value, record.headers)
    except InvalidRequestError as error:
        arrival.error = error
        return record.value, sniff(record.value)


def check_permitted(asked: Asked, context: Context, matched: tuple[Rule, ...], snapshot: Snapshot) -> None:
    """Refuse what policies forbid and what can't be done yet.

    Raises:
        DeniedError: A policy says no; names it.
        InvalidRequestError: A field asks for what isn't there; names it.
        TooLargeError: More text than is taken.
    """
    tenant = snapshot.tenant(context.tenant)
    if tenant is None:
        raise DeniedError(f"tenant {context.tenant} is not known (snapshot {snapshot.number})")
    if context.data_class not in tenant.data_classes:
        raise DeniedError(f"tenant {tenant.id} may not send {context.data_class.value} content")
    _check_fields(asked.request, snapshot)
    most = snapshot.catalogue.policies.max_prompt_chars
    if asked.chars > most:
        raise TooLargeError(f"messages: have {asked.chars} characters of text, at most {most} are taken")
    for deny in snapshot.deny_patterns:
        if "input" in deny.applies_to and any(deny.find(text) for text in asked.texts):
            raise DeniedError(f"deny list {deny.id}: {deny.reason}")
    for rule in matched:
        if rule.action is Action.REFUSE:
            raise DeniedError(f"rule {rule.id}: {rule.reason or 'not allowed here'}")
        if rule.action not in _PASSES:
            # Fails closed: an action that can't be taken must not become no action.
            raise DeniedError(f"rule {rule.id} asks to {rule.action.value}, which can't be done at intake yet")


def _check_fields(request: Request, snapshot: Snapshot) -> None:
    if request.cancel_of is not None:
        raise InvalidRequestError("cancel_of", "cancelling isn't done yet; let the deadline of the other request pass")
    if request.delivery is not Delivery.FINAL:
        raise InvalidRequestError("delivery", "only final is delivered yet")
    if request.cost_limit_micros is not None:
        currency = snapshot.catalogue.models[0].price.currency  # one for the whole catalogue
        if request.cost_currency != currency:
            raise InvalidRequestError("cost_currency", f"prices are in {currency} here")
    if request.idempotency_scope is IdempotencyScope.SESSION and request.idempotency_key and not request.session:
        raise InvalidRequestError("idempotency_scope", "is session, and the request names no session")


def scope_key(request: Request, context: Context) -> str:
    """The idempotency key together with what it is unique within; empty without a key."""
    if not request.idempotency_key:
        return ""
    match request.idempotency_scope:
        case IdempotencyScope.GLOBAL:
            scope = ""
        case IdempotencyScope.SESSION:
            scope = f"{context.tenant}\n{request.session}"
        case _:
            scope = context.tenant
    return f"{request.idempotency_scope.value}\n{scope}\n{request.idempotency_key}"


def record_id(record: InRecord) -> str:
    """ce_id of a record, empty if it has none."""
    for name, raw in reversed(record.headers):
        if name == Name.CE_ID.value:
            return raw.decode("utf-8", "replace")
    return ""
