"""Prefect's client in this process: whether its API is there, how long it is waited for, and what it still has to send.

An API that is gone, or mute (it accepts and never answers), must cost seconds. Left to its defaults the client asks
each question 6 times for 60 s, tries to send each event for 7 s, and does so when the interpreter ends too.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext, TaskRunContext
from prefect.events import Event, Resource
from prefect.events.clients import EventsClient, get_events_client
from prefect.events.worker import EventsWorker, ProcessPoolForwardingEventsClient
from prefect.logging.handlers import APILogWorker, set_api_log_sink
from prefect.settings import (
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_CLIENT_MAX_RETRIES,
    get_current_settings,
    temporary_settings,
)

_log = logging.getLogger("augmill")

ASK_TIMEOUT = 8.0  # seconds in which an API says, before anything is sent to it, that it is there
STILL_TIMEOUT = 4.0  # the same in mid-run: it has answered before
FLUSH_TIMEOUT = 10.0  # seconds given to all queues of records together
LOST_TIMEOUT = 5.0  # seconds in which the last request to an API that is gone ends
REQUEST_TIMEOUT = 4.0  # seconds of silence that end one try of a request
RETRIES = 1  # after 2 s; against a connection that was closed as it was used. Prefect knows a state that is set twice

_KNOCK = "augmill.knock"


def api_trouble(timeout: float = ASK_TIMEOUT) -> str | None:
    """Why the configured API cannot be used, known within ``timeout`` seconds; None where it can.

    Asked in a thread, because time-outs of the client hold between two bytes and are tried again: an address that
    accepts and says nothing held a run for 10 minutes, in silence.
    """
    told: list[str | None] = []

    def ask() -> None:
        updates = {PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_API_REQUEST_TIMEOUT: timeout}
        try:
            # Settings of its own make a client of its own: a flow's would ask with the time-out that it began with.
            with temporary_settings(updates), get_client({"timeout": timeout}, sync_client=True) as client:
                client.read_flow_runs(limit=1)  # needs the right key, and an answer that is no page of somebody else's
            told.append(None)
        except Exception as error:  # noqa: BLE001 - whatever a stranger answers is an answer to this question
            status = getattr(getattr(error, "response", None), "status_code", None)
            told.append(f"HTTP {status}" if status else f"{type(error).__name__}: no answer of Prefect's API")

    _within(timeout, ask)
    return told[0] if told else f"no answer within {timeout:g} s"


@contextlib.contextmanager
def patience(*, retries: int = RETRIES) -> Iterator[None]:
    """Inside, a request fails after REQUEST_TIMEOUT s of silence and ``retries``; what the user has set stays.

    A client keeps the time-out it was made with; the retries are those of the moment of the request.
    """
    wanted = {PREFECT_API_REQUEST_TIMEOUT: REQUEST_TIMEOUT, PREFECT_CLIENT_MAX_RETRIES: retries}
    with temporary_settings({setting: value for setting, value in wanted.items() if setting.name not in _given()}):
        yield


@functools.cache
def _given() -> frozenset[str]:
    """What the user has set: asked once, before we set anything."""
    return frozenset(get_current_settings().to_environment_variables(exclude_unset=True))


@contextlib.contextmanager
def client_queues(lost: threading.Event) -> Iterator[None]:
    """The queues of events and log records, for the body; once ``lost`` is set they take and send nothing more.

    On leaving, what they hold is sent, within FLUSH_TIMEOUT; ``lost`` is set where that failed. Started outside of any
    run, because Prefect keeps every queue until the interpreter ends, and the context it was started in: inside a run,
    that is the run with all its body refers to. 6 MB of HTTP clients are left of each session even so. Inside somebody
    else's run the queues are theirs: nothing is done.
    """
    if FlowRunContext.get() or TaskRunContext.get():
        yield
        return

    def send(log: dict[str, Any]) -> None:
        if not lost.is_set():
            APILogWorker.instance().send(log)

    with patience(retries=0):
        sender = _EventSender(lost)
        EventsWorker.set_client_override(ProcessPoolForwardingEventsClient, event_queue=sender)
        set_api_log_sink(send)
        sender.begin()
        APILogWorker.instance()
    try:
        yield
    finally:
        if not lost.is_set() and not flush_client(sender):
            lost.set()
        if lost.is_set():
            sender.cut()
            sender.finish(0)
            _drain(LOST_TIMEOUT)  # what they are sending at this moment: else they would say at exit that it failed
        EventsWorker.set_client_override(None)
        set_api_log_sink(None)


def flush_client(sender: _EventSender | None = None) -> bool:
    """Sends the log records and events this process still holds, within FLUSH_TIMEOUT; asks first. Whether it did."""
    return api_trouble(STILL_TIMEOUT) is None and _drain(FLUSH_TIMEOUT, sender)


class _EventSender(threading.Thread):
    """Sends events to the API until it is told to ``finish``. Prefect's own queue only hands over to ``put``.

    Left alone with an API that is mute, that queue asks it about the flow of each event, 10 s long, before it hands the
    event over; it does so at the interpreter's end too, and nobody can tell it to stop. But whoever takes its events
    runs as part of it, and sees which task of asyncio's it is: ``cut`` cancels that.
    """

    def __init__(self, lost: threading.Event) -> None:
        super().__init__(daemon=True, name="augmill-events")
        self._lost = lost
        self._context = contextvars.copy_context()
        self._loop = asyncio.new_event_loop()
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._feeder: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any] | None] | None = None
        self._known = threading.Event()

    def put(self, item: tuple[str, Event]) -> None:
        """What ProcessPoolForwardingEventsClient calls, in Prefect's queue."""
        self._feeder = asyncio.get_running_loop(), asyncio.current_task()
        self._known.set()
        if self._lost.is_set():
            raise asyncio.CancelledError  # ends the queue, with what is in it; an error would end this event alone
        if item[1].event != _KNOCK:
            self._loop.call_soon_threadsafe(self._events.put_nowait, item[1])

    def begin(self) -> None:
        """Starts it, and Prefect's queue with an event of no run, which goes no further than ``put``."""
        self.start()
        EventsWorker.instance().send(Event(event=_KNOCK, resource=Resource({"prefect.resource.id": _KNOCK})))
        self._known.wait(STILL_TIMEOUT)

    def cut(self) -> None:
        """Ends Prefect's queue at once, with what is in it."""
        if self._feeder is not None:
            loop, task = self._feeder
            if task is not None and not loop.is_closed():
                loop.call_soon_threadsafe(task.cancel)

    def finish(self, timeout: float) -> None:
        """Once Prefect's queue has handed over all: what is left is sent within ``timeout`` seconds."""
        with contextlib.suppress(RuntimeError):  # it ended by itself, and its loop is closed
            self._loop.call_soon_threadsafe(self._events.put_nowait, None)
        self.join(timeout)

    def run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._send(), context=self._context)  # the settings of whoever started it: the API's address

    async def _send(self) -> None:
        try:
            async with get_events_client(reconnection_attempts=1) as client:
                while (event := await self._events.get()) is not None and not self._lost.is_set():
                    await self._send_one(client, event)
        except Exception as error:  # noqa: BLE001 - without events a run's page has no tasks; the data goes on
            _log.debug("Prefect takes no events: %s: %s", type(error).__name__, error)

    async def _send_one(self, client: EventsClient, event: Event) -> None:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                await client.emit(event)
        except Exception as error:  # noqa: BLE001 - the client keeps it, and sends it with the next that passes
            _log.debug("Prefect took no event: %s: %s", type(error).__name__, error)


def _drain(timeout: float, sender: _EventSender | None = None) -> bool:
    """Ends the queues, which send what they hold; whether all had within ``timeout`` seconds."""
    until = time.monotonic() + timeout

    def drain() -> None:
        for worker in (EventsWorker, APILogWorker):
            worker.drain_all(timeout=max(0.0, until - time.monotonic()))
        if sender is not None:
            sender.finish(max(0.0, until - time.monotonic()))

    _within(timeout + 1.0, drain)
    return time.monotonic() < until


def _within(timeout: float, work: Callable[[], None]) -> None:
    """``work()`` in a thread that is waited for so long: what an event loop surrounds would give a coroutine instead."""
    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True, name="augmill-ask")
    thread.start()
    thread.join(timeout)
