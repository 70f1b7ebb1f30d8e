"""Where a row stands and why: in a release with its lineage, or among what did not get in, with the reasons."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from augmill.flows.releases.retention import dropped
from augmill.tasks.contracts import ROW_ID, Artifact
from augmill.tasks.errors import CorruptObject, UserError
from augmill.tasks.rows.randomness import row_seeds, stream_key
from augmill.tasks.rows.schema import REAL
from augmill.tasks.stages.mix import synthetic_ids
from augmill.tasks.store.attempts import Attempt, read_attempts
from augmill.tasks.store.log import Log, read_log
from augmill.tasks.store.releases import read_manifest_of, read_provenance
from augmill.tasks.store.stage import fetch, read_manifest
from augmill.tasks.store.store import Store, release_key

SPLITS = ("train", "validation", "test")
# What did not get in: the stage, its file, and what such a row is called.
LEFT = (
    ("settle", "rest.parquet", "generated, not accepted"),
    ("settle", "accepted.parquet", "accepted, but the mix was not released"),
    ("split", "held_back.parquet", "held back from train"),
    ("gather", "refused.parquet", "refused at the source"),
)


def read_release(store: Store, dataset: str, release: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(manifest.json, provenance.json). Raises UserError where it was taken away, CorruptObject where it is rotted."""
    found = []
    for name, read in (("manifest.json", read_manifest_of), ("provenance.json", read_provenance)):
        body, key = read(store, dataset, release), release_key(dataset, release, name)
        if body is None:
            gone = taken_away(read_log(store, dataset), release) if store.size(key) is None else None
            again = "augmill releases lists what there is; run the recipe again"
            raise gone or CorruptObject("it is missing or damaged", where=key, fix=again)
        found.append(body)
    return found[0], found[1]


def taken_away(log: Log, release: str) -> UserError | None:
    """What the log says of a release that forget or gc took away; None where it says nothing: then it is damaged."""
    if release not in dropped(log):
        return None
    entry = next(e for e in reversed(log.entries) if release in (*e.get("erased", []), *e.get("expired", [])))
    erased = release in entry.get("erased", [])
    successor = entry.get("replaced", {}).get(release)
    how = f"erased on {entry['time'][:10]}" if erased else f"expired on {entry['time'][:10]} (retain.releases)"
    return UserError(
        f"release {release} was {how}; "
        + (f"replaced by {successor}" if successor else "nothing was put in its place"),
        where=log.dataset,
        fix=f"name {successor or 'another'} instead; `augmill audit {release}` shows what the log says about it",
    )


def read_split(store: Store, dataset: str, release: str, split: str) -> pa.Table | None:
    """The rows of a split under their released names; None where the release has none of it."""
    raw = store.get(release_key(dataset, release, f"{split}/part-00000.parquet"))
    return None if raw is None else pq.read_table(io.BytesIO(raw))


def makers(store: Store, dataset: str, release: str) -> list[Attempt]:
    """The attempts that ended with this release as their own, oldest first."""
    tries = [attempt for of in read_attempts(store, dataset).values() for attempt in of]
    made = [a for a in tries if a.end is not None and a.end.get("release") == release and a.end.get("arrangement")]
    return sorted(made, key=lambda attempt: (attempt.start["time"], attempt.number))


def explain(store: Store, dataset: str, release: str, row_id: str) -> dict[str, Any]:
    """All that is known of a row. Raises UserError where neither the release nor what was left out has it."""
    manifest, provenance = read_release(store, dataset, release)
    recipe, versions = provenance["recipe"], provenance.get("generators", {})
    prefix = provenance["recipe"]["publish"]["prefix"]
    about = {"row_id": row_id, "dataset": dataset, "release": release, "snapshot": manifest["snapshot"]}
    tables = {split: read_split(store, dataset, release, split) for split in SPLITS}
    attempts = makers(store, dataset, release)
    for table in tables.values():
        row = _row(table, f"{prefix}row_id", row_id)
        if row is not None:
            about |= _released(row, prefix)
            if row[f"{prefix}origin"] != REAL:
                about["parents"] = _parents(store, attempts, tables, prefix, row[f"{prefix}parent_ids"] or [])
                about["revision"] = revision_of(recipe, versions, row[f"{prefix}generator"])
                about |= _lineage(store, dataset, attempts, row_id, row[f"{prefix}generator"], recipe["seed"])
            return about
    for stage, name, state in LEFT:
        left = _left(store, attempts, stage, name, row_id)
        if left is not None:
            about |= {"state": state, **left}
            if stage == "settle":
                made_by = left["row"]["generator"]
                about["revision"] = revision_of(recipe, versions, made_by)
                about |= _lineage(store, dataset, attempts, row_id, made_by, recipe["seed"])
            return about
    raise UserError(
        f"release {release} has no row {row_id!r}, nor was a row of that id left out by its run",
        where="ROW_ID",
        fix="give another --release; a refused row is named by its place, as FILE:LOCATION; see retain.rejected too",
    )


def _row(table: pa.Table | None, column: str, value: str) -> dict[str, Any] | None:
    if table is None:
        return None
    hits = table.filter(pc.equal(table[column], value)).slice(0, 1).to_pylist()
    return dict(hits[0]) if hits else None


def _released(row: dict[str, Any], prefix: str) -> dict[str, Any]:
    added = {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}
    scores = {item["name"]: item["value"] for item in added.pop("scores") or []}
    own = {name: value for name, value in row.items() if not name.startswith(prefix)}
    return {"state": "released", "row": own, **added, "scores": scores}


def _parents(
    store: Store, attempts: list[Attempt], tables: dict[str, Any], prefix: str, ids: list[str]
) -> list[dict[str, Any]]:
    """Each parent with its columns: from the release, else from the rows that the generator was fitted on."""
    parents = []
    for parent in ids:
        row = _row(tables["train"], f"{prefix}row_id", parent)
        for name in ("train.parquet", "unlabelled.parquet") if row is None else ():
            row = row or next(
                (r for t in _tables(store, attempts, "split", name) if (r := _row(t, ROW_ID, parent))), None
            )
        own = {name: value for name, value in (row or {}).items() if not name.startswith(prefix) and name != ROW_ID}
        parents.append({"row_id": parent, "row": own})
    return parents


def _artifacts(attempts: list[Attempt], stage: str) -> list[str]:
    keys = [key for attempt in reversed(attempts) for key in (attempt.end or {}).get("artifacts", [])]
    return [key for key in dict.fromkeys(keys) if key.split("/")[0] == stage]


def _tables(store: Store, attempts: list[Attempt], stage: str, name: str) -> Iterator[pa.Table]:
    """That file of each artifact of the stage, of the newest attempt first; what is gone is left out."""
    for key in _artifacts(attempts, stage):
        artifact = Artifact(key, 0, "", "")
        if store.size(f"private/manifests/{key}.json") is None:  # past retain.rejected
            continue
        if name in read_manifest(store, artifact)["files"]:
            yield pq.read_table(fetch(store, artifact, name))


def revision_of(recipe: dict[str, Any], versions: dict[str, int], generator: str) -> dict[str, Any]:
    """The generator's version, and by their names the commits of the models it took from the hub.

    ``recipe`` and ``versions`` are what the release's provenance says. Nothing of a version in a release that was made
    before it was noted.
    """
    options: Any = next((each["options"] for each in recipe["generators"] if each["use"] == generator), {})
    models = dict(_commits(options))
    found: dict[str, Any] = {"version": versions[generator]} if generator in versions else {}
    return found | ({"models": models} if models else {})


def _commits(options: Any) -> Iterator[tuple[str, str]]:
    """(model, commit): ``revision`` is that of ``model``, ``there_revision`` that of ``there``, and so on."""
    if isinstance(options, list):
        for part in options:
            yield from _commits(part)
    for name, value in options.items() if isinstance(options, dict) else ():
        if name.endswith("revision") and value:
            model = name.removesuffix("revision").removesuffix("_") or "model"
            yield options.get(model) or model, value
        else:
            yield from _commits(value)


def _lineage(
    store: Store, dataset: str, attempts: list[Attempt], row_id: str, generator: str, seed: int
) -> dict[str, Any]:
    """The fit that made the row, and the night that did: the first that has it among its candidates.

    Nothing of either where retention took the candidates away.
    """
    found = _made_in(store, attempts, row_id, generator)
    if found is None:
        return {"candidates": None, "fit": None}
    made, row = found
    tries = [attempt for of in read_attempts(store, dataset).values() for attempt in of]
    with_it = [attempt for attempt in tries if made in (attempt.end or {}).get("artifacts", [])]
    first = min(with_it, key=lambda attempt: datetime.fromisoformat(attempt.start["time"]))
    about = {"snapshot": first.snapshot, "attempt": first.number, "time": first.start["time"]}
    return {"candidates": made, "fit": _fit_of(store, attempts, row, seed), "made_by": about}


def _fit_of(store: Store, attempts: list[Attempt], row: dict[str, Any], seed: int) -> str | None:
    """The fit whose content gives the row its seed (law 3: the seed follows from fit, class and ordinal)."""
    ordinal = np.array([row["ordinal"]], np.int64)
    for key in _artifacts(attempts, "fit"):
        body = store.read_sealed(f"private/manifests/{key}.json")
        if body is None:  # past its time
            continue
        stream = stream_key(body["content"], seed, row["generator"], row["asked"])
        if row_seeds(stream, ordinal).tolist() == [row["seed"]]:
            return key
    return None


def _made_in(store: Store, attempts: list[Attempt], row_id: str, generator: str) -> tuple[str, dict[str, Any]] | None:
    """(the artifact of candidates that holds the row, the row); None where retention took it away."""
    for stage, name in (("sample", "rows.parquet"), ("generate", "candidates.parquet")):
        for key in _artifacts(attempts, stage):
            if store.size(f"private/manifests/{key}.json") is None:
                continue
            rows = pq.read_table(fetch(store, Artifact(key, 0, "", ""), name))
            if "generator" not in rows.column_names:
                rows = rows.append_column("generator", pa.array([generator] * rows.num_rows, pa.string()))
            if hits := rows.filter(pc.equal(synthetic_ids(rows), row_id)).slice(0, 1).to_pylist():
                return key, hits[0]
    return None


def _left(store: Store, attempts: list[Attempt], stage: str, name: str, row_id: str) -> dict[str, Any] | None:
    """The row as it stands in what was left out, with its reasons."""
    for table in _tables(store, attempts, stage, name):
        if stage == "settle":
            ids = synthetic_ids(table)
        elif stage == "split":
            ids = table[ROW_ID].combine_chunks()
        else:
            places = zip(table["file"].to_pylist(), table["location"].to_pylist(), strict=True)
            ids = pa.array([f"{file}:{place}" for file, place in places], pa.string())
        hits = table.filter(pc.equal(ids, row_id)).slice(0, 1).to_pylist()
        if hits:
            return {"row": {key: value for key, value in hits[0].items() if value is not None}}
    return None
