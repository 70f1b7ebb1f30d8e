"""The one way to stdout and stderr. Nothing of the data, of the recipe or of an error reaches a terminal as a command.

A label may hold ``ESC ]0;...``, a file name may turn the line around (U+202E): each is shown written out.
tests/flows/test_terminal.py holds that nothing else here prints.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
import warnings
from collections.abc import Iterable
from typing import Any

from augmill.tasks.rows.shown import visible

Line = list[tuple[str, str]]  # parts of a line, each with its colour


def say(*lines: str, err: bool = False) -> None:
    """Each as one line, whatever it holds, on stdout (``err``: on stderr, the stream of the moment)."""
    stream = sys.stderr if err else sys.stdout
    stream.write("".join(visible(line) + "\n" for line in lines))


def say_text(text: str, *, err: bool = False) -> None:
    """A text of ours that has lines of its own."""
    say(*text.split("\n"), err=err)


def print_lines(lines: Iterable[Line]) -> None:
    """Lines on stdout: coloured where a person looks at it, plain elsewhere."""
    if not sys.stdout.isatty():
        say(*("".join(text for text, _ in line).rstrip() for line in lines))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console()
    for line in lines:
        console.print(Text.assemble(*((visible(text), colour) for text, colour in line)), soft_wrap=True)


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
