"""What the terminal shows, our own messages and nothing else, and what the client still has to tell the Prefect API."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import importlib
import logging
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from augmill.flows.terminal import TerminalHandler
from augmill.tasks.rows.kinds.text import visible

FLUSH_TIMEOUT = 10.0  # seconds given to each queue of records
ASK_TIMEOUT = 10.0  # seconds in which an API says that it is there

# Read by Prefect when it is imported; a value the user has set stays, but for the first two: with them no
# connection leaves this machine (the server's heartbeat to Prefect's maker, the client's analytics).
QUIET = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
_ENVIRONMENT = {
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",  # our own messages before and after the flow run
    "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "1.0",
}


class _Shown(logging.Formatter):
    """For Prefect's own pages and commands, which print a message as it is."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record), keep="\n")


class _Plain(logging.Formatter):
    """The message alone; what is worse than information starts with its level. No traceback without ``--debug``."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        return message if record.levelno <= logging.INFO else f"{record.levelname.capitalize()}: {message}"


def prepare_prefect() -> str | None:
    """Sets the environment that the first import of Prefect reads; a sentence where its directory cannot be written.

    Then PREFECT_HOME becomes a directory for this process alone. Does nothing more once Prefect is imported.
    """
    os.environ.update(QUIET)
    if "prefect.context" in sys.modules:
        return None
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    home = Path(os.path.expanduser(os.environ.get("PREFECT_HOME") or "~/.prefect"))  # noqa: PTH111
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            return None
    except OSError as error:
        os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="augmill-prefect-")
        atexit.register(shutil.rmtree, os.environ["PREFECT_HOME"], ignore_errors=True)
        return (
            f"Prefect's directory {home} cannot be written ({error.strerror}), so Prefect will not list this run "
            "afterwards. Set PREFECT_HOME to a directory that can be written."
        )


@contextlib.contextmanager
def quiet_logging(verbose: bool = False, *, prefect_too: bool = True) -> Iterator[None]:
    """Inside: the logger ``augmill`` writes plain lines to stderr; Prefect is heard only if ``verbose``.

    Prefect's records, and ours, go to its API. Warnings of other libraries go to stderr as one line each. Must
    surround the first import of Prefect (1.1 s), which configures logging; ``prefect_too=False`` spares it where
    the orchestrator is ``none``.
    """
    to_api: list[logging.Handler] = []
    problem = prepare_prefect() if prefect_too else None
    if prefect_too:
        importlib.import_module("prefect.main")  # configures logging, which must be over when we change it
        from prefect.context import FlowRunContext, TaskRunContext
        from prefect.logging.handlers import APILogHandler

        to_api.append(APILogHandler())
        to_api[0].setFormatter(_Shown())
        # Outside of a run there is none to show it in, and where Prefect was imported before us its handler warns of that.
        to_api[0].addFilter(lambda record: bool(FlowRunContext.get() or TaskRunContext.get()))
    root, ours = logging.getLogger(), logging.getLogger("augmill")
    terminal = TerminalHandler()
    terminal.setFormatter(logging.Formatter("%(name)s: %(message)s") if verbose else _Plain())
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in (root, ours)]
    try:
        _set(root, [terminal], logging.WARNING, propagate=True)
        _set(ours, [terminal, *to_api], logging.DEBUG if verbose else logging.INFO, propagate=False)
        if prefect_too:
            _hush(verbose)
        if problem:
            ours.warning(problem)
        yield
    finally:
        for logger, handlers, level, propagate in before:
            _set(logger, handlers, level, propagate=propagate)


def _hush(verbose: bool) -> None:
    """Prefect on the terminal or not. Never undone on leaving: its queues still talk when the interpreter ends."""
    prefect = logging.getLogger("prefect")
    # A null handler, because warnings of a logger that finds no handler go to stderr.
    _set(prefect, [] if verbose else [logging.NullHandler()], prefect.level, propagate=verbose)
    # The client's queues report their failures through handlers of their own, and that logger ignores its level.
    for handler in logging.getLogger("prefect._internal").handlers:
        handler.setLevel(logging.NOTSET if verbose else logging.CRITICAL + 1)
    logging.raiseExceptions = verbose  # the log queue writes to stderr where this is set


def _set(logger: logging.Logger, handlers: list[logging.Handler], level: int, *, propagate: bool) -> None:
    logger.handlers[:] = handlers
    logger.setLevel(level)
    logger.propagate = propagate


def start_client() -> None:
    """Starts the client's queues outside of any run, also where an earlier run of this process lost its API.

    Prefect keeps every queue it has started until the interpreter ends, and the context it was started in: inside a
    run, that is the run with all its body refers to. 6 MB of HTTP clients are left of each session even so.
    """
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    EventsWorker.set_client_override(None)
    EventsWorker.instance()
    APILogWorker.instance()


def flush_client() -> None:
    """Sends the log records and events this process still holds, waiting at most ``FLUSH_TIMEOUT`` for each.

    Must run before the server stops: the client would retry each event for 7 s at exit, and say so. Where the
    API is gone already, they are forgotten for the same reason.
    """
    if "prefect.events.worker" not in sys.modules:
        return
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    if not api_answers():
        drop_client_records()
        return
    EventsWorker.drain_all(timeout=FLUSH_TIMEOUT)
    APILogWorker.drain_all(timeout=FLUSH_TIMEOUT)


def api_answers() -> bool:
    """Whether the configured API is there, and is one of Prefect's."""
    return api_trouble() is None


def api_trouble() -> str | None:
    """Why the configured API cannot be used, known within ``ASK_TIMEOUT``; None where it can.

    Asked in a thread, because time-outs of the client hold between two bytes and are tried again: an address that
    accepts and says nothing held a run for 10 minutes, in silence.
    """
    told: list[str | None] = []

    def ask() -> None:
        from prefect.client.orchestration import get_client
        from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

        updates = {PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_API_REQUEST_TIMEOUT: ASK_TIMEOUT}
        try:
            with temporary_settings(updates), get_client(sync_client=True) as client:
                client.read_flow_runs(limit=1)  # needs the right key, and an answer that is no page of somebody else's
            told.append(None)
        except Exception as error:  # noqa: BLE001 - whatever a stranger answers is an answer to this question
            status = getattr(getattr(error, "response", None), "status_code", None)
            told.append(f"HTTP {status}" if status else f"{type(error).__name__}: no answer of Prefect's API")

    importlib.import_module("prefect.client.orchestration")  # a second or two, which are not the server's
    thread = threading.Thread(target=contextvars.copy_context().run, args=(ask,), daemon=True, name="augmill-ask")
    thread.start()
    thread.join(ASK_TIMEOUT)
    return told[0] if told else f"no answer within {ASK_TIMEOUT:g} s"


def drop_client_records() -> None:
    """Ends the client's queues for an API that is gone, and makes no more events.

    Prefect has no public way to: left alone, each queued record is retried for 7 s when the interpreter ends.
    """
    from prefect._internal.concurrency.services import QueueService
    from prefect.events.clients import NullEventsClient
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    EventsWorker.set_client_override(NullEventsClient)
    services: tuple[type[QueueService[Any]], ...] = (EventsWorker, APILogWorker)
    for service in services:
        for instance in list(service._instances.values()):
            with instance._queue.mutex:
                instance._queue.queue.clear()
            if instance._loop is not None and instance._task is not None and instance._done_event is not None:
                instance._loop.call_soon_threadsafe(instance._task.cancel)
                ended = asyncio.run_coroutine_threadsafe(instance._done_event.wait(), instance._loop)
                with contextlib.suppress(TimeoutError):
                    ended.result(timeout=2.0)
