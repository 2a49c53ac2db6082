"""Remembering which requests' results were seen, in bounded memory."""

from collections import OrderedDict
from enum import Enum, auto


class Sight(Enum):
    """What a memory says of a result."""

    NEW = auto()
    REPEAT = auto()
    """The same result once more: a broker without transactions can give one twice."""
    CONFLICT = auto()
    """Another result for the same request. The first one counts."""


class Seen:
    """The last ids, with a fingerprint of what was seen under each.

    Args:
        size: Ids to remember; about 200 bytes each. A repeat later than so many others is not noticed.
    """

    def __init__(self, size: int = 100_000) -> None:
        if size < 1:
            raise ValueError("size must be at least 1")
        self._size = size
        self._ids: OrderedDict[str, int] = OrderedDict()

    def look(self, request_id: str, fingerprint: int) -> Sight:
        """See an id, and remember it.

        Args:
            request_id: Which.
            fingerprint: Of the result; the same for the same result.
        """
        known = self._ids.get(request_id)
        if known is None:
            self._ids[request_id] = fingerprint
            if len(self._ids) > self._size:
                self._ids.popitem(last=False)
            return Sight.NEW
        self._ids.move_to_end(request_id)
        return Sight.REPEAT if known == fingerprint else Sight.CONFLICT

    def __len__(self) -> int:
        return len(self._ids)
