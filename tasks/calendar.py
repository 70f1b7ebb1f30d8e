"""Days, weeks and months in a declared time zone: which partition a moment belongs to, windows, and the refit grid.

A partition is half-open: it begins at local midnight and ends where the next one begins, so each row is in exactly one,
on days of 23 and 25 hours too. Names sort as texts in their order: 2026-10-01, 2026-W40, 2026-10.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Literal
from zoneinfo import ZoneInfo

Every = Literal["key", "day", "week", "month"]

_UNITS = {"d": "days", "h": "hours", "m": "minutes"}
_SHAPES = {"day": r"\d{4}-\d{2}-\d{2}", "week": r"\d{4}-W\d{2}", "month": r"\d{4}-\d{2}"}


def parse_duration(text: str) -> timedelta:
    """``30d``, ``36h`` or ``45m``. Raises ValueError."""
    found = re.fullmatch(r"(\d{1,6})([dhm])", text)
    if not found or not int(found[1]):
        raise ValueError(f"expected a number of days, hours or minutes, such as 30d, 36h or 45m; found {text!r}")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def parse_days(text: str) -> int:
    """Whole days of ``30d``. Raises ValueError."""
    span = parse_duration(text)
    if span % timedelta(days=1):
        raise ValueError(f"expected whole days, such as 30d; found {text!r}")
    return span.days


def parse_clock(text: str) -> time:
    """``05:30``. Raises ValueError."""
    found = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)", text)
    if not found:
        raise ValueError(f"expected a time of day such as 05:30, in quotes; found {text!r}")
    return time(int(found[1]), int(found[2]))


@dataclass(frozen=True)
class Calendar:
    """``every``: day, week (ISO, from Monday) or month, in ``timezone``; or key: names in the order of their texts."""

    every: Every = "key"
    timezone: str = "UTC"

    @property
    def dated(self) -> bool:
        return self.every != "key"

    def name_of(self, value: Any) -> str | None:
        """The partition that ``value`` (a date, an instant, or a text of one) is in; None where it is none of them.

        An instant with an offset is seen in ``timezone``; one without is taken as local already.
        """
        if value is None or not self.dated:
            return None if value is None else str(value)
        day = _local_day(value, ZoneInfo(self.timezone))
        if day is None:  # a partition's own name
            try:
                return str(value) if self.first_day(str(value)) else None
            except ValueError:
                return None
        return self._name(day)

    def _name(self, day: date) -> str:
        if self.every == "week":
            year, week, _ = day.isocalendar()
            return f"{year:04}-W{week:02}"
        return day.isoformat() if self.every == "day" else f"{day:%Y-%m}"

    def first_day(self, name: str) -> date:
        """The day on which the partition begins. Raises ValueError for what is no name of one."""
        if not self.dated or not re.fullmatch(_SHAPES[self.every], name):
            raise ValueError(f"expected a {self.every} such as {self._example()}; found {name!r}")
        if self.every == "week":
            return date.fromisocalendar(int(name[:4]), int(name[6:]), 1)
        return date.fromisoformat(name if self.every == "day" else f"{name}-01")

    def _example(self) -> str:
        return {"day": "2026-10-01", "week": "2026-W40", "month": "2026-10", "key": "a"}[self.every]

    def step(self, name: str, by: int) -> str:
        """The partition ``by`` after (before, where negative) this one."""
        day = self.first_day(name)
        if self.every == "month":
            months = day.year * 12 + day.month - 1 + by
            return self._name(date(months // 12, months % 12 + 1, 1))
        return self._name(day + by * timedelta(days=7 if self.every == "week" else 1))

    def between(self, first: str, last: str) -> Iterator[str]:
        """Every partition from ``first`` up to and with ``last``."""
        while first <= last:
            yield first
            first = self.step(first, 1)

    def ends(self, name: str) -> datetime:
        """The instant at which the partition is complete: where the next one begins."""
        return datetime.combine(self.first_day(self.step(name, 1)), time(), ZoneInfo(self.timezone))

    def newest_complete(self, now: datetime) -> str:
        """The last partition that has ended by ``now`` (aware)."""
        return self.step(self._name(now.astimezone(ZoneInfo(self.timezone)).date()), -1)

    def window_start(self, name: str, days: int) -> str:
        """The first partition of the window of ``days`` days that ends with ``name``: those that end within it."""
        last = self.first_day(self.step(name, 1)) - timedelta(days=days)
        first = self._name(last)
        return first if self.first_day(first) >= last else self.step(first, 1)

    def boundary(self, name: str, days: int) -> str:
        """The last partition ``B <= name`` on the fixed grid of every ``days`` days, counted from Monday 1970-01-05.

        B is the last partition that is complete on the grid's day: refits fall on the same nights whoever runs when.
        """
        origin = date(1970, 1, 5)
        ended = self.first_day(self.step(name, 1))  # the day after the partition's last one
        grid = ended - (ended - origin) % timedelta(days=days)
        return min(name, self.step(self._name(grid), -1))


def _local_day(value: Any, zone: ZoneInfo) -> date | None:
    """The local day of a date or instant, or of the text of one; None for anything else."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value) if len(value) > 10 else date.fromisoformat(value)
        except ValueError:
            return None
    if isinstance(value, datetime):
        return (value.astimezone(zone) if value.tzinfo is not None else value).date()
    return value if isinstance(value, date) else None


def next_clock(clock: time, now: datetime, timezone: str) -> datetime:
    """The next instant, after ``now`` (aware), at which clocks in ``timezone`` show ``clock``."""
    local = now.astimezone(ZoneInfo(timezone))
    at = datetime.combine(local.date(), clock, ZoneInfo(timezone))
    if at.astimezone(UTC) <= now.astimezone(UTC):
        at = datetime.combine(local.date() + timedelta(days=1), clock, ZoneInfo(timezone))
    return at
