"""The page ``docs/cli.md``, made from the command line itself.

``python -m tierflow.docs`` prints it; ``python -m tierflow.docs FILE`` writes it. A test holds the committed page to
it.
"""

import html
import inspect
import re
import sys
from pathlib import Path
from typing import Final

import typer.main
from typer.cli import get_docs_for_click

from tierflow import exits, requests_file
from tierflow.cli import app

_INTRODUCTION: Final = """\
# The command line

Made from the code by `python -m tierflow.docs docs/cli.md`. Do not edit.

Commands that talk to a broker find the installation that `tierflow up` runs in the same folder (`.tierflow`, or
`--dir`); else they go where `--bootstrap`, a settings file or the environment says. Results go to standard output,
everything else to standard error. `--json` gives one JSON object a line, errors included, and may stand anywhere.

## Exit codes

{codes}

## Files of requests

{lines}

"""
_RULE: Final = re.compile(r"^=+(?: +=+)+$")


def render() -> str:
    """The whole page."""
    click_app = typer.main.get_command(app)
    reference = html.unescape(get_docs_for_click(obj=click_app, ctx=typer.Context(click_app), name="tierflow"))
    reference = reference.replace("# `tierflow`", "## `tierflow`", 1)
    reference = re.sub(r"^(##+ `tierflow \S+)", r"#\1", reference, flags=re.MULTILINE)
    return _INTRODUCTION.format(codes=_markdown(exits), lines=_markdown(requests_file)) + reference.strip() + "\n"


def _markdown(module: object) -> str:
    """A module's docstring without its title, its table in Markdown."""
    text = inspect.getdoc(module) or ""
    made: list[str] = []
    in_table = False
    for line in text.partition("\n\n")[2].splitlines():
        if _RULE.match(line):
            in_table = not in_table
            made += ["| | |", "| --- | --- |"] if in_table else []
        elif in_table:
            name, says = re.split(r" {2,}", line, maxsplit=1)
            made.append(f"| {name.replace('``', '`')} | {says.replace('``', '`')} |")
        else:
            made.append(line.replace("``", "`"))
    return "\n".join(made)


def main() -> None:
    """Print or write the page."""
    if sys.argv[1:]:
        Path(sys.argv[1]).write_text(render(), encoding="utf-8")
    else:
        sys.stdout.write(render())


if __name__ == "__main__":
    main()
