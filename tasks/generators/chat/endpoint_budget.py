"""What may still be spent, counted in the store: over all shards, processes and attempts that use one fitted generator.

A log of totals, `budget/<scope>/<number>`, each written put-if-absent after the one before, so that two processes cannot
both take what is left. What a request may cost at most is taken before it is sent and corrected when its answer is there:
a process that is killed in between leaves the most that the request can have cost.
"""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import dataclass

from augmill.tasks.contracts import Scratch
from augmill.tasks.generators.chat.options import ChatOptions

Spent = tuple[int, int, int]  # requests, tokens, millionths of the currency
ZERO: Spent = (0, 0, 0)


@dataclass(frozen=True)
class Limits:
    """Bounds of ``Spent``, None for none, and prices of a million tokens: a token costs so many millionths."""

    bounds: tuple[int | None, int | None, int | None]
    price_in: float
    price_out: float

    @staticmethod
    def of(options: ChatOptions) -> Limits:
        cost = None if options.max_cost is None else math.floor(options.max_cost * 1e6)
        return Limits((options.max_requests, options.max_tokens, cost), options.price_in, options.price_out)

    def cost(self, tokens_in: int, tokens_out: int) -> int:
        return math.ceil(tokens_in * self.price_in + tokens_out * self.price_out)


class Budget:
    """Takes and corrects. ``take`` is False once nothing under way could make room any more."""

    def __init__(self, limits: Limits, scratch: Scratch, scope: str) -> None:
        self.limits, self.scratch, self.place = limits, scratch, f"budget/{scope}"
        self.limited = any(bound is not None for bound in limits.bounds)
        self.total, self.number = ZERO, -1  # of the newest entry known here; -1: not looked yet
        self.owed = ZERO  # corrections that the next entry takes along
        self.outstanding = 0  # taken here and not corrected yet
        self.lock = asyncio.Lock()
        self.settled = asyncio.Event()

    async def take(self, tokens_in: int, tokens_out: int) -> bool:
        """``tokens_in``, ``tokens_out``: the most that the request can cost."""
        if not self.limited:
            return True
        spent = (1, tokens_in + tokens_out, self.limits.cost(tokens_in, tokens_out))
        while True:
            async with self.lock:
                self.settled.clear()
                if await self._write(spent):
                    self.outstanding += 1
                    return True
                if not self.outstanding:
                    return False
            await self.settled.wait()

    def correct(self, most: tuple[int, int], real: tuple[int, int] | None) -> None:
        """(tokens in, tokens out) as taken and as they were; None where nobody knows: then the most counts."""
        if self.limited:
            self.outstanding -= 1
            if real is not None:
                requests, tokens, cost = self.owed
                cost += self.limits.cost(*real) - self.limits.cost(*most)
                self.owed = (requests, tokens + sum(real) - sum(most), cost)
            self.settled.set()

    async def close(self) -> None:
        """Writes the last corrections."""
        async with self.lock:
            if self.owed != ZERO:
                await self._write(ZERO)

    async def _write(self, spent: Spent) -> bool:
        owed = self.owed
        stands = await asyncio.to_thread(self._append, spent, owed)
        if stands:
            now = self.owed  # corrections that came meanwhile stay owed
            self.owed = (now[0] - owed[0], now[1] - owed[1], now[2] - owed[2])
        return stands

    def _append(self, spent: Spent, owed: Spent) -> bool:
        """Whether the entry stands. It is not written where it would pass a bound; corrections alone always are."""
        while True:
            self._catch_up()
            after = (
                self.total[0] + spent[0] + owed[0], self.total[1] + spent[1] + owed[1], self.total[2] + spent[2] + owed[2]
            )  # fmt: skip
            if spent != ZERO and any(b is not None and a > b for a, b in zip(after, self.limits.bounds, strict=True)):
                return False
            if self.scratch.put_if_absent(self._key(self.number + 1), json.dumps(after).encode()):
                self.total, self.number = after, self.number + 1
                return True

    def _catch_up(self) -> None:
        """Reads what other processes wrote: the newest entry by name the first time, then one after the other."""
        if self.number < 0 and (known := self.scratch.keys(self.place)):
            self.number = int(known[-1].rpartition("/")[2]) - 1
        while (raw := self.scratch.get(self._key(self.number + 1))) is not None:
            requests, tokens, cost = json.loads(raw)
            self.total, self.number = (requests, tokens, cost), self.number + 1

    def _key(self, number: int) -> str:
        return f"{self.place}/{number:010d}"
