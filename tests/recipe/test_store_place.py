"""Where a recipe's store is: beside the recipe; what stands where earlier versions put it is found, and never guessed at."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from chain import recipe_document, write_rows
from commands import augmill, refused

from augmill.tasks.recipe.recipe import load_recipe
from augmill.tasks.store.store import Store


def write_recipe(folder: Path, dataset: str = "tiny", **run: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    document = recipe_document(write_rows(folder / "rows.csv"), dataset=dataset, target={"per_class": 4})
    document["run"] = {"orchestrator": "none", "shard_rows": 25} | run
    (folder / f"{dataset}.yaml").write_text(json.dumps(document))
    return folder / f"{dataset}.yaml"


@pytest.mark.parametrize(
    ("written", "leads_to"),
    [
        ("nights", "{recipe}/nights"),
        ("../nights", "{recipe}/../nights"),
        ("/data/nights", "/data/nights"),
        ("s3://bucket/nights", "s3://bucket/nights"),
        (None, "{recipe}/augmill-store"),
    ],
)
def test_run_store_begins_at_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str | None, leads_to: str
) -> None:
    path = write_recipe(tmp_path / "mine", **({"store": written} if written else {}))
    monkeypatch.chdir(tmp_path)
    for name in (path, Path("mine/tiny.yaml"), Path("../") / tmp_path.name / "mine/tiny.yaml"):
        found = load_recipe(name).run.store
        assert Path(found).resolve() == Path(leads_to.format(recipe=tmp_path / "mine")).resolve()
        assert "://" in found or Path(found).is_absolute()


def test_a_store_that_is_given_begins_at_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_recipe(tmp_path / "mine", store="nights")
    monkeypatch.chdir(tmp_path)
    assert load_recipe(path, store="given").run.store == str(tmp_path / "given")
    assert load_recipe(path, store="s3://bucket/x").run.store == "s3://bucket/x"
    assert load_recipe(path, store="~/x").run.store == str(Path.home() / "x")
    assert load_recipe(path, changes=["run.store=set"]).run.store == str(tmp_path / "mine" / "set")


def test_a_store_where_earlier_versions_put_it_is_never_chosen_silently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that ran from another directory than its recipe's, such as a night under cron."""
    path, old, new = write_recipe(tmp_path / "mine"), tmp_path / "augmill-store", tmp_path / "mine" / "augmill-store"
    monkeypatch.chdir(tmp_path)
    ended = augmill("run", path, "--store", "augmill-store")
    assert ended.code == 0 and ended.last["location"].startswith(f"{old}/"), ended.err
    for command in ("run", "check", "path", "status", "releases", "nightly"):
        refused(augmill(command, path), 2, [str(old), str(new), f"--store {old}", "earlier versions"])
    assert not new.exists()
    assert load_recipe(write_recipe(tmp_path / "mine", "another")).run.store == str(new)  # which has nothing there
    again = augmill("run", path, "--store", old)
    assert again.code == 0 and not again.last["new"]
    shutil.move(old, new)
    assert augmill("path", path).out.startswith(str(new))


def test_of_two_stores_the_one_beside_the_recipe_is_used_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own: who shows a warning is up to whatever configured logging in this one."""
    path, old, new = write_recipe(tmp_path / "mine"), tmp_path / "augmill-store", tmp_path / "mine" / "augmill-store"
    for store in (old, new):
        (store / "public" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    command = [Path(sys.executable).with_name("augmill"), "path", path]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    assert f"{new}, beside the recipe, is used; {old} is not" in told and "'tiny' has no release" in told


def test_what_is_printed_of_a_store_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_recipe(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    ended = augmill("run", "mine/tiny.yaml", "--store", "kept")
    assert ended.code == 0, ended.err
    assert Path(ended.last["location"]).is_absolute() and Path(ended.last["location"]).is_dir()
    assert Path(ended.last["report"]).is_absolute()
    assert f"{tmp_path}/kept/public" in Path(ended.last["report"]).read_text()
    assert augmill("path", path, "--store", "kept").out.strip() == ended.last["location"]
    assert f"location     {ended.last['location']}\n" in augmill("show", "--store", "kept").out
    checked = augmill("check", path, "--store", "kept").out
    assert f"{tmp_path}/kept: exists" in " ".join(checked.split())  # whatever the path's length breaks
    assert Store("kept").root == str(tmp_path / "kept")
