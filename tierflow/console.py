"""What commands say: text and tables for people, JSON lines for programs.

Standard output has what was asked for, standard error everything else: notes, progress, logs, errors. With ``--json``
standard output holds one JSON object a line and nothing else, and an error is one JSON object on standard error.
"""

import json
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from rich.console import Console as RichConsole
from rich.console import RenderableType
from rich.text import Text

from tierflow.exits import Failure

PIPED_WIDTH = 160
"""Columns of a table that goes into a file or another program."""

# What could drive a terminal (control characters but for line end and tab), can't be written (lone surrogates), or
# turns the text around it (bidirectional overrides and isolates).
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """Text from outside, fit for a terminal: what could drive it becomes visible."""
    return _UNFIT.sub(_visible, text)


def one_line(text: str, limit: int = 120) -> str:
    """Text from outside as one line of at most ``limit`` characters."""
    line = clean(" ".join(text.split()))
    return line if len(line) <= limit else line[: limit - 1] + "…"


def plain(text: str, style: str = "") -> Text:
    """Text from outside for a table or tree: cleaned, and never read as markup."""
    return Text(clean(text), style=style)


class Console:
    """Where a command's output goes.

    Args:
        as_json: JSON lines instead of text.
        debug: Show where errors happened.
        out: Standard output; that of the process if None.
        err: Standard error; that of the process if None.
    """

    def __init__(
        self, *, as_json: bool = False, debug: bool = False, out: TextIO | None = None, err: TextIO | None = None
    ) -> None:
        self.as_json = as_json
        self.debug = debug
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        self.people = _rich(self._out)
        self.aside = _rich(self._err)

    @property
    def live(self) -> bool:
        """Whether a person watches: progress and live tables make sense."""
        return not self.as_json and self.aside.is_terminal

    def show(self, *renderables: RenderableType) -> None:
        """Print for people; nothing with ``--json``."""
        if not self.as_json:
            self.people.print(*renderables, sep="\n")

    def line(self, text: str) -> None:
        """Print a line of text from outside for people, as it is."""
        if not self.as_json:
            self.people.print(plain(text), soft_wrap=True)

    def emit(self, *values: Mapping[str, Any]) -> None:
        """Print one JSON object a line for programs; nothing without ``--json``."""
        if self.as_json:
            for value in values:
                self._out.write(json.dumps(value, default=str) + "\n")
            self._out.flush()

    def note(self, text: str) -> None:
        """Tell people something beside the output; nothing with ``--json``."""
        if not self.as_json:
            self.aside.print(plain(text, "dim"), soft_wrap=True)

    def warn(self, text: str) -> None:
        """Tell people that something needs a look; nothing with ``--json``."""
        if not self.as_json:
            self.aside.print(Text.assemble(("warning: ", "yellow"), plain(text)), soft_wrap=True)

    def fail(self, failure: Failure) -> int:
        """Say what ended the command, and return the exit code."""
        if self.as_json:
            found = {
                "code": failure.code,
                "message": failure.message,
                "retryable": failure.retryable,
                "exit_code": failure.exit_code,
            }
            if self.debug:
                found["trace"] = failure.trace
            self._err.write(json.dumps({"error": found}) + "\n")
            self._err.flush()
            return failure.exit_code
        if self.debug and failure.trace:
            self.aside.print(plain(failure.trace, "dim"), soft_wrap=True)
        message = Text.assemble(("error: ", "bold red"), plain(failure.message), (f" [{failure.code}]", "dim"))
        self.aside.print(message, soft_wrap=True)
        return failure.exit_code


def rows(values: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Records as plain dictionaries without what is empty: JSON lines stay short."""
    return [{key: value for key, value in each.items() if value not in ("", None, [], {})} for each in values]


def _rich(file: TextIO) -> RichConsole:
    terminal = file.isatty()
    return RichConsole(file=file, width=None if terminal else PIPED_WIDTH, highlight=False, soft_wrap=False)


def _visible(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
