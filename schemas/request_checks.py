"""What a request must satisfy beyond its fields' own limits (which stand in ``schemas.edges``)."""

from collections.abc import Iterator
from typing import Final

import orjson

from schemas.edges import Message, Part, Request, Tool
from schemas.enums import PartKind, Role, TaskClass
from schemas.errors import InvalidRequestError, TooLargeError
from schemas.headers import checked_id
from schemas.json_schema import json_schema

DEFAULT_INLINE_BYTES: Final = 256 * 1024
"""Most inline content of a request, all of it together."""
RECORD_FACTOR: Final = 4
"""A record may be this many times the inline cap: room for base64 (4/3), for JSON escapes and for what is no content.
An assignment carries the record as it came and a completion the assignment, and both must fit into their topics."""
MOST_MESSAGES: Final = 2_000

_TASK_CLASSES: Final = frozenset(task_class.value for task_class in TaskClass)
_BINARY: Final = frozenset({PartKind.IMAGE, PartKind.AUDIO})
_LONGEST_MEDIA_TYPE: Final = 127


def check_request(request: Request, record_bytes: int, max_inline_bytes: int = DEFAULT_INLINE_BYTES) -> None:
    """Refuse what can't be routed or answered.

    Args:
        request: A request whose single fields are right.
        record_bytes: Length of the record that it was read from.
        max_inline_bytes: Most inline content.

    Raises:
        InvalidRequestError: Names the first field that is wrong.
        TooLargeError: Names the largest part and its size.
    """
    _check_messages(request)
    if record_bytes > max_inline_bytes:
        _check_size(request, record_bytes, max_inline_bytes)
    for index, tool in enumerate(request.tools):
        _check_tool(tool, f"tools.{index}")
    if request.output_schema is not None:
        _check_schema("output_schema", request.output_schema)
    if request.task_hint is not None and request.task_hint not in _TASK_CLASSES:
        raise InvalidRequestError("task_hint", f"must be one of {', '.join(TaskClass)}")
    for name in ("idempotency_key", "cancel_of", "session", "subject", "content_key_id"):
        value = getattr(request, name)
        if value is not None:
            checked_id(name, value)


def _check_messages(request: Request) -> None:
    if len(request.messages) > MOST_MESSAGES:
        raise InvalidRequestError("messages", f"has {len(request.messages)} of them, at most {MOST_MESSAGES} are taken")
    asked = False
    for index, message in enumerate(request.messages):
        _check_message(message, index)
        asked = asked or message.role is Role.USER
    if not asked:
        raise InvalidRequestError("messages", "has no message of role user, so nothing is asked")


def _check_message(message: Message, index: int) -> None:
    if message.role is Role.OTHER:
        raise InvalidRequestError(f"messages.{index}.role", "is a role that is not known here")
    if not message.parts:
        raise InvalidRequestError(f"messages.{index}.parts", "is empty")
    for position, part in enumerate(message.parts):
        if part.kind is PartKind.TEXT and part.dataref is None:
            if part.text is None or not part.text.strip():
                raise InvalidRequestError(f"messages.{index}.parts.{position}.text", "is empty")
        else:
            _check_part(part, f"messages.{index}.parts.{position}")


def _check_part(part: Part, path: str) -> None:
    if part.kind is PartKind.OTHER:
        raise InvalidRequestError(f"{path}.kind", "is a kind that is not known here")
    if part.dataref is not None:
        _check_reference(part, path)
    elif part.kind in _BINARY and not part.data:
        raise InvalidRequestError(f"{path}.data", f"is missing: {part.kind.value} needs data, or dataref with sha256")
    elif part.kind is PartKind.DOCUMENT and not part.data and not part.text:
        raise InvalidRequestError(f"{path}.data", "is missing: document needs data, text, or dataref with sha256")
    if part.kind is PartKind.TOOL_CALL:
        if not part.name:
            raise InvalidRequestError(f"{path}.name", "is missing: it says which tool is called")
        _check_json_object(f"{path}.arguments", part.arguments)
    if part.kind in {PartKind.TOOL_CALL, PartKind.TOOL_RESULT} and not part.tool_call_id:
        raise InvalidRequestError(f"{path}.tool_call_id", "is missing: it joins a call and its result")
    if part.media_type is not None and not _is_media_type(part.media_type):
        raise InvalidRequestError(f"{path}.media_type", "is no media type such as image/png")


def _check_reference(part: Part, path: str) -> None:
    if not part.dataref:
        raise InvalidRequestError(f"{path}.dataref", "is empty")
    if part.sha256 is None:
        raise InvalidRequestError(f"{path}.sha256", "is missing; content under dataref needs its hash")
    if part.text is not None or part.data is not None:
        raise InvalidRequestError(f"{path}.dataref", "can't stand beside inline content")


def _check_tool(tool: Tool, path: str) -> None:
    if not tool.name:
        raise InvalidRequestError(f"{path}.name", "is empty")
    if tool.parameters != "{}":
        _check_schema(f"{path}.parameters", tool.parameters)


def _check_schema(path: str, text: str) -> None:
    try:
        json_schema(text)
    except ValueError as error:
        raise InvalidRequestError(path, str(error)) from error


def _check_json_object(path: str, text: str | None) -> None:
    if text is None:
        return
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidRequestError(path, f"is not JSON at character {error.pos}") from error
    if not isinstance(value, dict):
        raise InvalidRequestError(path, "must be a JSON object")


def _is_media_type(text: str) -> bool:
    kind, slash, name = text.partition("/")
    return bool(kind and slash and name) and len(text) <= _LONGEST_MEDIA_TYPE and text.isascii() and text.isprintable()


def _check_size(request: Request, record_bytes: int, cap: int) -> None:
    """The content in a record is never longer than the record, so this is asked only of records above the cap."""
    sizes = dict(_inline(request))
    total = sum(sizes.values())
    if total > cap:
        name, size = max(sizes.items(), key=lambda item: item[1])
        raise TooLargeError(
            f"{name}: holds {size} bytes; inline content is {total} bytes together, at most {cap} are taken; "
            "put content into the blob store and name it by dataref and sha256"
        )
    if record_bytes > cap * RECORD_FACTOR:
        raise TooLargeError(f"record: has {record_bytes} bytes, at most {cap * RECORD_FACTOR} are taken")


def _inline(request: Request) -> Iterator[tuple[str, int]]:
    for index, message in enumerate(request.messages):
        for position, part in enumerate(message.parts):
            size = len(part.data or b"") + len((part.text or "").encode()) + len((part.arguments or "").encode())
            yield f"messages.{index}.parts.{position}", size
    for index, tool in enumerate(request.tools):
        yield f"tools.{index}", len(tool.parameters.encode()) + len(tool.description.encode())
    yield "output_schema", len((request.output_schema or "").encode())
    yield "metadata", sum(len(key.encode()) + len(value.encode()) for key, value in request.metadata.items())
