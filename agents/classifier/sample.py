"""One answer of a language model to the question of a request's class, as the journal keeps it. Pure."""

import msgspec
from msgspec import Struct

from schemas.enums import TaskClass
from schemas.errors import UndecodableError
from schemas.flow import Attempt


class Sample(Struct, frozen=True):
    """A paid call, and what it said; no content of the request or the answer.

    Attributes:
        attempt: The call, as it is told in the request's story. Its outcome is unknown in the note of a call that is
            about to be made.
        said: The class that was named; None where none was.
    """

    attempt: Attempt
    said: TaskClass | None = None

    def to_bytes(self) -> bytes:
        """As it's kept."""
        return msgspec.json.encode(self)


def read_sample(value: bytes) -> Sample:
    """A sample as it was kept.

    Raises:
        UndecodableError: It's none of this version.
    """
    try:
        return msgspec.json.decode(value, type=Sample)
    except msgspec.DecodeError as error:
        raise UndecodableError(f"a journaled answer of the classifier's language model: {error}") from error
