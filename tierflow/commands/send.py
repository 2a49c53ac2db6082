"""``tierflow send``: publish requests."""
# ruff: noqa: PLC0415 - what a command needs is imported when it runs: --help must not wait for Kafka

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from tierflow.choices import DataClassChoice
from tierflow.options import front_of


def send(
    ctx: typer.Context,
    prompt: Annotated[str | None, typer.Argument(help="What to ask; '-' reads it from standard input.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="JSONL", help="Requests, one a line; '-' reads stdin.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait for the results and show them.")] = False,
    timeout: Annotated[str, typer.Option(metavar="DURATION", help="How long to wait for all results.")] = "15m",
    tenant: Annotated[str, typer.Option(help="Who asks.")] = "",
    data_class: Annotated[DataClassChoice | None, typer.Option(help="How sensitive the content is.")] = None,
    deadline: Annotated[str, typer.Option(metavar="DURATION", help="How long the request may live.")] = "",
    priority: Annotated[int | None, typer.Option(min=0, max=9, help="0 (lowest) to 9.")] = None,
    task_hint: Annotated[str, typer.Option(help="Task class, where it is known: math, code, qa, ...")] = "",
    system: Annotated[str, typer.Option(help="A system message before the prompt.")] = "",
    schema: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON Schema that the answer must satisfy.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens of the answer.")] = None,
    session: Annotated[str, typer.Option(help="Conversation; the record's key, so that order is kept.")] = "",
    idempotency_key: Annotated[str, typer.Option(help="A second request under it is answered as a duplicate.")] = "",
    key: Annotated[str | None, typer.Option(help="The record's key, in place of session or request id.")] = None,
    topic: Annotated[str, typer.Option(help="Intake topic, without the prefix.")] = "requests",
) -> int:
    """Publish a prompt or a file of requests, and print their ids.

    In a file each line is a JSON object with the fields of a request (prompt, or messages, and so on); docs/cli.md has
    the keys that say how a line is published. With --wait the answer of a single prompt is all that goes to standard
    output.
    """
    from tierflow.actions.send import send as act
    from tierflow.durations import duration
    from tierflow.requests_file import RequestLine, parse_requests, read_requests
    from tierflow.sending import Defaults

    front = front_of(ctx)
    if (prompt is None) == (file is None):
        raise typer.BadParameter("give a prompt, '-' to read it from standard input, or --file")
    headers = [
        ("tierflow.tenant", tenant),
        ("tierflow.data-class", data_class.value if data_class else ""),
        ("tierflow.priority", "" if priority is None else str(priority)),
    ]
    defaults = Defaults(
        topic=topic,
        headers=[pair for pair in headers if pair[1]],
        lifetime=duration(deadline, "--deadline") if deadline else None,
    )
    lines: list[RequestLine]
    if file is not None:
        lines = list(parse_requests(sys.stdin.buffer, "stdin")) if str(file) == "-" else read_requests(file)
    else:
        text = sys.stdin.read() if prompt == "-" else prompt or ""
        value = _value(text, system, task_hint, schema, max_tokens, session, idempotency_key)
        lines = [RequestLine(value=value, key=key, keyed=key is not None)]
    limit = duration(timeout, "--timeout") if wait else None
    return front.run(act(front, lines, defaults, wait=limit, single=file is None))


def _value(
    text: str,
    system: str,
    task_hint: str,
    schema: Path | None,
    max_tokens: int | None,
    session: str,
    idempotency_key: str,
) -> dict[str, object]:
    """The request of a single prompt."""
    value: dict[str, object] = {"prompt": text}
    if system:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
        value = {"messages": messages}
    if schema is not None:
        value["output_schema"] = json.loads(schema.read_text(encoding="utf-8"))
    if max_tokens is not None:
        value["sampling"] = {"max_tokens": max_tokens}
    for name, given in (("task_hint", task_hint), ("session", session), ("idempotency_key", idempotency_key)):
        if given:
            value[name] = given
    return value
