"""What an outside monitor is told: that nights went wrong, or that what is current is older than it may be."""

from __future__ import annotations

from datetime import datetime

from augmill.flows.nights.states import SnapshotState, snapshot_states
from augmill.flows.source import look_at_source
from augmill.tasks.contracts import DataError
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.rows.calendar import parse_days, parse_duration
from augmill.tasks.stages.partitions import is_partitioned
from augmill.tasks.store.log import Log
from augmill.tasks.store.store import Store

HEALTH_WINDOW = 31  # partitions: what happened earlier is no news to a monitor
_WRONG = ("failed", "interrupted")


def find_trouble(recipe: Recipe, store: Store, log: Log, *, now: datetime) -> str | None:
    """What an outside monitor should know: the last night went wrong, or what is current is older than it may be.

    Looks at the store alone, of dated snapshots at the last ``HEALTH_WINDOW``, and only where nothing was tried yet at
    the source, which may be why; None where all is well.
    """
    tried = _tried_lately(recipe, store, log, now)
    bad = [state for state in _due(recipe, tried, now) if state.state in _WRONG or state.outcome == "unsound_source"]
    if bad:
        last, others = bad[-1], f", and {len(bad) - 1} more" if len(bad) > 1 else ""
        stands = f"; release {last.release} stands" if last.release else ""
        return f"{last.snapshot} {last.outcome or last.state}: {last.reason.rstrip('.')}{stands}{others}"
    stale = find_stale(recipe, store, log, now=now, tried=tried)
    if stale is None and not tried and not log.entries:
        problem = look_at_source(recipe, store, now).problem
        if isinstance(problem, DataError):
            return f"nothing was made yet, and the source cannot be used: {problem.where}: {problem.problem}"
    return stale


def _due(recipe: Recipe, tried: list[SnapshotState], now: datetime) -> list[SnapshotState]:
    """Those that the nights look back on: of dated snapshots the last ``schedule.look_back``, else the newest."""
    calendar = recipe.partitions.calendar
    if not (is_partitioned(recipe) and calendar.dated):
        return tried[-1:]
    first = calendar.window_start(calendar.newest_complete(now), parse_days(recipe.schedule.look_back))
    return [state for state in tried if state.snapshot >= first or state is tried[-1]]


def find_stale(
    recipe: Recipe, store: Store, log: Log, *, now: datetime, tried: list[SnapshotState] | None = None
) -> str | None:
    """In words, that what is current is older than schedule.freshness allows; None where it is not."""
    limit = recipe.schedule.freshness
    release = log.newest()
    if limit is None:
        return None
    if release is None:
        return "there is no release yet"
    since = _confirmed(log, release, _tried_lately(recipe, store, log, now) if tried is None else tried)
    if now - since <= parse_duration(limit):
        return None
    hours = (now - since).total_seconds() / 3600
    return f"release {release} is {hours:,.0f} h old; schedule.freshness allows {limit}"


def _tried_lately(recipe: Recipe, store: Store, log: Log, now: datetime) -> list[SnapshotState]:
    calendar, first = recipe.partitions.calendar, None
    if is_partitioned(recipe) and calendar.dated:
        first = calendar.step(calendar.newest_complete(now), 1 - HEALTH_WINDOW)
    states = snapshot_states(recipe, store, None, log, now=now, first=first)
    return [state for state in states if state.state not in ("missing", "running")]


def _confirmed(log: Log, release: str, tried: list[SnapshotState]) -> datetime:
    """When the release was published, or made once more by a later night, which had nothing to publish then."""
    snapshot = next(snapshot for snapshot, current in log.current().items() if current == release)
    times = [log.entries[log.standing()[snapshot]]["time"]]
    for state in tried:
        end = state.basis.end if state.basis is not None else None
        if end and state.snapshot == snapshot and end.get("release") == release and end.get("arrangement"):
            times.append(end["time"])
    return max(datetime.fromisoformat(time) for time in times)
