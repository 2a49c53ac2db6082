"""Requests as producers write them in JSON.

The exact form (one for one with ``request.avsc``) is read by pydantic in one go. What that refuses is tried as one of
the friendlier forms, rewritten into the exact one and read again:

* ``prompt: "..."`` for a single user message;
* ``content`` of a message as text, or as OpenAI-style parts (``text``, ``image_url``, ``input_audio``, ``file``), in
  place of ``parts``;
* ``output_schema``, a tool's ``parameters`` and a tool call's ``arguments`` as JSON values in place of JSON text;
* a tool wrapped as ``{"type": "function", "function": {...}}``.

Of a key that stands twice the last one counts, in both steps.
"""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, Final, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from schemas.edges import Message, Part, Request, Tool
from schemas.errors import InvalidRequestError, UndecodableError

M = TypeVar("M", bound=BaseModel)
Path = tuple[str | int, ...]

_FIELDS: Final = frozenset(Request.model_fields)
_MESSAGE_FIELDS: Final = frozenset(Message.model_fields)
_PART_FIELDS: Final = frozenset(Part.model_fields)
_TOOL_FIELDS: Final = frozenset(Tool.model_fields)
_PARTS: Final = b'"parts"'
_MOST_ERRORS: Final = 1000
"""Above this, errors are counted and not listed: a list of a million costs a second and a gigabyte."""
_LONGEST: Final = 200
"""Characters of a field path or a reason: both go into headers and results."""


def request_from_json(data: bytes) -> Request:
    """Read a request, in the exact form or a friendlier one.

    Raises:
        UndecodableError: Not JSON, or not an object; names the byte.
        InvalidRequestError: Names the first wrong field, as the producer wrote it.
    """
    if _PARTS not in data:  # not the exact form, whose messages have parts: what would fail need not be tried
        return _from_friendly(data)
    try:
        return Request.model_validate_json(data, strict=True)
    except ValidationError:
        return _from_friendly(data)


def record_from_json(record: type[M], data: bytes) -> M:
    """Read another edge record, in its exact form.

    Raises:
        UndecodableError: Not JSON, or not an object.
        InvalidRequestError: Names the first wrong field.
    """
    try:
        return record.model_validate_json(data, strict=True)
    except ValidationError as error:
        json_object(data)
        raise first_error(error) from None


def json_object(data: bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        UndecodableError: Names the byte at which it stops being one.
    """
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        try:
            data.decode()
        except UnicodeDecodeError as wrong:
            raise UndecodableError(f"byte {wrong.start}: not UTF-8") from None
        byte = len(error.doc[: error.pos].encode())
        raise UndecodableError(f"byte {byte}: not JSON: {error.msg}") from None
    if not isinstance(body, dict):
        raise UndecodableError(f"byte 0: a JSON object is wanted, this is {_kind(body)}")
    return body


def json_of(value: object, name: str) -> bytes:
    """JSON again of what was read from JSON: less deeply nested values can be written than read.

    Raises:
        InvalidRequestError: It is too deep; says so of ``name``.
    """
    try:
        return orjson.dumps(value)
    except TypeError:
        raise InvalidRequestError(name, "is nested too deeply") from None


def first_error(error: ValidationError, renamed: Mapping[Path, str] | None = None) -> InvalidRequestError:
    """The first thing that pydantic found, in our words.

    Args:
        error: What it raised.
        renamed: Paths of the exact form and what the producer wrote instead.
    """
    if error.error_count() > _MOST_ERRORS:
        return InvalidRequestError("record", f"{error.error_count()} fields are wrong")
    found = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path = found["loc"]
    name = _dotted(path)
    for length in range(len(path), 0, -1):
        if renamed and path[:length] in renamed:
            name = renamed[path[:length]]
            break
    match found["type"]:
        case "missing":
            reason = "is missing"
        case "extra_forbidden":
            reason = "is not a field here"
        case "string_pattern_mismatch" if path[-1] == "sha256":
            reason = "must be 64 lower-case hex digits"
        case "string_pattern_mismatch" if path[-1] == "cost_currency":
            reason = "must be an ISO 4217 code: three capital letters"
        case _:
            reason = found["msg"].removeprefix("Value error, ").replace("Input should", "must")
    return InvalidRequestError(name[:_LONGEST] or "record", reason[:_LONGEST])


def _from_friendly(data: bytes) -> Request:
    body = json_object(data)
    renamed: dict[Path, str] = {}
    if "prompt" in body:
        _take_prompt(body, renamed)
    _known(body, _FIELDS, "")
    _each(body, "messages", lambda message, path: _take_message(message, path, renamed))
    _each(body, "tools", _take_tool)
    for key, value in _entries(body, "metadata"):
        if not isinstance(value, str):
            raise _wrong(f"metadata.{key}", f"must be text, this is {_kind(value)}")
    _as_text(body, "output_schema")
    try:
        return Request.model_validate_json(json_of(body, "record"), strict=True)
    except ValidationError as error:
        raise first_error(error, renamed) from None


def _take_prompt(body: dict[str, Any], renamed: dict[Path, str]) -> None:
    if "messages" in body:
        raise _wrong("prompt", "can't stand beside messages")
    prompt = body.pop("prompt")
    if not isinstance(prompt, str):
        raise _wrong("prompt", f"must be text, this is {_kind(prompt)}")
    if not prompt.strip():
        raise _wrong("prompt", "is empty")
    body["messages"] = [{"role": "user", "parts": [{"kind": "text", "text": prompt}]}]
    renamed["messages",] = "prompt"


def _take_message(message: dict[str, Any], path: str, renamed: dict[Path, str]) -> None:
    if "content" in message:
        if "parts" in message:
            raise _wrong(f"{path}.content", "can't stand beside parts")
        content = message.pop("content")
        position = int(path.rpartition(".")[2])
        renamed["messages", position, "parts"] = f"{path}.content"
        if isinstance(content, str):
            if not content.strip():
                raise _wrong(f"{path}.content", "is empty")
            message["parts"] = [{"kind": "text", "text": content}]
        elif isinstance(content, list):
            message["parts"] = [
                _part(part, f"{path}.content.{index}", ("messages", position, "parts", index), renamed)
                for index, part in enumerate(content)
            ]
        else:
            raise _wrong(f"{path}.content", f"must be text or a list of parts, this is {_kind(content)}")
    _known(message, _MESSAGE_FIELDS, path)
    _each(message, "parts", _take_part, path)


def _take_part(part: dict[str, Any], path: str) -> None:
    _known(part, _PART_FIELDS, path)
    _as_text(part, "arguments")


def _take_tool(tool: dict[str, Any], path: str) -> None:
    if tool.get("type") == "function" and isinstance(tool.get("function"), dict):
        function = tool.pop("function")
        tool.pop("type")
        if tool:
            raise _wrong(f"{path}.{next(iter(tool))}", "can't stand beside function")
        tool.update(function)
    _known(tool, _TOOL_FIELDS, path)
    _as_text(tool, "parameters")


def _part(part: object, path: str, place: Path, renamed: dict[Path, str]) -> object:
    """A part of ours from one in OpenAI's style; one of ours is left as it is."""
    if not isinstance(part, dict):
        raise _wrong(path, f"must be an object, this is {_kind(part)}")
    if "type" not in part:
        return part
    kind = part["type"]
    take = _OPENAI_PARTS.get(kind) if isinstance(kind, str) else None
    if take is None:
        raise _wrong(f"{path}.type", f"must be one of {', '.join(_OPENAI_PARTS)}")
    inner: Any = part
    if kind != "text":
        inner = part.get(kind)
        if not isinstance(inner, dict) or part.keys() - {"type", kind}:
            raise _wrong(path, f"must have type and {kind}, an object, and nothing else")
        path = f"{path}.{kind}"
    made, allowed = take(inner, path)
    _known(inner, allowed, path)
    renamed[place] = path
    return made


def _openai_text(part: Mapping[str, Any], path: str) -> tuple[dict[str, Any], frozenset[str]]:
    text = _string(part, "text", path)
    if not text.strip():
        raise _wrong(f"{path}.text", "is empty")
    return {"kind": "text", "text": text}, frozenset({"type", "text"})


def _openai_image(part: Mapping[str, Any], path: str) -> tuple[dict[str, Any], frozenset[str]]:
    if part.get("detail", "auto") != "auto":
        raise _wrong(f"{path}.detail", "only auto is taken")
    made = {"kind": "image", **_located(_string(part, "url", path), f"{path}.url")}
    if "sha256" in part:
        made["sha256"] = part["sha256"]
    elif "dataref" in made:
        raise _wrong(f"{path}.sha256", "is missing; content that is not inline needs its hash")
    return made, frozenset({"url", "detail", "sha256"})


def _openai_audio(part: Mapping[str, Any], path: str) -> tuple[dict[str, Any], frozenset[str]]:
    media_type = f"audio/{_string(part, 'format', path)}"
    made = {"kind": "audio", "data": _string(part, "data", path), "media_type": media_type}
    return made, frozenset({"data", "format"})


def _openai_file(part: Mapping[str, Any], path: str) -> tuple[dict[str, Any], frozenset[str]]:
    made = {"kind": "document", **_located(_string(part, "file_data", path), f"{path}.file_data")}
    if "filename" in part:
        made["name"] = part["filename"]
    return made, frozenset({"file_data", "filename"})


_OPENAI_PARTS: Final[Mapping[str, Callable[[Mapping[str, Any], str], tuple[dict[str, Any], frozenset[str]]]]] = {
    "text": _openai_text,
    "image_url": _openai_image,
    "input_audio": _openai_audio,
    "file": _openai_file,
}


def _located(url: str, path: str) -> dict[str, Any]:
    """Inline content of a ``data:`` URL, or a reference."""
    if not url.startswith("data:"):
        return {"dataref": url}
    kind, comma, content = url.removeprefix("data:").partition(",")
    if not comma or not kind.endswith(";base64"):
        raise _wrong(path, "a data URL must be of the form data:<media type>;base64,<content>")
    return {"data": content, "media_type": kind.removesuffix(";base64")}


def _each(body: Mapping[str, Any], key: str, take: Callable[[dict[str, Any], str], None], under: str = "") -> None:
    """Call ``take`` with each object of a list; what is no list of objects is left to pydantic to name."""
    items = body.get(key)
    if isinstance(items, list):
        for index, item in enumerate(items):
            if isinstance(item, dict):
                take(item, f"{under}.{key}.{index}" if under else f"{key}.{index}")


def _entries(body: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    entries = body.get(key)
    return list(entries.items()) if isinstance(entries, dict) else []


def _as_text(body: dict[str, Any], key: str) -> None:
    value = body.get(key)
    if isinstance(value, dict | bool):
        body[key] = json_of(value, key).decode()


def _string(part: Mapping[str, Any], key: str, path: str) -> str:
    value = part.get(key)
    if not isinstance(value, str):
        raise _wrong(f"{path}.{key}", "is missing" if value is None else f"must be text, this is {_kind(value)}")
    return value


def _known(body: Mapping[str, Any], allowed: frozenset[str], path: str) -> None:
    for key in body:
        if key not in allowed:
            close = get_close_matches(key[:40], allowed, 1)
            hint = f"; did you mean {close[0]}?" if close else f"; known are {', '.join(sorted(allowed))}"
            raise _wrong(f"{path}.{key}" if path else key, f"is not a field here{hint}")


def _wrong(path: str, reason: str) -> InvalidRequestError:
    return InvalidRequestError(path[:_LONGEST], reason)


def _dotted(path: Path) -> str:
    return ".".join(str(step) for step in path)


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case str():
            return "text"
        case int() | float():
            return "a number"
        case list():
            return "a list"
        case _:
            return "an object"
