"""Same rows, same bytes: in a fresh store, whatever shards, workers, threads and cores; and what makes a run work again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from chain import public_bytes, recipe_document, write_rows
from running import run

from augmill.tasks.recipe.recipe import load_recipe
from augmill.tasks.store.store import Store

GATE = {"seeds": 3, "resamples": 200, "rule": "not_worse", "margin": 100.0}  # the mix is released


def write_recipe(folder: Path, name: str = "recipe.yaml", **changes: Any) -> Path:
    rows = folder / "rows.csv"
    if not rows.exists():
        write_rows(rows, rows=90)
    path = folder / name
    path.write_text(yaml.safe_dump(recipe_document(rows, gate=GATE, **changes)), encoding="utf-8")
    return path


def how(**changes: Any) -> dict[str, Any]:
    return {"orchestrator": "none", "shard_rows": 25} | changes


def run_apart(recipe: Path, store: Path, cores: set[int] | None = None, **environment: str) -> None:
    """`augmill run` as a process of its own, on the given cores."""
    before = os.sched_getaffinity(0)
    if cores:
        os.sched_setaffinity(0, cores)  # inherited by what is started
    try:
        command = [str(Path(sys.executable).with_name("augmill")), "run", str(recipe), "--store", str(store)]
        subprocess.run(command, env=os.environ | environment, check=True, capture_output=True, timeout=300)
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.slow
def test_two_fresh_stores_hold_the_same_public_bytes_however_the_work_was_cut(tmp_path: Path) -> None:
    first = run(load_recipe(write_recipe(tmp_path), store=str(tmp_path / "first")))
    assert first.result["arrangement"] == "mix" and first.synthetic()
    expected = public_bytes(tmp_path / "first")
    ways = {
        "again": how(),
        "one shard": how(shard_rows=10_000),
        "rows of 7, three workers": how(shard_rows=7, workers=3),
        "one thread": how(threads=1),
    }
    for at, (name, way) in enumerate(ways.items()):
        run(load_recipe(write_recipe(tmp_path, run=way), store=str(tmp_path / str(at))))
        assert public_bytes(tmp_path / str(at)) == expected, name


@pytest.mark.slow
def test_one_core_and_other_thread_settings_of_the_machine_give_the_same_public_bytes(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    run_apart(recipe, tmp_path / "all")
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS", "MKL_NUM_THREADS")
    core = min(os.sched_getaffinity(0))
    run_apart(recipe, tmp_path / "one", {core}, **dict.fromkeys(names, "1"), PYTHONHASHSEED="7", TZ="Asia/Tokyo")
    assert public_bytes(tmp_path / "one") == public_bytes(tmp_path / "all")


def stages_made(store: str, before: set[str]) -> set[str]:
    """The stages of the manifests that were written since."""
    return {key.split("/")[2] for key in set(manifest_keys(store)) - before}


def manifest_keys(store: str) -> list[str]:
    return Store(store).list_keys("private/manifests")


@pytest.mark.slow
def test_what_changes_no_row_reuses_and_what_does_recomputes(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    first = run(load_recipe(write_recipe(tmp_path), store=store))
    assert first.worked > 10 and first.result["new"]
    before = set(manifest_keys(store))
    way = how(workers=2, shard_minutes=5, deadline_minutes=60)
    document = recipe_document(tmp_path / "rows.csv", gate=GATE, run=way)
    reordered = tmp_path / "reordered.yaml"  # JSON is YAML too
    reordered.write_text("# other words, same recipe\n" + json.dumps(dict(reversed(document.items())), indent=3))
    same = run(load_recipe(reordered, store=store))
    assert (same.worked, same.result["new"], stages_made(store, before)) == (0, False, set())
    assert same.result["release"] == first.result["release"]
    recut = run(load_recipe(write_recipe(tmp_path, run=how(shard_rows=11)), store=store))
    assert (recut.result["new"], recut.result["release"]) == (False, first.result["release"])
    assert stages_made(store, before) == {"generate", "settle"}  # the same rows in other shards: nothing after them
    before = set(manifest_keys(store))
    other = run(load_recipe(write_recipe(tmp_path, seed=1), store=store))
    assert other.result["release"] != first.result["release"] and other.result["new"]
    assert stages_made(store, before) >= {"fit", "generate", "settle", "mix", "evaluate", "release"}
    assert not stages_made(store, before) & {"ingest", "gather", "split"}
    assert {row["text"] for row in other.synthetic()} != {row["text"] for row in first.synthetic()}
