"""The one way to stdout and stderr. Nothing of the data, of the recipe or of an error reaches a terminal as a command.

A label may hold ``ESC ]0;...``, a file name may turn the line around (U+202E): each is shown written out.
tests/flows/test_terminal.py holds that nothing else here prints.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Any

from augmill.tasks.rows.shown import visible

Line = list[tuple[str, str]]  # parts of a line, each with its colour (of COLOURS, or "")
COLOURS = {"bold": 1, "red": 31, "green": 32, "yellow": 33, "magenta": 35, "cyan": 36}  # as ECMA-48 numbers them

json_asked: ContextVar[bool] = ContextVar("json_asked", default=False)  # whether the command line says --json


def say(*lines: str, err: bool = False) -> None:
    """Each as one line, whatever it holds, on stdout (``err``: on stderr, the stream of the moment)."""
    stream = sys.stderr if err else sys.stdout
    stream.write("".join(visible(line) + "\n" for line in lines))


def say_text(text: str, *, err: bool = False) -> None:
    """A text of ours that has lines of its own."""
    say(*text.split("\n"), err=err)


def is_coloured(*, err: bool = False) -> bool:
    """Whether the stream is a terminal whose user wants colours (https://no-color.org)."""
    stream = sys.stderr if err else sys.stdout
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def print_lines(lines: Iterable[Line], *, err: bool = False) -> None:
    """Lines on stdout (``err``: on stderr): coloured on a terminal, plain elsewhere."""
    coloured, stream = is_coloured(err=err), sys.stderr if err else sys.stdout
    for line in lines:
        if coloured:
            stream.write("".join(_painted(text, colour) for text, colour in line) + "\n")
        else:
            stream.write(visible("".join(text for text, _ in line).rstrip()) + "\n")


def _painted(text: str, colour: str) -> str:
    return f"\x1b[{COLOURS[colour]}m{visible(text)}\x1b[0m" if colour else visible(text)


def say_result(result: Mapping[str, Any]) -> None:
    """How a command ended, as one line of JSON on stdout: for programs, so not on a terminal unless ``--json`` is given."""
    if json_asked.get() or not sys.stdout.isatty():
        say(json.dumps(result, ensure_ascii=False))


def flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


class TerminalHandler(logging.Handler):
    """Writes to the ``sys.stderr`` of the moment, which a live progress bar replaces while it runs."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            say_text(self.format(record), err=True)
        except (OSError, ValueError):  # a closed pipe at the other end is not our failure
            return


def take_over() -> None:
    """What Python itself would write to stderr (warnings, records without a handler, a thread's end) goes this way too."""

    def warn(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        say_text(f"{category.__name__}: {message}", err=True)

    def ended(what: Any) -> None:
        if what.exc_type is not SystemExit:
            say_text("".join(traceback.format_exception(what.exc_type, what.exc_value, what.exc_traceback)), err=True)

    warnings.showwarning = warn
    logging.lastResort = TerminalHandler(logging.WARNING)
    threading.excepthook = ended
    sys.unraisablehook = ended
