"""Where rows are: the releases and artifacts that hold them, their descendants, or what was fitted on them."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from augmill.flows.releases.gc import Dataset, read_datasets
from augmill.tasks.contracts import Artifact
from augmill.tasks.errors import CorruptObject, UserError
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.rows.calendar import rank
from augmill.tasks.store.attempts import Attempt
from augmill.tasks.store.erasure import Held, count_held, plain_id
from augmill.tasks.store.releases import read_manifest_of
from augmill.tasks.store.stage import fetch, read_manifest
from augmill.tasks.store.store import Store

# Stages whose Parquet names real rows: by their own id, or as parents of made ones.
WITH_ROWS = frozenset(
    {"ingest", "gather", "unlabelled", "split", "split_fold", "sample", "generate", "settle", "mix", "real"}
)
# They may hold rows that the snapshot does not: of partitions before its window. Nothing is fitted on these alone.
BEFORE_SPLIT = frozenset({"ingest", "gather", "unlabelled"})


@dataclass
class Holding:
    """A release that holds the rows. ``because``: rows, descendants, or a generator that may be fitted on them."""

    release: str
    snapshot: str
    rows: dict[str, int]  # by split
    descended: int
    because: str
    names: list[str]  # current, and its tags: what keeps it, so that it is made again
    recipe: str | None  # hash of the one that made it; None where its manifest.json is gone


@dataclass
class Holdings:
    """What is to be forgotten, and where it is."""

    ids: frozenset[str]
    with_id: bool
    refit: bool  # generators may be fitted on another snapshot's rows
    recipe: str  # hash of today's
    part: Dataset
    others: list[Dataset]
    holding: dict[str, Holding] = field(default_factory=dict)
    artifacts: dict[str, int] = field(default_factory=dict)  # stage/identity: rows of them, or of their descendants
    tainted: set[tuple[str, int]] = field(default_factory=set)  # attempts: snapshot, number
    source: set[str] = field(default_factory=set)  # the ids that stand somewhere as a source row, or as a parent
    made: set[str] = field(default_factory=set)  # those that stand somewhere as a synthetic row

    @property
    def again(self) -> list[str]:
        """The snapshots that are made again, in order."""
        return sorted({item.snapshot for item in self.holding.values() if item.names}, key=rank)

    @property
    def other_recipe(self) -> list[str]:
        """Releases made by another recipe than today's, which takes its place in what is made again."""
        return sorted(name for name, item in self.holding.items() if item.names and item.recipe != self.recipe)

    def to_json(self, *, rebuild: bool = True) -> dict[str, Any]:
        """``rebuild``: whether anything is made again in place of what is removed."""
        stages: dict[str, int] = {}
        for key in self.artifacts:
            stages[key.split("/")[0]] = stages.get(key.split("/")[0], 0) + 1
        releases = [vars(item) for _, item in sorted(self.holding.items())]
        again, other = (self.again, self.other_recipe) if rebuild else ([], [])
        listed = {"releases": releases, "made_again": again, "artifacts": stages}
        return {**self.counted(), **listed, "other_recipe": other}

    def counted(self) -> dict[str, int]:
        """rows: how many ids; found: how many of them stand somewhere; unknown: how many stand nowhere."""
        return {"rows": len(self.ids), "found": len(self.source), "unknown": len(self.ids - self.source)}

    def note(self, held: Held) -> None:
        self.source |= held.source
        self.made |= held.made


def find_rows(store: Store, recipe: Recipe, ids: Iterable[str]) -> Holdings:
    """Looks at every release and at every artifact that an attempt of the dataset names. Changes nothing."""
    with_id = recipe.columns.id is not None
    wanted = frozenset(plain_id(row_id, with_id=with_id) for row_id in ids)
    parts = read_datasets(store)
    part = next((part for part in parts if part.name == recipe.dataset), None)
    if part is None:
        raise UserError(f"the store holds nothing of {recipe.dataset!r}", where="forget", fix="check run.store")
    others = [other for other in parts if other is not part]
    found = Holdings(wanted, with_id, recipe.refit.asked, recipe.hash(), part, others)
    known = _scan(store, found)
    found.artifacts = {key: count for key, count in known.items() if count}
    for release in part.releases:
        _note_rows(store, found, release)
    for attempt in _ended(part):
        if _taints(found, attempt.end or {}, known):
            found.tainted.add((attempt.snapshot, attempt.number))
    for release in part.releases.keys() - found.holding.keys() if found.refit else ():
        _note_fitted(store, found, release)
    return found


def _ended(part: Dataset) -> list[Attempt]:
    return [attempt for tries in part.attempts.values() for attempt in tries if attempt.end is not None]


def _made(end: dict[str, Any]) -> str | None:
    """The release that an attempt made; None where it kept what was current."""
    return end.get("release") if end.get("arrangement") else None


def _scan(store: Store, found: Holdings) -> dict[str, int | None]:
    """Rows of theirs, and descendants, in each artifact that an attempt of the dataset names; None where it is gone."""
    keys = {key for attempt in _ended(found.part) for key in (attempt.end or {}).get("artifacts", [])}
    return {key: _held_by_artifact(store, found, key) for key in sorted(keys) if key.split("/")[0] in WITH_ROWS}


def _taints(found: Holdings, end: dict[str, Any], known: dict[str, int | None]) -> bool:
    """Whether what the attempt fitted may have seen the rows.

    Its release tells: what was fitted saw its real rows and no others. Where generators may be fitted on another
    snapshot's rows (refit), or there is no release, its splits tell; one that is gone (retain.rejected) tells nothing.
    """
    release = _made(end)
    if any(release in entry.get("erased", []) for entry in found.part.log.entries) or release in found.holding:
        return True
    if release in found.part.releases and not found.refit:
        return False
    splits = [key for key in end.get("artifacts", []) if key in known and key.split("/")[0] not in BEFORE_SPLIT]
    return any(known[key] is None or known[key] for key in splits)


def _held_by_artifact(store: Store, found: Holdings, key: str) -> int | None:
    """Rows of theirs, and descendants, in an artifact; None where it is gone."""
    artifact, held, stems = Artifact(key, 0, "", ""), 0, key.startswith("ingest/")
    try:
        names = [name for name in read_manifest(store, artifact)["files"] if name.endswith(".parquet")]
        # A reading order names the rows of the table beside it, and does not say which of them are real.
        for name in (name for name in names if not name.endswith("order.parquet")):
            of = count_held(fetch(store, artifact, name), found.ids, with_id=found.with_id, stems=stems)
            found.note(of)
            held += of.rows + of.descended
    except CorruptObject:
        return None
    return held


def _note_rows(store: Store, found: Holdings, release: str) -> None:
    rows, descended = dict[str, int](), 0
    for item in found.part.releases[release]:
        split = item.key.split("/")[4]
        if item.key.endswith(".parquet") and split != "order.parquet":
            of = _count_in(store, found, item.key)
            found.note(of)
            rows |= {split: rows.get(split, 0) + of.rows} if of.rows else {}
            descended += of.descended
    if rows or descended:
        _hold(store, found, release, rows, descended, "rows" if rows else "descendants")


def _count_in(store: Store, found: Holdings, key: str) -> Held:
    """Of a file of a release. Raises CorruptObject where it cannot be read: nobody can say what it holds."""
    try:
        return count_held(_opened(store, key), found.ids, with_id=found.with_id)
    except (OSError, pa.ArrowException) as error:
        raise CorruptObject(
            "it is missing or damaged, so nobody can tell whether it holds the rows",
            where=key,
            fix="restore it, or run the snapshot's recipe again, which restores it; then run the same command again",
        ) from error


def _note_fitted(store: Store, found: Holdings, release: str) -> None:
    """Where its generators may have been fitted on the rows, though the release holds none of them."""
    makers = [(a.snapshot, a.number) for a in _ended(found.part) if _made(a.end or {}) == release]
    made = _manifest(store, found.part.name, release).get("counts", {}).get("train", {}).get("synthetic", 0)
    if made and (not makers or not found.tainted.isdisjoint(makers)):
        _hold(store, found, release, {}, 0, "generator")


def _hold(store: Store, found: Holdings, release: str, rows: dict[str, int], descended: int, because: str) -> None:
    log = found.part.log
    current = [name for name, at in log.current().items() if at == release]
    tags = [tag for tag, at in log.tags().items() if at == release]
    manifest = _manifest(store, log.dataset, release)
    said = manifest.get("snapshot")
    names = [*(["current"] if current else []), *tags]
    snapshot = said or (current[0] if current else "all")
    found.holding[release] = Holding(release, snapshot, rows, descended, because, names, manifest.get("recipe"))


def _manifest(store: Store, dataset: str, release: str) -> dict[str, Any]:
    """What a release says of itself; nothing where it is half gone or rotted."""
    return read_manifest_of(store, dataset, release) or {}


def _opened(store: Store, key: str) -> Any:
    """A file of a release as pyarrow opens it."""
    return store.local / key if store.local is not None else io.BytesIO(store.get(key) or b"")
