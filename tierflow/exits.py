"""Exit codes, and how an error becomes one line.

===  =======================================================================
0    Done, and what was asked is so.
1    Done, and what was asked is not so (books don't balance, a story is incomplete, a check fails), or it failed.
2    Wrong options, settings or catalogue: mend them first.
65   The input can't be used as it is.
70   A fault of this program; ``--debug`` shows where.
74   A file can't be read or written.
75   Something outside is away; the same command can succeed later.
77   Credentials or rights are missing.
130  Ended by Ctrl-C.
141  Whoever read the output went away.
===  =======================================================================
"""

import traceback
from dataclasses import dataclass
from typing import ClassVar, Final

from schemas.errors import TierflowError

OK: Final = 0
NOT_SO: Final = 1
USAGE: Final = 2
FAULT: Final = 70
FILE: Final = 74
INTERRUPTED: Final = 130
PIPE: Final = 141


class UnknownRequestError(TierflowError):
    """The archive knows no such request."""

    code: ClassVar[str] = "archive.unknown-request"


class NoAnswerError(TierflowError):
    """Results did not come in the time that the caller gave."""

    code: ClassVar[str] = "results.late"
    retryable: ClassVar[bool] = True
    exit_code: ClassVar[int] = 75


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What ends a command.

    Attributes:
        code: Stable machine-readable name.
        message: For people.
        exit_code: What the process exits with.
        retryable: Whether the same command can succeed later.
        trace: Where it happened, for ``--debug``.
    """

    code: str
    message: str
    exit_code: int
    retryable: bool = False
    trace: str = ""


def failure_of(error: BaseException) -> Failure:
    """What to say of an error. Several at once (a task group's) are told by the first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, TierflowError):
        return Failure(
            code=error.code,
            message=str(error) or type(error).__name__,
            exit_code=error.exit_code,
            retryable=error.retryable,
            trace=trace,
        )
    if isinstance(error, KeyboardInterrupt):
        return Failure(code="interrupted", message="interrupted", exit_code=INTERRUPTED, trace=trace)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return Failure(code="file", message=f"{where}{error.strerror or error}", exit_code=FILE, trace=trace)
    # No text of the error itself: what an unforeseen one holds is unforeseen too, content and secrets included.
    what = f"{type(error).__name__} in tierflow itself; run it again with --debug to see where"
    return Failure(code="internal", message=what, exit_code=FAULT, trace=trace)
