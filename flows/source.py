"""Reading: the source as of a partition, waited for and judged, cut to its window and split."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from augmill.flows import stages
from augmill.flows.run import Run
from augmill.flows.units import Units, window_of
from augmill.tasks.contracts import Artifact
from augmill.tasks.errors import ConflictError, DataError, UnsoundSource, UserError
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.rows.calendar import next_clock, parse_clock, rank
from augmill.tasks.sources import SourceFile, exists, list_files
from augmill.tasks.sources.options import Ready
from augmill.tasks.stages.gather import prepare_gather
from augmill.tasks.stages.ingest import prepare_ingest
from augmill.tasks.stages.partitions import cut_source, is_partitioned, window_start
from augmill.tasks.stages.publish import real_rows, trained_classes
from augmill.tasks.stages.refusals import NoRowUpTo, require_fit
from augmill.tasks.stages.split import prepare_split
from augmill.tasks.stages.unlabelled import prepare_unlabelled
from augmill.tasks.stages.user_columns import give_back
from augmill.tasks.store.attempts import Clock, utc_now
from augmill.tasks.store.stage import fetch, read_json
from augmill.tasks.store.store import Store
from augmill.tasks.validation import failed_expectations, load_suite

# --- Whether the source can be trusted (law 9): all there, not collapsed, no class vanished, the user's own -----------
# Pure functions of what was read; each answers with the problem, or None where there is none.


BEFORE = 7  # partitions whose median tells how many rows are usual


def missing_marker(recipe: Recipe, name: str | None, files: Sequence[SourceFile], root: str) -> str | None:
    """``files``: those of partition ``name``, where directories or names tell it; else none, and ``root`` counts."""
    marker = recipe.source.ready.marker
    if marker is None:
        return None
    column = recipe.columns.partition
    places = sorted({_beside(file, column) for file in files}) or [root]
    missing = next((place for place in places if not exists(f"{place}/{marker}")), None)
    return None if missing is None else f"there is no {marker} in {missing}{f' for {name}' if name else ''} yet"


def _beside(file: SourceFile, column: str | None) -> str:
    """The partition's own directory (``day=2026-10-01``), or the file's where none is named so."""
    parts = file.uri.split("/")[:-1]
    own = next((at for at, part in enumerate(parts) if column is not None and part.startswith(f"{column}=")), None)
    return "/".join(parts if own is None else parts[: own + 1])


def too_few_rows(ready: Ready, name: str | None, rows: Mapping[str, int]) -> str | None:
    """``rows`` by partition, as of ``name`` (None: a source without partitions, whose rows are under ``all``)."""
    here = rows.get(name or "all", 0)
    of = f"partition {name}" if name else "the source"
    if here < ready.min_rows:
        return f"{of} has {here:,} rows; source.ready.min_rows asks for {ready.min_rows:,}"
    before = [rows[other] for other in sorted(rows, key=rank) if name and rank(other) < rank(name)][-BEFORE:]
    return collapsed(ready, of, here, int(statistics.median(before)), f"{len(before)} before it") if before else None


def collapsed(ready: Ready, what: str, here: int, usual: int, where: str) -> str | None:
    """Rows against what is usual."""
    if here >= ready.least_share * usual:
        return None
    return (
        f"{what} has {here:,} rows, {1 - here / usual:.0%} below the {usual:,} of the {where}; source.ready.max_drop "
        f"allows {ready.max_drop}"
    )


def no_class_left(names: Sequence[str], of: str) -> UnsoundSource:
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return UnsoundSource(
        f"{len(names):,} class(es) of {of} have no train rows any more: {', '.join(names[:5])}{more}",
        where="source",
        fix="restore their rows, or name them in labels.retired",
    )


def user_rows(rows: pa.Table, schema: pa.Schema, recipe: Recipe, labels: Mapping[str, Any]) -> pa.Table:
    """Gathered rows under the user's own names, labels in the user's own type."""
    return pa.table(give_back(rows, schema, recipe.columns, recipe.problem, labels))


# --- Whether the snapshot's source can be trusted: waited for until it is ready, then judged (law 9 -------------------


POLL = 15.0  # seconds between two looks at a source that is not ready

Sleep = Callable[[float], Any]  # True where the run is to stop
Suite = list[dict[str, Any]]


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
    if vanished := recipe.problem.vanished(recipe.labels, then, units.classes(window_start(recipe, as_of), as_of)):
        raise no_class_left(vanished, "the windows before")


def require_like_current(recipe: Recipe, store: Store, split: Artifact, current: str) -> None:
    """Against the current release: of a source without partitions only that tells what was before. Raises UnsoundSource."""
    summary = read_json(store, split, "summary.json")
    trained = dict.fromkeys(trained_classes(store, recipe.dataset, current), 2 * recipe.labels.min_rows)
    vanished = recipe.problem.vanished(recipe.labels, trained, summary["classes"]["train"])
    if vanished:
        raise no_class_left(vanished, "the current release")
    real = real_rows(store, recipe.dataset, current)
    if is_partitioned(recipe) or not real:
        return
    problem = collapsed(recipe.source.ready, "the source", sum(summary["rows"].values()), real, "current release")
    if problem is not None:
        fix = "restore its rows, or relax source.ready.max_drop"
        raise UnsoundSource(problem, where="source", fix=fix)


# --- Reading the source -----------------------------------------------------------------------------------------------


def read_source(run: Run, *, clock: Clock = utc_now, sleep: Sleep | None = None) -> Iterator[Artifact]:
    """The snapshot's rows as ingested, then as split. Raises UnsoundSource where the source cannot be trusted,

    DataError where it cannot be read. Notes in ``run.source`` what was read.
    """
    recipe, as_of = run.recipe, run.as_of
    suite = load_suite(recipe.validation.source)
    units = wait_until_ready(recipe, as_of, lambda: ingest(run, as_of), clock, sleep or run.stop.wait)
    run.source |= {"source": window_of(recipe, units, as_of), "source_versions": {}}
    run.note_version("source", units.version)
    ingested = stages.gather(run, units, config=prepare_gather(recipe, as_of))
    yield ingested
    require_sound_rows(recipe, run.store, as_of, units, ingested, suite)
    split, version = split_rows(run, as_of, ingested)
    run.note_version("unlabelled", version)
    yield split
    classes = read_json(run.store, split, "summary.json")["classes"]
    names = pq.read_schema(fetch(run.store, ingested, "source.parquet")).names
    require_fit(recipe.publish, recipe.gate.focus, recipe.problem, names, list(classes["validation"]))
    if run.expected is not None and not (is_partitioned(recipe) and as_of is not None):
        require_like_current(recipe, run.store, split, run.expected)


def read_night(run: Run, name: str) -> tuple[Artifact, Artifact] | None:
    """(another night's rows, cut to its window; their split). None where the source has no row in that window, such as

    before its first night. Its steps are named after it, to be told from the run's own.
    """
    run = dataclasses.replace(run, place=name)
    try:
        units = ingest(run, name)
    except NoRowUpTo:  # told by the files' names already
        return None
    view = units.view()
    if not any(view[partition].rows for partition in window_of(run.recipe, units, name)):
        return None
    gathered = stages.gather(run, units, config=prepare_gather(run.recipe, name))
    return gathered, split_rows(run, name, gathered)[0]


def ingest(run: Run, name: str | None) -> Units:
    """The units up to ``name``, as one step: a first night over years of days would be thousands of them."""
    return stages.ingest(run, units=prepare_ingest(run.recipe, name, run.store))


def split_rows(run: Run, name: str | None, gathered: Artifact) -> tuple[Artifact, int | None]:
    """(the rows' split, with the unlabelled rows of the same window where the recipe names some;

    the version at which these were read, where they are a Delta table).
    """
    found, version = list[Artifact](), None
    if run.recipe.unlabelled is not None:
        config = prepare_unlabelled(run.recipe, name, run.store)
        found, version = [stages.unlabelled(run, config=config)], next((f.version for _, f in config.handles), None)
    return stages.split(run, gathered, found, config=prepare_split(run.recipe)), version
