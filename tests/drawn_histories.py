"""Histories that a program draws, for tests of what reads, learns or changes lists of items."""

from __future__ import annotations

import random
from typing import Any

HISTORY_FIELDS = ("items:seen",)
CATALOGUE = 30  # items, in three shelves of ten


def history(number: int, shelf: int, longest: int = 9) -> list[str]:
    """Of one shelf, where mostly the next item follows: a chain that a Markov model can learn. No item stands twice."""
    draw, found = random.Random(f"{number} of {shelf}"), list[int]()
    at = draw.randrange(10)
    while len(found) < 4 + number % (longest - 3):
        at = (at + draw.choice((1, 1, 1, 2))) % 10
        while at in found:
            at = (at + 1) % 10
        found.append(at)
    return [f"i{10 * shelf + item:02}" for item in found]


def history_rows(count: int = 12) -> list[tuple[Any, ...]]:
    """(row id, stratum, history): each stratum has a shelf of its own."""
    return [
        (f"{stratum}-{number}", stratum, history(number, shelf))
        for shelf, stratum in enumerate(("refund", "track", "中文"))
        for number in range(count)
    ]


def users(count: int, first: int = 0) -> list[dict[str, Any]]:
    """Rows of a ranking: the user, the history, the next item."""
    found = []
    for number in range(first, first + count):
        whole = history(number, number % 3)
        found.append({"user": f"u{number:03}", "history": whole[:-1], "next": whole[-1]})
    return found
