"""Interrupts: Ctrl-C and SIGTERM end a run cleanly, and what must not be left half done holds them back."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from augmill.flows.terminal import flush
from augmill.tasks.boundary.retries import PATIENCE
from augmill.tasks.errors import DeadlineExceeded

STOP_GRACE = 10.0  # seconds in which running shards may end after a stop; their workers are killed at its start


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends a run as cleanly as Ctrl-C does."""


class Stop:
    """A session's end by an interrupt: from then on nothing begins and nothing is tried again."""

    def __init__(self) -> None:
        self._came = threading.Event()
        self._callbacks: list[Callable[[], None]] = []

    def is_set(self) -> bool:
        return self._came.is_set()

    def wait(self, seconds: float) -> bool:
        """Whether it came within so long."""
        return self._came.wait(seconds)

    def note(self) -> None:
        """It came: all a signal handler may do, which interrupts code that may hold any lock."""
        self._came.set()
        PATIENCE.stop()

    def now(self) -> None:
        """Ends what runs, by the callbacks, each called once."""
        self.note()
        while self._callbacks:
            self._callbacks.pop()()

    def on_stop(self, callback: Callable[[], None]) -> None:
        """``callback`` runs at the first interrupt: for whoever holds worker processes, to kill them."""
        self._callbacks.append(callback)

    def require_going(self) -> None:
        """Raises KeyboardInterrupt after the first interrupt: a snapshot in another thread begins no further stage."""
        if self.is_set():
            raise KeyboardInterrupt


def _on_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def interruptible(stop: Stop | None = None, *, hosted: bool = False) -> Iterator[None]:
    """SIGTERM raises ``Terminated`` on the main thread inside, Ctrl-C KeyboardInterrupt; either is noted first.

    ``hosted``: Prefect began the run, and SIGTERM stays its own to handle: it answers a cancellation only so. On another
    thread signals cannot be handled: no effect.
    """
    if not _on_main_thread():
        yield
        return

    def terminate(number: int, frame: object) -> NoReturn:
        if stop is not None:
            stop.note()
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    wanted = (signal.SIGINT,) if hosted else (signal.SIGTERM, signal.SIGINT)
    # Who began us in the background of a script has them ignored, and Ctrl-C there is not for us.
    handled = [number for number in wanted if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, terminate) for number in handled}
    try:
        yield
    finally:
        _restore(before)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """SIGTERM and Ctrl-C take effect at the end of the block: for what must not be left half done. Main thread only."""
    if not _on_main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, frame: object) -> None:
        came.append(number)
        PATIENCE.stop()  # a store that does not answer would hold the block for as long

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        _restore(before)
        if came:
            signal.raise_signal(came[0])


def _restore(before: Mapping[signal.Signals, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


class _Late(BaseException):
    """No Exception: Great Expectations, for one, makes a failed expectation of whatever Exception it meets."""


@contextlib.contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """Raises DeadlineExceeded after so long in the block. On the main thread only: no other can be interrupted.

    A timer of whoever called us goes on afterwards; one that ran out meanwhile fires then.
    """
    if not _on_main_thread():
        yield
        return
    inside = True

    def end(number: int, frame: object) -> None:
        if inside:
            raise _Late

    began, before = time.monotonic(), signal.signal(signal.SIGALRM, end)
    left, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        try:
            yield
        finally:
            inside = False
    except _Late:
        raise DeadlineExceeded(f"{what} took longer than {seconds:g} s", fix="raise run.stage_minutes") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        _restore({signal.SIGALRM: before})
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - began), 0.001))


def leave(code: int) -> NoReturn:
    """Ends the process now, without waiting for threads that still sit in a long computation after an interrupt."""
    flush()
    os._exit(code)
