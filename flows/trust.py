"""Whether the snapshot's source can be trusted: waited for until it is ready, then judged (law 9, unsound_source)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow.parquet as pq

from augmill.flows.ready import collapsed, missing_marker, no_class_left, too_few_rows, user_rows, vanished_classes
from augmill.flows.snapshot import read_json
from augmill.flows.units import Units
from augmill.tasks.contracts import Artifact, ConflictError, DataError, UnsoundSource, UserError
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.rows.calendar import next_clock, parse_clock, rank
from augmill.tasks.sources import list_files
from augmill.tasks.sources.options import Ready
from augmill.tasks.stages.partitions import cut_source, is_partitioned, window_start
from augmill.tasks.stages.publish import real_rows, trained_classes
from augmill.tasks.store.stage import fetch
from augmill.tasks.store.store import Store
from augmill.tasks.validation.user_suite import failed_expectations, load_suite

POLL = 15.0  # seconds between two looks at a source that is not ready

Clock = Callable[[], datetime]
Sleep = Callable[[float], Any]  # True where the run is to stop
Suite = list[dict[str, Any]]


def utc_now() -> datetime:
    return datetime.now(UTC)


def wait_until_ready(recipe: Recipe, as_of: str | None, read: Callable[[], Units], clock: Clock, sleep: Sleep) -> Units:
    """The units, once ``source.ready`` holds. Raises UnsoundSource where it does not, and is not waited for (longer).

    While there is time, a source that cannot be read counts as one that is still being written.
    """
    if recipe.source.ready == Ready():
        return read()
    until = _waits_until(recipe, as_of, clock())
    while True:
        waiting = until is not None and clock() < until
        try:
            problem = _no_marker(recipe, as_of)
            if problem is None:
                units = read()
                problem = _too_few(recipe, as_of, units)
                if problem is None:
                    return units
        except (DataError, UserError, ConflictError) as error:
            if not waiting:
                raise
            problem = error.problem
        if until is None or not waiting:
            waited = f" at {recipe.source.ready.wait_until}" if until is not None else ""
            fix = "deliver the rest and run it again, or relax source.ready"
            raise UnsoundSource(f"not ready{waited}: {problem}", where="source", fix=fix)
        if sleep(min(POLL, max((until - clock()).total_seconds(), 0.1))):
            raise KeyboardInterrupt("stopped while it waited for the source")


def _waits_until(recipe: Recipe, as_of: str | None, now: datetime) -> datetime | None:
    """The first ``wait_until`` after the partition's end, for the newest complete one; None where nothing is waited for.

    Of a source without partitions, which never ends: the next one within half a day.
    """
    clock, calendar = recipe.source.ready.wait_until, recipe.partitions.calendar
    if clock is None:
        return None
    if not is_partitioned(recipe):
        until = next_clock(parse_clock(clock), now, recipe.schedule.timezone)
        return until if until - now <= timedelta(hours=12) else None
    if not calendar.dated or as_of != calendar.newest_complete(now):
        return None
    return next_clock(parse_clock(clock), calendar.ends(as_of), recipe.schedule.timezone)


def _no_marker(recipe: Recipe, as_of: str | None) -> str | None:
    if recipe.source.ready.marker is None:
        return None
    files = list_files(recipe.source)
    cuts = cut_source(files, recipe)
    names = {cut.partition for cut in cuts if cut.partition}
    name = as_of or max(names, key=rank, default=None)
    own = [file for cut in cuts if cut.partition == name for file in cut.files] if names else []
    if names and not own:
        return f"there is no file of {name} yet"
    return missing_marker(recipe, name, own, files[0].uri[: -len(files[0].name)].rstrip("/"))


def _too_few(recipe: Recipe, as_of: str | None, units: Units) -> str | None:
    rows = {name: part.rows for name, part in units.view().items()}
    name = as_of or max(rows, key=rank, default=None) if is_partitioned(recipe) else None
    return too_few_rows(recipe.source.ready, name, rows)


def require_suite(recipe: Recipe) -> Suite | None:
    """The user's own suite, where there is one. Raises UserError where it is none."""
    return None if recipe.validation.source is None else load_suite(recipe.validation.source)


def require_sound_rows(
    recipe: Recipe, store: Store, as_of: str | None, units: Units, gathered: Artifact, suite: Suite | None
) -> None:
    """Raises UnsoundSource where a class left a partitioned source, or the user's own expectations do not hold.

    Before the split, which would find fault with a few odd rows in its own words and fail.
    """
    if is_partitioned(recipe) and as_of is not None:
        _require_classes(recipe, as_of, units)
    if suite is None:
        return
    rows = pq.read_table(fetch(store, gathered, "rows.parquet"))
    schema = pq.read_schema(fetch(store, gathered, "source.parquet"))
    labels = read_json(store, gathered, "labels.json")["values"]
    failed = failed_expectations(user_rows(rows, schema, recipe, labels), suite, f"{recipe.validation.source}")
    if failed is not None:
        raise failed


def _require_classes(recipe: Recipe, as_of: str, units: Units) -> None:
    """Against every window before: of the source alone, never of what ran before; until the recipe says it is retired."""
    then = units.largest(as_of, lambda name: window_start(recipe, name))
    if vanished := vanished_classes(recipe, then, units.classes(window_start(recipe, as_of), as_of)):
        raise no_class_left(vanished, "the windows before")


def require_like_current(recipe: Recipe, store: Store, split: Artifact, current: str) -> None:
    """Against the current release: of a source without partitions only that tells what was before. Raises UnsoundSource."""
    summary = read_json(store, split, "summary.json")
    trained = trained_classes(store, recipe.dataset, current)
    vanished = vanished_classes(recipe, dict.fromkeys(trained, 2 * recipe.labels.min_rows), summary["classes"]["train"])
    if vanished:
        raise no_class_left(vanished, "the current release")
    real = real_rows(store, recipe.dataset, current)
    if is_partitioned(recipe) or not real:
        return
    problem = collapsed(recipe.source.ready, "the source", sum(summary["rows"].values()), real, "current release")
    if problem is not None:
        fix = "restore its rows, or relax source.ready.max_drop"
        raise UnsoundSource(problem, where="source", fix=fix)
