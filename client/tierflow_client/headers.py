"""Header names that producers write and consumers read."""

from typing import Final

Header = tuple[str, bytes]

CONTENT_TYPE: Final = "content-type"
REQUEST_ID: Final = "tierflow.request-id"
TENANT: Final = "tierflow.tenant"
DEADLINE: Final = "tierflow.deadline"
PRIORITY: Final = "tierflow.priority"
DATA_CLASS: Final = "tierflow.data-class"
ROOT_ID: Final = "tierflow.root-id"
PARENT_ID: Final = "tierflow.parent-id"
TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"

JSON: Final = "application/json"

MAX_ID_CHARS: Final = 128
"""Longest request id that Tierflow takes."""


def value_of(headers: tuple[Header, ...] | list[Header], name: str) -> str:
    """The last value under a name (the last one wins), or empty text."""
    for key, raw in reversed(headers):
        if key == name and raw is not None:
            return raw.decode("utf-8", "replace")
    return ""
