"""The source unit by unit: what of it is ingested, what each partition holds, and what the source holds today."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from augmill.tasks.boundary.retries import in_threads
from augmill.tasks.contracts import Artifact
from augmill.tasks.errors import AugmillError, CorruptObject, DataError, UserError
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.rows.calendar import FORMS, rank
from augmill.tasks.rows.hashing import hash_json
from augmill.tasks.sources import SourceFile, list_files
from augmill.tasks.stages.gather import gather, prepare_gather
from augmill.tasks.stages.ingest import ingest, prepare_ingest
from augmill.tasks.stages.partitions import cut_source, is_partitioned, window_start
from augmill.tasks.stages.refusals import no_partition
from augmill.tasks.stages.unit_rows import BAD_PARTITION, IngestConfig
from augmill.tasks.store.shapes import NAME
from augmill.tasks.store.stage import Event, Site, fetch, look_up, read_json, read_manifest
from augmill.tasks.store.store import READERS, Store, manifest_key

# --- Units of the source, ingested: which are new, what each says of its partitions, and the rows gathered from -------


class PartitionRevision(NamedTuple):
    """One partition of the source: its usable rows, and 16 hex digits that change when its rows do."""

    rows: int
    revision: str


class Units:
    """The source up to a partition, ingested unit by unit; what each says of its partitions ("" has none).

    ``version``: of the Delta table, as it was listed for this run. No dataclass, for the reason that Artifact is none.
    """

    def __init__(
        self,
        artifacts: list[Artifact],
        parts: Sequence[dict[str, dict[str, Any]]] = (),
        partitioned: bool = False,
        version: int | None = None,
    ) -> None:
        self.artifacts, self.parts, self.partitioned, self.version = artifacts, parts, partitioned, version

    def view(self) -> dict[str, PartitionRevision]:
        """Every partition by name; ``all`` alone where the source is not cut into any."""
        found: dict[str, list[dict[str, Any]]] = {}
        for unit in self.parts:
            for name, part in unit.items():
                found.setdefault(name, []).append(part)
        if not self.partitioned:
            found = {"all": found.get("", [])}
        return {
            name: PartitionRevision(
                sum(part["taken"] for part in parts), _revision([part["revision"] for part in parts])
            )
            for name, parts in sorted(found.items(), key=lambda item: rank(item[0]))
            if name
        }

    def classes(self, first: str | None, last: str) -> dict[str, int]:
        """Usable rows by class over the partitions from ``first`` up to and with ``last``."""
        counts: dict[str, int] = {}
        for unit in self.parts:
            for name, part in unit.items():
                if name and (first or "") <= name and rank(name) <= rank(last):
                    for label, rows in part["classes"].items():
                        counts[label] = counts.get(label, 0) + rows
        return counts

    def largest(self, before: str, start: Callable[[str], str | None]) -> dict[str, int]:
        """The most usable rows that each class had in any window that ends before ``before``.

        ``start``: the first partition of the window that ends with the given one; None: all before it.
        """
        by: dict[str, Counter[str]] = {}
        for unit in self.parts:
            for name, part in unit.items():
                if name and rank(name) < rank(before):
                    by.setdefault(name, Counter()).update(part["classes"])
        names, gone = sorted(by, key=rank), 0
        window, most = Counter[str](), Counter[str]()
        for name in names:
            window.update(by[name])
            first = start(name) or ""
            while first and rank(names[gone]) < rank(first):
                window.subtract(by[names[gone]])
                gone += 1
            most |= window
        return dict(most)


def _revision(revisions: list[str]) -> str:
    return revisions[0] if len(revisions) == 1 else hash_json(revisions)[:16]


def require_partitions(store: Store, units: Units) -> None:
    """Raises NoPartition where the source is cut and none of its rows says by what."""
    if not units.partitioned or units.view():
        return
    counts = Counter[str]()
    for unit in units.parts:
        for part in unit.values():
            counts.update(part["refused"])
    tables = (pq.read_table(fetch(store, artifact, "refused.parquet")) for artifact in units.artifacts)
    first = next((table.slice(0, 1).to_pylist()[0] for table in tables if table.num_rows), None)
    files = [name for artifact in units.artifacts for name in read_json(store, artifact, "summary.json")["files"]]
    raise no_partition(files, counts, first)


def _known(site: Site, unit: IngestConfig) -> tuple[Artifact, dict[str, dict[str, Any]]] | None:
    """What stands in the store, and what it says; not where an earlier version took days for none that are read now."""
    artifact = look_up(site.store, ingest.name, ingest.identity(unit, ()))
    if artifact is None:
        return None
    parts = read_json(site.store, artifact, "parts.json")
    refused = unit.calendar.dated and any(BAD_PARTITION in part["refused"] for part in parts.values())
    if refused and read_manifest(site.store, artifact)["meta"].get("forms") != FORMS:
        site.store.move_aside(manifest_key(*artifact.key.split("/")))
        return None
    return artifact, parts


def read_units(site: Site, units: Sequence[IngestConfig]) -> Units:
    """Each unit's artifact: from the store where it stands, else made. In an object store each look-up waits: side by side."""
    known = in_threads(lambda unit: _known(site, unit), units, READERS)
    artifacts, parts = list[Artifact](), []
    for done, (unit, standing) in enumerate(zip(units, known, strict=True), 1):
        if standing is None:
            artifacts.append(ingest(site, unit))
            parts.append(read_json(site.store, artifacts[-1], "parts.json"))
        else:
            site.observe(Event(ingest.name, standing[0].key, standing[0].rows, True, 0.0))
            artifacts.append(standing[0])
            parts.append(standing[1])
        site.tell(done, len(units), "unit(s)")
    cut = any(unit.columns.partition is not None or unit.pattern is not None for unit in units)
    version = next((file.version for unit in units for file in unit.handles), None)
    return Units(artifacts, parts, cut, version)


def gather_source(site: Site, recipe: Recipe, as_of: str | None = None) -> Artifact:
    """The rows as of a partition, without an orchestrator: for commands that only look."""
    units = read_units(site, prepare_ingest(recipe, as_of, site.store))
    return gather(site, prepare_gather(recipe, as_of), units.artifacts)


# --- What the source holds now ------------------------------------------------------------------------------------


MENDS = 3  # a corrupt object is made again by looking again; one that is corrupt thrice is a broken disk


def source_view(
    recipe: Recipe, store: Store, upto: str | None = None, listed: Sequence[SourceFile] | None = None
) -> dict[str, PartitionRevision]:
    """Every partition of the source with its rows and revision; ``all`` alone where it has none. Reads what is new.

    ``upto``: files of later partitions are left alone; one that is not over may still be written.
    Raises AugmillError where the source cannot be read, no row of it says its partition, or one's name has control
    characters.
    """
    units = read_units(Site(store, threads=recipe.run.threads), prepare_ingest(recipe, upto, store, listed))
    require_partitions(store, units)
    view = units.view()
    if odd := sorted(name for name in view if not NAME.fits(name)):
        named = ", ".join(map(ascii, odd[:3])) + (f" and {len(odd) - 3:,} more" if len(odd) > 3 else "")
        raise DataError(
            f"expected each partition's name to be {NAME.what}, found {named}: no log may hold it",
            where="source (columns.partition)",
            fix="rename them in the source, or remove their rows from it",
        )
    return view


@dataclass(frozen=True)
class SourceSeen:
    """What the source holds as of today. ``view`` is None where it cannot be used, and ``problem`` says why."""

    view: dict[str, PartitionRevision] | None
    problem: AugmillError | None
    warning: str | None  # of what is used all the same


def look_at_source(recipe: Recipe, store: Store, now: datetime) -> SourceSeen:
    """Never raises an AugmillError: who only looks has more to tell. A corrupt object is made anew, as a run does."""
    calendar = recipe.partitions.calendar
    names, problem = set[str](), AugmillError("")
    for _ in range(MENDS):
        try:
            listed = list_files(recipe.source)
            names = {cut.partition for cut in cut_source(listed, recipe) if cut.partition}
            view = source_view(recipe, store, calendar.newest_complete(now) if calendar.dated else None, listed)
            return SourceSeen(view, None, told_future(recipe, {*names, *view}, now))
        except AugmillError as error:
            problem = error
            if not isinstance(error, CorruptObject):
                break
    return SourceSeen(None, problem, told_future(recipe, names, now))


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
        f"{len(later):,} partition(s) come after today's, {today}: first {later[0]}{more}. They are made once they "
        "are over; if the dates are wrong, correct them in the source"
    )


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


def require_partition(recipe: Recipe, name: str | None, where: str) -> None:
    """Raises UserError for what can be no partition of the recipe's source."""
    if name is None:
        return
    if not is_partitioned(recipe):
        fix = "leave it out, or name columns.partition in the recipe"
        raise UserError("the source has no partitions", where=where, fix=fix)
    if recipe.partitions.calendar.dated:
        try:
            recipe.partitions.calendar.first_day(name)
        except ValueError as error:
            raise UserError(str(error), where=where, fix="write the partition as the source does") from error


def require_over(recipe: Recipe, name: str | None, where: str, *, now: datetime) -> None:
    """Raises UserError for a partition that is not over: its snapshot would stay what stood there so far.

    Of a key that is no date nobody can say whether it is over.
    """
    require_partition(recipe, name, where)
    if name is None or not recipe.partitions.calendar.dated:
        return
    newest = recipe.partitions.calendar.newest_complete(now)
    if name > newest:
        problem = f"{name} is not over yet; the newest complete {recipe.partitions.every} is {newest}"
        raise UserError(problem, where=where, fix=f"give {newest} or an earlier one")
