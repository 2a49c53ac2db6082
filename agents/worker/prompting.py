"""From a request to what a model is shown: turns, content parts, tools. Pure."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import orjson

from schemas.catalogue import Prompt
from schemas.edges import Message, Part, Request, Tool
from schemas.enums import PartKind, Role
from schemas.errors import InvalidRequestError
from schemas.ports import ChatMessage

Content = dict[str, Any]

_REMOTE: Final = ("https://", "http://")
_SCHEMA_IN_WORDS: Final = "Answer with JSON only, without any other text. It must be valid against this JSON Schema: "


def messages(request: Request, prompt: Prompt | None, *, schema_in_words: bool = False) -> tuple[ChatMessage, ...]:
    """The conversation as providers take it.

    The prompt's system text and the request's leading system turns become one system turn: many chat templates take no
    second one. The prompt's suffix, and the output schema for models that can't be bound to it, follow the last user
    turn.

    Args:
        request: What is asked.
        prompt: Prompt of the step, if it has one.
        schema_in_words: Tell the model its output schema in the prompt.

    Raises:
        InvalidRequestError: A part that can't be shown to a model; names it.
    """
    turns: list[ChatMessage] = []
    leading: list[str] = [prompt.system] if prompt is not None and prompt.system else []
    for number, message in enumerate(request.messages):
        if message.role is Role.SYSTEM and not turns and all(part.kind is PartKind.TEXT for part in message.parts):
            leading.append(_joined(message.parts))
        else:
            turns += _turns(message, number)
    suffix = [prompt.suffix] if prompt is not None and prompt.suffix else []
    if schema_in_words and request.output_schema:
        suffix.append(_SCHEMA_IN_WORDS + request.output_schema)
    if suffix:
        _append(turns, "\n".join(suffix))
    if leading:
        turns.insert(0, ChatMessage(role=Role.SYSTEM.value, content="\n\n".join(leading)))
    return tuple(turns)


def _turns(message: Message, number: int) -> list[ChatMessage]:
    """A message of ours as one turn, or as one a tool result."""
    results = [part for part in message.parts if part.kind is PartKind.TOOL_RESULT]
    turns = [
        ChatMessage(role=Role.TOOL.value, content=part.text or "", tool_call_id=part.tool_call_id or "")
        for part in results
    ]
    calls = tuple(_tool_call(part) for part in message.parts if part.kind is PartKind.TOOL_CALL)
    shown = [part for part in message.parts if part.kind not in {PartKind.TOOL_CALL, PartKind.TOOL_RESULT}]
    if not shown and not calls:
        return turns
    content: str | list[Content]
    if all(part.kind is PartKind.TEXT for part in shown):
        content = _joined(shown)
    else:
        content = [_content(part, f"messages.{number}.parts.{message.parts.index(part)}") for part in shown]
    role = Role.USER if message.role in {Role.OTHER, Role.TOOL} else message.role
    turns.append(ChatMessage(role=role.value, content=content, name=message.name or "", tool_calls=calls))
    return turns


def _joined(parts: Sequence[Part]) -> str:
    return "\n".join(part.text or "" for part in parts)


def _append(turns: list[ChatMessage], text: str) -> None:
    """Put text behind the last user turn."""
    for at in range(len(turns) - 1, -1, -1):
        turn = turns[at]
        if turn.role == Role.USER.value:
            content: str | list[Any]
            if isinstance(turn.content, str):
                content = f"{turn.content}\n{text}"
            else:
                content = [*turn.content, {"type": "text", "text": text}]
            turns[at] = ChatMessage(role=turn.role, content=content, name=turn.name)
            return
    turns.append(ChatMessage(role=Role.USER.value, content=text))


def _tool_call(part: Part) -> Content:
    return {
        "id": part.tool_call_id or "",
        "type": "function",
        "function": {"name": part.name or "", "arguments": part.arguments or "{}"},
    }


def _content(part: Part, path: str) -> Content:
    """A content part in OpenAI's form."""
    match part.kind:
        case PartKind.TEXT:
            return {"type": "text", "text": part.text or ""}
        case PartKind.IMAGE:
            return {"type": "image_url", "image_url": {"url": _url(part, path, "image/png")}}
        case PartKind.AUDIO if part.data is not None:
            form = (part.media_type or "audio/wav").rpartition("/")[2].removeprefix("x-")
            form = {"mpeg": "mp3", "wave": "wav"}.get(form, form)
            return {"type": "input_audio", "input_audio": {"data": b64encode(part.data).decode(), "format": form}}
        case PartKind.DOCUMENT if part.text is not None:
            return {"type": "text", "text": f"{part.name}:\n{part.text}" if part.name else part.text}
        case PartKind.DOCUMENT if part.data is not None:
            file = {"filename": part.name or "document", "file_data": _url(part, path, "application/pdf")}
            return {"type": "file", "file": file}
        case _:
            raise InvalidRequestError(path, f"{part.kind} content of this form can't be shown to a model")


def _url(part: Part, path: str, media_type: str) -> str:
    if part.data is not None:
        return f"data:{part.media_type or media_type};base64,{b64encode(part.data).decode()}"
    if part.dataref is not None and part.dataref.startswith(_REMOTE):
        return part.dataref
    raise InvalidRequestError(f"{path}.dataref", "only http and https references can be shown to a model yet")


def question_of(request: Request) -> str:
    """Text of the last user message."""
    for message in reversed(request.messages):
        if message.role is Role.USER:
            return _joined([part for part in message.parts if part.kind is PartKind.TEXT])
    return ""


def tools(defined: Sequence[Tool]) -> tuple[Content, ...]:
    """Tool definitions in OpenAI's form.

    Raises:
        InvalidRequestError: Parameters that are no JSON object; names the tool.
    """
    made: list[Content] = []
    for number, tool in enumerate(defined):
        schema = json_object(tool.parameters, f"tools.{number}.parameters")
        made.append(
            {"type": "function", "function": {"name": tool.name, "description": tool.description, "parameters": schema}}
        )
    return tuple(made)


@lru_cache(maxsize=256)
def json_object(text: str, path: str) -> Mapping[str, Any]:
    """JSON text as an object; must not be changed, since equal texts share it.

    Raises:
        InvalidRequestError: It is none; names ``path``.
    """
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise InvalidRequestError(path, "is no JSON object")
    return value


def output_parts(tool_calls: Sequence[Mapping[str, Any]]) -> str:
    """Tool calls of an answer as parts of ours, a JSON array."""
    if not tool_calls:
        return "[]"
    parts = [
        {
            "kind": PartKind.TOOL_CALL.value,
            "tool_call_id": str(call.get("id") or ""),
            "name": call["function"]["name"],
            "arguments": call["function"].get("arguments") or "{}",
        }
        for call in tool_calls
    ]
    return orjson.dumps(parts).decode()


def size_of(turns: Sequence[ChatMessage]) -> tuple[int, int]:
    """Bytes of text, and number of other content parts."""
    size = others = 0
    for turn in turns:
        if turn.tool_calls:
            size += bytes_of(repr(turn.tool_calls))
        if isinstance(turn.content, str):
            size += bytes_of(turn.content)
            continue
        for part in turn.content:
            text = part.get("text")
            if isinstance(text, str):
                size += bytes_of(text)
            else:
                others += 1
    return size, others


def bytes_of(text: str) -> int:
    """Bytes of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())
