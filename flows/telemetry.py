"""What the terminal shows, our own messages and nothing else, and what the client still has to tell the Prefect API."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

FLUSH_TIMEOUT = 10.0  # seconds given to each queue of records

# Read by Prefect when it is imported; a value the user has set stays.
_ENVIRONMENT = {
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",  # our own messages before and after the flow run
    "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "1.0",
}


class _Terminal(logging.Handler):
    """Writes to the ``sys.stderr`` of the moment, which a live progress bar replaces while it runs."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError, ValueError):  # a closed pipe at the other end is not our failure
            sys.stderr.write(self.format(record) + "\n")


class _Plain(logging.Formatter):
    """The message alone; what is worse than information starts with its level. No traceback without ``--debug``."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        return message if record.levelno <= logging.INFO else f"{record.levelname.capitalize()}: {message}"


@contextlib.contextmanager
def quiet_logging(verbose: bool = False, *, prefect_too: bool = True) -> Iterator[None]:
    """Inside: the logger ``augmill`` writes plain lines to stderr; Prefect is heard only if ``verbose``.

    Prefect's records, and ours, go to its API. Warnings of other libraries go to stderr as one line each. Must
    surround the first import of Prefect (1.1 s), which configures logging; ``prefect_too=False`` spares it where
    the orchestrator is ``none``.
    """
    to_api: list[logging.Handler] = []
    if prefect_too:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        with warnings.catch_warnings():  # prefect_server says it better, and knows a way round it
            warnings.filterwarnings("ignore", message="Failed to create the Prefect home directory")
        from prefect.logging.handlers import APILogHandler

        to_api.append(APILogHandler())
    root, ours, prefect = logging.getLogger(), logging.getLogger("augmill"), logging.getLogger("prefect")
    internal = logging.getLogger("prefect._internal")  # propagates nowhere: the client's own queues report to it
    terminal = _Terminal()
    terminal.setFormatter(logging.Formatter("%(name)s: %(message)s") if verbose else _Plain())
    loggers = (root, ours, prefect, internal)
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    raising = logging.raiseExceptions
    try:
        _set(root, [terminal], logging.WARNING, propagate=True)
        _set(ours, [terminal, *to_api], logging.DEBUG if verbose else logging.INFO, propagate=False)
        if not verbose:  # a null handler each: a logger that finds none falls back to stderr for warnings
            _set(prefect, [logging.NullHandler()], prefect.level, propagate=False)
            _set(internal, [logging.NullHandler()], internal.level, propagate=False)
            logging.raiseExceptions = False  # Prefect's log queue writes to stderr otherwise when the API is gone
        yield
    finally:
        logging.raiseExceptions = raising
        for logger, handlers, level, propagate in before:
            _set(logger, handlers, level, propagate=propagate)


def _set(logger: logging.Logger, handlers: list[logging.Handler], level: int, *, propagate: bool) -> None:
    logger.handlers[:] = handlers
    logger.setLevel(level)
    logger.propagate = propagate


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
    """Whether the configured API is there at all; what it says does not matter."""
    import httpx
    from prefect.client.orchestration import get_client

    try:
        with get_client(sync_client=True) as client:
            return client.api_healthcheck() is None
    except (httpx.HTTPError, OSError):
        return False


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
