"""Reading: the source as of a partition, cut to its window and split; and what the source holds now."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import pyarrow.parquet as pq

from augmill.flows.snapshot import Snapshot, read_json
from augmill.flows.steps import Steps
from augmill.flows.trust import (
    Clock,
    Sleep,
    require_like_current,
    require_sound_rows,
    require_suite,
    utc_now,
    wait_until_ready,
)
from augmill.flows.units import Part, Units, ingest_source, read_units, require_partitions
from augmill.tasks.contracts import Artifact, AugmillError, CorruptObject
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.rows.calendar import rank
from augmill.tasks.sources import SourceFile, list_files
from augmill.tasks.stages.gather import gather, prepare_gather
from augmill.tasks.stages.ingest import prepare_ingest
from augmill.tasks.stages.partitions import cut_source, is_partitioned, window_start
from augmill.tasks.stages.refusals import NoRowUpTo, require_fit
from augmill.tasks.stages.split import prepare_split, split
from augmill.tasks.stages.unlabelled import prepare_unlabelled, unlabelled
from augmill.tasks.store.stage import Site, fetch
from augmill.tasks.store.store import Store

MENDS = 3  # a corrupt object is made again by looking again; one that is corrupt thrice is a broken disk


def source_view(
    recipe: Recipe, store: Store, upto: str | None = None, listed: Sequence[SourceFile] | None = None
) -> dict[str, Part]:
    """Every partition of the source with its rows and revision; ``all`` alone where it has none. Reads what is new.

    ``upto``: files of later partitions are left alone; one that is not over may still be written.
    Raises AugmillError where the source cannot be read, or no row of it says its partition.
    """
    units = read_units(Site(store, threads=recipe.run.threads), prepare_ingest(recipe, upto, store, listed))
    require_partitions(store, units)
    return units.view()


@dataclass(frozen=True)
class Seen:
    """What the source holds as of today. ``view`` is None where it cannot be used, and ``problem`` says why."""

    view: dict[str, Part] | None
    problem: AugmillError | None
    warning: str | None  # of what is used all the same


def look_at_source(recipe: Recipe, store: Store, now: datetime) -> Seen:
    """Never raises an AugmillError: who only looks has more to tell. A corrupt object is made anew, as a run does."""
    calendar = recipe.partitions.calendar
    names, problem = set[str](), AugmillError("")
    for _ in range(MENDS):
        try:
            listed = list_files(recipe.source)
            names = {cut.partition for cut in cut_source(listed, recipe) if cut.partition}
            view = source_view(recipe, store, calendar.newest_complete(now) if calendar.dated else None, listed)
            return Seen(view, None, told_future(recipe, {*names, *view}, now))
        except AugmillError as error:
            problem = error
            if not isinstance(error, CorruptObject):
                break
    return Seen(None, problem, told_future(recipe, names, now))


def told_future(recipe: Recipe, names: Iterable[str], now: datetime) -> str | None:
    """In words, which partitions are of days to come; None where none is. No snapshot is made of them before."""
    calendar = recipe.partitions.calendar
    if not (is_partitioned(recipe) and calendar.dated):
        return None
    today = calendar.step(calendar.newest_complete(now), 1)
    later = sorted(name for name in names if name > today)
    if not later:
        return None
    more = f", last {later[-1]}" if len(later) > 1 else ""
    return (
        f"{len(later):,} partition(s) come after today's, {today}: first {later[0]}{more}. No night makes them before "
        "they are over; if the dates are wrong, mend them in the source"
    )


def read_rows(steps: Steps, recipe: Recipe, name: str | None) -> tuple[Artifact, Artifact]:
    """(the rows as of partition ``name``, None: all there are, cut to the window; their split)."""
    return _rows_of(steps, recipe, name, ingest_source(steps, recipe, name))


def read_night(steps: Steps, recipe: Recipe, name: str) -> tuple[Artifact, Artifact] | None:
    """As ``read_rows``; None where the source has no row in that night's window, such as before its first one."""
    try:
        units = ingest_source(steps, recipe, name)
    except NoRowUpTo:  # told by the files' names already
        return None
    view = units.view()
    if not any(view[partition].rows for partition in window_of(recipe, units, name)):
        return None
    return _rows_of(steps, recipe, name, units)


def _rows_of(steps: Steps, recipe: Recipe, name: str | None, units: Units) -> tuple[Artifact, Artifact]:
    gathered = steps.do(gather, prepare_gather(recipe, name), units.artifacts)
    return gathered, split_rows(steps, recipe, name, gathered)[0]


def split_rows(steps: Steps, recipe: Recipe, name: str | None, gathered: Artifact) -> tuple[Artifact, int | None]:
    """(the rows' split, with the unlabelled rows of the same window where the recipe names some;

    the version at which these were read, where they are a Delta table).
    """
    found, version = list[Artifact](), None
    if recipe.unlabelled is not None:
        config = prepare_unlabelled(recipe, name, steps.site.store)
        found, version = [steps.do(unlabelled, config)], next((file.version for _, file in config.handles), None)
    return steps.do(split, prepare_split(recipe), gathered, found), version


def read_source(
    snapshot: Snapshot, steps: Steps, as_of: str | None, *, clock: Clock = utc_now, sleep: Sleep | None = None
) -> None:
    """The snapshot's rows, split. Raises UnsoundSource where the source cannot be trusted, DataError where it cannot be read."""
    recipe, store = snapshot.recipe, steps.site.store
    suite = require_suite(recipe)
    units = wait_until_ready(
        recipe, as_of, lambda: ingest_source(steps, recipe, as_of), clock, sleep or steps.orchestrator.stopping.wait
    )
    snapshot.source = window_of(recipe, units, as_of)
    snapshot.ingested = steps.do(gather, prepare_gather(recipe, as_of), units.artifacts)
    require_sound_rows(recipe, store, as_of, units, snapshot.ingested, suite)
    snapshot.split, version = split_rows(steps, recipe, as_of, snapshot.ingested)
    read = {"source": units.version, "unlabelled": version}
    snapshot.source_versions = {name: number for name, number in read.items() if number is not None}
    classes = read_json(store, snapshot.split, "summary.json")["classes"]
    names = pq.read_schema(fetch(store, snapshot.ingested, "source.parquet")).names
    require_fit(recipe.publish, recipe.gate.focus, names, list(classes["validation"]))
    if snapshot.expected is not None and not (is_partitioned(recipe) and as_of is not None):
        require_like_current(recipe, store, snapshot.split, snapshot.expected)


def window_of(recipe: Recipe, units: Units, as_of: str | None) -> dict[str, str]:
    """The revision of each partition that a snapshot as of ``as_of`` holds."""
    first, view = window_start(recipe, as_of) or "", units.view()
    if not is_partitioned(recipe):
        return {name: part.revision for name, part in view.items()}
    return {
        name: part.revision
        for name, part in view.items()
        if first <= name and (as_of is None or rank(name) <= rank(as_of))
    }
