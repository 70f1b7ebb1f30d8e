"""The command line: one file per group of commands. Heavy imports stay inside the commands."""

from __future__ import annotations

import json
import os
import shlex
import sys
import traceback
from typing import Annotated, NoReturn

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
from augmill.flows.terminal import flush, say, say_text, take_over
from augmill.tasks.boundary.processes import own_temporary, require_posix
from augmill.tasks.boundary.retries import PATIENCE, PATIENCE_SECONDS
from augmill.tasks.errors import AugmillError, UserError, world_error

app = typer.Typer(
    name="augmill",
    help="Data augmentation on a schedule, published only where it is proven to help.",
    add_completion=False,
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


def _show_version(asked: bool) -> None:
    if asked:
        import importlib.metadata

        say(f"augmill {importlib.metadata.version('augmill')}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; may stand behind a command too.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """``main`` has taken ``--debug`` out already, wherever it stood."""


def main() -> NoReturn:
    """Runs a command and turns every error into one message, one line of JSON and its documented exit code."""
    from augmill.flows.orchestration.logs import prepare_prefect
    from augmill.flows.signals import interruptible

    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    take_over()
    try:
        require_posix()
        PATIENCE.renew(PATIENCE_SECONDS)
        with own_temporary(), interruptible():
            prepare_prefect()
            _invoke(arguments or ["--help"])
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


def _invoke(arguments: list[str]) -> None:
    """Parses and runs; past typer's own ``main``, which makes an exit code of a KeyboardInterrupt and drops the rest."""
    command = typer.main.get_command(app)
    with command.make_context("augmill", arguments) as context:
        command.invoke(context)


def _fail(error: Exception, arguments: list[str]) -> NoReturn:
    known = error if isinstance(error, AugmillError) else _explained(error, arguments)
    kind = type(known).__name__ if type(known) is not AugmillError else "Defect"
    problem = {"outcome": "error", "kind": kind, "reason": known.problem, "where": known.where, "next": known.fix}
    say_text(f"Error: {known}", err=True)
    say(json.dumps(problem, ensure_ascii=False))
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
    say(json.dumps({"outcome": "interrupted", "next": again}, ensure_ascii=False))
    leave(143 if isinstance(interrupt, Terminated) else 130)
