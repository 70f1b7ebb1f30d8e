"""How often what is tried again: the named policies, and the plain loop that follows one.

Only causes that can pass are retried: a ``WorldError`` whose ``retryable`` is true. A killed deadline is one of
them and counts as a try. Standard library only.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from .contracts import WorldError

T = TypeVar("T")
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
