"""The idempotent receiver: the first record of an id is taken, later ones are known for what they are.

The state store keeps, for the length of the window, at which coordinates an id was first seen. A record that meets its
own coordinates was delivered again and goes on; one that meets others is a duplicate. When the store does not answer,
nothing is decided: ``StateStoreError`` reaches the caller, who waits and asks again.

A store that lost its content takes a duplicate for a first: within the window that is the only way to get one through.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

from schemas.ids import derived_id
from schemas.ports import StateStore


class Seen(StrEnum):
    """What the receiver knows of an id."""

    FIRST = "first"
    """Never seen within the window."""
    AGAIN = "again"
    """Seen at these very coordinates: a redelivery, to be handled as the first time."""
    DUPLICATE = "duplicate"
    """Seen elsewhere."""


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether a record is to be handled.

    Attributes:
        seen: What is known of its id.
        of: Coordinates of the first record of the id, for a duplicate.
    """

    seen: Seen
    of: str = ""

    @property
    def admitted(self) -> bool:
        """Whether the record is to be handled."""
        return self.seen is not Seen.DUPLICATE


FIRST: Final = Admission(Seen.FIRST)
AGAIN: Final = Admission(Seen.AGAIN)


class Receiver:
    """Remembers ids in the state store.

    Args:
        store: Where.
        window: How long an id is remembered; above the retention of the topic that it arrives on.
        kind: What the ids are of; ids of different kinds do not meet.
    """

    def __init__(self, store: StateStore, window: timedelta, *, kind: str = "request") -> None:
        self._store = store
        self._window = window
        self._ids = f"seen:{kind}:"
        self._keys = f"bound:{kind}:"

    async def admit(self, entries: Sequence[tuple[str, str]]) -> list[Admission]:
        """Decide on a batch in one round trip; of equal ids within it the first one wins.

        Args:
            entries: Id and coordinates of each record, in the order of arrival.

        Raises:
            StateStoreError: Nothing is decided. What the store took in before it failed reads as ``AGAIN`` next time.
        """
        prefix = self._ids
        pairs = [(prefix + key, place.encode()) for key, place in entries]
        there = await self._store.put_each_if_absent(pairs, self._window)
        return [
            FIRST if earlier is None else AGAIN if earlier == place else Admission(Seen.DUPLICATE, earlier.decode())
            for (_, place), earlier in zip(pairs, there, strict=True)
        ]

    async def bind(self, scope_key: str, request_id: str) -> str:
        """Bind an idempotency key to the first request id that uses it.

        Args:
            scope_key: The key together with its scope; any text, of any length.
            request_id: Who uses it now.

        Returns:
            The id it is bound to: ``request_id`` unless another one was first.

        Raises:
            StateStoreError: Nothing is decided.
        """
        key = self._keys + derived_id(scope_key)  # producers choose the text; the store gets a short one without spaces
        first = await self._store.put_if_absent(key, request_id.encode(), self._window)
        return request_id if first is None else first.decode()
