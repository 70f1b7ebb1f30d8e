"""``augmill check``: what a run would do, true to the run, without touching anything."""

from __future__ import annotations

import csv
import dataclasses
import errno
import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml
from commands import Ended, augmill, fingerprint, refused, write_recipe

from augmill.tasks.recipe.recipe import Recipe, build_recipe, load_recipe


def test_check_touches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = write_recipe(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = fingerprint(tmp_path)
    for arguments in (["check", recipe], ["check", recipe, "--json"], ["check", recipe, "--store", tmp_path / "other"]):
        assert augmill(*arguments).code == 0
    assert fingerprint(tmp_path) == before


def test_check_leaves_a_store_that_is_there_alone(copied_run: Path, first_run: tuple[Path, Ended]) -> None:
    before = fingerprint(copied_run)
    ended = augmill("check", copied_run / "recipe.yaml")
    assert ended.code == 0 and first_run[1].last["release"] in ended.out
    assert fingerprint(copied_run) == before


def test_check_tells_what_a_run_then_does(first_run: tuple[Path, Ended]) -> None:
    folder, ended = first_run
    found = json.loads(augmill("check", folder / "recipe.yaml", "--json").out)
    manifest = json.loads(Path(ended.last["location"], "manifest.json").read_text())
    assert found["splits"]["rows"] == {name: part["rows"] for name, part in manifest["counts"].items()}
    for split in ("train", "validation", "test"):
        told = {row["label"]: row[split] for row in found["classes"] if row[split]}
        assert told == manifest["counts"][split]["classes"]
    asked = sum(row["asked"] for row in manifest["ledger"]["rows"])
    assert found["plan"]["asked_first"]["rules"] <= asked <= found["plan"]["asked_at_most"]
    assert found["plan"]["target"] == sum(row["target"] for row in found["classes"]) == 60
    assert found["plan"]["shards_first"] == 1
    assert found["gate"]["rows"] == manifest["counts"]["validation"]["rows"]


def test_check_prints_rows_classes_plan_gate_time_and_store_and_ends_with_what_to_do(tmp_path: Path) -> None:
    ended = augmill("check", write_recipe(tmp_path))
    assert ended.code == 0 and not ended.err
    for words in (
        "tiny: 33 train rows in 3 classes. A run makes 60 more",
        "60 rows read: 60 used, 0 refused",
        "train 33, validation 23, test 4",
        "track            15       20           6     3",
        "until 60 have passed all checks",
        "rules makes ",
        "1 shard(s)",
        "With 23 validation rows, a true gain of 18.5 points is proven",
        "takes about 2,523 rows",
        "total",
        "not there yet; the first run creates it",
        "First    A run would hardly prove anything: 23 rows judge",
    ):
        assert words in ended.out.replace("\n  ", " "), words
    told = " ".join(ended.out.split())
    assert "It can prove a gain of roughly 18.5 points or more: an estimate, until a first run has measured." in told
    assert "prove only gains of roughly 18.5 points" in told
    assert all(len(line) <= 80 for line in ended.out.splitlines() if str(tmp_path) not in line)
    assert ended.out.endswith(f"\nNext     augmill run {tmp_path}/recipe.yaml\n") and "# default" not in ended.out


def test_check_ends_with_the_command_that_does_what_it_told(tmp_path: Path) -> None:
    out = augmill("check", write_recipe(tmp_path), "--store", tmp_path / "other store").out
    assert out.endswith(f"\nNext     augmill run {tmp_path}/recipe.yaml --store '{tmp_path}/other store'\n")


def test_check_says_first_what_would_make_a_run_end_badly(tmp_path: Path) -> None:
    found = json.loads(augmill("check", write_recipe(tmp_path, rows=900), "--json").out)
    assert found["mend"] == [] and found["gate"]["visible"] < 10
    recipe = write_recipe(tmp_path, target={"balance": 1})
    assert "First    A run would make no rows: every class" in augmill("check", recipe).out


def test_the_resolved_recipe_has_every_key_with_its_default(tmp_path: Path) -> None:
    ended = augmill("check", write_recipe(tmp_path), "--resolved")
    for item in dataclasses.fields(Recipe):
        assert f"\n  {item.name}:" in ended.out, item.name
    assert "threshold: 0.1  # default" in ended.out and "seeds: 3\n" in ended.out


def test_the_recipe_that_check_prints_is_the_recipe(tmp_path: Path) -> None:
    path = write_recipe(
        tmp_path, checks={"garbage": False, "length": {"slack": 2.0}}, labels={"aliases": {"a: b": "c"}}
    )
    printed = augmill("check", path, "--resolved").out.split("Recipe, as it will be used\n")[1].split("\n\n")[0]
    again = build_recipe(yaml.safe_load(printed), base=tmp_path)
    assert again == load_recipe(path) and again.hash() == load_recipe(path).hash()


def test_more_held_out_rows_show_a_smaller_gain(tmp_path: Path) -> None:
    gains = []
    for share in (0.15, 0.3, 0.6):
        path = write_recipe(tmp_path, rows=300, splits={"validation": share, "test": 0.0})
        gate = json.loads(augmill("check", path, "--json").out)["gate"]
        gains.append((gate["rows"], gate["visible"]))
    assert gains == sorted(gains) and [visible for _, visible in gains] == sorted((v for _, v in gains), reverse=True)


def test_what_a_run_would_only_meet_late_is_told_by_both_before_anything_is_generated(tmp_path: Path) -> None:
    for changes, words in (
        ({"publish": {"copy": ["lagn"]}}, ["publish.copy[0]", "did you mean 'lang'"]),
        ({"publish": {"prefix": "la"}}, ["publish.prefix", "'label'", "syn_"]),
        ({"gate": {"focus": ["refnd"]}}, ["gate.focus", "did you mean 'refund'"]),
    ):
        recipe = write_recipe(tmp_path, **changes)
        for command in ("check", "run"):
            ended = augmill(command, recipe)
            refused(ended, 2, words)
            assert "generate" not in ended.err


def test_a_store_that_cannot_be_is_told(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    refused(augmill("check", recipe, "--store", tmp_path / "rows.csv" / "below"), 2, ["rows.csv is a file", "--store"])
    refused(augmill("check", recipe, "--store", "ftp://x/y"), 2, ["run.store", "ftp://", "s3://"])


def test_check_says_before_a_run_that_the_store_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(tmp_path)
    (tmp_path / "file").write_text("")
    for store in (tmp_path / "file", tmp_path / "file" / "below"):
        refused(augmill("check", recipe, "--store", store), 2, ["file is a file", str(store)])
    if Path("/proc/self").is_dir():
        refused(augmill("check", recipe, "--store", "/proc/store"), 2, ["/proc may not be written", "run.store"])
    (tmp_path / "there").mkdir()
    before = fingerprint(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(
            os, "access", lambda path, mode: Path(path) != tmp_path / "there"
        )  # root may whatever the mode says
        for store in (tmp_path / "there", tmp_path / "there" / "deep" / "er"):
            ended = augmill("check", recipe, "--store", store)
            refused(ended, 2, [f"{tmp_path}/there may not be written: permission denied"])

    def full(handle: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        ended = augmill("check", recipe, "--store", tmp_path / "there" / "deep")
        assert not hasattr(os, "O_TMPFILE") or refused(ended, 4, ["no space is left", "free some space"]) is None
    assert fingerprint(tmp_path) == before


@pytest.mark.parametrize("how", ["ro", "size=4k"])
def test_check_finds_a_disk_that_is_read_only_or_full(tmp_path: Path, how: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", how, "tmpfs", str(disk)], capture_output=True, check=False, timeout=30
    )
    if mounted.returncode:
        pytest.skip("nobody may mount here")
    try:
        ended = augmill("check", write_recipe(tmp_path), "--store", disk / "store")
        words = ["may not be written: read-only file system"] if how == "ro" else ["no space is left"]
        refused(ended, 2 if how == "ro" else 4, words)
    finally:
        subprocess.run(["umount", str(disk)], check=True, timeout=30)


def test_a_store_with_a_directory_of_somebody_else_is_found(copied_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = copied_run / "store" / "private" / "objects"
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != theirs)
    refused(augmill("check", copied_run / "recipe.yaml"), 2, [f"{theirs} may not be written"])


def test_a_target_that_is_met_is_nothing_to_make_and_no_failure(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, target={"balance": 3})
    told = "nothing to make: every class already has its target"
    found = " ".join(augmill("check", recipe).out.split())
    assert told in found and "target.balance asks for 3" in found
    ended = augmill("run", recipe)
    assert ended.code == 0 and ended.last["outcome"] == "not_produced" and ended.last["nothing_to_make"] is True
    assert told in ended.last["reason"] and ended.last["next"].startswith("Raise the target")
    assert "Nothing to make: the target is met." in ended.out and "fit" not in [
        line.split()[0] for line in ended.err.splitlines() if line
    ]
    assert ended.last["release"] and ended.last["arrangement"] == "real"


def test_texts_from_one_template_are_named_as_the_cause(tmp_path: Path) -> None:
    words = "Hello dear customer number {} your order with our shop has been shipped and will arrive on Monday morning"
    lines = [f"{words.format(at)},{('late', 'lost')[at % 2]}" for at in range(177)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    recipe = write_recipe(tmp_path)
    for command in (["check", recipe], ["run", recipe], ["init", tmp_path / "rows.csv", "--out", tmp_path / "i.yaml"]):
        refused(augmill(*command), 3, ["are near a row there (splits.near 0.8)", "columns.group", "splits.near"])
    judged = augmill("judge", "--real", tmp_path / "rows.csv", "--synthetic", tmp_path / "rows.csv")
    refused(judged, 3, ["are near a row there", "made from one template"])
    some = [f"{line}" for line in lines[:80]] + [
        f"row {at} says {'abcdefghij'[at % 10] * 9} and {at * 7919} then {at * 104729},{('late', 'lost')[at % 2]}"
        for at in range(100)
    ]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *some]) + "\n")
    assert "That is a lot, as of rows made from one template." in " ".join(augmill("check", recipe).out.split())


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("talk", "(source.dialogue): there is no column 'talk'; did you mean 'talks'?"),
        ("id", "give a column of dialogues, or name it in source.dialogue"),
    ],
)
def test_a_column_of_dialogues_is_looked_for_where_the_source_names_it(tmp_path: Path, named: str, said: str) -> None:
    turns = [{"role": "user", "content": "what now?"}, {"role": "assistant", "content": "wait"}]
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "talks"], *([at, json.dumps(turns)] for at in range(9))])
    recipe = {
        "dataset": "talks",
        "source": {"path": "rows.csv", "dialogue": named},
        "columns": {"inputs": {"talks": "dialogue"}, "target": {"reply": "text"}},
        "target": {"multiply": 2.0},
        "generators": [{"use": "rules"}],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    ended = augmill("check", tmp_path / "recipe.yaml")
    assert ended.code in (2, 3) and said in ended.err
