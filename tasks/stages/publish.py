"""Publish: the chosen arrangement and all evidence in, one immutable release and one log entry out."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from augmill.tasks.contracts import ROW_ID, STRATUM, Artifact, Problem
from augmill.tasks.errors import ConflictError, UserError
from augmill.tasks.exports import EXPORTS, Exported
from augmill.tasks.problems import PROBLEMS
from augmill.tasks.recipe.sections import Columns
from augmill.tasks.rows.hashing import hash_json
from augmill.tasks.rows.kinds import KINDS, kinds_of
from augmill.tasks.rows.parts import in_order, read_parts
from augmill.tasks.rows.schema import ORIGIN, REAL, as_training, class_counts, rows_at_once
from augmill.tasks.rows.shown import visible
from augmill.tasks.stages.user_columns import files_named, give_back
from augmill.tasks.store.log import Log, append
from augmill.tasks.store.releases import FORMAT, read_manifest_of
from augmill.tasks.store.stage import ROW_GROUP, Work, fetch, read_manifest, stage
from augmill.tasks.store.store import Store, release_key

# --- The dataset card: README.md with the front matter that ``datasets.load_dataset`` and the Hub read ----------------


_ARRANGEMENTS = {
    "mix": "The training split holds real rows and synthetic rows, which were judged on held-out real rows.",
    "real": "The training split holds real rows alone.",
    "placebo": "The training split holds real rows alone, each once, with weights that balance the classes.",
}


def dataset_card(
    dataset: str,
    task: str,
    counts: dict[str, Any],
    labels: list[str],
    columns: Columns,
    prefix: str,
    arrangement: str,
    proven: str = "",
) -> str:
    """Markdown with YAML front matter; nothing in it changes unless the release does. ``proven``: the gate's headline."""
    splits = {name: part for name, part in counts.items() if part["rows"]}
    front = {
        "pretty_name": dataset,
        "task_categories": [_category(PROBLEMS[task], columns)],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": name, "path": f"{name}/*.parquet"} for name in splits],
            }
        ],
    }
    table = "\n".join(f"| {name} | {part['rows']:,} | {part['synthetic']:,} |" for name, part in splits.items())
    target = f"{columns.answer_type} to predict: {_code(columns.answer)}"
    if PROBLEMS[task].target is None:
        shown = ", ".join(map(_code, labels[:50])) + (" ..." if len(labels) > 50 else "")
        target = f"{columns.answer_type}: {_code(columns.answer)} with {len(labels)} values: {shown}"
    return f"""---
{yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip()}
---
# {visible(dataset)}

{" ".join(filter(None, (_ARRANGEMENTS[arrangement], proven)))} Task: {task.replace("_", " ")}.

| split | rows | of them added |
|---|---:|---:|
{table}

{_inputs(columns)}; {target}.

Added columns: `{prefix}row_id`, `{prefix}split`, `{prefix}origin` (`real`, `synthetic`, or `pseudo_labelled`: a real
row that got its label from a model), `{prefix}generator`, `{prefix}parent_ids`, `{prefix}seed`, `{prefix}weight`,
`{prefix}scores`. `order.parquet` holds a reading order,
`manifest.json` the checksums and the ledger of every candidate row.
"""


def _category(problem: Problem, columns: Columns) -> str:
    """As the Hub calls it; rows of several kinds are tables there."""
    if "-" in problem.hub:
        return problem.hub
    kinds = {kind.hub for kind, _ in kinds_of(columns.fields)}
    rows = kinds.pop() if len(kinds) == 1 else "tabular"
    return f"{rows}-{problem.hub}" if rows and problem.hub else "other"


def _inputs(columns: Columns) -> str:
    """The columns that are learnt from, by type: ``Number: `a`, `b```."""
    found: dict[str, list[str]] = {}
    for name in columns.sources:
        found.setdefault(columns.types[name], []).append(_code(name))
    told = "; ".join(f"{type}: {', '.join(names)}" for type, names in found.items())
    return told[:1].upper() + told[1:]


def _code(name: str) -> str:
    """A code span that the name cannot leave: on one line, its fence longer than any row of backticks inside."""
    shown = visible(name)
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    pad = " " if shown.startswith("`") or shown.endswith("`") or not shown.strip() else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


# --- Releases ---------------------------------------------------------------------------------------------------------


# The publish protocol, step by step: a kill before any of them leaves the old release current, or the new one whole.
# tests/flows/test_crash.py kills at every one, and fails where one is not met.
CRASH_POINTS = (
    "file",  # before each file of the release that is not there yet; nobody reads a release that the log does not name
    "provenance",  # all files but the manifest stand
    "manifest",  # before manifest.json, by which the release is whole
    "entry",  # the release is whole; before the log entry that makes it current
    "published",  # it is current
)
ADDED = ("row_id", "split", "origin", "generator", "parent_ids", "seed", "weight", "scores")


def passing(point: str) -> None:
    """One of CRASH_POINTS is reached: where a test's process dies."""


@dataclass(frozen=True)
class ReleaseConfig:
    """What decides a release's bytes. ``arrangement``: mix, real or placebo; ``proven``: of a mix, for its card."""

    dataset: str
    snapshot: str
    arrangement: str
    prefix: str
    columns: Columns
    recipe_hash: str
    task: str
    proven: str = ""
    codes: dict[str, str] | None = field(default=None, metadata={"later": True})  # of extensions from outside
    exports: dict[str, int] | None = field(
        default=None, metadata={"later": True}
    )  # layouts beside, with their versions

    @property
    def learnt(self) -> Problem:
        return PROBLEMS[self.task]


def user_table(
    rows: pa.Table, split: str, config: ReleaseConfig, schema: pa.Schema, labels: dict[str, Any]
) -> pa.Table:
    """The rows as they are released: the user's columns in their order and types, then the added ones."""
    arrays = give_back(rows, schema, config.columns, config.learnt, labels)
    for name in ADDED:
        own = pa.array([split] * rows.num_rows, pa.string()) if name == "split" else rows[name]
        arrays[f"{config.prefix}{name}"] = own
    return pa.table(arrays).replace_schema_metadata(_features(config.columns))


def _features(columns: Columns) -> dict[str, str] | None:
    """What ``datasets`` reads from a Parquet file's schema: the classes of columns that are more than their type says."""
    kinds = {name: KINDS[columns.types[name]].feature for name in columns.sources}
    found = {name: {"_type": feature} for name, feature in kinds.items() if feature}
    return {"huggingface": json.dumps({"info": {"features": found}})} if found else None


def _check_clash(schema: pa.Schema, prefix: str) -> None:
    clash = [field.name for field in schema if field.name.startswith(prefix)]
    if clash:
        raise UserError(
            f"the source's column {clash[0]!r} begins with the prefix {prefix!r} of the added columns",
            where="publish.prefix",
            fix="choose another prefix, such as `syn_`",
        )


@stage("release", version=6)
def build_release(
    work: Work, config: ReleaseConfig, ingested: Artifact, split: Artifact, mixed: Artifact, ledger: list[Artifact]
) -> None:
    """All files of a release but provenance.json. ``ledger``: the settled artifact, or none where nothing was made."""
    schema = pq.read_schema(work.path(ingested, "source.parquet")).remove_metadata()
    _check_clash(schema, config.prefix)
    labels = work.read_json(ingested, "labels.json")
    paths = {"train": work.path(mixed, f"{config.arrangement}.parquet")}
    paths |= {name: work.path(split, f"{name}.parquet") for name in ("validation", "test")}
    files = _write_splits(work, config, paths, schema, labels["values"])
    exported = _write_exports(work, config, [*files], labels["values"])
    files["order.parquet"] = _write_order(work, config, mixed)
    counts = {name: _counts(path) for name, path in paths.items()}
    in_use = set().union(*(part["classes"] for part in counts.values()))
    # By first appearance in the source, of all its labels: neither a new nor a retired one, nor a rare class that gets
    # rows enough, shifts another's. So there may be gaps.
    ids = {name: labels["ids"][name] for name in labels["order"] if name in in_use}
    named = [{"id": at, "name": name, "value": labels["values"][name]} for name, at in ids.items()]
    work.write_json({"labels": named}, "labels.json")
    card = dataset_card(
        config.dataset,
        config.task,
        counts,
        list(ids),
        config.columns,
        config.prefix,
        config.arrangement,
        config.proven,
    )
    (work.directory / "README.md").write_text(card, encoding="utf-8")
    manifest = {
        "format": FORMAT,
        "dataset": config.dataset,
        "snapshot": config.snapshot,
        "arrangement": config.arrangement,
        "recipe": config.recipe_hash,
        "inputs": {"source": ingested.content, "split": split.content, "mix": mixed.content},
        "counts": counts,
        "ledger": work.read_json(ledger[0], "ledger.json") if ledger else None,
        "files": {name: entry | _bytes_of(work.directory / name) for name, entry in files.items()}
        | {name: _bytes_of(work.directory / name) for name in ("labels.json", "README.md", *exported)},
    }
    work.write_json(manifest, "manifest.json")
    work.meta = {"release": hash_json(manifest)[:16]}
    work.rows = counts["train"]["rows"]


def order_by_hash(parts: Iterable[list[str]]) -> npt.NDArray[np.int64]:
    """The places of the ids in the order of their sha256, which knows neither class nor origin and is always the same.

    Of its first 128 bits, in which no two differing ids will ever agree.
    """
    digests = [b"".join(hashlib.sha256(row_id.encode()).digest()[:16] for row_id in ids) for ids in parts]
    words = np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64).reshape(-1, 2)
    return np.lexsort((words[:, 1], words[:, 0]))


def _write_splits(
    work: Work, config: ReleaseConfig, paths: dict[str, Path], schema: pa.Schema, labels: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Writes each split that has rows, in the order of its ids' hashes; rows and content of each file."""
    files: dict[str, dict[str, Any]] = {}
    for name, path in paths.items():
        about = pq.read_metadata(path)
        if not about.num_rows:
            continue  # no empty Parquet
        order = order_by_hash(part[ROW_ID].to_pylist() for part in read_parts(path, [ROW_ID]))
        places = np.empty_like(order)
        places[order] = np.arange(len(order))
        parts = (
            user_table(rows if name == "train" else as_training(rows), name, config, schema, labels)
            for rows in in_order(read_parts(path), places, rows_at_once(about, ROW_GROUP))
        )
        first = next(parts)
        file_name = f"{name}/part-00000.parquet"
        (work.directory / name).mkdir()
        with work.writing(first.schema, file_name) as take:
            for part in itertools.chain([first], parts):
                take(part)
        files[file_name] = {"rows": about.num_rows, "content": work.contents[file_name]}
    return files


def _write_exports(work: Work, config: ReleaseConfig, files: list[str], labels: dict[str, Any]) -> list[str]:
    """Writes the release's Parquet ``files`` in other layouts too, and gives the names of what is written."""
    names = config.exports or {}
    for name in names:
        (work.directory / "export" / name).mkdir(parents=True)
        release = Exported(
            {file.partition("/")[0]: work.directory / file for file in files},
            files_named(config.columns)[0],
            config.columns.answer,
            config.prefix,
            config.learnt,
            {value: label for label, value in labels.items()},
        )
        EXPORTS[name].write(work.directory / "export" / name, release)
    found = (path for path in (work.directory / "export").rglob("*") if path.is_file())
    return sorted(path.relative_to(work.directory).as_posix() for path in found)


def _write_order(work: Work, config: ReleaseConfig, mixed: Artifact) -> dict[str, Any]:
    names = ["epoch", "position", f"{config.prefix}row_id"]
    name, path = "order.parquet", work.path(mixed, f"{config.arrangement}.order.parquet")
    with work.writing(pq.read_schema(path).empty_table().rename_columns(names).schema, name) as take:
        for part in read_parts(path):
            take(part.rename_columns(names))
    return {"rows": pq.read_metadata(path).num_rows, "content": work.contents[name]}


def _counts(path: Path) -> dict[str, Any]:
    """Rows of a split by class, and how many of them were made."""
    rows, made, classes = 0, 0, Counter[str]()
    known = [name for name in (STRATUM, ORIGIN) if name in pq.read_schema(path).names]  # validation and test are real
    for part in read_parts(path, known):
        rows += part.num_rows
        classes.update(class_counts(part[STRATUM]))
        made += int(pc.sum(pc.not_equal(part[ORIGIN], REAL)).as_py() or 0) if ORIGIN in known else 0
    return {"rows": rows, "synthetic": made, "classes": dict(sorted(classes.items()))}


def _bytes_of(path: Path) -> dict[str, Any]:
    from augmill.tasks.rows.hashing import hash_file

    return {"sha256": hash_file(path), "size": path.stat().st_size}


def release_id(store: Store, built: Artifact) -> str:
    return str(read_manifest(store, built)["meta"]["release"])


def put_release(store: Store, dataset: str, built: Artifact, provenance: dict[str, Any]) -> str:
    """Copies the built files to their public place, manifest.json last, and returns the release's id.

    A crash before the end leaves files that nobody reads: readers go through the log. In a release that stands, what
    is gone or rotted is put again; the first run's provenance stays.
    """
    release = release_id(store, built)
    files = read_manifest(store, built)["files"]
    done = store.size(release_key(dataset, release, "manifest.json")) is not None
    for name in sorted(files, key=lambda name: (name == "manifest.json", name)):
        if name == "manifest.json" and not (done and store.size(release_key(dataset, release, "provenance.json"))):
            passing("provenance")
            told = json.dumps(provenance, indent=1, sort_keys=True, ensure_ascii=False)
            store.put(release_key(dataset, release, "provenance.json"), told.encode())
        key, entry = release_key(dataset, release, name), files[name]
        if not store.holds(key, entry["sha256"], entry["size"]):
            passing("manifest" if name == "manifest.json" else "file")
            store.put(key, fetch(store, built, name))
    return release


def commit_releases(
    store: Store,
    dataset: str,
    moves: dict[str, tuple[str | None, str]],
    *,
    entry: dict[str, Any],
    command: str,
    force: bool = False,
) -> bool:
    """Makes each snapshot's release current, all of them in one log entry. False: they were already.

    ``moves``: snapshot -> (the release that was current when its run began, the release that is to be).
    Raises ConflictError where another run changed one of the snapshots since, UserError for a withdrawn release
    unless ``force``.
    """

    def change(log: Log) -> dict[str, Any] | None:
        current, gone = log.current(), log.withdrawn()
        ahead = {snapshot: move for snapshot, move in moves.items() if current.get(snapshot) != move[1]}
        for snapshot, (expected, release) in ahead.items():
            if current.get(snapshot) != expected:
                raise ConflictError(
                    f"another run published {current.get(snapshot)} for snapshot {snapshot!r} while this one ran",
                    where=f"{dataset} log",
                    fix="run it again; it starts from what is current now",
                )
            if release in gone and not force:
                raise UserError(
                    f"release {release} was withdrawn by a rollback",
                    where=dataset,
                    fix="change the recipe or the source, or publish it on purpose with --republish",
                )
        released = {snapshot: release for snapshot, (_, release) in ahead.items()}
        return entry | {"kind": "release", "current": released, "forced": force} if released else None

    passing("entry")
    _, appended = append(store, dataset, change, command=command)
    passing("published")
    return appended


def trained_classes(store: Store, dataset: str, release: str) -> set[str]:
    """The classes of a release's train rows; none where its manifest is gone or rotted (then nobody can say)."""
    manifest = read_manifest_of(store, dataset, release)
    return set(manifest["counts"]["train"]["classes"]) if manifest is not None else set()


def real_rows(store: Store, dataset: str, release: str) -> int:
    """A release's real rows over all splits; 0 where its manifest is gone or rotted."""
    manifest = read_manifest_of(store, dataset, release)
    return sum(part["rows"] - part["synthetic"] for part in manifest["counts"].values()) if manifest is not None else 0
