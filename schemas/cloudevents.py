"""CloudEvents 1.0 on Kafka (Kafka protocol binding, JSON event format).

Binary mode is what we write: attributes in ``ce_*`` headers, the data as the record's value. Structured mode is read
from producers: the whole event as a JSON value, told by a content type that starts with ``application/cloudevents``.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from schemas.content_types import JSON, essence
from schemas.errors import InvalidRequestError, UndecodableError
from schemas.headers import Header, Name, RawHeaders, value_of
from schemas.request_json import json_object, json_of

SPEC_VERSION: Final = "1.0"
_STRUCTURED_PREFIX: Final = "application/cloudevents"
_HEADER_PREFIX: Final = "ce_"
_REQUIRED: Final = ("id", "source", "type")
_OPTIONAL: Final = ("subject", "time", "dataschema", "datacontenttype")


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudEvent:
    """The attributes of an event; its data is elsewhere.

    Attributes:
        id: Unique within ``source``.
        source: Who says it, a URI reference.
        type: What kind of event.
        time: RFC 3339, empty if none.
        subject: Empty if none.
        content_type: Media type of the data, empty if none.
        extensions: Other attributes, by name.
    """

    id: str
    source: str
    type: str
    time: str = ""
    subject: str = ""
    content_type: str = ""
    extensions: Mapping[str, str] = field(default_factory=dict)

    def headers(self) -> list[Header]:
        """As headers of a record in binary mode; empty attributes are left out."""
        pairs = [
            (Name.CE_SPECVERSION.value, SPEC_VERSION.encode()),
            (Name.CE_ID.value, self.id.encode()),
            (Name.CE_SOURCE.value, self.source.encode()),
            (Name.CE_TYPE.value, self.type.encode()),
        ]
        for name, value in (
            (Name.CE_TIME.value, self.time),
            (f"{_HEADER_PREFIX}subject", self.subject),
            (Name.CONTENT_TYPE.value, self.content_type),
        ):
            if value:
                pairs.append((name, value.encode()))
        pairs += ((_HEADER_PREFIX + name, value.encode()) for name, value in self.extensions.items())
        return pairs


def rfc3339(unix_ms: int) -> str:
    """``ce_time``: UTC with milliseconds."""
    text = datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return f"{text.removesuffix('+00:00')}Z"


def event_of(headers: RawHeaders) -> CloudEvent | None:
    """The attributes of a record in binary mode; None when it is no CloudEvent.

    Raises:
        InvalidRequestError: Another version, a required attribute is missing or empty, or a header is not UTF-8.
    """
    version = value_of(headers, Name.CE_SPECVERSION)
    if version is None:
        return None
    found = {
        name.removeprefix(_HEADER_PREFIX): value_of(headers, name) or ""
        for name in dict.fromkeys(name for name, _ in headers)
        if name.startswith(_HEADER_PREFIX)
    }
    found["datacontenttype"] = value_of(headers, Name.CONTENT_TYPE) or ""
    return _event(found, version, _HEADER_PREFIX)


def is_structured(content_type: str) -> bool:
    """Whether a content type announces structured mode (or a batch, which is not read)."""
    return content_type.lower().startswith(_STRUCTURED_PREFIX)


def unwrap(value: bytes) -> tuple[CloudEvent, str, bytes]:
    """An event in structured mode: its attributes, the content type of its data, and the data.

    Raises:
        UndecodableError: Not a JSON object (batches and other formats are not read), or ``data_base64`` is not base64.
        InvalidRequestError: Names the attribute that is wrong or missing.
    """
    body = json_object(value)
    version = body.pop("specversion", None)
    inline, encoded = body.pop("data", None), body.pop("data_base64", None)
    attributes = {name: _attribute(name, item) for name, item in body.items() if item is not None}
    event = _event(attributes, version, "")
    content_type = essence(event.content_type) or JSON
    if is_structured(content_type):
        raise InvalidRequestError("datacontenttype", "an event within an event is not read")
    if encoded is None:
        if inline is None:
            raise InvalidRequestError("data", "is missing")
        return event, content_type, json_of(inline, "data")
    if inline is not None:
        raise InvalidRequestError("data_base64", "can't stand beside data")
    try:
        return event, content_type, base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise UndecodableError(f"data_base64: not base64: {error}") from error


def _attribute(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return value
    raise InvalidRequestError(name[:100], "an attribute is text, a whole number or a boolean")


def _event(found: Mapping[str, str], version: Any, prefix: str) -> CloudEvent:
    if version != SPEC_VERSION:
        raise InvalidRequestError(f"{prefix}specversion", f"only {SPEC_VERSION} is read")
    for name in _REQUIRED:
        if not found.get(name):
            raise InvalidRequestError(f"{prefix}{name}", "is missing")
    known = {*_REQUIRED, *_OPTIONAL, "specversion"}
    return CloudEvent(
        id=found["id"],
        source=found["source"],
        type=found["type"],
        time=found.get("time", ""),
        subject=found.get("subject", ""),
        content_type=found.get("datacontenttype", ""),
        extensions={name: value for name, value in found.items() if name not in known},
    )
