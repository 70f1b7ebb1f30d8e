"""Unlabelled rows: those of the snapshot's own window, one of each text, never one that stands in or near a held-out row."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import pytest
from chain import WORDS, make_run, recipe_document, write_rows

from augmill.flows.source import read_source
from augmill.tasks.errors import DataError
from augmill.tasks.recipe.recipe import Recipe, build_recipe
from augmill.tasks.rows.kinds.text import joined
from augmill.tasks.rows.kinds.text.near import TextIndex
from augmill.tasks.stages.unlabelled import prepare_unlabelled, unlabelled
from augmill.tasks.store.erasure import write_erased
from augmill.tasks.store.stage import Work
from augmill.tasks.store.store import Store


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


class Read:
    """The unlabelled rows of a recipe as of a night: before the split (``rows``) and in it (``tables``)."""

    def __init__(self, recipe: Recipe, directory: Path, as_of: str | None = None) -> None:
        self.store = Store(str(directory / "store"))
        run = make_run(recipe, self.store, as_of)
        self.work = Work(run.site, directory)
        self.artifact = unlabelled(run.site, prepare_unlabelled(recipe, as_of, self.store))
        self.rows = self.work.read(self.artifact)
        self.left_out = self.work.read_json(self.artifact, "summary.json")["left_out"]
        _, split = read_source(run)
        names = ("train", "validation", "test", "unlabelled")
        self.tables = {name: self.work.read(split, f"{name}.parquet") for name in names}
        self.summary = self.work.read_json(split, "summary.json")


def recipe_of(directory: Path, rows: list[dict[str, Any]], **changes: Any) -> Recipe:
    free = write_lines(directory / "free.jsonl", rows)
    source = changes.pop("source", None) or write_rows(directory / "rows.csv")
    return build_recipe(recipe_document(source, unlabelled={"path": str(free)}) | changes, base=directory)


def test_each_text_stands_once_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    rows = [{"text": text} for text in ("a new one", "a  new one ", "another", "", None, "x" * 60)]
    read = Read(recipe_of(tmp_path, rows, refuse={"max_chars": 50}), tmp_path)
    assert sorted(read.rows["text"].to_pylist()) == ["a new one", "another"]
    assert read.rows["stratum"].to_pylist() == ["", ""]
    assert read.left_out == {"no_text": 2, "repeated": 1, "too_long": 1}
    assert read.rows["row_id"].to_pylist() == sorted(read.rows["row_id"].to_pylist())


def test_the_order_of_rows_and_files_changes_nothing(tmp_path: Path) -> None:
    rows = [{"text": f"text number {number}"} for number in range(20)]
    made = []
    for name, order in (("a", rows), ("b", rows[::-1])):
        (tmp_path / name).mkdir()
        made.append(Read(recipe_of(tmp_path / name, order), tmp_path / name).artifact.content)
    assert made[0] == made[1]


def test_no_unlabelled_row_stands_in_or_near_a_held_out_one(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "rows.csv")
    with source.open(encoding="utf-8") as stream:
        known = [row["text"] for row in csv.DictReader(stream)]
    rows = [{"text": text} for text in known] + [{"text": text + "!"} for text in known] + [{"text": "not yet seen"}]
    read = Read(recipe_of(tmp_path, rows, source=source), tmp_path)
    held = [text for name in ("validation", "test") for text in joined(read.tables[name].select(["text"]))]
    index = TextIndex.build(held, 0.8)
    found = read.tables["unlabelled"]["text"].to_pylist()
    assert (index.nearest(found)[0] < 0).all()
    assert set(read.tables["train"]["text"].to_pylist()) <= set(found) and "not yet seen" in found
    assert read.summary["unlabelled"] == {"rows": len(found), "held_back": read.rows.num_rows - len(found)}
    assert read.summary["unlabelled"]["held_back"] >= len(set(held))


def dated_source(directory: Path) -> Path:
    path, rng = directory / "dated.csv", random.Random(3)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label", "day"])
        for number in range(120):
            name = ("refund", "track")[number % 2]
            writer.writerow([" ".join(rng.choices(WORDS[name], k=7)), name, f"2026-10-0{1 + number // 2 % 3}"])
    return path


def test_a_snapshot_sees_the_unlabelled_rows_of_its_window_and_none_that_come_later(tmp_path: Path) -> None:
    rows = [{"text": f"free text {day} {n}", "day": f"2026-10-0{day}"} for day in (1, 2, 3) for n in range(4)]
    rows.append({"text": "of no day", "day": None})
    changes: dict[str, Any] = {"columns": {"text": "text", "label": "label", "partition": "day"}}
    recipe = recipe_of(tmp_path, rows, source=dated_source(tmp_path), **changes)
    second = Read(recipe, tmp_path, "2026-10-02")
    assert sorted(second.rows["text"].to_pylist()) == sorted(row["text"] for row in rows[:8])
    assert second.left_out == {"no_partition": 1, "outside_window": 4}
    windowed = recipe_of(
        tmp_path, rows, source=dated_source(tmp_path), partitions={"every": "day", "window": "2d"}, **changes
    )
    third = Read(windowed, tmp_path, "2026-10-03")
    assert sorted(third.rows["text"].to_pylist()) == sorted(row["text"] for row in rows[4:12])


def test_a_file_without_the_column_of_partitions_is_refused(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"columns": {"text": "text", "label": "label", "partition": "day"}}
    recipe = recipe_of(tmp_path, [{"text": "of no day"}], source=dated_source(tmp_path), **changes)
    with pytest.raises(DataError, match="no column 'day'"):
        Read(recipe, tmp_path, "2026-10-02")


def test_an_erased_row_does_not_come_back_without_its_label(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, [{"text": "to be forgotten"}, {"text": "to be kept"}])
    before = Read(recipe, tmp_path)
    (row_id,) = [row["row_id"] for row in before.rows.to_pylist() if row["text"] == "to be forgotten"]
    write_erased(before.store, recipe.dataset, [row_id])
    after = Read(recipe, tmp_path)
    assert after.rows["text"].to_pylist() == ["to be kept"] and after.left_out == {"erased": 1}
