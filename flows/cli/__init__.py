"""The command line: one file per group of commands. Heavy imports stay inside the commands."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated, Any, NoReturn

import typer

from augmill.flows.cli import check, init, judge, releases, run, schema
from augmill.tasks.contracts import AugmillError

app = typer.Typer(
    name="augmill",
    help="Data augmentation on a schedule, published only where it is proven to help.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for module in (run, init, check, judge, releases, schema):
    module.register(app)


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    if debug:
        os.environ["AUGMILL_DEBUG"] = "1"


def _fail(problem: dict[str, Any], text: str, code: int) -> NoReturn:
    sys.stderr.write(f"{text}\n")
    sys.stdout.write(json.dumps(problem, ensure_ascii=False) + "\n")
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)


def main() -> NoReturn:
    """Runs a command and turns every error of ours into one message and its documented exit code."""
    try:
        code = app(standalone_mode=False)
    except AugmillError as error:
        if os.environ.get("AUGMILL_DEBUG"):
            raise
        problem = {"outcome": "error", "kind": type(error).__name__, "reason": error.problem, "where": error.where}
        _fail(problem | {"next": error.fix}, f"Error: {error}", error.exit_code)
    except KeyboardInterrupt as interrupt:
        _interrupted(interrupt)
    except RuntimeError as error:  # typer's Abort, made of the KeyboardInterrupt that a command raised
        if not isinstance(error.__cause__, KeyboardInterrupt):
            raise
        _interrupted(error.__cause__)
    except Exception as error:
        # A wrong option or argument: typer's own errors know how to show themselves.
        show, code = getattr(error, "show", None), getattr(error, "exit_code", None)
        if show is None or code is None:
            raise
        show()
        sys.exit(code)
    sys.exit(code if isinstance(code, int) else 0)


def _interrupted(interrupt: KeyboardInterrupt) -> NoReturn:
    from augmill.flows.orchestrate import Terminated, leave

    command = " ".join(sys.argv[1:])
    sys.stderr.write(f"\nInterrupted. What is finished is kept: `augmill {command}` goes on from there.\n")
    sys.stdout.write(json.dumps({"outcome": "interrupted", "next": f"augmill {command}"}) + "\n")
    leave(143 if isinstance(interrupt, Terminated) else 130)
