"""The page ``docs/schemas.md``, made from the header table, the ``.avsc`` files and the error tree.

``python -m schemas.docs`` prints it; ``python -m schemas.docs FILE`` writes it. A test holds the committed page to it.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from schemas import errors
from schemas.contract import FILES, current
from schemas.errors import TierflowError
from schemas.headers import MAX_HEADERS, TABLE
from schemas.request_checks import DEFAULT_INLINE_BYTES
from schemas.wire import SINGLE_OBJECT

_SINGLE: Final = SINGLE_OBJECT.hex(" ").upper()
_INTRODUCTION: Final = f"""\
# Schemas

Made from the code by `python -m schemas.docs docs/schemas.md`. Do not edit.

Every record is Avro. The contract are the files in `schemas/avro`; every released version is kept in
`schemas/avro/history`, and a test refuses a change that old or new readers could not follow (FULL_TRANSITIVE). What a
producer writes may also be JSON.

## How a record is framed

The `content-type` header says what the value is; without one, the first byte does.

| content type | first bytes | what follows |
| --- | --- | --- |
| `avro/binary` | `{_SINGLE}` | CRC-64-AVRO fingerprint of the schema (8 bytes, little-endian), Avro binary |
| `application/vnd.confluent.avro` | `00` | schema id (4 bytes, big-endian), Avro binary; with a schema registry |
| `application/json` | `{{` | a JSON object; requests, results and feedback only |
| `application/cloudevents+json` | `{{` | a CloudEvent in structured mode with a request as its data; requests only |

A result is written as its request was: JSON for JSON, Avro for Avro. In a schema registry our schemas stand under their
full names (`tierflow.Request` and so on: the record name strategy).

## A request in JSON

The exact form has the fields of `Request` below, bytes in base64. Shorter forms are taken too:

```json
{{"prompt": "What is 12 * 12?"}}
```

```json
{{
  "messages": [
    {{"role": "system", "content": "Answer with a number."}},
    {{"role": "user", "content": [
      {{"type": "text", "text": "How many cats?"}},
      {{"type": "image_url", "image_url": {{"url": "data:image/png;base64,iVBORw0KGgo="}}}}
    ]}}
  ],
  "output_schema": {{"type": "integer"}},
  "task_hint": "qa",
  "latency_budget_ms": 5000
}}
```

`content` stands for `parts`, as text or as OpenAI-style parts (`text`, `image_url`, `input_audio`, `file`);
`output_schema`, a tool's `parameters` and a tool call's `arguments` may be JSON values in place of JSON text; a tool
may be wrapped as `{{"type": "function", "function": {{...}}}}`. Of a key that stands twice the last one counts.

A request without a user message is refused, and so is one with more than {DEFAULT_INLINE_BYTES // 1024} KiB of inline
content (unless the catalogue says otherwise): put content into the blob store and name it by `dataref` and `sha256`. A
schema that refers to another document is refused: nothing is fetched.

A record that is no request at all (bytes that can't be decoded) goes to the dead letters; a request with a wrong field
ends as `refused`, and the reason names the field.

## Headers

All values are UTF-8 text. A producer needs none of them; more than {MAX_HEADERS} on a record are refused.
*all*: from the producer on. *flow*: between our stages. *dead letter*: on dead letters.
"""


def render() -> str:
    """The whole page."""
    parts = [_INTRODUCTION, _table(("header", "where", "meaning"), ((f"`{n}`", w, m) for n, w, m in TABLE))]
    parts.append("\n## Records\n")
    for record in FILES:
        parts.extend(_record(current(record).source, 3))
    parts.append("\n## Error codes\n")
    parts.append("In `error_code` of results, in `tierflow.error.code` of dead letters and on the command line.\n")
    parts.append(_table(("code", "again?", "meaning"), _errors()))
    return "\n".join(parts)


def _record(schema: Mapping[str, Any], level: int) -> Iterator[str]:
    yield f"{'#' * level} {schema['name']}\n"
    yield f"{schema['doc']}\n"
    rows = []
    inner: list[Mapping[str, Any]] = []
    for field in schema["fields"]:
        default = f" = `{_literal(field['default'])}`" if "default" in field else ""
        rows.append((f"`{field['name']}`", f"{_type(field['type'], inner)}{default}", field["doc"]))
    yield _table(("field", "type", "meaning"), rows)
    yield ""
    for nested in inner:
        yield from _record(nested, level + 1)


def _type(kind: Any, inner: list[Mapping[str, Any]]) -> str:
    """A type in words; records within are added to ``inner``."""
    if isinstance(kind, list):
        return f"{_type(kind[1], inner)} or null"
    if isinstance(kind, str):
        return kind
    match kind["type"]:
        case "enum":
            return ", ".join(f"`{symbol}`" for symbol in kind["symbols"])
        case "array":
            return f"list of {_type(kind['items'], inner)}"
        case "map":
            return f"map of {_type(kind['values'], inner)}"
        case _:
            inner.append(kind)
            return str(kind["name"])


def _literal(value: object) -> str:
    return {"None": "null", "True": "true", "False": "false", "": '""'}.get(str(value), str(value))


def _errors() -> Iterator[tuple[str, str, str]]:
    for found in vars(errors).values():
        if isinstance(found, type) and issubclass(found, TierflowError):
            first = (found.__doc__ or "").partition("\n")[0]
            yield f"`{found.code}`", "yes" if found.retryable else "no", first


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "\\<")


def main() -> None:
    """Print the page, or write it to the file named."""
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(render() + "\n", encoding="utf-8")
    else:
        sys.stdout.write(render() + "\n")


if __name__ == "__main__":
    main()
