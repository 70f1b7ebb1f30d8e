"""Days, weeks and months in a declared time zone: which partition a moment belongs to, windows, and the refit grid.

A partition is half-open: it begins at local midnight and ends where the next one begins, so each row is in exactly one,
on days of 23 and 25 hours too. Names sort as texts in their order: 2026-10-01, 2026-W40, 2026-10.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

Every = Literal["key", "day", "week", "month"]

_UNITS = {"d": "days", "h": "hours", "m": "minutes"}
_SHAPES = {"day": r"[0-9]{4}-[0-9]{2}-[0-9]{2}", "week": r"[0-9]{4}-W[0-9]{2}", "month": r"[0-9]{4}-[0-9]{2}"}
_DATE = re.compile(r"[0-9]{4}([-/])[0-9]{2}\1[0-9]{2}|[0-9]{8}")
# An instant as BigQuery, Snowflake and Postgres print it: a zone by its name, or an offset after a space.
_ZONED = re.compile(
    r"(.*[0-9]) ?(?:(UTC|GMT|Z|[A-Z][A-Za-z_]+(?:/[A-Za-z0-9_+-]+){1,2})|([+-][0-9]{2}:?(?:[0-9]{2})?))"
)
FORMS = 2  # counts up when more forms of days are read: a unit that refused such rows is then read anew
# Digits of an instant since 1970, in seconds, milli-, micro- and nanoseconds, from 2001 to 2286: how many, to a second.
_EPOCH = {10: 1, 13: 10**3, 16: 10**6, 19: 10**9}
_HOUR_KEY = re.compile(r"(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])(?:[01][0-9]|2[0-3])")
_NUMBER = re.compile(r"-?[0-9]{1,30}(?:\.0)?")  # 9.0 where nulls made floats of them; 1.10 may be a version
# Forms that are no day here: what they are, and what to do.
_FORMS: tuple[tuple[str, str], ...] = (
    (r"[0-9]{1,2}/[0-9]{1,2}/[0-9]{2,4}.*", "day and month may stand either way round; write it as 2026-10-01"),
    (r"[0-9]{1,2}[.-][0-9]{1,2}[.-][0-9]{2,4}.*", "a date that does not begin with its year; write it as 2026-10-01"),
    (r"[0-9]{4}[-/][0-9]{1,2}[-/][0-9]{1,2}(?![0-9]).* [A-Z]{2,5}", "letters that mean several time zones; write an "
     "offset such as +02:00, or a name such as Europe/Berlin"),
    (r"[0-9]{4}[-/][0-9]{2}[-/][0-9]{2}.* [A-Za-z]+/.*", "a time zone that nobody knows; write an offset such as +02:00"),
    (r"[0-9]{10}|[0-9]{12}|[0-9]{14}", "digits of a day and a time; write 20261001, or 2026-10-01T00:30:00"),
    (r"[0-9]{4}-[0-9]{2}", "a month alone; name the column or directory of days, or set partitions.every to month"),
    (r"[0-9]{1,2}", "a part of a date; name the `day` of year=/month=/day= directories as columns.partition"),
    (r"-?[0-9]+(?:\.[0-9]+)?", "neither a day such as 20261001 nor an instant in 10 digits (seconds since 1970), 13, 16 "
     "or 19"),
    (r".*[A-Za-z]{3}.*[0-9]{4}.*", "a date in words; write it as 2026-10-01"),
)  # fmt: skip
# Days whose partitions have names that sort as texts, and others before and after them. In a table of rows 0001-01-01
# and 9999-12-31 stand for "none".
_FIRST, _LAST = date(1000, 1, 1), date(9990, 1, 1)


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


# (field of a cron expression, its lowest and highest number, names of numbers from the lowest on)
_CRON = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of month", 1, 31, ()),
    ("month", 1, 12, ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")),
    ("day of week", 0, 7, ("sun", "mon", "tue", "wed", "thu", "fri", "sat")),
)
_CRON_RANGE = re.compile(r"(?:\*|(\w+)(?:-(\w+))?)(?:/[1-9]\d{0,3})?", re.ASCII)
# The last day of a month; of weekdays the second, or the last of the month. Not beside other kinds in one list.
_CRON_SPECIAL = {"day of month": r"\?|L", "day of week": r"\?|\w+#[1-5](?:,\w+#[1-5])*|L[0-7](?:,L[0-7])*"}


def require_cron(text: str) -> None:
    """Raises ValueError that names the field. What passes, Prefect's scheduler takes; its own check costs its import."""
    fields = text.split()
    if len(fields) != len(_CRON):
        names = ", ".join(name for name, *_ in _CRON)
        raise ValueError(f"expected five fields ({names}), such as 0 2 * * *; found {len(fields)} in {text!r}")
    for field, (name, low, high, words) in zip(fields, _CRON, strict=True):
        numbers = {str(number) for number in range(low, high + 1)} | {f"{number:02}" for number in range(low, high + 1)}
        known = numbers | set(words)
        special = re.fullmatch(_CRON_SPECIAL.get(name, "(?!)"), field, re.ASCII)
        parts = [_CRON_RANGE.fullmatch(part) for part in field.split(",")]
        values = (
            re.findall(r"\w+(?=#)", field) if special else [v for part in parts if part for v in part.groups() if v]
        )
        if not (special or all(parts)) or not known.issuperset(value.lower() for value in values):
            also = f", or {words[0]} to {words[-1]}" if words else ""
            what = f"{low} to {high}{also}, `*`, a list 1,2, a range 1-3 or a step */2"
            raise ValueError(f"{name}: expected {what}; found {field!r} in {text!r}")
    _, _, day, month, weekday = fields
    # croniter, the scheduler's, finds no start for most of these, and for days that no month has even where a day of the
    # week stands beside them; it says so to nobody.
    if day not in ("*", "?") and re.search("[#L]", weekday):
        raise ValueError(f"day of month: give it, or a day of the week such as {weekday!r}, not both; found {text!r}")
    if day[0] not in "?L" and _first_day(day) > max(map(_longest, _months(month))):
        never = f"no month of {month!r} has a day {_first_day(day)}, so {text!r} never starts anything"
        raise ValueError(f"day of month: {never}; give a day that there is, L for the last one, or *")


def _first_day(field: str) -> int:
    """The first day of a month that the field names; 1 where a range may run over the month's end."""
    first = 31
    for part in _CRON_RANGE.finditer(field):
        start, end = int(part[1] or 1), int(part[2] or 31)
        spans = "/" in part[0] or part[2] or not part[1]
        first = min(first, start if not spans or start < end else 1)
    return first


def _months(field: str) -> Iterator[int]:
    """Of the field of months; all of them where a range runs over the year's end."""
    names = _CRON[3][3]
    for text in field.split(","):
        part, _, step = text.partition("/")
        ends = [names.index(end) + 1 if end in names else int(end) for end in part.lower().split("-") if end != "*"]
        start, end = (1, 12) if not ends else (ends[0], ends[-1] if len(ends) > 1 or not step else 12)
        yield from range(start, end + 1, int(step or 1)) if start <= end else range(1, 13)


def _longest(month: int) -> int:
    """Days of the month, in a leap year."""
    return monthrange(2024, month)[1]


@dataclass(frozen=True)
class Calendar:
    """``every``: day, week (ISO, from Monday) or month, in ``timezone``; or key: names in the order of their texts."""

    every: Every = "key"
    timezone: str = "UTC"

    @property
    def dated(self) -> bool:
        return self.every != "key"

    def name_of(self, value: Any) -> str | None:
        """The partition that ``value`` (a date, an instant, or a text or number of one) is in; None where it is none.

        An instant with an offset is seen in ``timezone``; one without is taken as local already.
        """
        if value is None or not self.dated:
            return None if value is None else str(value)
        day = _local_day(value, ZoneInfo(self.timezone))
        try:  # where it is no day, a partition's own name
            name = str(value) if day is None else self._name(day)
            self.first_day(name)
        except ValueError:
            return None
        return name

    def why_not(self, value: Any) -> str:
        """What form a value has that ``name_of`` finds no partition in, and what to write instead."""
        if not self.dated:
            return "empty"
        said = str(value).strip()
        if _local_day(value, ZoneInfo(self.timezone)) is not None:
            return f"not a year from {_FIRST.year} to {_LAST.year - 1}"
        known = next((words for form, words in _FORMS if re.fullmatch(form, said, re.ASCII)), "")
        return known or f"no {self.every}; write it as {self._example()}"

    def _name(self, day: date) -> str:
        if self.every == "week":
            year, week, _ = day.isocalendar()
            return f"{year:04}-W{week:02}"
        return day.isoformat() if self.every == "day" else day.isoformat()[:7]

    def first_day(self, name: str) -> date:
        """The day on which the partition begins. Raises ValueError for what is no name of one."""
        if not self.dated or not re.fullmatch(_SHAPES[self.every], name):
            raise ValueError(f"expected a {self.every} such as {self._example()}; found {name!r}")
        try:
            day = self._begins(name)
        except ValueError:
            raise ValueError(f"there is no {self.every} {name!r}") from None
        if not _FIRST <= day < _LAST:
            raise ValueError(f"expected a year from {_FIRST.year} to {_LAST.year - 1}; found {name!r}")
        return day

    def _begins(self, name: str) -> date:
        if self.every == "week":
            return date.fromisocalendar(int(name[:4]), int(name[6:]), 1)
        return date.fromisoformat(name if self.every == "day" else f"{name}-01")

    def _ended(self, name: str) -> date:
        """The day after the partition's last one."""
        return self._begins(self.step(name, 1))

    def _example(self) -> str:
        return {"day": "2026-10-01", "week": "2026-W40", "month": "2026-10", "key": "a"}[self.every]

    def step(self, name: str, by: int) -> str:
        """The partition ``by`` after (before, where negative) this one."""
        day = self.first_day(name)
        if self.every == "month":
            months = max(day.year * 12 + day.month - 1 + by, _FIRST.year * 12 + 12)
            return self._name(date(months // 12, months % 12 + 1, 1))
        return self._name(_back(day, -by * (7 if self.every == "week" else 1)))

    def between(self, first: str, last: str) -> Iterator[str]:
        """Every partition from ``first`` up to and with ``last``."""
        while first <= last:
            yield first
            first = self.step(first, 1)

    def ends(self, name: str) -> datetime:
        """The instant at which the partition is complete: where the next one begins."""
        return datetime.combine(self._ended(name), time(), ZoneInfo(self.timezone))

    def newest_complete(self, now: datetime) -> str:
        """The last partition that has ended by ``now`` (aware)."""
        return self.step(self._name(now.astimezone(ZoneInfo(self.timezone)).date()), -1)

    def window_start(self, name: str, days: int) -> str:
        """The first partition of the window of ``days`` days that ends with ``name``: those that lie wholly within it.

        At least ``name`` itself, where the window is shorter than it.
        """
        first_day = _back(self._ended(name), days)
        first = self._name(first_day)
        return min(name, first if self._begins(first) >= first_day else self.step(first, 1))

    def boundary(self, name: str, days: int) -> str:
        """The last partition ``B <= name`` in which a day of the grid falls: every ``days`` days from Monday 1970-01-05.

        A day of the grid belongs to the partition that it ends, so weeks on a grid of 7 days are each their own
        boundary. Which partitions are boundaries hangs on the grid alone: refits fall on the same nights whoever runs
        when, and ``boundary`` of a boundary is itself.
        """
        ended = self._ended(name)
        return self._name(_back(ended, (ended - date(1970, 1, 5)).days % days + 1))


def _back(day: date, days: int) -> date:
    """``days`` before ``day``, or a year after the first day there is: a window of 999999 days is all history."""
    return date.fromordinal(max(day.toordinal() - days, _FIRST.toordinal() + 365))


def is_number(name: str) -> bool:
    return _NUMBER.fullmatch(name) is not None


def rank(name: str) -> tuple[bool, Decimal, str]:
    """By which partitions are ordered: numbers as numbers, 9 before 10, and before all others; these as texts."""
    return (False, Decimal(name), name) if is_number(name) else (True, Decimal(0), name)


def _local_day(value: Any, zone: ZoneInfo) -> date | None:
    """The local day of a date or instant, or of the text of one (of digits alone too); None for anything else."""
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool) and value % 1 == 0:
        value = str(int(value))  # 20261001, as warehouses key days; 20261001.0 where nulls made floats of them
    try:
        if isinstance(value, str):
            value = _parse(value.strip())
        if isinstance(value, datetime):
            return (value.astimezone(zone) if value.tzinfo is not None else value).date()
    except (ValueError, OverflowError):  # no date; or one that is out of the calendar once seen in the time zone
        return None
    return value if isinstance(value, date) else None


def _parse(text: str) -> date | None:
    """The date or instant that is written there; None where it is none. Raises ValueError or OverflowError as well."""
    if (unit := _EPOCH.get(len(text))) and re.fullmatch(r"[1-9][0-9]*", text):
        if _HOUR_KEY.fullmatch(text):  # 2026102400 would be a day of 2034
            return None
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=int(text) // unit)
    plain = _DATE.match(text)
    if plain is None or text[plain.end() : plain.end() + 1] not in ("", "T", " "):
        return None
    if plain[1] == "/":
        text = text.replace("/", "-", 2)
    return date.fromisoformat(text) if plain.end() == len(text) else _instant(text)


def _instant(text: str) -> datetime:
    """Without a zone where it has none. Raises ValueError."""
    if (zoned := _ZONED.fullmatch(text)) is None:
        return datetime.fromisoformat(text)
    before, name, offset = zoned.groups()
    if offset is not None:
        return datetime.fromisoformat(before + offset)
    try:
        return datetime.fromisoformat(before).replace(tzinfo=ZoneInfo(name) if "/" in name else UTC)
    except ZoneInfoNotFoundError as error:
        raise ValueError(f"there is no time zone {name!r}") from error


def next_clock(clock: time, now: datetime, timezone: str) -> datetime:
    """The next instant, after ``now`` (aware), at which clocks in ``timezone`` show ``clock``."""
    local = now.astimezone(ZoneInfo(timezone))
    at = datetime.combine(local.date(), clock, ZoneInfo(timezone))
    if at.astimezone(UTC) <= now.astimezone(UTC):
        at = datetime.combine(local.date() + timedelta(days=1), clock, ZoneInfo(timezone))
    return at
