"""Folds: every train row judges once, and no generator has seen what it is judged by."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chain import WORDS, produce_snapshot, tiny_recipe, write_rows
from hypothesis import given
from hypothesis import strategies as st

from augmill.tasks.gate.verdict import FOLDS, folds_for, foresight
from augmill.tasks.metrics import METRICS
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.rows.kinds.text import joined
from augmill.tasks.rows.kinds.text.near import jaccard
from augmill.tasks.rows.schema import GROUP
from augmill.tasks.stages.evaluate import FoldConfig, fold_numbers
from augmill.tasks.store.stage import Event, fetch
from augmill.tasks.store.store import Store

CONFIG = FoldConfig(0, 4, 7, 0.8, ("text",))
ROWS = st.lists(st.tuples(st.text(min_size=1, max_size=6), st.sampled_from("abc")), min_size=1, max_size=40)


def table(rows: list[tuple[str, str]]) -> pa.Table:
    return pa.table({"text": [text for text, _ in rows], "stratum": [name for _, name in rows]})


@given(ROWS)
def test_equal_texts_share_a_fold_and_the_order_of_rows_changes_none(rows: list[tuple[str, str]]) -> None:
    found = fold_numbers(table(rows), CONFIG)
    by_text: dict[str, int] = {}
    for (text, _), number in zip(rows, found, strict=True):
        assert by_text.setdefault(text, number) == number
    back = fold_numbers(table(rows[::-1]), CONFIG)
    assert back[::-1] == found


@given(st.integers(4, 60))
def test_a_class_is_dealt_out_evenly(size: int) -> None:
    numbers = fold_numbers(table([(f"row {index}", "a") for index in range(size)]), CONFIG)
    counts = [numbers.count(number) for number in range(CONFIG.folds)]
    assert max(counts) - min(counts) <= 1


def test_rows_of_one_group_share_a_fold() -> None:
    rows = table([(f"row {index}", "ab"[index % 2]) for index in range(60)])
    rows = rows.append_column(GROUP, pa.array([f"customer {index // 5}" for index in range(60)]))
    numbers = fold_numbers(rows, CONFIG)
    assert len(set(numbers)) > 1
    assert all(len(set(numbers[start : start + 5])) == 1 for start in range(0, 60, 5))


def test_a_row_without_a_group_goes_by_its_text_as_in_the_split() -> None:
    rows = table([(f"row {index % 40}", "ab"[index % 2]) for index in range(80)])
    groups = pa.array(["one customer" if index % 40 < 5 else None for index in range(80)], pa.string())
    numbers = fold_numbers(rows.append_column(GROUP, groups), CONFIG)
    assert numbers[:40] == numbers[40:], "equal texts share a fold"
    assert len(set(numbers[:5])) == 1
    loose = [numbers[5:40].count(number) for number in range(CONFIG.folds)]
    assert max(loose) < 25 and min(loose) > 0, "those without a group are no group of their own"


def run_to_evidence(recipe: Recipe, store: Path) -> tuple[dict[str, Any], list[Event]]:
    produced = produce_snapshot(recipe, Store(str(store)))
    return produced.evidence(), produced.run.events


def test_a_fold_that_cannot_judge_is_left_out_and_one_without_a_focus_label_judges(tmp_path: Path) -> None:
    """Three folds of two customers: one is empty, one leaves a single class to train on, one has no login row."""
    draw = random.Random(0)
    lines = ["text,label,customer,split"]
    for at in range(100):
        label = ("refund", "refund", "track", "login")[at % 4]
        part, customer = "validation" if at % 5 == 0 else "train", "few" if label == "refund" else "many"
        lines.append(f"{' '.join(draw.choices(WORDS[label], k=7))},{label},{customer},{part}")
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    recipe = tiny_recipe(
        tmp_path / "rows.csv",
        columns={"text": "text", "label": "label", "group": "customer"},
        splits={"column": "split"},
        checks={"label_consistency": False, "garbage": False},
        gate={"seeds": 3, "resamples": 200, "folds": 3, "focus": ["login"]},
    )
    evidence, events = run_to_evidence(recipe, tmp_path / "store")
    parts = [pq.read_table(files["validation.parquet"]) for files in fold_artifacts(tmp_path / "store")]
    assert sorted(len(part) for part in parts)[0] == 0 and sum(len(part) > 0 for part in parts) == 2
    assert evidence["folds"] == sum(event.stage == "predict_fold" for event in events) == 1
    judged = next(part for part in parts if part.num_rows and "login" not in part["stratum"].to_pylist())
    assert evidence["rows"]["validation"] == 20 + judged.num_rows
    assert evidence["judged_by"] == "focus_f1"


MAJORITY = """
import collections, sys
import pyarrow as pa, pyarrow.parquet as pq
train, held, seed, out = sys.argv[1:]
[(label, _)] = collections.Counter(pq.read_table(train)["label"].to_pylist()).most_common(1)
rows = pq.read_metadata(held).num_rows
pq.write_table(pa.table({"row": range(rows), "label": [label] * rows}), out)
"""


@pytest.mark.slow
def test_an_edited_training_judges_anew_and_an_unedited_one_is_reused(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(MAJORITY)
    words = f"{sys.executable} {script} {{train}} {{eval}} {{seed}} {{predictions}}"
    gate = {"seeds": 3, "resamples": 200, "folds": 2}
    checks = {"label_consistency": False, "garbage": False}
    recipe = tiny_recipe(
        write_rows(tmp_path / "rows.csv", 60), gate=gate, checks=checks, trainer={"use": "command", "command": words}
    )

    def trained() -> list[str]:
        return [event.stage for event in run_to_evidence(recipe, tmp_path / "store")[1] if not event.reused]

    judged = ["evaluate", "predict_fold", "predict_fold", "judge_folds"]
    assert [name for name in trained() if name in judged] == judged
    assert trained() == []
    script.write_text(MAJORITY.replace("[(label, _)]", "[*_, (label, _)]").replace("most_common(1)", "most_common()"))
    assert trained() == judged


def test_auto_runs_folds_only_where_the_validation_rows_are_too_few() -> None:
    seen = foresight(METRICS["accuracy"], None)
    assert folds_for("auto", 60, 0.0, 0.95, seen) == FOLDS
    assert folds_for("auto", 0, 50.0, 0.95, seen) == FOLDS  # nothing else could judge
    assert folds_for("auto", 50_000, 0.0, 0.95, seen) == 0
    assert folds_for("auto", 50_000, 0.0, 0.95, seen) == folds_for(0, 60, 0.0, 0.95, seen)
    assert folds_for(7, 50_000, 0.0, 0.95, seen) == 7
    assert folds_for("auto", 60, 0.0, 0.95, None) == 0 and folds_for("auto", 0, 0.0, 0.95, None) == FOLDS


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, int]:
    root = tmp_path_factory.mktemp("folds")
    recipe = tiny_recipe(write_rows(root / "rows.csv", rows=90), gate={"seeds": 3, "resamples": 200, "folds": 3})
    produced = produce_snapshot(recipe, Store(str(root / "store")))
    evidence = produced.evidence()
    train = pq.read_table(fetch(produced.run.store, produced.split, "train.parquet"))
    return root / "store", evidence, train.num_rows


def fold_artifacts(store: Path) -> list[dict[str, Path]]:
    found = []
    for path in sorted((store / "private" / "manifests" / "fold").iterdir()):
        files = json.loads(path.read_bytes())["body"]["files"]
        objects = store / "private" / "objects"
        found.append({name: objects / entry["sha256"][:2] / entry["sha256"] for name, entry in files.items()})
    return found


def test_every_train_row_judges_once_beside_validation(folded: tuple[Path, dict, int]) -> None:
    store, evidence, train_rows = folded
    parts = [pq.read_table(files["validation.parquet"])["row_id"].to_pylist() for files in fold_artifacts(store)]
    judged = [row_id for part in parts for row_id in part]
    assert len(parts) == 3 and len(judged) == len(set(judged)) == train_rows
    assert evidence["folds"] == 3
    plain = evidence["rows"]["validation"] - train_rows
    assert plain > 0 and evidence["validation"]["rows"] == plain + train_rows
    assert evidence["test"]["rows"] == evidence["rows"]["test"] > 0


def test_no_train_row_of_a_fold_stands_near_what_judges_it(folded: tuple[Path, dict, int]) -> None:
    for files in fold_artifacts(folded[0]):
        train, held = (
            joined(pq.read_table(files[f"{name}.parquet"], columns=["text"])) for name in ("train", "validation")
        )
        assert max(jaccard(a, b) for a in train for b in held) < 0.8


def test_no_row_that_a_fold_is_judged_by_is_a_parent_in_it(folded: tuple[Path, dict, int]) -> None:
    store = folded[0]
    held = [set(pq.read_table(files["validation.parquet"])["row_id"].to_pylist()) for files in fold_artifacts(store)]
    generated = 0
    for path in (store / "private" / "manifests" / "settle").iterdir():
        entry = json.loads(path.read_bytes())["body"]["files"]["accepted.parquet"]
        rows = pq.read_table(store / "private" / "objects" / entry["sha256"][:2] / entry["sha256"])
        parents = {parent for ids in rows["parent_ids"].to_pylist() for parent in ids}
        # A settled table is of one fold, or of the whole train set, which no fold judges by itself.
        overlaps = [len(parents & part) for part in held]
        generated += min(overlaps) == 0
    assert generated >= 3


def test_where_folds_judge_no_part_of_them_ends_early(folded: tuple[Path, dict, int]) -> None:
    _, evidence, _ = folded
    assert not evidence["options"]["early"] and evidence["ended"] is None
