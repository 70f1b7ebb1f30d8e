"""The recipe's sections on what happens between nights: partitions, refits, schedule, retention."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from zoneinfo import ZoneInfo

from augmill.tasks.recipe.sections import check, option, required
from augmill.tasks.rows.calendar import Calendar, Every, parse_days, parse_duration, require_cron
from augmill.tasks.sources.patterns import name_pattern

_POLICY = "decides which snapshots are made again, not what they hold"
_WHEN = "when it runs, not what"
_KEPT = "how long results are kept"


def _parses(name: str, parse: object, text: str | None) -> None:
    """Raises ValueError that names the key."""
    if text is None:
        return
    try:
        parse(text)  # type: ignore[operator]
    except (ValueError, KeyError, OSError) as error:
        raise ValueError(f"{name}: {error}") from error


@dataclass(frozen=True)
class Reopen:
    """How long late rows make a released snapshot stale."""

    reopen: str = required("snapshots up to this long after a late row's partition are made again, such as 3d")

    def __post_init__(self) -> None:
        _parses("reopen", parse_days, self.reopen)

    @property
    def days(self) -> int:
        return parse_days(self.reopen)


@dataclass(frozen=True)
class Partitions:
    """How the source is cut by date or by another ordered key, and which part of it a snapshot holds."""

    every: Every = option(
        "key", "key: each value is a partition, numbers in numeric order, others as text; or by day, week or month"
    )
    timezone: str = option("UTC", "the time zone in which days begin and end, and of times without an offset")
    pattern: str | None = option(
        None,
        "if no column holds the partition: an expression (RE2) over file names with one group: "
        "`(\\d{4}-\\d{2}-\\d{2})`",
    )
    window: str = option("all", "what a snapshot holds: all rows up to its partition, or those of its last days: 30d")
    late: Literal["fold_into_next"] | Reopen = option(
        "fold_into_next",
        "what happens to late rows: they enter the next snapshot, or, with `{reopen: 3d}`, snapshots up to "
        "that long after a late row's partition are made again",
        why_no_identity=_POLICY,
    )

    def __post_init__(self) -> None:
        check(self.window == "all" or self.every != "key", "window: only for partitions by day, week or month")
        _parses("window", parse_days, None if self.window == "all" else self.window)
        _parses("timezone", ZoneInfo, self.timezone)
        check(self.late == "fold_into_next" or self.every != "key", "late: reopen needs days, weeks or months")
        if self.pattern is not None:
            try:
                groups = name_pattern(self.pattern).groups
            except ValueError as error:
                raise ValueError(f"pattern: {error}") from error
            check(groups == 1, f"pattern: exactly one group; found {groups}")

    @property
    def calendar(self) -> Calendar:
        return Calendar(self.every, self.timezone)


@dataclass(frozen=True)
class Refit:
    """When a generator is fitted anew; between refits its candidates are reused. By default: for every snapshot."""

    every: str | None = option(None, "on a fixed grid of this many days, such as 7d")
    when_drifted: float | None = option(
        None, "if the label mix or text statistics moved by more than this since the last fit (0 to 1; needs max_age)"
    )
    max_age: str | None = option(None, "with when_drifted: at the latest after this many days")

    def __post_init__(self) -> None:
        check(self.every is None or self.when_drifted is None, "give every, or when_drifted with max_age, not both")
        check((self.when_drifted is None) == (self.max_age is None), "when_drifted and max_age need each other")
        check(self.when_drifted is None or 0 < self.when_drifted < 1, "when_drifted: between 0 and 1")
        _parses("every", parse_days, self.every)
        _parses("max_age", parse_days, self.max_age)

    @property
    def asked(self) -> bool:
        return self.every is not None or self.when_drifted is not None


@dataclass(frozen=True)
class Schedule:
    """When the nightly run starts and what it catches up on (`augmill deploy`, `augmill serve`)."""

    cron: str = option(
        "0 2 * * *", "when it starts: minute, hour, day of month, month, day of week", why_no_identity=_WHEN
    )
    timezone: str = option("UTC", "the time zone of `cron` and of `run.deadline`", why_no_identity=_WHEN)
    look_back: str = option(
        "7d",
        "how far back a night looks for snapshots that failed or are missing (schedule.catch_up)",
        why_no_identity=_WHEN,
    )
    catch_up: Literal["all", "latest", "none"] = option(
        "latest",
        "after an outage: make every missed snapshot in look_back, only the newest, or none (a start an hour "
        "late does nothing)",
        why_no_identity=_WHEN,
    )
    freshness: str | None = option(
        None, "`augmill status --check` fails if the current release is older, such as 36h", why_no_identity=_WHEN
    )
    webhook: str | None = option(
        None, "name of an environment variable that holds the address for pages and notes", why_no_identity=_WHEN
    )
    webhook_private: bool = option(
        False, "whether that address may be in a private network; this machine is always allowed", why_no_identity=_WHEN
    )

    def __post_init__(self) -> None:
        _parses("cron", require_cron, self.cron)
        _parses("timezone", ZoneInfo, self.timezone)
        _parses("look_back", parse_days, self.look_back)
        _parses("freshness", parse_duration, self.freshness)
        named = self.webhook is None or re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.webhook)
        check(bool(named), "webhook: the name of an environment variable, not the address itself, which is a secret")


@dataclass(frozen=True)
class Retain:
    """How long things are kept that are no longer current (`augmill gc`). Tagged releases are always kept."""

    releases: str = option(
        "90d", "releases that are no longer current, and the results of `augmill compare`", why_no_identity=_KEPT
    )
    min: int = option(10, "this many of the newest releases are kept whatever their age", why_no_identity=_KEPT)
    rejected: str = option(
        "30d", "rejected candidates, refused rows, and reports that show rows", why_no_identity=_KEPT
    )
    requests: str = option("30d", "requests and answers of endpoints", why_no_identity=_KEPT)

    def __post_init__(self) -> None:
        for name in ("releases", "rejected", "requests"):
            _parses(name, parse_duration, getattr(self, name))
        check(0 <= self.min <= 1_000_000, "min: at least 0")


@dataclass(frozen=True)
class Price:
    """What things cost, for estimates and limits, in one currency of your choice."""

    gpu_hour: float | None = option(None, "an hour of one GPU", why_no_identity="what it costs, not what it does")
    cpu_hour: float | None = option(
        None, "an hour of a run's machine", why_no_identity="what it costs, not what it does"
    )
    million_tokens: float | None = option(
        None,
        "a million tokens of models, except endpoints with prices of their own",
        why_no_identity="what it costs, not what it does",
    )

    def __post_init__(self) -> None:
        for name in ("gpu_hour", "cpu_hour", "million_tokens"):
            value = getattr(self, name)
            check(value is None or 0 <= value < 1e9, f"{name}: at least 0")
