"""What the terminal shows, our own messages and nothing else; and what a run's page in Prefect shows of them."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from augmill.flows.terminal import TerminalHandler
from augmill.tasks.rows.shown import visible

# Read by Prefect when it is imported; a value the user has set stays, but for the first two: with them no
# connection leaves this machine (the server's heartbeat to Prefect's maker, the client's analytics).
QUIET = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
_ENVIRONMENT = {
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",  # our own messages before and after the flow run
    "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "1.0",
    # What its queues say of their failures, by a handler of their own to stderr: an API that is gone is one warning.
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
}


class _Prepared:
    """Once in a process."""

    done = False
    hushes = False  # Prefect logs here for us alone: nobody had imported it before us
    problem = ""  # to be said where Prefect is used


class _Shown(logging.Formatter):
    """For Prefect's own pages and commands, which print a message as it is."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record), keep="\n")


class _Plain(logging.Formatter):
    """The message alone; what is worse than information starts with its level. No traceback without ``--debug``."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        return message if record.levelno <= logging.INFO else f"{record.levelname.capitalize()}: {message}"


def prepare_prefect() -> None:
    """Sets the environment that the first import of Prefect reads. Cheap; imports nothing; does nothing a second time.

    Where Prefect's directory cannot be written, PREFECT_HOME becomes one for this process alone; ``quiet_logging`` says
    so where Prefect is used.
    """
    if _Prepared.done:
        return
    _Prepared.done = True
    os.environ.update(QUIET)
    if "prefect" in sys.modules:  # somebody else's program
        return
    _Prepared.hushes = True
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    home = prefect_home()
    if not _may_write(home):
        os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="augmill-prefect-")
        atexit.register(shutil.rmtree, os.environ["PREFECT_HOME"], ignore_errors=True)
        _Prepared.problem = (
            f"Prefect's directory {home} cannot be written, so Prefect will not list this run afterwards. Set "
            "PREFECT_HOME to a directory that can be written."
        )


def prefect_home() -> Path:
    """Where Prefect keeps its database, as far as the environment says."""
    return Path(os.path.expanduser(os.environ.get("PREFECT_HOME") or "~/.prefect"))  # noqa: PTH111


def _may_write(home: Path) -> bool:
    """Makes nothing: most commands leave Prefect alone."""
    there = home
    while not there.exists() and there != there.parent:
        there = there.parent
    if there != home:
        return there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    try:
        with tempfile.TemporaryFile(dir=home):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def importing_prefect() -> Iterator[None]:
    """The first import of Prefect, inside, gives the root logger a handler of Prefect's; afterwards it is as it was."""
    prepare_prefect()
    with _kept(logging.getLogger()):
        yield


@contextlib.contextmanager
def quiet_logging(verbose: bool = False, *, prefect_too: bool = True, embedded: bool = False) -> Iterator[None]:
    """Inside: the logger ``augmill`` writes plain lines to stderr; all of logging is afterwards as it was before.

    Warnings of other libraries go to stderr as one line each. In a run of Prefect's our records go to its page too, and
    so do those of ``augmill.progress``, which no terminal shows: whoever logs a line there has shown it in another way.
    Prefect is heard only if ``verbose``; where somebody else imported it first, and inside somebody else's run, its
    loggers stay as they are. Must surround the first import of Prefect (1.1 s), which configures logging;
    ``prefect_too=False`` spares it where the orchestrator is ``none``. ``embedded``: in somebody else's process, whose
    logging goes on as it is: other loggers are left alone, and where it has handlers our lines go to those.
    """
    if prefect_too:
        prepare_prefect()
        importlib.import_module("prefect.main")  # configures logging, which must be over when we change it
    root, ours, progress = (logging.getLogger(name) for name in ("", "augmill", "augmill.progress"))
    terminal = TerminalHandler()
    terminal.setFormatter(logging.Formatter("%(name)s: %(message)s") if verbose else _Plain())
    to_page = [_page_handler()] if prefect_too else []
    theirs = embedded and bool(root.handlers)
    with _kept(root), _kept(ours), _kept(progress), contextlib.ExitStack() as stack:
        if not embedded:
            _set(root, [terminal], logging.WARNING, propagate=True)
        ours_to = to_page if theirs else [terminal, *to_page]
        _set(ours, ours_to, logging.DEBUG if verbose else logging.INFO, propagate=theirs)
        # A null handler, because warnings of a logger that finds no handler go to stderr.
        _set(progress, to_page or [logging.NullHandler()], logging.INFO, propagate=False)
        if prefect_too and _Prepared.hushes and not _in_a_run():
            stack.enter_context(_hushed(verbose))
        if prefect_too and _Prepared.problem:
            ours.warning(_Prepared.problem)
            _Prepared.problem = ""
        yield


def _page_handler() -> logging.Handler:
    """Sends records to the page of the run that they are made in, and those of no run nowhere."""
    from prefect.logging.handlers import APILogHandler

    handler = APILogHandler(logging.INFO)
    handler.setFormatter(_Shown())
    # Where Prefect was imported before us its handler would warn of a record of no run.
    handler.addFilter(lambda record: _in_a_run())
    return handler


def _in_a_run() -> bool:
    from prefect.context import FlowRunContext, TaskRunContext

    return bool(FlowRunContext.get() or TaskRunContext.get())


@contextlib.contextmanager
def _hushed(verbose: bool) -> Iterator[None]:
    """Prefect on the terminal or not. Its records still reach the pages of its runs, by handlers of their own."""
    prefect, raises = logging.getLogger("prefect"), logging.raiseExceptions
    with _kept(prefect):
        _set(prefect, [] if verbose else [logging.NullHandler()], prefect.level, propagate=verbose)
        logging.raiseExceptions = verbose  # the log queue writes to stderr where this is set
        try:
            yield
        finally:
            logging.raiseExceptions = raises


@contextlib.contextmanager
def _kept(logger: logging.Logger) -> Iterator[None]:
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    try:
        yield
    finally:
        _set(logger, handlers, level, propagate=propagate)


def _set(logger: logging.Logger, handlers: list[logging.Handler], level: int, *, propagate: bool) -> None:
    logger.handlers[:] = handlers
    logger.setLevel(level)
    logger.propagate = propagate
