"""Reading: the source as of a partition, cut to its window and split; and what the source holds now."""

from __future__ import annotations

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
from augmill.flows.units import Part, Units, ingest_source, read_units
from augmill.tasks.contracts import Artifact
from augmill.tasks.gather import gather, prepare_gather
from augmill.tasks.ingest import prepare_ingest
from augmill.tasks.partitions import is_partitioned, window_start
from augmill.tasks.recipe import Recipe
from augmill.tasks.refusals import NoRowUpTo, require_fit
from augmill.tasks.split import prepare_split, split
from augmill.tasks.stage import Site, fetch
from augmill.tasks.store import Store
from augmill.tasks.unlabelled import prepare_unlabelled, unlabelled


def source_view(recipe: Recipe, store: Store, upto: str | None = None) -> dict[str, Part]:
    """Every partition of the source with its rows and revision; ``all`` alone where it has none. Reads what is new.

    ``upto``: files of later partitions are left alone; one that is not over may still be written.
    Raises AugmillError where the source cannot be read.
    """
    return read_units(Site(store, threads=recipe.run.threads), prepare_ingest(recipe, upto, store)).view()


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
    return {name: part.revision for name, part in view.items() if first <= name and (as_of is None or name <= as_of)}
