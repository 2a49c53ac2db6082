"""The command line: global options, the commands by name, and how every command ends.

Nothing heavy is imported here: ``--help`` and completion must not wait for Kafka, DuckDB or pydantic. Each command
imports what it needs when it runs.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tierflow.commands import (
    archive,
    classifier,
    config,
    dlq,
    doctor,
    evaluate,
    feedback,
    kafka,
    models,
    registry,
    run,
    send,
    tail,
    topics,
    up,
)

if TYPE_CHECKING:
    from tierflow.exits import Failure

ANYWHERE = frozenset({"--json", "--debug"})
"""Global flags that may also stand behind the command: nobody remembers where they belong."""

app = typer.Typer(
    name="tierflow",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Routes requests on Kafka to the models that can answer them, and tells how each answer came about.",
    epilog="Settings: environment variables TIERFLOW_<SECTION>__<NAME>, or a file (--config). See 'config show'.",
)

app.command(name="up")(up.up)
app.command(name="run")(run.run)
app.command(name="send")(send.send)
app.command(name="feedback")(feedback.feedback)
app.command(name="tail")(tail.tail)
app.command(name="explain")(archive.explain)
app.command(name="reconcile")(archive.reconcile)
app.command(name="doctor")(doctor.doctor)
app.add_typer(topics.app, name="topics")
app.add_typer(registry.app, name="registry")
app.add_typer(dlq.app, name="dlq")
app.add_typer(models.app, name="models")
app.add_typer(classifier.app, name="classifier")
app.add_typer(evaluate.app, name="eval")
app.add_typer(kafka.app, name="kafka")
app.add_typer(config.app, name="config")
if find_spec("tierflow.demo") is not None:
    app.command(name="demo")(import_module("tierflow.demo.cli").demo)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - only for --version

        try:
            found = version("tierflow")
        except PackageNotFoundError:
            found = "not installed (runs from a checkout)"
        typer.echo(f"tierflow {found}")
        raise typer.Exit


@app.callback()
def _global(
    ctx: typer.Context,
    config_file: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", envvar="TIERFLOW_CONFIG", help="Settings in YAML.")
    ] = None,
    bootstrap: Annotated[str, typer.Option(metavar="HOST:PORT", help="Broker, several with commas between.")] = "",
    state: Annotated[str, typer.Option(metavar="URL", help="State store: redis:// or rediss://.")] = "",
    prefix: Annotated[str | None, typer.Option(help="Put before each topic and group name.")] = None,
    folder: Annotated[
        Path, typer.Option("--dir", metavar="FOLDER", envvar="TIERFLOW_DIR", help="Folder of the installation here.")
    ] = Path(".tierflow"),
    log_level: Annotated[str, typer.Option(metavar="LEVEL", help="debug, info, warning or error.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines for programs, errors as JSON on stderr.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error happened.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which this is.")
    ] = False,
) -> None:
    del version
    from tierflow.console import Console  # noqa: PLC0415 - see above
    from tierflow.front import Front, Globals  # noqa: PLC0415

    options = Globals(
        config=config_file,
        bootstrap=bootstrap,
        state=state,
        prefix=prefix,
        log_level=log_level,
        folder=folder,
        as_json=as_json,
        debug=debug,
    )
    ctx.obj = Front(options, Console(as_json=as_json, debug=debug))


def hoisted(arguments: Sequence[str]) -> list[str]:
    """The arguments with flags that may stand anywhere brought to the front; what follows ``--`` is left alone."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    flags = [each for each in arguments[:end] if each in ANYWHERE]
    return [*flags, *(each for each in arguments[:end] if each not in ANYWHERE), *arguments[end:]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: What follows the program's name; that of this process if None.

    Returns:
        The exit code, see ``tierflow.exits``.
    """
    given = hoisted(sys.argv[1:] if arguments is None else arguments)
    try:
        code = app(args=given, prog_name="tierflow", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        return _nobody_reads()
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # seen by rich or typer first
            return _nobody_reads()
        raise
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the one place where every error becomes a line
        return _end(error, given)
    return code if isinstance(code, int) else 0


def _nobody_reads() -> int:
    """Whoever read went away, as ``head`` does. The interpreter would complain once more when it flushes at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


def _end(error: BaseException, given: Sequence[str]) -> int:
    from tierflow.console import Console  # noqa: PLC0415 - see above
    from tierflow.exits import USAGE, failure_of  # noqa: PLC0415

    if type(error).__name__ == "NoArgsIsHelpError":
        return USAGE  # the help is on the screen already
    flags = given[: given.index("--")] if "--" in given else given
    console = Console(as_json="--json" in flags, debug="--debug" in flags)
    return console.fail(_usage(error) or failure_of(error))


def _usage(error: BaseException) -> "Failure | None":
    """Wrong options. Told by their shape: where the class lives differs between versions of typer."""
    from tierflow.exits import USAGE, Failure  # noqa: PLC0415 - see above

    if type(error).__name__ == "Abort":
        return Failure(code="aborted", message="aborted", exit_code=1)
    say = getattr(error, "format_message", None)
    if say is None:
        return None
    message, ctx = str(say()), getattr(error, "ctx", None)
    known = {option for param in app_options() for option in param}
    wrong = getattr(error, "option_name", "")
    hint = f": {wrong} stands before the command" if wrong in known else ""
    path = f" (see {ctx.command_path} --help)" if ctx is not None else ""
    return Failure(code="usage", message=f"{message.rstrip('.')}{hint}{path}", exit_code=USAGE)


def app_options() -> list[list[str]]:
    """Spellings of each global option."""
    return [list(param.opts) for param in typer.main.get_command(app).params]
