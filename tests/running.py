"""Whole runs on real rows: the sets that are shared, a run with what it left behind, and facts found without our code."""

from __future__ import annotations

import json
import os
import random
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from scipy.sparse import csr_matrix

from augmill.flows.augment import run_recipe
from augmill.tasks.recipe.recipe import Recipe, build_recipe
from augmill.tasks.stages.settle import verify_ledger
from augmill.tasks.store.attempts import read_attempts
from augmill.tasks.store.log import read_log
from augmill.tasks.store.releases import verify_release
from augmill.tasks.store.store import Store, release_key

SHARED = Path(os.environ.get("AUGMILL_SHARED", Path(__file__).parents[2] / "shared"))
SPLITS = ("train", "validation", "test")
Row = dict[str, Any]


def shared_set(name: str) -> Path:
    """The folder of a public set; skips the test where it is absent."""
    folder = SHARED / "data" / name
    if not folder.exists():
        pytest.skip(f"needs {name} under AUGMILL_SHARED")
    return folder


def read_lines(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_lines(path: Path, rows: Iterable[Row]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def some(rows: Sequence[Row], per_class: int, seed: int = 0) -> list[Row]:
    """At most ``per_class`` rows of each label, in the file's order."""
    by: dict[Any, list[int]] = {}
    for at, row in enumerate(rows):
        by.setdefault(row["label"], []).append(at)
    draw = random.Random(seed)
    return [rows[at] for at in sorted(at for of in by.values() for at in draw.sample(of, min(per_class, len(of))))]


def real_recipe(folder: Path, store: Path, **changes: Any) -> Recipe:
    """Given splits by file; the mix is released as long as it does no enormous harm, so that there is one to look at."""
    document: dict[str, Any] = {
        "dataset": "real",
        "source": {"path": str(folder)},
        "columns": {"text": "text", "label": "label"},
        "splits": {"files": {name: f"{name}*" for name in SPLITS}},
        "target": {"per_class": 12},
        "generators": [{"use": "rules"}],
        "validation": {"enabled": False},
        "gate": {"seeds": 3, "resamples": 300, "rule": "not_worse", "margin": 100.0},
        "run": {"orchestrator": "none", "shard_rows": 50, "store": str(store)},
    }
    return build_recipe(document | changes, base=folder)


@dataclass(frozen=True)
class Run:
    """A run that ended: what it said, what it did, and the release it left."""

    recipe: Recipe
    store: Store
    result: dict[str, Any]
    worked: int  # stages that were not reused

    @property
    def folder(self) -> Path:
        assert self.store.local is not None
        return self.store.local / release_key(self.recipe.dataset, self.result["release"])

    @property
    def manifest(self) -> dict[str, Any]:
        manifest: dict[str, Any] = json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))
        return manifest

    def rows(self, split: str) -> list[Row]:
        found: list[Row] = pq.read_table(self.folder / split).to_pylist()
        return found

    def synthetic(self) -> list[Row]:
        return [row for row in self.rows("train") if row["aug_origin"] == "synthetic"]


def run(recipe: Recipe, **options: Any) -> Run:
    store = Store(recipe.run.store)
    result = run_recipe(recipe, **options)
    attempt = read_attempts(store, recipe.dataset, result["snapshot"])[result["snapshot"]][-1]
    assert attempt.end is not None
    return Run(recipe, store, result, attempt.end["worked"])


def check_ledger(ran: Run) -> dict[str, Any]:
    """The release's ledger, added up again here, against the rows that were released."""
    manifest = ran.manifest
    ledger: dict[str, Any] = manifest["ledger"]
    verify_ledger(ledger)
    for entry in ledger["rows"]:
        assert entry["asked"] == entry["delivered"] + sum(entry["undelivered"].values())
        assert entry["delivered"] == sum(entry["rejected"].values()) + entry["surplus"] + entry["accepted"]
    assert ledger["targets"].keys() == manifest["counts"]["train"]["classes"].keys()
    for name, target in ledger["targets"].items():
        assert target == ledger["accepted"].get(name, 0) + ledger["shortfall"][name]
        given = sum(entry["accepted"] for entry in ledger["rows"] if entry["class"] == name)
        assert given == ledger["accepted"].get(name, 0)
    if manifest["arrangement"] == "mix":
        labels = [row[ran.recipe.columns.label] for row in ran.synthetic()]
        made = Counter(str(label).lower() if isinstance(label, bool) else str(label) for label in labels)
        assert made == {name: count for name, count in ledger["accepted"].items() if count}
    return ledger


def folded(text: str) -> str:
    """Case, width and punctuation folded away, by this file's own means."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return " ".join("".join(c if c.isalnum() else " " for c in plain).split()) or text.strip()


def nearest_similarity(texts: Sequence[str], others: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Greatest Jaccard similarity over character 5-grams of each text to any of the others: every pair is compared."""
    vocabulary: dict[str, int] = {}

    def grams(values: Sequence[str]) -> csr_matrix:
        at, ends = [], [0]
        for value in map(folded, values):
            own = {value[start : start + 5] for start in range(max(1, len(value) - 4))}
            at += [vocabulary.setdefault(gram, len(vocabulary)) for gram in own]
            ends.append(len(at))
        return csr_matrix((np.ones(len(at), np.float32), at, ends), shape=(len(values), 2_000_000))

    left, right = grams(texts), grams(others)
    sizes = np.diff(right.indptr)
    best = []
    for start in range(0, len(texts), 1000):
        part = left[start : start + 1000]
        shared = (part @ right.T).toarray()
        best.append((shared / (np.diff(part.indptr)[:, None] + sizes - shared)).max(axis=1))
    return np.concatenate(best) if best else np.zeros(0)


def check_no_leak(ran: Run) -> None:
    """No train row, real or made, stands in validation or test: exactly when folded, or nearly."""
    columns = ran.recipe.columns.sources

    def texts(split: str) -> list[str]:
        return [" ".join(row[name] for name in columns) for row in ran.rows(split)]

    held_out = texts("validation") + (texts("test") if (ran.folder / "test").exists() else [])
    train = texts("train")
    assert not set(map(folded, train)) & set(map(folded, held_out))
    assert nearest_similarity(train, held_out).max() < ran.recipe.splits.near


def check_readers(ran: Run, cache: Path) -> None:
    """polars, DuckDB, datasets and pyarrow read the same rows from the release; its checksums hold."""
    import datasets
    import duckdb
    import polars as pl

    hub = datasets.load_dataset(str(ran.folder), cache_dir=str(cache))  # by its card, as from the Hub
    readers: dict[str, Callable[[str], pa.Table]] = {
        "polars": lambda split: pl.read_parquet(ran.folder / split / "*.parquet").to_arrow(),
        "DuckDB": lambda split: duckdb.sql(f"FROM '{ran.folder}/{split}/*.parquet'").to_arrow_table(),
        "datasets": lambda split: hub[split].with_format("arrow")[:],
    }
    manifest = ran.manifest
    for split in SPLITS:
        if not manifest["counts"][split]["rows"]:
            assert not (ran.folder / split).exists()
            continue
        expected = pq.read_table(ran.folder / split)
        assert expected.num_rows == manifest["counts"][split]["rows"]
        assert pc.sum(pc.equal(expected["aug_origin"], "synthetic")).as_py() == manifest["counts"][split]["synthetic"]
        for name, read in readers.items():
            found = read(split)
            assert found.column_names == expected.column_names, name
            assert found.to_pylist() == expected.to_pylist(), name
    order = pq.read_table(ran.folder / "order.parquet")
    assert sorted(order["aug_row_id"].to_pylist()) == sorted(row["aug_row_id"] for row in ran.rows("train"))
    assert verify_release(ran.store, ran.recipe.dataset, ran.result["release"]) == []


def check_again(ran: Run) -> None:
    """The same command once more: no stage works, nothing is published, and it says so."""
    again = run(ran.recipe)
    assert (again.worked, again.result["new"]) == (0, False)
    assert {**again.result, "new": True} == ran.result
    assert len(read_log(ran.store, ran.recipe.dataset).entries) == 1
