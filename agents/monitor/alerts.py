"""What the monitor says to programs: a JSON record for each offence on the topic ``alerts``. Pure.

The same offence has the same id whoever finds it, and however often: a reader that knows the id knows the alert.
"""

from dataclasses import dataclass
from typing import Self

import orjson

from agents.monitor.core import Kind, Offence
from schemas.errors import UndecodableError
from schemas.headers import JSON, Name, RawHeaders
from schemas.ids import derived_id


@dataclass(frozen=True, slots=True)
class Alert:
    """An offence with its id and time.

    Attributes:
        id: Derived from kind and subject.
        kind: What is wrong.
        subject: Request id, or coordinates of a record on an intake topic.
        text: For people.
        found_ms: Unix milliseconds at which it was found first, by whoever wrote this.
    """

    id: str
    kind: Kind
    subject: str
    text: str
    found_ms: int

    @classmethod
    def of(cls, offence: Offence, found_ms: int) -> Self:
        """The alert that tells of an offence."""
        made = derived_id("alert", offence.kind, offence.subject)
        return cls(made, offence.kind, offence.subject, offence.text, found_ms)

    @property
    def key(self) -> bytes:
        """Record key: ``<kind>/<subject>``."""
        return f"{self.kind}/{self.subject}".encode()

    @property
    def headers(self) -> RawHeaders:
        """Record headers: id, type and content type."""
        return (
            (Name.CE_ID.value, self.id.encode()),
            (Name.CE_TYPE.value, b"tierflow.alert.v1"),
            (Name.CONTENT_TYPE.value, JSON.encode()),
        )

    def encode(self) -> bytes:
        """Record value: a JSON object with the fields of this class."""
        return orjson.dumps(self)

    @classmethod
    def decode(cls, value: bytes) -> Self:
        """Read a record value; further fields are for newer readers.

        Raises:
            UndecodableError: It is no alert.
        """
        try:
            found = orjson.loads(value)
            return cls(
                str(found["id"]), Kind(found["kind"]), str(found["subject"]), str(found["text"]), int(found["found_ms"])
            )
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise UndecodableError(f"no alert: {error!r}") from error
