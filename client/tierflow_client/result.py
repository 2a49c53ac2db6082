"""How a request ended."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from enum import StrEnum
from typing import Any, Self

from tierflow_client.errors import UnreadableResultError


class Status(StrEnum):
    """How a request ended. A word that this client does not know yet reads as ``UNKNOWN``."""

    ANSWERED = "answered"
    REFUSED = "refused"
    FAILED = "failed"
    EXPIRED = "expired"
    DUPLICATE = "duplicate"
    UNKNOWN = "unknown"

    @classmethod
    def _missing_(cls, value: object) -> "Status":
        del value
        return cls.UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one check said of the answer."""

    check: str
    """Which check, with version."""
    action: str
    """allow, observe, redact, escalate, review or refuse."""
    reason: str = ""
    """Why, without content."""
    score: float | None = None
    """The check's measure, if it has one."""
    rule_id: str = ""
    """Policy rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Redaction:
    """How many spans of a type were taken out."""

    type: str
    """Type of what was found."""
    count: int
    """How many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a request ended: answered, refused, failed, expired, or a duplicate of another."""

    request_id: str
    """Which request."""
    status: Status
    """How it ended."""
    error_code: str = ""
    """Stable code when not answered."""
    reason: str = ""
    """For people, without content."""
    output: str | None = None
    """The answer's text."""
    output_parts: tuple[Mapping[str, Any], ...] = ()
    """Other parts of the answer, such as tool calls."""
    output_dataref: str | None = None
    """Where the output lies when it is too large for a record."""
    output_sha256: str = ""
    """Hex SHA-256 of the output."""
    finish_reason: str = "none"
    """Why the model stopped."""
    task_class: str = ""
    """Task class decided."""
    route_id: str = ""
    """Route."""
    plan_id: str = ""
    """Plan."""
    tier: str = ""
    """Tier that answered or failed last."""
    model: str = ""
    """model@version that answered."""
    steps: int = 0
    """Steps run."""
    escalations: int = 0
    """Steps after the first."""
    attempts: int = 0
    """Calls made."""
    tokens_in: int = 0
    """Prompt tokens of all calls."""
    tokens_out: int = 0
    """Answer tokens of all calls."""
    cost_micros: int = 0
    """Billed for all calls, in millionths of a currency unit."""
    currency: str = "USD"
    """ISO 4217."""
    cpu_us: int = 0
    """CPU microseconds of local models."""
    confidence: float | None = None
    """Confidence in the answer where a check measures it, 0 to 1."""
    verdicts: tuple[Verdict, ...] = ()
    """Checks on the last step."""
    redactions: tuple[Redaction, ...] = ()
    """What was taken out."""
    order_relaxed: bool = False
    """Whether order within the key was given up on the way."""
    duplicate_of: str = ""
    """Request id whose result stands for this one."""
    delivery_mode: str = ""
    """exactly_once or at_least_once."""
    registry_number: int = 0
    """Snapshot of the rules that decided."""
    accepted_at_ms: int = 0
    """Unix milliseconds."""
    ended_at_ms: int = 0
    """Unix milliseconds."""
    source: str = ""
    """Coordinates of the request record: topic/partition/offset."""
    session: str = ""
    """As in the request."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """As in the request."""

    @property
    def ok(self) -> bool:
        """Whether there is an answer."""
        return self.status is Status.ANSWERED

    @property
    def took(self) -> timedelta:
        """From acceptance to the end."""
        return timedelta(milliseconds=max(0, self.ended_at_ms - self.accepted_at_ms))

    def json(self) -> Any:
        """The answer's text read as JSON, for requests with an output schema.

        Raises:
            UnreadableResultError: There is no text, or it is no JSON.
        """
        try:
            return json.loads(self.output or "")
        except ValueError as error:
            raise UnreadableResultError(f"the output of {self.request_id} is no JSON: {error}") from error

    @classmethod
    def from_json(cls, value: bytes) -> Self:
        """Read a result record. Fields that this client does not know are left out.

        Raises:
            UnreadableResultError: Not JSON, or not a result.
        """
        try:
            raw = json.loads(value)
            known = {each.name: raw[each.name] for each in fields(cls) if each.name in raw}
            known["status"] = Status(known["status"])
            known["output_parts"] = tuple(json.loads(known.get("output_parts") or "[]"))
            known["verdicts"] = tuple(_taken(Verdict, each) for each in known.get("verdicts", ()))
            known["redactions"] = tuple(_taken(Redaction, each) for each in known.get("redactions", ()))
            return cls(**known)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UnreadableResultError(f"no result: {error!r}") from error


def _taken(kind: type[Any], raw: Mapping[str, Any]) -> Any:
    return kind(**{each.name: raw[each.name] for each in fields(kind) if each.name in raw})
