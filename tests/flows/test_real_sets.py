"""The whole path on real sets: the ledger adds up, nothing leaks, releases read back, a second run does no work."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from chain import make_run, public_bytes
from running import (
    Row,
    Run,
    check_again,
    check_ledger,
    check_no_leak,
    check_readers,
    nearest_similarity,
    read_lines,
    real_recipe,
    run,
    shared_set,
    some,
    write_lines,
)

from augmill.flows.source import read_source
from augmill.tasks.store.stage import fetch
from augmill.tasks.store.store import Store

# train file, validation file, test file, and what the labels become
SETS: dict[str, tuple[str, str, str, Any]] = {
    "trec_kumar": ("train", "dev", "test", int),
    "snips": ("train", "dev", "test", str),
    "sst2_kumar": ("train", "dev", "test", lambda label: label == "1"),
    "fewclue_tnews": ("train_few_all", "dev_few_all", "test_public", str),
}


def prepare(name: str, folder: Path) -> dict[str, list[Row]]:
    """Parts of a set's own splits; with the train rows that stand word for word in test, and those with a U+FEFF."""
    *files, kind = SETS[name]
    whole = {
        split: [row | {"label": kind(row["label"])} for row in read_lines(shared_set(name) / f"{file}.jsonl")]
        for split, file in zip(("train", "validation", "test"), files, strict=True)
    }
    parts = {split: some(whole[split], 40) for split in ("validation", "test")}
    test = {row["text"] for row in parts["test"]}
    bad = [row for row in whole["train"] if row["text"] in test or "\ufeff" in row["text"]]
    parts["train"] = [row for row in some(whole["train"], 15) if row not in bad] + bad
    folder.mkdir()
    for split, rows in parts.items():
        write_lines(folder / f"{split}.jsonl", rows)
    return parts


def check_real_rows(ran: Run, parts: dict[str, list[Row]]) -> None:
    """Every real row comes back once, its columns unchanged but for U+FEFF; what left is what the run counted."""
    held_back = sum(split_summary(ran.store)["held_back"].values())
    for split, rows in parts.items():
        given = Counter(json.dumps(row | {"text": row["text"].replace("\ufeff", "")}, sort_keys=True) for row in rows)
        real = [row for row in ran.rows(split) if row["aug_origin"] == "real"]
        found = Counter(
            json.dumps({name: value for name, value in row.items() if not name.startswith("aug_")}, sort_keys=True)
            for row in real
        )
        assert not found - given
        assert (given - found).total() == (held_back if split == "train" else 0)


def split_summary(store: Store) -> dict[str, Any]:
    (key,) = [key for key in store.list_keys("private/manifests/split") if key.endswith(".json")]
    body = store.read_sealed(key)
    assert body is not None
    entry = body["files"]["summary.json"]
    summary: dict[str, Any] = json.loads(store.fetch_object(entry["sha256"], entry["size"]).read_text())
    return summary


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_a_real_set_goes_through(name: str, tmp_path: Path) -> None:
    parts = prepare(name, tmp_path / "source")
    ran = run(real_recipe(tmp_path / "source", tmp_path / "store"))
    assert (ran.result["outcome"], ran.result["arrangement"], ran.result["new"]) == ("published", "mix", True)
    ledger = check_ledger(ran)
    assert sum(ledger["accepted"].values()) > 0.8 * sum(ledger["targets"].values())
    check_no_leak(ran)
    check_real_rows(ran, parts)
    check_readers(ran, tmp_path / "cache")
    check_again(ran)


@pytest.mark.slow
def test_a_language_model_goes_the_whole_way_to_the_same_bytes(tmp_path: Path) -> None:
    """SNIPS: a small model trained on the train rows beside word edits; other shards, batches and workers change nothing."""
    prepare("snips", tmp_path / "source")

    def made(name: str, batch: int, **how: Any) -> Run:
        model = {"use": "causal_lm", "epochs": 6, "decode_batch": batch}
        changes = {"generators": [model, {"use": "rules"}], "target": {"per_class": 8}}
        recipe = real_recipe(tmp_path / "source", tmp_path / name, **changes)
        return run(dataclasses.replace(recipe, run=dataclasses.replace(recipe.run, **how)))

    ran = made("one", 256)
    assert {row["aug_generator"] for row in ran.synthetic()} == {"causal_lm", "rules"}
    check_ledger(ran)
    check_no_leak(ran)
    check_again(ran)
    other = made("other", 24, shard_rows=13, workers=2)
    assert public_bytes(tmp_path / "other") == public_bytes(tmp_path / "one")
    assert other.result["release"] == ran.result["release"]


@pytest.mark.slow
def test_rows_that_repeat_held_out_rows_are_refused_whoever_made_them(tmp_path: Path) -> None:
    """SNIPS, with a file of rows "made" elsewhere: held-out rows, word for word and changed a little, among new ones."""
    parts = prepare("snips", tmp_path / "source")
    used = {row["text"] for rows in parts.values() for row in rows}
    whole = read_lines(shared_set("snips") / "train.jsonl")
    new = [row for row in some(whole, 30, seed=1) if row["text"] not in used]
    copied = some(parts["test"], 4) + some(parts["validation"], 4)
    leaks = [*copied, *({**row, "text": f"{row['text'].upper()} !"} for row in copied)]
    leaks += [{**row, "text": f"{row['text']} please"} for row in copied]
    made = write_lines(tmp_path / "made.jsonl", [*leaks, *new])
    generators = [{"use": "rules"}, {"use": "replay", "path": str(made), "share": 2.0}]
    recipe = real_recipe(tmp_path / "source", tmp_path / "store", generators=generators, target={"per_class": 30})
    ran = run(recipe)
    held_out = [row["text"] for split in ("validation", "test") for row in parts[split]]
    too_near = sum(nearest_similarity([row["text"] for row in leaks], held_out) >= 0.8)
    assert too_near > 2.5 * len(copied)
    ledger = check_ledger(ran)
    rejected = sum(
        (Counter(entry["rejected"]) for entry in ledger["rows"] if entry["generator"] == "replay"), Counter()
    )
    assert rejected["relations: in_heldout"] == 2 * len(copied)
    assert sum(rejected[f"relations: {kind}_heldout"] for kind in ("in", "near")) >= too_near
    assert {row["aug_generator"] for row in ran.synthetic()} == {"rules", "replay"}
    check_no_leak(ran)


@pytest.mark.parametrize(
    ("name", "files", "known"),
    [
        ("snips", {"train": "train.jsonl", "validation": "dev.jsonl", "test": "test.jsonl"}, 26),
        ("trec_kumar", {"train": "train.jsonl", "validation": "dev.jsonl", "test": "test.jsonl"}, 11),
        ("banking77", {"train": "train.jsonl", "validation": "test.jsonl"}, 7),
    ],
)
def test_train_rows_known_to_stand_in_the_held_out_rows_leave(
    name: str, files: dict[str, str], known: int, tmp_path: Path
) -> None:
    """``known``: test rows that stand word for word in train, as others count them; every pair is compared here."""
    folder = shared_set(name)
    store = Store(str(tmp_path / "store"))
    recipe = real_recipe(folder, tmp_path / "store", source={"path": str(folder / "*.jsonl")}, splits={"files": files})
    _, split = read_source(make_run(recipe, store))

    def table(name: str) -> Any:
        return pq.read_table(fetch(store, split, f"{name}.parquet"))

    train, held = table("train"), table("held_back")
    whole = {split: read_lines(folder / file) for split, file in files.items()}

    def words(row: Row) -> str:
        return " ".join(row["text"].lower().split())

    given = Counter(map(words, whole["train"]))
    left = Counter(map(words, held.to_pylist()))
    last = whole.get("test", whole["validation"])
    assert sum(words(row) in given for row in last) == known
    assert all(left[words(row)] == given[words(row)] for row in last)  # as often as it stands in train
    assert held.num_rows + train.num_rows == len(whole["train"])
    held_out = [row["text"] for split in ("validation", "test") for row in whole.get(split, [])]
    assert nearest_similarity(train["text"].to_pylist(), held_out).max() < 0.8
    assert nearest_similarity(held["text"].to_pylist(), held_out).min() >= 0.8 - 1e-6


@pytest.mark.slow
def test_pairs_of_texts_go_through(tmp_path: Path) -> None:
    """BUSTM: two Chinese sentences that mean the same or not; one of them is edited, the pair is compared as a whole."""
    folder = shared_set("fewclue_bustm")
    whole = {"train": "train_few_all", "validation": "dev_0", "test": "test_public"}
    parts = {split: read_lines(folder / f"{file}.jsonl") for split, file in whole.items()}
    parts |= {"train": some(parts["train"], 30), "validation": parts["validation"] + some(parts["test"], 150)}
    parts["test"] = [row for row in some(parts["test"], 250) if row not in parts["validation"]]
    (tmp_path / "source").mkdir()
    for split, rows in parts.items():
        write_lines(tmp_path / "source" / f"{split}.jsonl", rows)
    columns = {"text": ["text", "text_b"], "label": "label"}
    ran = run(real_recipe(tmp_path / "source", tmp_path / "store", task="pair_classification", columns=columns))
    assert ran.result["arrangement"] == "mix"
    check_ledger(ran)
    check_no_leak(ran)
    check_real_rows(ran, parts)
    check_readers(ran, tmp_path / "cache")
    real = {row["aug_row_id"]: row for row in ran.rows("train") if row["aug_origin"] == "real"}
    for row in ran.synthetic():
        (parent,) = row["aug_parent_ids"]
        changed = [name for name in ("text", "text_b") if row[name] != real[parent][name]]
        assert len(changed) == 1 and row["label"] == real[parent]["label"]
    check_again(ran)


def symptoms(method: str, draw: int, folder: Path) -> Run:
    """AugGPT's three symptoms at two real rows each, with the rows that ``method`` made of them."""
    shared = shared_set("auggpt_outputs")
    few = f"novel_few_shot_data_search_2_{draw}.csv"
    source = folder / "source"
    source.mkdir(parents=True)
    shutil.copyfile(shared / "_symptoms" / few, source / "train.csv")
    shutil.copyfile(shared / "_symptoms" / "novel_test_data.csv", source / "validation.csv")
    replay = {"use": "replay", "path": str(shared / method / "symptoms" / few), "label": "labels"}
    recipe = real_recipe(
        source,
        folder / "store",
        columns={"text": "text", "label": "labels"},
        generators=[replay],
        gate={},
        splits={"files": {"train": "train.csv", "validation": "validation.csv"}},
    )
    return run(recipe)


@pytest.mark.slow
@pytest.mark.parametrize("draw", [2013, 2014])
def test_paraphrases_by_a_language_model_are_published_on_two_rows_per_class(draw: int, tmp_path: Path) -> None:
    ran = symptoms("AugGPT1", draw, tmp_path)
    assert (ran.result["outcome"], ran.result["arrangement"]) == ("published", "mix")
    for entry in check_ledger(ran)["rows"]:  # each file opens with the two train rows that its rows were made from
        assert (entry["accepted"], entry["rejected"]["relations: in_train"]) == (12, 2)
    check_no_leak(ran)
    check_readers(ran, tmp_path / "cache")
    check_again(ran)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "outcome"), [("KeyboardAugmentation", "harmful"), ("SwapWordAug", "inconclusive")])
def test_classic_edits_of_the_same_rows_are_not(method: str, outcome: str, tmp_path: Path) -> None:
    ran = symptoms(method, 2014, tmp_path)
    assert (ran.result["outcome"], ran.result["action"], ran.result["arrangement"]) == (outcome, "best_real", "real")
    assert sum(check_ledger(ran)["accepted"].values()) > 30 and not ran.synthetic()
