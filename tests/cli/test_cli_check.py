"""``augmill check``: what a run would do, true to the run, without touching anything."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import yaml
from commands import Ended, augmill, fingerprint, refused, write_recipe

from augmill.tasks.recipe import Recipe, build_recipe, load_recipe


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


def test_check_prints_rows_classes_plan_gate_time_store_and_every_default(tmp_path: Path) -> None:
    ended = augmill("check", write_recipe(tmp_path))
    assert ended.code == 0 and not ended.err
    for words in (
        "60 rows read, 60 taken, 0 refused",
        "train 33, validation 23, test 4",
        "track            15      20           6     3",
        "60 rows are to be accepted",
        "rules: at least 60 rows asked",
        "1 shard(s)",
        "23 validation rows tell a true gain of 18.5 points from none",
        "takes about 2,523 rows",
        "together",
        "not there yet; the first run makes it",
    ):
        assert words in ended.out.replace("\n  ", " "), words
    assert all(
        len(line) <= 80 for line in ended.out.split("Recipe, as it")[0].splitlines() if str(tmp_path) not in line
    )
    for item in dataclasses.fields(Recipe):
        assert f"\n  {item.name}:" in ended.out, item.name
    assert "threshold: 0.1  # default" in ended.out and "seeds: 3\n" in ended.out


def test_the_recipe_that_check_prints_is_the_recipe(tmp_path: Path) -> None:
    path = write_recipe(
        tmp_path, checks={"garbage": False, "length": {"slack": 2.0}}, labels={"aliases": {"a: b": "c"}}
    )
    printed = augmill("check", path).out.split("Recipe, as it will be used\n")[1]
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
