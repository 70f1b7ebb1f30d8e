"""A kind and a problem that the product knows nothing of go all its ways, from an installed package that it finds by itself."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from chain import produce_snapshot
from commands import Ended, augmill
from keeping import copy_store, files_with
from painting import PACKAGE, day, importable, install, paint_document, write_paints

from augmill.tasks.recipe.recipe import build_recipe
from augmill.tasks.store.log import read_log
from augmill.tasks.store.stage import read_json
from augmill.tasks.store.store import Store, release_key

Row = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with importable(install(PACKAGE, tmp_path_factory.mktemp("paints"))):
        yield


@dataclass(frozen=True)
class Painted:
    """A recipe over a CSV of paints, what a run of it said, and the store."""

    recipe: Path
    ended: Ended
    store: Store

    @property
    def source(self) -> Path:
        return self.recipe.parent / "paints.csv"

    @property
    def release(self) -> str:
        return str(self.ended.last["release"])

    def rows(self, split: str, release: str = "") -> list[Row]:
        assert self.store.local is not None
        folder = self.store.local / release_key("paints", release or self.release) / split
        rows: list[Row] = pq.read_table(folder).to_pylist()
        return rows


def write_recipe(folder: Path, **changes: Any) -> Path:
    write_paints(folder / "paints.csv")
    recipe = folder / "recipe.yaml"
    document = paint_document(Path("paints.csv"), folder / "store", **changes)
    recipe.write_text(yaml.safe_dump(document), encoding="utf-8")
    return recipe


@pytest.fixture(scope="module")
def painted(known: None, tmp_path_factory: pytest.TempPathFactory) -> Painted:
    """Run once, by worker processes."""
    folder = tmp_path_factory.mktemp("painted")
    recipe = write_recipe(folder)
    return Painted(recipe, augmill("run", recipe), Store(str(folder / "store")))


def source_rows(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def plain(colour: str) -> str:
    import augmill_paints

    return str(augmill_paints.plain(colour))


def apart(one: str, other: str) -> float:
    """In RGB, by this file's own arithmetic."""
    ours, theirs = ([int(plain(colour)[at : at + 2], 16) for at in (1, 3, 5)] for colour in (one, other))
    return float(np.linalg.norm(np.subtract(ours, theirs)))


def test_rows_go_from_source_to_release_as_they_came(painted: Painted) -> None:
    assert painted.ended.code == 0, painted.ended.err
    assert painted.ended.last["outcome"] == "published" and painted.ended.last["arrangement"] == "mix"
    real = {
        row["name"]: row
        for split in ("train", "validation", "test")
        for row in painted.rows(split)
        if row["aug_origin"] == "real"
    }
    given = [row for row in source_rows(painted.source) if row["name"] in real]
    assert len(given) > 160 and any(row["paint"] != row["paint"].lower() for row in given)
    assert all({name: real[row["name"]][name] for name in row} == row for row in given)  # its case too
    assert not {"red herring", "bare wall", "beyond"} & set(real)


def test_made_rows_are_of_the_kind_and_the_problem_and_leak_nothing(painted: Painted) -> None:
    train = painted.rows("train")
    made = [row for row in train if row["aug_origin"] == "synthetic"]
    parents = {row["aug_row_id"]: row for row in train if row["aug_origin"] == "real"}
    held = [row["paint"] for split in ("validation", "test") for row in painted.rows(split)]
    assert len(made) == 80 and {row["brightness"] for row in made} == {"2", "3", "4", "5"}
    for row in made:
        (parent,) = row["aug_parent_ids"]
        assert (row["name"], row["maker"]) == (None, None)
        assert row["brightness"] == parents[parent]["brightness"] and row["paint"] != parents[parent]["paint"]
        assert min(apart(row["paint"], other) for other in held) > 0.2 * 64  # splits.near: 0.8
    colours = [plain(row["paint"]) for row in train]
    assert len(set(colours)) == len(colours)


def test_the_gate_speaks_in_the_metrics_own_unit(painted: Painted) -> None:
    assert "brightness (median error" in painted.ended.last["reason"]
    (entry,) = read_log(painted.store, "paints").entries
    assert entry["verdict"]["unit"] == "brightness" and entry["verdict"]["judged_by"] == "median_error"


def report_of(painted: Painted) -> Path:
    return Path(painted.ended.last["report"])


def test_the_report_shows_rows_as_their_kind_does(painted: Painted) -> None:
    page = report_of(painted).read_text(encoding="utf-8")
    shown = next(row["paint"] for row in painted.rows("train") if row["aug_origin"] == "synthetic")
    assert "#" in shown and " (hue " in page and "median error" in page and "brightness" in page
    assert "4 passed" in page  # Great Expectations, by what the kind asks
    for name in ("accuracy", "macro-F1", "recall", "5-grams"):
        assert name not in page, name


def test_refused_rows_say_what_the_kind_and_the_problem_found(painted: Painted) -> None:
    rows = pq.read_table(report_of(painted).parent / "source_rows_refused.parquet").to_pylist()
    found = {row["reason"]: (row["row"], row["detail"]) for row in rows}
    assert found == {
        "not_a_colour": ("crimson", ""),
        "no_colour": ("", ""),
        "not_a_grade": ("#ffffff", "grade '9'"),
    }


@pytest.mark.slow
def test_a_forgotten_row_is_gone_with_what_was_made_of_it_and_stays_away(painted: Painted, tmp_path: Path) -> None:
    assert painted.store.local is not None
    store = copy_store(painted.store.local, tmp_path / "store")
    train = painted.rows("train")
    parents = [parent for row in train for parent in row["aug_parent_ids"] or []]
    row = next(row for row in train if row["aug_row_id"] in parents)
    (tmp_path / "ids.txt").write_text(row["aug_row_id"])
    assert files_with(Path(store.root), row["name"])

    ended = augmill(
        "forget", painted.recipe, "--rows", tmp_path / "ids.txt", "--reason", "request 12",
        "--store", store.root, "--orchestrator", "none",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert files_with(Path(store.root), row["name"]) == [] == files_with(Path(store.root), row["aug_row_id"])
    again = augmill("run", painted.recipe, "--store", store.root)
    assert again.code == 0 and again.last["release"] == ended.last["made"]["all"] != painted.release, again.err
    after = Painted(painted.recipe, again, store).rows("train")
    assert row["name"] not in {each["name"] for each in after}
    assert row["aug_row_id"] not in {parent for each in after for parent in each["aug_parent_ids"] or []}
    assert augmill("verify", "--store", store.root).code == 0


@pytest.mark.slow
def test_an_erased_colour_stays_away_however_it_is_delivered(painted: Painted, tmp_path: Path) -> None:
    """By its id, which is what the kind says copies share: the file may be another, and the row refused as a grade."""
    shutil.copytree(painted.recipe.parent, tmp_path / "there", ignore=shutil.ignore_patterns("store"))
    row = next(row for row in painted.rows("train") if row["aug_origin"] == "real")
    (tmp_path / "ids.txt").write_text(row["aug_row_id"])
    recipe, store = tmp_path / "there/recipe.yaml", tmp_path / "store"
    document = yaml.safe_load(recipe.read_text())
    recipe.write_text(yaml.safe_dump(document | {"run": document["run"] | {"store": str(store)}}))
    how = ("--rows", tmp_path / "ids.txt", "--reason", "request 13", "--orchestrator", "none")
    assert augmill("forget", recipe, *how).code != 0  # the store has never seen a row
    source = tmp_path / "there/paints.csv"
    assert augmill("run", recipe).code == 0 and augmill("forget", recipe, *how).code == 0
    lines = source.read_text(encoding="utf-8").splitlines()
    source.write_text("\n".join([*lines, f"copy,{row['paint']},17,A,{day(0)}"]) + "\n", encoding="utf-8")
    ended = augmill("run", recipe)
    assert ended.code == 0, ended.err
    refused = pq.read_table(Path(ended.last["report"]).parent / "source_rows_refused.parquet").to_pylist()
    assert [each["row"] for each in refused if each["reason"] == "erased"] == ["", ""]
    assert row["paint"] not in json.dumps(refused)


def test_a_stratum_follows_from_the_target_that_a_row_was_given(known: None, tmp_path: Path) -> None:
    """Whatever the generator calls it, and though this problem fits no strata."""
    document = paint_document(write_paints(tmp_path / "paints.csv"), tmp_path / "store")
    changes = {"generators": [{"use": "tint", "grades": 1}], "checks": {"relations": {"parent_class": "any"}}}
    recipe = build_recipe(document | changes | {"validation": {"enabled": False}}, base=tmp_path)
    store = Store(recipe.run.store)
    ledger = read_json(store, produce_snapshot(recipe, store).settled, "ledger.json")
    moved = {(each["asked"], each["final"]) for each in ledger["relabelled"]}
    assert {("grade 2", "grade 3"), ("grade 3", "grade 4"), ("grade 4", "grade 5")} <= moved
    assert ("grade 3", "grade 3") not in moved and ledger["shortfall"]["grade 2"] == 20


@pytest.mark.slow
def test_days_are_backfilled(known: None, tmp_path: Path) -> None:
    columns = {"inputs": {"paint": "colour"}, "target": {"brightness": "grade"}, "partition": "day"}
    recipe = write_recipe(tmp_path, columns=columns, partitions={"every": "day"}, refit={"every": "7d"})
    ended = augmill("backfill", recipe, "--from", day(1), "--to", day(3))
    assert ended.code == 0, ended.err
    store = Store(str(tmp_path / "store"))
    current = read_log(store, "paints").current()
    assert sorted(current) == [day(1), day(2), day(3)]
    given = source_rows(tmp_path / "paints.csv")
    for number in (1, 2, 3):
        rows = Painted(recipe, ended, store).rows("train", current[day(number)])
        assert max(row["day"] for row in rows if row["aug_origin"] == "real") == day(number)
        names = {row["name"] for row in rows} - {None}
        assert names <= {row["name"] for row in given if row["day"] <= day(number)} and len(names) > 60
        assert sum(row["aug_origin"] == "synthetic" for row in rows) >= 60
    drift = augmill("status", recipe, "--json")
    assert drift.code == 0, drift.err


@pytest.mark.slow
def test_every_command_that_looks_takes_them(painted: Painted, tmp_path: Path) -> None:
    checked = augmill("check", painted.recipe)
    assert checked.code == 0 and "grade" in checked.out, checked.err
    assert "label_consistency" not in checked.out.split("not used")[0]
    other = tmp_path / "other.yaml"
    document = yaml.safe_load(painted.recipe.read_text(encoding="utf-8"))
    document["source"]["path"] = str(painted.source)
    other.write_text(yaml.safe_dump(document | {"seed": 5}), encoding="utf-8")
    assert painted.store.local is not None
    store = copy_store(painted.store.local, tmp_path / "store")
    second = augmill("run", other, "--store", store.root)
    assert second.code == 0, second.err
    at = ("--store", store.root)
    made = next(row for row in painted.rows("train") if row["aug_origin"] == "synthetic")
    for ended, wanted in (
        (augmill("show", *at, "--release", painted.release), "tint"),
        (augmill("releases", *at), painted.release),
        (augmill("diff", painted.release, second.last["release"], *at), "rows"),
        (augmill("explain", made["aug_row_id"], *at, "--release", painted.release), made["paint"]),
        (augmill("audit", painted.release, *at), "median_error"),
        (augmill("verify", *at), ""),
    ):
        assert ended.code == 0 and wanted in ended.out, (wanted, ended.out, ended.err)


def test_what_does_not_serve_them_is_refused_with_what_does(painted: Painted, tmp_path: Path) -> None:
    document = yaml.safe_load(painted.recipe.read_text(encoding="utf-8"))
    document["source"]["path"] = str(painted.source)
    for changes, words in (
        ({"generators": [{"use": "rules"}]}, ("rules", "colour", "augmill extensions")),
        ({"trainer": {"use": "tfidf"}}, ("tfidf", "colour", "augmill extensions")),
        ({"gate": {"metric": "accuracy"}}, ("grading", "median_error")),
        ({"checks": {"length": {}}}, ("length", "colour", "relations")),
    ):
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(document | changes), encoding="utf-8")
        ended = augmill("check", recipe)
        assert ended.code == 2, ended.err
        for word in words:
            assert word in ended.err, (word, ended.err)


def test_prefect_runs_them_in_worker_processes(prefect_api: str, painted: Painted, tmp_path: Path) -> None:
    document = yaml.safe_load(painted.recipe.read_text(encoding="utf-8"))
    document["source"]["path"] = str(painted.source)
    recipe = tmp_path / "recipe.yaml"
    run = document["run"] | {"orchestrator": "prefect", "store": str(tmp_path / "store")}
    recipe.write_text(yaml.safe_dump(document | {"run": run}), encoding="utf-8")
    ended = augmill("run", recipe)
    assert ended.code == 0, ended.err
    assert ended.last["release"] == painted.release
