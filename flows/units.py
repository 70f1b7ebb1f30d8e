"""Units of the source, ingested: which are new, what each says of its partitions, and the rows gathered from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from augmill.flows.snapshot import read_json
from augmill.flows.steps import Steps
from augmill.tasks.boundary.retries import READ
from augmill.tasks.contracts import Artifact
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.rows.calendar import FORMS, rank
from augmill.tasks.rows.hashing import hash_json
from augmill.tasks.stages.gather import READERS, gather, prepare_gather
from augmill.tasks.stages.ingest import ingest, prepare_ingest
from augmill.tasks.stages.refusals import no_partition
from augmill.tasks.stages.unit_rows import BAD_PARTITION, IngestConfig
from augmill.tasks.store.stage import Event, Site, fetch, look_up, read_manifest
from augmill.tasks.store.store import Store, manifest_key


class Part(NamedTuple):
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

    def view(self) -> dict[str, Part]:
        """Every partition by name; ``all`` alone where the source is not cut into any."""
        found: dict[str, list[dict[str, Any]]] = {}
        for unit in self.parts:
            for name, part in unit.items():
                found.setdefault(name, []).append(part)
        if not self.partitioned:
            found = {"all": found.get("", [])}
        return {
            name: Part(sum(part["taken"] for part in parts), _revision([part["revision"] for part in parts]))
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
    with ThreadPoolExecutor(READERS) as pool:
        known = list(pool.map(lambda unit: _known(site, unit), units))
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
            lambda: read_units(steps.site, units, advance=shown.advance),
            name=f"ingest {steps.label}", retry=READ, tags=steps.tags, timeout=steps.stage_seconds,
        )  # fmt: skip
        fresh = sum(event.stage == ingest.name and not event.reused for event in steps.events[before:])
        shown.note = f"{sum(len(unit.files) for unit in units):,} file(s), " + (
            f"{fresh:,} unit(s) new" if fresh else "unchanged, from the store"
        )
    return read
