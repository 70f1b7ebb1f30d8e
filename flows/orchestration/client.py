"""Prefect's client in this process: whether its API is there, how long it is waited for, and what it still has to send.

An API that is gone, or mute (it accepts and never answers), must cost seconds. Left to its defaults the client asks
each question 6 times for 60 s, tries to send each event for 7 s, and does so when the interpreter ends too.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext, TaskRunContext
from prefect.events.clients import NullEventsClient, get_events_client
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker, set_api_log_sink
from prefect.settings import (
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_CLIENT_MAX_RETRIES,
    get_current_settings,
    temporary_settings,
)

ASK_TIMEOUT = 8.0  # seconds in which an API says, before anything is sent to it, that it is there
STILL_TIMEOUT = 4.0  # the same in mid-run: it has answered before
FLUSH_TIMEOUT = 10.0  # seconds given to all queues of records together
LOST_TIMEOUT = 5.0  # seconds in which the last request to an API that is gone ends
REQUEST_TIMEOUT = 4.0  # seconds of silence that end one try of a request
RETRIES = 1  # after 2 s; against a connection that was closed as it was used. Prefect knows a state that is set twice


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

    EventsWorker.set_client_override(EventsUntilLost, lost=lost)
    set_api_log_sink(send)
    try:
        with patience(retries=0):
            EventsWorker.instance()
            APILogWorker.instance()
        yield
    finally:
        if not lost.is_set() and not flush_client():
            lost.set()
        if lost.is_set():
            _drain(LOST_TIMEOUT)  # what they are sending at this moment: else they would say at exit that it failed
        EventsWorker.set_client_override(None)
        set_api_log_sink(None)


def flush_client() -> bool:
    """Sends the log records and events this process still holds, within FLUSH_TIMEOUT; asks first. Whether it did."""
    return api_trouble(STILL_TIMEOUT) is None and _drain(FLUSH_TIMEOUT)


class EventsUntilLost(NullEventsClient):
    """Prefect's events client, which waits REQUEST_TIMEOUT at most; once ``lost`` is set it ends its queue."""

    def __init__(self, lost: threading.Event) -> None:
        self._lost = lost
        self._events = get_events_client(reconnection_attempts=1)

    async def __aenter__(self) -> EventsUntilLost:
        await super().__aenter__()
        if not self._lost.is_set():
            async with asyncio.timeout(REQUEST_TIMEOUT):
                await self._events.__aenter__()
        return self

    async def emit(self, event: Any) -> None:
        if self._lost.is_set():
            raise asyncio.CancelledError  # ends the queue, with what is in it; an error would end this event alone
        async with asyncio.timeout(REQUEST_TIMEOUT):
            await self._events.emit(event)

    async def __aexit__(self, *raised: Any) -> None:
        with contextlib.suppress(Exception):  # a mute API does not answer the closing either
            async with asyncio.timeout(1.0 if self._lost.is_set() else REQUEST_TIMEOUT):
                await self._events.__aexit__(*raised)
        await super().__aexit__(*raised)


def _drain(timeout: float) -> bool:
    """Ends the queues, which send what they hold; whether all had within ``timeout`` seconds."""
    until = time.monotonic() + timeout

    def drain() -> None:
        for worker in (EventsWorker, APILogWorker):
            worker.drain_all(timeout=max(0.0, until - time.monotonic()))

    _within(timeout + 1.0, drain)
    return time.monotonic() < until


def _within(timeout: float, work: Callable[[], None]) -> None:
    """``work()`` in a thread that is waited for so long: what an event loop surrounds would give a coroutine instead."""
    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True, name="augmill-ask")
    thread.start()
    thread.join(timeout)
