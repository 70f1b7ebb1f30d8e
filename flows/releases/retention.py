"""What is kept: which releases and artifacts something still needs. A function of the log, the attempts and the clock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from augmill.tasks.recipe.nights import Retain
from augmill.tasks.rows.calendar import parse_duration, rank
from augmill.tasks.store.attempts import Attempt
from augmill.tasks.store.log import Log

# Stages whose artifacts hold rows that did not get in (refused, held back, rejected, surplus). One whose time is over
# goes as a whole, not file by file: an artifact without one of its files would read as corrupt, one that is gone is
# made again.
HOLDING_REJECTED = frozenset({"ingest", "gather", "split", "split_fold", "sample", "generate", "settle"})

Attempts = dict[str, list[Attempt]]  # by snapshot, oldest first


@dataclass(frozen=True)
class Limits:
    """``retain`` of a recipe, for one dataset."""

    releases: timedelta
    least: int
    rejected: timedelta
    requests: timedelta

    @classmethod
    def of(cls, retain: Retain) -> Limits:
        spans = {name: parse_duration(getattr(retain, name)) for name in ("releases", "rejected", "requests")}
        return cls(**spans, least=retain.min)


def dropped(log: Log) -> dict[str, datetime]:
    """Releases that gc or forget took away, with the time, and that were not published again since."""
    names: dict[str, datetime] = {}
    for entry in log.entries:
        for release in filter(None, entry["current"].values()):
            names.pop(release, None)
        gone = (*entry.get("expired", []), *entry.get("erased", []))
        names |= dict.fromkeys(gone, datetime.fromisoformat(entry["time"]))
    return names


def expired(log: Log, standing: Iterable[str], pending: dict[str, datetime], limits: Limits, now: datetime) -> set[str]:
    """Releases whose time is over: superseded for so long, and not among the newest ``least``; never a tagged one, nor

    the one that readers get. A release is superseded from the entry on by which another of its snapshot, or one of a
    later date, became current: a rollback finds what it would go back to for as long. ``standing``: those whose files
    are there. ``pending``: release -> when it was staged, of those that an attempt put and no entry named yet.
    """
    left, made = dict(pending), dict(pending)
    state: dict[str, str] = {}
    for entry in log.entries:
        moment = datetime.fromisoformat(entry["time"])
        moved = {snapshot: release for snapshot, release in entry["current"].items() if release is not None}
        made |= dict.fromkeys(moved.values(), moment)
        gone = {state[snapshot] for snapshot in entry["current"] if snapshot in state}
        state = {name: release for name, release in state.items() if name not in entry["current"]} | moved
        last = max(state.keys() - {"all"}, key=rank, default="all")
        stays = {release for name, release in state.items() if name in ("all", last)}
        left = {release: since for release, since in left.items() if release not in stays}
        left = dict.fromkeys((gone | set(state.values())) - stays, moment) | left
    known = sorted(set(standing) & made.keys(), key=lambda release: (made[release], release), reverse=True)
    safe = {log.newest(), *log.tags().values(), *known[: limits.least], *(r for s, r in state.items() if s == "all")}
    return {r for r in known if r not in safe and r in left and now - left[r] > limits.releases}


def staged(attempts: Attempts) -> dict[str, datetime]:
    """The releases that were put but left for a later log entry, with the time of their attempts' end."""
    found: dict[str, datetime] = {}
    for tries in attempts.values():
        for attempt in tries:
            if attempt.end is not None and attempt.end.get("pending"):
                found[attempt.end["pending"]["release"]] = datetime.fromisoformat(attempt.end["time"])
    return found


def running(attempts: Attempts, now: datetime) -> list[Attempt]:
    return [attempt for tries in attempts.values() for attempt in tries if attempt.state(now) == "running"]


def named(attempts: Attempts, kept: set[str], limits: Limits | None, now: datetime, *, everything: bool) -> set[str]:
    """The artifacts (``stage/identity``) that a kept release or the newest attempt of a snapshot was made of; the latter

    no longer than a release would be kept.
    ``everything``: those of every attempt; while one runs nobody knows which of them it will use again.
    With ``limits``, what holds rejected rows counts for ``limits.rejected`` only.
    """
    keys: set[str] = set()
    for tries in attempts.values():
        ended = [attempt for attempt in tries if attempt.end is not None]
        for attempt in ended:
            assert attempt.end is not None
            age = now - datetime.fromisoformat(attempt.end["time"])
            last = attempt is ended[-1] and (limits is None or age <= limits.releases)
            if not (everything or last or attempt.end.get("release") in kept):
                continue
            old = limits is not None and age > limits.rejected
            found = attempt.end.get("artifacts", [])
            keys |= {key for key in found if everything or not (old and key.split("/")[0] in HOLDING_REJECTED)}
    return keys
