"""Reading: the source as of a partition, cut to its window and split; and what the source holds now."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from augmill.flows.snapshot import Snapshot, read_json
from augmill.flows.steps import Steps
from augmill.tasks.boundary.retries import READ, in_threads
from augmill.tasks.contracts import STRATUM, USER_PREFIX, Artifact
from augmill.tasks.errors import AugmillError, ConflictError, CorruptObject, DataError, UnsoundSource, UserError
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.rows.calendar import FORMS, next_clock, parse_clock, rank
from augmill.tasks.rows.hashing import hash_json
from augmill.tasks.rows.kinds.text import class_among, fold_label, label_text
from augmill.tasks.sources import SourceFile, exists, list_files
from augmill.tasks.sources.options import Ready
from augmill.tasks.stages.gather import gather, prepare_gather
from augmill.tasks.stages.ingest import ingest, prepare_ingest
from augmill.tasks.stages.labels import label_array
from augmill.tasks.stages.partitions import cut_source, is_partitioned, window_start
from augmill.tasks.stages.publish import real_rows, trained_classes
from augmill.tasks.stages.refusals import NoRowUpTo, no_partition, require_fit
from augmill.tasks.stages.split import prepare_split, split
from augmill.tasks.stages.unit_rows import BAD_PARTITION, IngestConfig
from augmill.tasks.stages.unlabelled import prepare_unlabelled, unlabelled
from augmill.tasks.store.shapes import NAME
from augmill.tasks.store.stage import Event, Site, fetch, look_up, read_manifest
from augmill.tasks.store.store import READERS, Store, manifest_key
from augmill.tasks.validation import failed_expectations, load_suite

# --- Units of the source, ingested: which are new, what each says of its partitions, and the rows gathered from -------


class PartitionRevision(NamedTuple):
    """One partition of the source: its usable rows, and 16 hex digits that change when its rows do."""

    rows: int
    revision: str


@dataclass
class Units:
    """The source up to a partition, ingested unit by unit; what each says of its partitions ("" has none)."""

    artifacts: list[Artifact]
    parts: list[dict[str, dict[str, Any]]] = field(default_factory=list)
    partitioned: bool = False
    version: int | None = None  # of the Delta table, as it was listed for this run

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


def read_units(site: Site, units: Sequence[IngestConfig], *, advance: Callable[[], None] = lambda: None) -> Units:
    """Each unit's artifact: from the store where it stands, else made. In an object store each look-up waits: side by side."""
    known = in_threads(lambda unit: _known(site, unit), units, READERS)
    artifacts, parts = list[Artifact](), []
    for unit, standing in zip(units, known, strict=True):
        if standing is None:
            artifacts.append(ingest(site, unit))
            parts.append(read_json(site.store, artifacts[-1], "parts.json"))
        else:
            site.observe(Event(ingest.name, standing[0].key, standing[0].rows, True, 0.0))
            artifacts.append(standing[0])
            parts.append(standing[1])
        advance()
    cut = any(unit.columns.partition is not None or unit.pattern is not None for unit in units)
    version = next((file.version for unit in units for file in unit.handles), None)
    return Units(artifacts, parts, cut, version)


def gather_source(site: Site, recipe: Recipe, as_of: str | None = None) -> Artifact:
    """The rows as of a partition, without an orchestrator: for commands that only look."""
    units = read_units(site, prepare_ingest(recipe, as_of, site.store))
    return gather(site, prepare_gather(recipe, as_of), units.artifacts)


def ingest_source(steps: Steps, recipe: Recipe, name: str | None) -> Units:
    """The units up to ``name``, as one task: a first night over years of days would be thousands of them."""
    units = prepare_ingest(recipe, name, steps.site.store)
    before = len(steps.events)
    with steps.progress.stage("ingest", len(units), "unit(s)") as shown:
        read = steps.orchestrator.call(
            lambda: read_units(replace(steps.site, tell=shown.tell), units, advance=shown.advance),
            name=f"ingest {steps.label}", retry=READ, tags=steps.tags, timeout=steps.stage_seconds,
        )  # fmt: skip
        fresh = sum(event.stage == ingest.name and not event.reused for event in steps.events[before:])
        shown.note = f"{sum(len(unit.files) for unit in units):,} file(s), " + (
            f"{fresh:,} unit(s) new" if fresh else "unchanged, from the store"
        )
    return read


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


def vanished_classes(recipe: Recipe, before: Mapping[str, int], now: Mapping[str, int]) -> list[str]:
    """Classes that had rows enough to be trained on as of the partition before, and have none now."""
    spelt = fold_label if recipe.labels.fold else str
    named = [label_text(label) for label in [*recipe.labels.retired, *recipe.labels.aliases]]
    left = {spelt(class_among(name, before) or name) for name in named}
    left |= {spelt(name) for name, rows in now.items() if rows}
    enough = 2 * recipe.labels.min_rows
    return sorted(name for name, rows in before.items() if rows >= enough and spelt(name) not in left)


def no_class_left(names: Sequence[str], of: str) -> UnsoundSource:
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return UnsoundSource(
        f"{len(names):,} class(es) of {of} have no train rows any more: {', '.join(names[:5])}{more}",
        where="source",
        fix="restore their rows, or name them in labels.retired",
    )


def user_rows(rows: pa.Table, schema: pa.Schema, recipe: Recipe, labels: Mapping[str, Any]) -> pa.Table:
    """Gathered rows under the user's own names, labels in the user's own type."""
    texts = dict(zip(recipe.columns.texts, recipe.columns.fields, strict=True))
    arrays = {}
    for name in schema.names:
        if name in texts:
            arrays[name] = rows[texts[name]]
        elif name == recipe.columns.label:
            arrays[name] = label_array(rows[STRATUM].to_pylist(), labels, schema.field(name).type)
        else:
            arrays[name] = rows[f"{USER_PREFIX}{name}"]
    return pa.table(arrays)


# --- Whether the snapshot's source can be trusted: waited for until it is ready, then judged (law 9 -------------------


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


# --- Reading the source -----------------------------------------------------------------------------------------------


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
            fix="rename them in the source, or leave their rows out of it",
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
            raise UserError(str(error), where=where, fix="name a partition as the recipe has it") from error


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
