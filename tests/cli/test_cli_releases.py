"""``releases``, ``show``, ``verify``, ``rollback``, ``tag``: what is published and whole, taking it back, keeping it by name."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from commands import Ended, augmill, fingerprint, refused, write_recipe
from fake_releases import id_of, put_fake

from augmill.tasks.stages.publish import commit_releases
from augmill.tasks.store.log import read_log
from augmill.tasks.store.store import Store


@pytest.fixture(scope="module")
def two_releases(first_run: tuple[Path, Ended], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose store holds the first run's release and, current, a second one whose columns have another prefix."""
    folder = tmp_path_factory.mktemp("two") / "copy"
    shutil.copytree(first_run[0], folder)
    ended = augmill("run", write_recipe(folder, publish={"prefix": "syn_"}))
    assert ended.code == 0 and ended.last["new"] is True
    return folder


@pytest.fixture
def store(two_releases: Path, tmp_path: Path) -> Path:
    shutil.copytree(two_releases / "store", tmp_path / "store")
    return tmp_path / "store"


def current(store: Path) -> str | None:
    return read_log(Store(str(store)), "tiny").newest()


def test_releases_lists_all_and_marks_the_current_one(store: Path, first_run: tuple[Path, Ended]) -> None:
    ended = augmill("releases", "--store", store)
    first, second = first_run[1].last["release"], current(store)
    entries = [line for line in ended.out.splitlines() if first in line or str(second) in line]
    assert ended.code == 0 and len(entries) == 2 and first != second
    assert not entries[0].startswith("*") and entries[1].startswith("*")


def test_show_tells_the_rows_and_the_ledger_of_the_release(store: Path, first_run: tuple[Path, Ended]) -> None:
    first = first_run[1].last["release"]
    manifest = json.loads((store / "public" / "tiny" / "releases" / first / "manifest.json").read_text())
    ended = augmill("show", "--store", store, "--release", first[:6])
    assert ended.code == 0 and first in ended.out and "rows" in ended.out
    for split, part in manifest["counts"].items():
        assert f"{split:<12}{part['rows']:>10,}" in ended.out
    asked = sum(row["asked"] for row in manifest["ledger"]["rows"])
    assert re.search(rf"^rules +{asked:,}  ", ended.out, re.MULTILINE)
    shown = augmill("show", "--store", store)
    assert str(current(store)) in shown.out


def test_show_takes_a_tag_a_snapshot_or_an_id_where_it_takes_a_dataset(
    store: Path, first_run: tuple[Path, Ended]
) -> None:
    at, first = ("--store", store), first_run[1].last["release"]
    assert augmill("tag", "gold", *at, "--release", first).code == 0
    for given in (["gold"], ["gold", "tiny"], [first[:5]], ["--release", "gold"], ["tiny", "--release", "gold"]):
        assert f"release      {first}\n" in augmill("show", *given, *at).out, given
    for given in (["all"], ["tiny"], []):  # a dataset is one, as before
        assert f"release      {current(store)}\n" in augmill("show", *given, *at).out, given
    assert augmill("verify", "gold", *at).out == "tiny: the log and 1 release(s) are whole.\n"
    assert augmill("diff", "gold", "all", *at).out.startswith(f"{first} -> {current(store)}\n")
    assert augmill("audit", "gold", *at).out.startswith(first)
    refused(augmill("show", "silver", *at), 2, ["no release, tag or snapshot 'silver'", "augmill releases"])
    refused(augmill("show", "gold", *at, "--release", "all"), 2, ["'gold' and --release 'all'"])


def test_path_takes_the_name_of_a_release(copied_run: Path) -> None:
    recipe = copied_run / "recipe.yaml"
    newest = augmill("path", recipe).out
    assert (
        augmill("path", recipe, "--release", "all").out
        == newest
        == augmill("path", recipe, "--release", newest[-17:-9]).out
    )
    refused(augmill("path", recipe, "--release", "all", "--as-of", "2026-01-01"), 2, ["--release"])
    refused(augmill("path", recipe, "--release", "silver"), 2, ["silver"])


def test_verify_finds_a_flipped_bit_and_names_the_file(store: Path) -> None:
    before = fingerprint(store)
    ended = augmill("verify", "--store", store)
    assert ended.code == 0 and "whole" in ended.out and fingerprint(store) == before
    release = store / "public" / "tiny" / "releases" / str(current(store))
    for name in ("train/part-00000.parquet", "order.parquet", "manifest.json"):
        raw = (release / name).read_bytes()
        (release / name).write_bytes(raw[: len(raw) // 2] + bytes([raw[len(raw) // 2] ^ 1]) + raw[len(raw) // 2 + 1 :])
        refused(augmill("verify", "--store", store), 4, [name, "checksum"])
        (release / name).write_bytes(raw)
    (release / "labels.json").unlink()
    refused(augmill("verify", "--store", store), 4, ["labels.json"])


def test_verify_finds_a_broken_log(store: Path) -> None:
    (entry, *_) = sorted((store / "public" / "tiny" / "_log").iterdir())
    entry.write_bytes(entry.read_bytes().replace(b"inconclusive", b"published", 1))
    refused(augmill("verify", "--store", store), 4, [entry.name, "checksum", "backup"])


def test_rollback_makes_the_one_before_current_once(store: Path, first_run: tuple[Path, Ended]) -> None:
    first, second = first_run[1].last["release"], current(store)
    ended = augmill("rollback", "--store", store, "--reason", "wrong labels in queue 7")
    assert ended.code == 0 and current(store) == first and f"{first} is current again" in ended.out
    listed = augmill("releases", "--store", store).out
    assert "wrong labels in queue 7" in listed and "withdrawn" in listed
    before = fingerprint(store)
    refused(augmill("rollback", "--store", store, "--reason", " "), 2, ["--reason", "blank"])
    refused(augmill("rollback", "--store", store, "--reason", "again"), 2, ["no earlier release", "augmill releases"])
    assert fingerprint(store) == before and current(store) == first
    assert augmill("verify", "--store", store, "--release", str(second)).code == 0  # kept, only withdrawn


def test_a_withdrawn_release_is_not_published_again_unless_told(store: Path, two_releases: Path) -> None:
    first, second = read_log(Store(str(store)), "tiny").entries[0], current(store)
    assert augmill("rollback", "--store", store, "--reason", "bad").code == 0
    recipe = two_releases / "recipe.yaml"
    ended = augmill("run", recipe, "--store", store)
    assert (
        ended.code != 0 and "withdrawn" in ended.err and "--republish" in ended.err and ended.last["outcome"] == "error"
    )
    assert current(store) in first["current"].values()
    assert augmill("run", recipe, "--store", store, "--republish").code == 0 and current(store) == second


def test_a_backfill_of_many_is_told_briefly_and_taken_back_as_one(store: Path) -> None:
    opened, before = Store(str(store)), current(store)
    days = [f"2026-10-{day:02}" for day in range(1, 31)]
    moves: dict[str, tuple[str | None, str]] = {day: (None, put_fake(opened, f"made {day}")) for day in days}
    assert commit_releases(opened, "tiny", moves, entry={"reason": "new recipe", "outcome": "published"}, command="x")
    listed = augmill("releases", "--store", store).out.splitlines()
    assert sum(id_of(f"made {day}") in line for line in listed for day in days) == 3
    assert "        and 27 more snapshot(s) in the same entry" in listed and listed[-1] == "        new recipe"
    ended = augmill("rollback", "--store", store, "--reason", "bad recipe")
    assert ended.out.splitlines()[::3] == [
        f"tiny 2026-10-01: nothing is current any more; {id_of('made 2026-10-01')} is withdrawn.",
        "and 27 more snapshot(s) of the same publication.",
    ]
    assert read_log(opened, "tiny").current() == {"all": before}
    assert "no release" in augmill("releases", "--store", store).out


def test_a_tag_keeps_a_release_by_a_name_until_it_is_taken_away(store: Path, first_run: tuple[Path, Ended]) -> None:
    first, second = first_run[1].last["release"], current(store)
    ended = augmill("tag", "model-7", "--store", store, "--release", first[:6], "--reason", "trained on it")
    assert (ended.code, ended.out) == (0, f"tiny: the tag model-7 keeps {first}.\n")
    shown = augmill("show", "--store", store, "--release", "model-7").out
    assert f"release      {first}" in shown and "tags         model-7" in shown
    listed = augmill("releases", "--store", store).out
    assert f"model-7: {first}" in listed and "trained on it" in listed and f"tag  model-7  {first}" in listed
    refused(augmill("tag", "model-7", "--store", store), 2, [first, "--delete"])
    for name in (first, first[:1]):  # --release could mean either
        refused(augmill("tag", name, "--store", store), 2, ["NAME", f"begins the id of release {first}"])
    refused(augmill("tag", "model-7", "--store", store, "--delete", "--release", first), 2, ["--release"])
    assert augmill("tag", "model-7", "--store", store, "--delete").code == 0
    assert read_log(Store(str(store)), "tiny").tags() == {} and current(store) == second
    refused(augmill("tag", "model-7", "--store", store, "--delete"), 2, ["no tag", "none yet"])


@pytest.mark.parametrize("command", ["releases", "show", "verify", "rollback"])
def test_what_is_not_there_is_named(store: Path, tmp_path: Path, command: str) -> None:
    more = ["--reason", "x"] if command == "rollback" else []
    refused(augmill(command, "--store", tmp_path / "nowhere", *more), 2, ["nowhere", "run.store"])
    assert not (tmp_path / "nowhere").exists()
    refused(augmill(command, "tinny", "--store", store, *more), 2, ["'tinny'", "tiny"])
    if command in ("show", "verify"):
        refused(augmill(command, "--store", store, "--release", "zzz"), 2, ["'zzz'", "augmill releases"])


def test_a_recipe_stands_for_its_dataset_and_its_store(two_releases: Path, tmp_path: Path) -> None:
    newest = current(two_releases / "store")
    assert newest is not None
    recipe = write_recipe(two_releases, name="by.yaml")
    for command in (["show"], ["releases"], ["verify"], ["audit", newest]):
        by_name = augmill(*command, "tiny", "--store", two_releases / "store")
        by_recipe = augmill(*command, recipe)
        assert (by_recipe.code, by_recipe.out) == (by_name.code, by_name.out) and by_name.code == 0
    refused(augmill("show", recipe, "--store", tmp_path / "nowhere"), 2, ["nowhere"])
    refused(
        augmill("audit", recipe, newest, "--store", two_releases / "store"),
        2,
        [newest, "known: tiny", "comes before the dataset"],
    )


@pytest.mark.parametrize("command", [["releases"], ["gc"], ["status"], ["path"], ["doctor", "--quick"]])
def test_a_home_that_nobody_has_is_named(command: list[str], tmp_path: Path) -> None:
    recipe = [write_recipe(tmp_path)] if command[0] in ("status", "path") else []
    refused(augmill(*command, *recipe, "--store", "~nobody-has-this/store"), 2, ["there is no such home directory"])


def test_releases_of_a_store_of_several_datasets_lists_them_all(store: Path) -> None:
    held = Store(str(store))
    other = put_fake(held, "other", "bills")
    commit_releases(held, "bills", {"2026-10-31": (None, other)}, entry={"reason": "t"}, command="t")
    ended = augmill("releases", "--store", store)
    rows = {line.split()[0]: line.split() for line in ended.out.splitlines() if line}
    assert ended.code == 0 and rows["bills"][1] == other and rows["tiny"][1] == current(store)
    assert rows["Next"][1:] == ["augmill", "releases", "DATASET", "--store", str(store)]
    assert other in augmill("releases", "bills", "--store", store).out
    known = "known: bills, tiny"
    for command, words in (
        (["show"], "A release comes before"),
        (["explain", "row"], "A row comes before"),
        (["diff", "a", "b"], "Two releases come before"),
        (["rollback", "--reason", "t"], None),
        (["tag", "gold"], None),
    ):
        ended = augmill(*command, "--store", store)
        refused(ended, 2, ["several datasets; name one", known, words or ""])
        assert words or "before the dataset" not in ended.err, command
    refused(augmill("show", "--store", store.parent), 2, ["holds no dataset yet"])
