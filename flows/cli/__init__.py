"""The command line: one file per group of commands. Heavy imports stay inside the commands."""

from __future__ import annotations

import atexit
import gc
import os
import shlex
import sys
import traceback
from typing import Annotated, Any, NoReturn

import typer

from augmill.flows.cli import (
    backfill,
    check,
    compare,
    deploy,
    doctor,
    explain,
    extensions,
    forget,
    housekeeping,
    init,
    judge,
    path,
    releases,
    run,
    schema,
    status,
)
from augmill.flows.cli.help import Command, Commands
from augmill.flows.terminal import flush, json_asked, print_lines, say, say_result, say_text, take_over
from augmill.tasks.boundary.processes import own_temporary, require_posix
from augmill.tasks.boundary.retries import PATIENCE, PATIENCE_SECONDS
from augmill.tasks.errors import AugmillError, UserError, world_error
from augmill.tasks.registry import blaming

app = typer.Typer(
    name="augmill",
    cls=Commands,
    help="Data augmentation on a schedule, published only where it is proven to help.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for module in (
    run,
    backfill,
    init,
    check,
    judge,
    compare,
    path,
    releases,
    housekeeping,
    explain,
    forget,
    schema,
    extensions,
    deploy,
    doctor,
    status,
):
    module.register(app)
for registered in app.registered_commands:
    registered.cls = Command

COMPLETION = "_AUGMILL_COMPLETE"  # set by a shell that asks for completions, as typer's scripts do
ANYWHERE = ("--debug", "--json")  # options that may stand behind a command too


def _show_version(asked: bool) -> None:
    if asked:
        import importlib.metadata

        say(f"augmill {importlib.metadata.version('augmill')}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks. May follow a command.")] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="End with the result as a line of JSON, on a terminal too. May follow a command."),
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """``main`` has taken ``ANYWHERE`` out already, wherever they stood."""


def main() -> NoReturn:
    """Runs a command. Every error becomes one message, one line of JSON for programs, and its documented exit code."""
    if COMPLETION in os.environ:  # before anything that a completion need not wait for
        typer.main.get_command(app).main(prog_name="augmill")
    from augmill.flows.orchestration.logs import prepare_prefect
    from augmill.flows.signals import interruptible

    atexit.register(gc.freeze)  # else the interpreter's end looks for cycles in every module: 1 s after a run
    debug, as_json = (option in sys.argv[1:] for option in ANYWHERE)
    arguments = [argument for argument in sys.argv[1:] if argument not in ANYWHERE]
    json_asked.set(as_json)
    take_over()
    try:
        require_posix()
        PATIENCE.renew(PATIENCE_SECONDS)
        with own_temporary(), interruptible():
            prepare_prefect()
            with blaming():
                _invoke(arguments or ["--help"], as_json)
            flush()
    except KeyboardInterrupt as interrupt:
        _interrupted(interrupt, arguments)
    except typer.Exit as ended:
        sys.exit(ended.exit_code)
    except BrokenPipeError:
        # Whoever read stdout (`| head`) has seen enough: ends as typer does, and tries nothing again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - the one place where whatever went wrong becomes a message
        if debug:
            say_text(traceback.format_exc(), err=True)
        _fail(error, arguments)
    sys.exit(0)


def _invoke(arguments: list[str], as_json: bool) -> None:
    """Parses and runs; past typer's own ``main``, which makes an exit code of a KeyboardInterrupt and drops the rest."""
    group = typer.main.get_command(app)
    if as_json:
        arguments = _hand_on_json(group, arguments)
    with group.make_context("augmill", arguments) as context:
        group.invoke(context)


def _hand_on_json(group: Any, arguments: list[str]) -> list[str]:
    """``--json`` behind the command's name, where that command has an option of that name."""
    at = next((at for at, argument in enumerate(arguments) if not argument.startswith("-")), None)
    if at is None or (command := group.commands.get(arguments[at])) is None:
        return arguments
    own = any("--json" in parameter.opts for parameter in command.params)
    return [*arguments[: at + 1], *(["--json"] if own else []), *arguments[at + 1 :]]


def _fail(error: Exception, arguments: list[str]) -> NoReturn:
    known = error if isinstance(error, AugmillError) else _explained(error, arguments)
    kind = type(known).__name__ if type(known) is not AugmillError else "Defect"
    first, *others = str(known).split("\n")
    print_lines([[("Error:", "red"), (f" {first}", "")], *([(line, "")] for line in others)], err=True)
    say_result({"outcome": "error", "kind": kind, "reason": known.problem, "where": known.where, "next": known.fix})
    flush()
    sys.exit(known.exit_code)


def _explained(error: Exception, arguments: list[str]) -> AugmillError:
    """What is not of our own tree: a wrong option or argument, a full disk, or a defect."""
    if (message := getattr(error, "format_message", None)) is not None:  # typer's own errors
        context = getattr(error, "ctx", None)
        where = "augmill" if context is None else context.command_path
        return UserError(message() or "no command", where=where, fix=f"`{where} --help` shows what there is")
    if isinstance(error, OSError | MemoryError):
        return world_error(error)
    return AugmillError(
        f"a defect of Augmill: {type(error).__name__}: {str(error)[:500]}",
        where=_command(arguments),
        fix="run it again with --debug and report what it shows; no release was changed",
    )


def _command(arguments: list[str]) -> str:
    return shlex.join(["augmill", *arguments])


def _interrupted(interrupt: KeyboardInterrupt, arguments: list[str]) -> NoReturn:
    from augmill.flows.signals import Terminated, leave

    again = _command(arguments)
    kept = "What is finished is kept: " if {"run", "backfill", "nightly", "compare"} & {*arguments} else ""
    goes = "goes on from there" if kept else "does it all"
    say("", f"Interrupted. {kept}`{again}` {goes}.", err=True)
    say_result({"outcome": "interrupted", "next": again})
    leave(143 if isinstance(interrupt, Terminated) else 130)
