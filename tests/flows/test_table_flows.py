"""Tables from source to release: classes and numbers to learn, the user's types, nights between refits, erasure."""

from __future__ import annotations

import datetime
import json
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from chain import public_bytes
from dated import day, inline_workers, noon_after
from keeping import files_with
from running import Run, check_again, run

from augmill.flows import run as running
from augmill.flows.nights.flows import run_backfill
from augmill.flows.nights.plan import BackfillRequest
from augmill.flows.releases.forgetting import forget
from augmill.flows.releases.verify import verify_store
from augmill.tasks.recipe.recipe import Recipe, build_recipe
from augmill.tasks.stages.settle import verify_ledger
from augmill.tasks.store.store import Store, release_key
from augmill.tasks.workers import pool

__all__ = ["inline_workers"]
pytestmark = pytest.mark.usefixtures("inline_workers")
INPUTS = {
    "rooms": "number",
    "area": "number",
    "ratio": "number",
    "fee": "number",
    "built": "timestamp",
    "listed": "timestamp",
    "lift": "category",
    "floor": "category",
    "district": "category",
}
TARGETS = {"classification": {"let": "label"}, "regression": {"rent": "number"}}
OTHER = {"classification": "rent", "regression": "let"}  # a column that is no input: kept as it came
EXACT = 2**53 + 1  # a whole number that no float64 holds


def write_table(path: Path, count: int = 240, days: int = 3) -> pa.Table:
    """Flats with a cell of every type, nulls among them. Three quarters stand on the first day, with the lower rents."""
    rng = np.random.default_rng(0)
    area = np.round(rng.gamma(9, 8, count), 1)
    area.sort()
    dates = [datetime.date(1950 + int(at), 1, 1) for at in rng.integers(0, 70, count)]
    moments = [datetime.datetime(2026, 1, 1, int(at)) for at in rng.integers(0, 24, count)]
    district = rng.choice(["North", "Old town", "Hafen-Süd"], count)
    rent = np.rint(8 * area + 90 * (district == "Old town") + rng.normal(0, 40, count)).astype(np.int64)

    def some(values: Any, kind: pa.DataType) -> pa.Array:
        return pa.array(values, kind, mask=rng.random(count) < 0.08)

    first = int(count * 0.75)
    later = (count - first) // (days - 1)
    columns = {
        "flat": pa.array([f"flat-{at:04d}" for at in range(count)]),
        "rooms": some([EXACT, *rng.integers(1, 7, count - 1).tolist()], pa.int64()),
        "area": some(area, pa.float64()),
        "ratio": some(rng.random(count).astype(np.float32), pa.float32()),
        "fee": some([Decimal(int(at)) / 100 for at in rng.integers(0, 90_000, count)], pa.decimal128(9, 2)),
        "built": some(dates, pa.date32()),
        "listed": some(moments, pa.timestamp("ms")),
        "lift": some((rng.random(count) < 0.5).tolist(), pa.bool_()),
        "floor": some(rng.integers(0, 4, count), pa.int8()),
        "district": some(district.tolist(), pa.string()),
        "let": pa.array((rent > np.median(rent)).tolist()),
        "rent": pa.array(rent),
        "day": pa.array([day(0 if at < first else 1 + min((at - first) // later, days - 2)) for at in range(count)]),
    }
    table = pa.table(columns)
    pq.write_table(table, path)
    return table


def recipe_of(task: str, rows: Path, store: Path, **changes: Any) -> Recipe:
    """Few trees and trainings; the mix is released as long as it does no enormous harm, so that there is one to look at."""
    document: dict[str, Any] = {
        "dataset": "flats",
        "source": {"path": str(rows)},
        "columns": {"inputs": INPUTS, "target": TARGETS[task], "id": "flat", "partition": "day"},
        "partitions": {"every": "day"},
        "splits": {"validation": 0.25, "test": 0.2},
        "target": {"multiply": 1.5},
        "generators": [{"use": "smote" if task == "regression" else "resample"}],
        "validation": {"enabled": False},
        "trainer": {"use": "boosting", "iterations": 10, "folds": 0},
        "gate": {"seeds": 3, "resamples": 200, "rule": "not_worse", "margin": 1e5 if task == "regression" else 100.0},
        "run": {"orchestrator": "none", "shard_rows": 1000, "threads": 1, "store": str(store)},
    }
    return build_recipe(document | changes, base=rows.parent)


def rows_of(ran: Run, split: str) -> pa.Table:
    return pq.read_table(ran.folder / split)


@pytest.mark.parametrize("task", TARGETS)
def test_a_rerun_does_no_work_and_however_a_fresh_store_cuts_it_the_bytes_are_the_same(
    tmp_path: Path, task: str
) -> None:
    write_table(tmp_path / "rows.parquet")
    first = run(recipe_of(task, tmp_path / "rows.parquet", tmp_path / "store"))
    assert first.result["arrangement"] == "mix" and first.result["new"] and len(first.synthetic()) > 20
    check_again(first)
    cut = {"orchestrator": "none", "shard_rows": 17, "store": str(tmp_path / "other")}
    run(recipe_of(task, tmp_path / "rows.parquet", tmp_path / "other", run=cut))
    assert public_bytes(tmp_path / "other") == public_bytes(tmp_path / "store")


@pytest.mark.parametrize("task", TARGETS)
def test_real_values_come_back_bit_by_bit_and_made_ones_in_the_users_types(tmp_path: Path, task: str) -> None:
    source = write_table(tmp_path / "rows.parquet")
    ran = run(recipe_of(task, tmp_path / "rows.parquet", tmp_path / "store"))
    released = pa.concat_tables([rows_of(ran, split) for split in ("train", "validation", "test")])
    names = [name for name in source.column_names if name != "day"]
    assert released.select(names).schema.types == source.select(names).schema.types
    real = released.filter(pc.equal(released["aug_origin"], "real")).sort_by("flat")
    given = source.filter(pc.is_in(source["flat"], real["flat"].combine_chunks())).sort_by("flat")
    assert real.num_rows > 0.9 * source.num_rows
    for name in names:
        assert real[name].combine_chunks().equals(given[name].combine_chunks()), name
    made = released.filter(pc.equal(released["aug_origin"], "synthetic"))
    assert made["flat"].null_count == made[OTHER[task]].null_count == made.num_rows
    assert all(made[name].null_count < made.num_rows / 2 for name in (*INPUTS, *TARGETS[task]))


def bin_of(rent: float, names: list[str]) -> str:
    """By what the names of the bins say."""
    edges = [float(name.split(" ")[-1]) for name in names[:-1]]
    return names[sum(rent >= edge for edge in edges)]


def test_nights_between_refits_count_by_the_bins_of_the_night_that_was_fitted(tmp_path: Path) -> None:
    write_table(tmp_path / "rows.parquet")
    recipe = recipe_of("regression", tmp_path / "rows.parquet", tmp_path / "store", refit={"every": "2d"})
    said = run_backfill(recipe, BackfillRequest(None, day(2), "missing"), now=lambda: noon_after(3))
    assert list(said["released"]) == [day(at) for at in range(3)], said
    store = Store(str(tmp_path / "store"))
    manifests, stratified = [], store.list_keys("private/manifests/stratify")
    for release in said["released"].values():
        folder = tmp_path / "store" / release_key("flats", release)
        manifests.append(json.loads((folder / "manifest.json").read_text()))
        ledger, counts = manifests[-1]["ledger"], manifests[-1]["counts"]["train"]
        verify_ledger(ledger)
        train = pq.read_table(folder / "train")
        made = train.filter(pc.equal(train["aug_origin"], "synthetic"))["rent"].to_pylist()
        names = list(counts["classes"])
        assert Counter(bin_of(rent, names) for rent in made) == {k: n for k, n in ledger["accepted"].items() if n}
        assert Counter(bin_of(rent, names) for rent in train["rent"].to_pylist()) == counts["classes"]
        assert len(made) > 20 and ledger["targets"].keys() == counts["classes"].keys()
    bins = [tuple(manifest["ledger"]["targets"]) for manifest in manifests]
    # The grid of two days ends on the second of the three; each day brings dearer flats.
    assert bins[0] == bins[1] != bins[2] or bins[0] != bins[1] == bins[2]
    assert len(stratified) == 1


@pytest.mark.parametrize("task", TARGETS)
def test_a_forgotten_row_of_a_table_stays_away(tmp_path: Path, task: str) -> None:
    write_table(tmp_path / "rows.parquet")
    recipe = recipe_of(task, tmp_path / "rows.parquet", tmp_path / "store")
    first = run(recipe)
    parent = first.synthetic()[0]["aug_parent_ids"][0]
    said = forget(recipe, [parent], reason="request 7", command="test")
    again = run(recipe)
    assert said["made"] == {"all": again.result["release"]} != {"all": first.result["release"]}
    assert (again.worked, again.result["new"], again.result["arrangement"]) == (0, False, "mix")
    left = [row for split in ("train", "validation", "test") for row in again.rows(split)]
    assert not any(parent in (row["aug_row_id"], *(row["aug_parent_ids"] or [])) for row in left)
    assert files_with(tmp_path / "store", parent) == [] and verify_store(again.store).wrong == []


@pytest.mark.slow
def test_worker_processes_give_the_bytes_that_one_process_gives(
    tmp_path: Path,
) -> None:
    write_table(tmp_path / "rows.parquet")
    how = {"orchestrator": "none", "shard_rows": 17, "workers": 2, "threads": 1, "store": str(tmp_path / "two")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "worker_pool", pool.worker_pool)
        run(recipe_of("regression", tmp_path / "rows.parquet", tmp_path / "two", run=how))
    run(recipe_of("regression", tmp_path / "rows.parquet", tmp_path / "one"))
    assert public_bytes(tmp_path / "one") == public_bytes(tmp_path / "two")
