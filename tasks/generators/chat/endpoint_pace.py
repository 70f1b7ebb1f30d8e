"""How many requests are under way at once: raised slowly, cut fast (AIMD; Chiu and Jain 1989), as TCP does it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from email.utils import parsedate_to_datetime
from time import monotonic, time

FIRST = 4  # requests at once, before anything is known of the server
BACKOFF, LONGEST = 0.5, 60.0  # seconds before the second try; before any


class Pace:
    """One more after as many answers in a row as may be under way; half of it after a 429, a 5xx or a time-out.

    What was under way when it was cut cuts no further: sixteen refusals of one moment are one sign, not sixteen.
    """

    def __init__(self, most: int, log: logging.Logger) -> None:
        self.most, self.log = most, log
        self.limit = min(FIRST, most)
        self.active = self.answered = self.epoch = 0
        self.not_before = 0.0
        self.free = asyncio.Event()

    async def enter(self) -> int:
        """Waits for a place; returns what ``leave`` needs."""
        while True:
            if (left := self.not_before - monotonic()) > 0:
                await asyncio.sleep(left)
            elif self.active < self.limit:
                self.active += 1
                return self.epoch
            else:
                self.free.clear()
                await self.free.wait()

    def leave(self) -> None:
        self.active -= 1
        self.free.set()

    def raise_slowly(self) -> None:
        self.answered += 1
        if self.answered >= self.limit and self.limit < self.most:
            self.limit, self.answered = self.limit + 1, 0
            self.free.set()

    def cut(self, epoch: int, wait: float | None, why: str) -> None:
        """``wait``: seconds for which the server wants no request at all."""
        self.answered = 0
        if wait is not None:
            self.not_before = max(self.not_before, monotonic() + wait)
        if epoch == self.epoch:
            self.limit, self.epoch = max(1, self.limit // 2), self.epoch + 1
            self.log.info("endpoint: %s; at most %d requests at once from now on", why, self.limit)


def backoff(key: str, failed: int) -> float:
    """Seconds to wait after so many failures: doubled each time, less up to a half that is the call's own number."""
    share = int.from_bytes(hashlib.sha256(f"{key} {failed}".encode()).digest()[:4], "big") / (1 << 32)
    return min(LONGEST, BACKOFF * float(2 ** min(failed - 1, 20))) * (0.5 + share / 2)


def read_retry_after(value: str | None) -> float | None:
    """Seconds, of a header that gives those or a date (RFC 9110, 10.2.3); None for what is neither."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value.strip()[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())
    except (ValueError, OverflowError, OSError):  # a server's slip; backoff waits all the same
        return None
