"""How often what is tried again: the named policies, and the plain loop that follows one.

Only causes that can pass are retried: a ``WorldError`` whose ``retryable`` is true. A killed deadline is one of
them and counts as a try. Standard library only.
"""

from __future__ import annotations

import logging
import random
import re
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from augmill.tasks.errors import StoreError, StoreSilent, WorldError

T = TypeVar("T")
Item = TypeVar("Item")
_log = logging.getLogger("augmill")
_jitter = random.SystemRandom()  # must differ between processes, or they come back together; decides no row


@dataclass(frozen=True)
class RetryPolicy:
    """``tries`` in all; before retry k a wait of ``first_delay * 2**k`` seconds, at most ``longest``,
    spread by ``jitter`` (0.5: between half and one and a half of it), so that many callers of one
    overloaded store do not come back together.
    """

    tries: int
    first_delay: float = 1.0
    longest: float = 60.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        if self.tries < 1 or self.first_delay < 0 or not 0 <= self.jitter < 1:
            raise ValueError(f"a policy has tries >= 1, first_delay >= 0 and 0 <= jitter < 1, not {self}")

    def delays(self) -> list[float]:
        """Seconds before each retry, without jitter; one fewer than ``tries``."""
        return [min(self.first_delay * 2.0**k, self.longest) for k in range(self.tries - 1)]


NEVER = RetryPolicy(tries=1)
STAGE = RetryPolicy(tries=2)  # computes from the store alone: what fails twice fails always
READ = RetryPolicy(tries=5)  # the user's source; 15 s in all outlasts a fail-over of most object stores
STORE = RetryPolicy(tries=5, first_delay=0.5, longest=10.0)  # one small object
SHARD = RetryPolicy(tries=3, first_delay=2.0)  # minutes of work in a worker process that may die
COMMIT = RetryPolicy(tries=5, first_delay=0.2, longest=5.0)  # put-if-absent of one log entry


def may_retry(error: BaseException) -> bool:
    """Whether waiting can cure ``error``."""
    return isinstance(error, WorldError) and error.retryable


def call_with_retries(
    fn: Callable[[], T],
    policy: RetryPolicy,
    *,
    on_retry: Callable[[Exception, int, float], None] | None = None,
    sleep: Callable[[float], object] = time.sleep,
    uniform: Callable[[], float] = _jitter.random,
) -> T:
    """``fn()`` under ``policy``; ``on_retry(error, tries so far, seconds to wait)`` is told before each wait.

    Raises the last error when the tries are used up, and any error that waiting cannot cure at once.
    """
    for tried, delay in enumerate(policy.delays(), start=1):
        try:
            return fn()
        except WorldError as error:
            if not may_retry(error):
                raise
            wait = delay * (1 + policy.jitter * (2 * uniform() - 1))
            if on_retry is not None:
                on_retry(error, tried, wait)
            sleep(wait)
    return fn()


# --- a store or a source that does not answer ---------------------------------------------------------------------------

PATIENCE_SECONDS = 120.0  # a fail-over of most object stores is over by then
_FIRST, _LONGEST = 0.25, 8.0  # seconds between two requests; jittered, so that many workers do not come back together
_TOLD_AFTER = 1.5  # a blip is nobody's business
_STATUS = re.compile(r"status code: (\d{3})([ \w]*)")


def can_pass(text: str) -> bool:
    """Whether waiting can cure what an object store answered: a connection that failed, or a status that passes."""
    found = _STATUS.search(text)
    if found is None or "RequestTimeout" in text:  # which S3 calls a 400
        return True
    status = int(found[1])
    return status in (408, 409, 425, 429) or (status >= 500 and status not in (501, 505))


@dataclass
class Patience:
    """How long this process bears stores and sources that do not answer, and what it has said of it.

    One outage is waited out once: who comes after those that gave up is told at once, until something answers again.
    """

    seconds: float = PATIENCE_SECONDS
    silent: bool = False  # a worker process: its parent, which meets the same outage, tells of it
    stopped: threading.Event = field(default_factory=threading.Event)
    _spent: bool = False
    _told: float | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def renew(self, seconds: float | None = None, *, silent: bool = False) -> None:
        """For a run that begins, or has ended: nothing is stopped, nothing was borne yet.

        Whoever waits since an earlier stop stays stopped: the event is a new one.
        """
        self.seconds = self.seconds if seconds is None else seconds
        self.silent, self._spent, self._told = silent, False, None
        self.stopped = threading.Event()

    def stop(self) -> None:
        """Nobody waits any more, whichever thread it is in, until ``renew``: the run was interrupted."""
        self.stopped.set()

    def outwait(self, ask: Callable[[], T], *, clock: Callable[[], float] = time.monotonic) -> T:
        """``ask()``, again and again while it raises a StoreError that can pass, for ``seconds`` from its first failure.

        So what took long before it failed is tried again. Raises StoreSilent then, naming what was asked for; what
        waiting cannot cure, or an interrupt, at once.
        """
        began, delay, failed, stopped = clock(), _FIRST, False, self.stopped
        while True:
            try:
                found = ask()
            except StoreError as error:
                began = began if failed else clock()
                failed, left = True, (0.0 if self._spent else self.seconds) - (clock() - began)
                if not may_retry(error) or stopped.is_set():
                    raise
                if left <= 0:
                    raise self._give_up(error, clock() - began) from error
                if clock() - began >= min(_TOLD_AFTER, self.seconds / 2):
                    self._tell(error, clock())
                if self._pause(stopped, min(left, delay * (0.5 + _jitter.random()))):
                    raise
                delay = min(2 * delay, _LONGEST)
            else:
                if failed or self._spent:
                    self._answered(clock() - began)
                return found

    def _pause(self, stopped: threading.Event, seconds: float) -> bool:
        """Whether an interrupt ended the pause, for every thread that waits."""
        try:
            return stopped.wait(seconds)
        except BaseException:
            self.stop()
            raise

    def _tell(self, error: StoreError, now: float) -> None:
        """Once an outage, whoever meets it."""
        with self._lock:
            if self.silent or (self._told is not None and now - self._told < self.seconds):
                return
            self._told = now
        _log.warning(
            "The store does not answer (%s): %s; trying for up to %.0f s.",
            said(error.problem),
            error.where,
            self.seconds,
        )

    def _answered(self, seconds: float) -> None:
        with self._lock:
            told, self._told, self._spent = self._told is not None, None, False
        if told:
            _log.info("The store answers again, after %.0f s.", seconds)

    def _give_up(self, error: StoreError, seconds: float) -> StoreSilent:
        bore = f"no answer in {seconds:.0f} s" if seconds >= 1 or not self._spent else "no answer yet"
        self._spent = True
        fix = "run it again once the store answers; what is finished is kept (run.store_patience sets how long a run waits)"
        return StoreSilent(f"{bore}: {said(error.problem)}", where=error.where, fix=fix)


PATIENCE = Patience()  # of this process; ``run.store_patience`` sets it


def said(problem: str) -> str:
    """An object store's error in a few words: its status, or its last cause. Bodies of answers can hold key ids."""
    found = _STATUS.search(problem)
    first = (problem.splitlines() or [""])[0]
    return f"{found[1]}{found[2].rstrip()}" if found else first.rpartition(": ")[2][:120]


def in_threads(read: Callable[[Item], T], items: Iterable[Item], threads: int) -> list[T]:
    """``read`` of each item, so many at once, in their order. An interrupt ends the waiting of all of them."""
    with ThreadPoolExecutor(threads) as pool:
        try:
            return list(pool.map(read, items))
        except Exception:
            raise
        except BaseException:
            PATIENCE.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
