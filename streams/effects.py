"""The seam between what decides and what moves: ``Handler(record, view) -> Effects``.

A stage looks at one record and says what should follow. It writes nothing itself; the loop commits its effects together
with the record's offset, or not at all.
"""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from msgspec import Struct

from schemas.delivery import DeliveryMode
from schemas.errors import TierflowError
from schemas.headers import AVRO, Header
from streams.records import InRecord

R = TypeVar("R")


class Disposition(StrEnum):
    """Why a record was given up: no try helps, or the tries are used up."""

    POISON = "poison"
    EXHAUSTED = "exhausted"


class Emit(Struct, frozen=True):
    """A record to write.

    The loop adds the hop's own headers: CloudEvents source and time, sequence, epoch, delivery mode.
    """

    topic: str
    """Logical topic, without the installation's prefix."""
    key: bytes | None
    value: bytes
    record: str
    """Record type in lower case, such as ``assignment``; becomes ce_type."""
    id: str
    """ce_id; derived, so that a repeat has the same."""
    headers: Sequence[Header]
    """What is handed on (see ``schemas.headers.propagate``) and what this record adds."""
    causation_id: str = ""
    content_type: str = AVRO
    partition: int | None = None


class DeadLetter(Struct, frozen=True):
    """The handled record goes to the stage's dead-letter topic, with its original bytes."""

    code: str
    """Stable error code."""
    message: str
    """What was wrong, with field or byte; no content."""
    disposition: Disposition = Disposition.POISON
    attempt: int = 1


class Effects(Struct, frozen=True):
    """What follows from one record; committed together with its offset, or not at all."""

    outputs: Sequence[Emit] = ()
    dead_letters: Sequence[DeadLetter] = ()
    done: bool = True
    """False leaves the record unfinished: it is offered again after a pause (the stage waits for something outside)."""
    not_before_ms: int = 0
    """Of an unfinished record of a synchronous stage: its partition is left alone until then (Unix milliseconds), with
    everything behind it; other partitions go on."""


NOTHING = Effects()


class View(Struct, Generic[R], frozen=True):
    """What a handler may know besides the record.

    Attributes:
        now_ms: Wall clock at hand-out, Unix milliseconds.
        rules: The snapshot that rules; the same object for one record from start to end.
        mode: What the broker can do.
        prepared: What the stage's ``prepare`` found for this record.
    """

    now_ms: int
    rules: R
    mode: DeliveryMode
    prepared: object = None


class Stage(Protocol[R]):
    """An agent as the loop sees it."""

    @property
    def name(self) -> str:
        """Short name; part of group, dead-letter topic and metrics."""
        ...

    @property
    def inputs(self) -> Sequence[str]:
        """Logical topics to consume."""
        ...

    @property
    def concurrency(self) -> int:
        """Most records handled at a time when ``handle`` is asynchronous; 0 for a synchronous ``handle``."""
        ...

    async def start(self) -> None:
        """Open what the stage needs."""
        ...

    async def stop(self) -> None:
        """Close it."""
        ...

    async def prepare(self, records: Sequence[InRecord], view: View[R]) -> Sequence[object] | None:
        """Look up what is needed for a batch in one go; one entry a record becomes ``view.prepared``.

        Raises:
            StateStoreError: The loop waits and asks again; nothing is lost.
        """
        ...

    def handle(self, record: InRecord, view: View[R]) -> Effects | Awaitable[Effects]:
        """Decide what follows. Synchronous stages return effects, waiting ones an awaitable.

        Records of one key within a partition are handled one after the other.
        """
        ...

    def fail(self, record: InRecord, view: View[R], error: TierflowError) -> Effects:
        """What follows when the record can't be handled at all.

        A dead letter and, for a request that was accepted, a ``failed`` result. Must not raise.
        """
        ...


@dataclass(slots=True)
class Counters:
    """What a loop did so far; read by telemetry and tests."""

    taken: int = 0
    committed: int = 0
    emitted: int = 0
    dead_lettered: int = 0
    commits: int = 0
    resets: int = 0
    handler_errors: int = 0
