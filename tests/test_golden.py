"""A store of an earlier version stays readable and is continued: nothing in it is made anew, or decided anew, in silence.

The store, its sources and recipes are tests/golden/golden.tar.xz, made once by tests/golden/make.py; what they must still
come to is identities.json beside it. Where a VERSION counts up, MOVED names the stage with the decision.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from commands import Ended, augmill, fingerprint

from augmill.flows.augment import run_recipe
from augmill.tasks.recipe.recipe import Recipe, load_recipe
from augmill.tasks.store import releases
from augmill.tasks.store.attempts import read_attempts
from augmill.tasks.store.log import read_log
from augmill.tasks.store.releases import read_manifest_of
from augmill.tasks.store.store import Store

GOLDEN = Path(__file__).parent / "golden"
IDENTITIES = GOLDEN / "identities.json"
RECORD = "python tests/test_golden.py --record"
DAYS = ("2026-10-01", "2026-10-02", "2026-10-03")
OUTCOMES = {
    "published": "published",
    "harmful": "harmful",
    "inconclusive": "inconclusive",
    "not-produced": "not_produced",
    "unsound": "unsound_source",
    "forgotten": "published",
    "chat": "published",
}
# (dataset, snapshot): "all" where the source is not cut by date.
SNAPSHOTS = [*((name, None) for name in OUTCOMES), *(("nights", day) for day in DAYS)]
WITHDRAWN = ("nights", DAYS[2])
QUICK = (("published", None), ("harmful", None), ("nights", DAYS[0]))  # the others are told by `make test-all`
# Stages that have other identities than when the store was made -> the decision (docs/decisions.md has each). Whatever is
# not named is found again, also where what stands before it was made anew with the same content.
MOVED = {
    "validate": "is new: Great Expectations looks at a round's rows together",
    "fit": "rules, interpolate, masked_lm and seq2seq leave characters and placeholders whole; chat redacts otherwise; "
    "replay matches labels as a run does: each counts 2",
    "fit_check": "length and garbage count characters as readers do",
    "sample": "follows fit",
    "generate": "follows sample",
    "split": "equal has one definition: of a row with a field that is punctuation alone what is near may differ",
    "settle": "so may what is a duplicate",
    "evaluate": "its words say what was proven",
    "release": "so does its card; rows stand in no order of class",
}


def unpack(target: Path) -> Path:
    with tarfile.open(GOLDEN / "golden.tar.xz") as archive:
        archive.extractall(target, filter="tar")  # "data" would make private/ readable for others
    return target


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(tmp_path_factory.mktemp("golden"))


@pytest.fixture
def golden(unpacked: Path, tmp_path: Path) -> Path:
    """A copy to work on: sources, recipes and the store."""
    return Path(shutil.copytree(unpacked, tmp_path / "golden"))


def recipe_of(here: Path, dataset: str, store: str = "store") -> Recipe:
    return load_recipe(here / f"{dataset}.yaml", store=str(here / store))


def run(here: Path, *words: object, code: int = 0) -> Ended:
    ended = augmill(*words, "--store", here / "store")
    assert ended.code == code, ended.err + ended.out
    return ended


def keys_of(here: Path, dataset: str, as_of: str | None, store: str = "store") -> list[str]:
    """The key of every stage of the newest attempt."""
    attempts = read_attempts(Store(str(here / store)), dataset)[as_of or "all"]
    return sorted((attempts[-1].end or {})["artifacts"])


def train_rows(here: Path, dataset: str, release: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(here / f"store/public/{dataset}/releases/{release}/train").to_pylist()
    return rows


def standing(here: Path, dataset: str) -> list[str]:
    """The releases there are; of an erased one an empty directory may be left."""
    return sorted(path.parent.name for path in (here / f"store/public/{dataset}/releases").glob("*/manifest.json"))


def ids_of(here: Path, dataset: str, release: str) -> dict[str, list[str]]:
    rows = train_rows(here, dataset, release)
    origins = ("real", "synthetic")
    return {origin: sorted(row["aug_row_id"] for row in rows if row["aug_origin"] == origin) for origin in origins}


def current_of(here: Path, dataset: str) -> dict[str, str]:
    current: dict[str, str] = read_log(Store(str(here / "store")), dataset).current()
    return current


# --- identities -------------------------------------------------------------------------------------------------------


def identities(here: Path) -> dict[str, Any]:
    """What the recipes, sources and logs of ``here`` come to today, in stores of their own."""
    found: dict[str, Any] = {"recipes": {}, "stages": {}, "releases": {}, "logs": {}}
    for dataset, as_of in SNAPSHOTS:
        name = f"{dataset}@{as_of or 'all'}"
        found["recipes"][dataset] = recipe_of(here, dataset).hash()
        found["stages"][name] = keys_of(here, dataset, as_of)
    for dataset in (*OUTCOMES, "nights", "together"):
        entries = sorted((here / f"store/public/{dataset}/_log").glob("*.json"))
        found["logs"][dataset] = [json.loads(entry.read_bytes())["sha256"] for entry in entries]
        for release in standing(here, dataset):
            found["releases"][f"{dataset}/{release}"] = ids_of(here, dataset, release)
    return found


def known() -> dict[str, Any]:
    said: dict[str, Any] = json.loads(IDENTITIES.read_text(encoding="utf-8"))
    return said


def test_recipes_have_the_hashes_they_had(golden: Path) -> None:
    """The log and every attempt hold them: another hash marks every snapshot stale."""
    assert {name: recipe_of(golden, name).hash() for name in known()["recipes"]} == known()["recipes"]


@pytest.mark.parametrize("dataset", ["published", pytest.param("nights", marks=pytest.mark.slow)])
def test_a_fresh_store_comes_to_the_same_identities(golden: Path, dataset: str) -> None:
    """Keys, row ids and synthetic ids, from source and recipe alone."""
    as_of = DAYS[0] if dataset == "nights" else None
    recipe = recipe_of(golden, dataset, "fresh")
    release = run_recipe(recipe, as_of=as_of)["release"]
    expected = [key for key in known()["stages"][f"{dataset}@{as_of or 'all'}"] if key.split("/")[0] not in MOVED]
    assert set(expected) <= set(keys_of(golden, dataset, as_of, "fresh"))
    rows = pq.read_table(golden / f"fresh/public/{dataset}/releases/{release}/train").to_pylist()
    then = read_log(Store(str(golden / "store")), dataset).entries[0]["current"][as_of or "all"]
    made = {kind: sorted(r["aug_row_id"] for r in rows if r["aug_origin"] == kind) for kind in ("real", "synthetic")}
    assert made == known()["releases"][f"{dataset}/{then}"]


def test_the_store_is_what_was_recorded(golden: Path) -> None:
    """So that none of it can be exchanged together with what it protects."""
    assert identities(golden) == known()


# --- reuse ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "as_of"),
    [pytest.param(*pair, marks=[pytest.mark.slow] * (pair not in QUICK)) for pair in SNAPSHOTS if pair != WITHDRAWN],
)
def test_every_stage_is_unchanged_from_the_store(golden: Path, dataset: str, as_of: str | None) -> None:
    """And what is current stays: the endpoint of `chat`, which is not there, is not asked again."""
    before = current_of(golden, dataset)
    ended = run(golden, "run", golden / f"{dataset}.yaml", *(["--as-of", as_of] if as_of else []))
    name = f"{dataset}@{as_of or 'all'}"
    made = [key for key in keys_of(golden, dataset, as_of) if key not in known()["stages"][name]]
    assert not {key.split("/")[0] for key in made} - set(MOVED)
    attempt = read_attempts(Store(str(golden / "store")), dataset)[as_of or "all"][-1].end or {}
    assert attempt["worked"] == len(made), ended.err
    assert made or current_of(golden, dataset) == before
    assert ended.last["outcome"] == OUTCOMES.get(dataset, "published")


@pytest.mark.slow
def test_a_half_done_backfill_goes_on_and_switches_at_once(golden: Path) -> None:
    """What it had staged is not made again."""
    staged = {path.name for path in (golden / "store/public/together/releases").iterdir()}
    before = current_of(golden, "together")
    ended = run(
        golden,
        "backfill",
        golden / "together.yaml",
        "--from",
        DAYS[0],
        "--to",
        DAYS[-1],
        "--reprocess",
        "changed-recipe",
    )
    after = current_of(golden, "together")
    assert ended.last["publish"] == "together" and after == ended.last["released"]
    assert list(after) == list(DAYS) and not set(after.values()) & set(before.values())
    assert "release" in MOVED or (staged - set(before.values())) <= set(after.values())


# --- commands ---------------------------------------------------------------------------------------------------------


def test_releases_of_before_are_whole_and_shown(golden: Path) -> None:
    for dataset in (*OUTCOMES, "nights", "together"):
        run(golden, "verify", golden / f"{dataset}.yaml")
        run(golden, "releases", dataset)
        for release in standing(golden, dataset):
            listed = {
                made
                for entry in read_log(Store(str(golden / "store")), dataset).entries
                for made in entry["current"].values()
            }
            if release in listed:  # a staged one stands in no log yet
                run(golden, "show", golden / f"{dataset}.yaml", "--release", release)
                run(golden, "audit", release, golden / f"{dataset}.yaml")


def test_all_of_the_store_is_whole(golden: Path) -> None:
    run(golden, "verify", "--all")


def test_old_releases_are_compared_and_their_rows_explained(golden: Path) -> None:
    recipe, current = golden / "nights.yaml", current_of(golden, "nights")
    told = run(golden, "diff", current[DAYS[0]], current[DAYS[1]], recipe)
    assert "8" in told.out
    made = next(row for row in train_rows(golden, "nights", current[DAYS[1]]) if row["aug_origin"] == "synthetic")
    said = run(golden, "explain", made["aug_row_id"], recipe).out
    assert "rules" in said and made["aug_parent_ids"][0] in said


@pytest.mark.slow
def test_as_of_reads_old_snapshots_and_new_ones(golden: Path) -> None:
    recipe, current = golden / "nights.yaml", current_of(golden, "nights")
    for day in DAYS[:2]:
        assert run(golden, "path", recipe, "--as-of", day).out.strip().endswith(current[day])
    (golden / "nights/day=2026-10-04").mkdir()
    shutil.copy(golden / "nights/day=2026-10-03/rows.csv", golden / "nights/day=2026-10-04/rows.csv")
    night = run(golden, "run", recipe, "--as-of", "2026-10-04").last
    assert night["new"] and run(golden, "path", recipe).out.strip().endswith(night["release"])
    assert run(golden, "path", recipe, "--as-of", DAYS[0]).out.strip().endswith(current[DAYS[0]])


def test_what_was_rolled_back_stays_withdrawn_and_what_is_tagged_is_found(golden: Path) -> None:
    recipe = golden / "nights.yaml"
    (gone,) = read_log(Store(str(golden / "store")), "nights").withdrawn()
    if "release" not in MOVED:  # else it is another release
        assert gone in run(golden, "run", recipe, "--as-of", DAYS[2], code=2).err
    assert current_of(golden, "nights")[DAYS[1]] in run(golden, "show", recipe, "--release", "gold").out
    run(golden, "rollback", recipe, "--reason", "one more night")
    assert DAYS[1] not in current_of(golden, "nights")


def test_the_delta_table_of_before_is_continued(golden: Path) -> None:
    deltalake = pytest.importorskip("deltalake")
    recipe = golden / "nights.yaml"
    where = run(golden, "path", recipe, "--delta").out.strip()
    before = deltalake.DeltaTable(where).version()
    run(golden, "rollback", recipe, "--reason", "one more night")
    table = deltalake.DeltaTable(where)
    assert table.version() == before + 1
    made = {
        row["aug_row_id"]
        for row in pq.read_table(
            golden / "store/public/nights/releases" / current_of(golden, "nights")[DAYS[0]] / "train"
        ).to_pylist()
    }
    assert made <= set(table.to_pyarrow_table()["aug_row_id"].to_pylist())


@pytest.mark.slow
def test_a_release_made_again_holds_the_rows_of_the_old_one_in_another_order(golden: Path) -> None:
    """Formats 1 and 2 side by side: compared, verified, mirrored; and format 1 is gone back to."""
    deltalake = pytest.importorskip("deltalake")
    recipe, old = golden / "nights.yaml", current_of(golden, "nights")[DAYS[1]]
    new = run(golden, "run", recipe, "--as-of", DAYS[1]).last["release"]
    formats = [read_manifest_of(Store(str(golden / "store")), "nights", name) for name in (old, new)]
    assert [manifest and manifest["format"] for manifest in formats] == [1, 2]
    told = run(golden, "diff", old, new, recipe, "--json").last
    assert told["rows"] and not any(part[kind] for part in told["rows"].values() for kind in ("added", "removed"))
    assert not any(part["changed"] for part in told["rows"].values())
    ids = [[row["aug_row_id"] for row in train_rows(golden, "nights", name)] for name in (old, new)]
    assert ids[0] != ids[1] == sorted(ids[0], key=lambda name: hashlib.sha256(name.encode()).digest())
    run(golden, "verify", recipe)
    for at, release in ((new, 1), (old, 0)):
        assert current_of(golden, "nights")[DAYS[1]] == at
        table = deltalake.DeltaTable(run(golden, "path", recipe, "--delta").out.strip()).to_pyarrow_table()
        mirrored = zip(table["aug_split"].to_pylist(), table["aug_row_id"].to_pylist(), strict=True)
        assert [name for split, name in mirrored if split == "train"] == ids[release]
        run(golden, "rollback", recipe, "--reason", "back")


@pytest.mark.slow
def test_a_version_before_this_one_refuses_its_releases_by_their_number_and_changes_nothing(
    golden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs of a dated source too, which look at no other release: they would put their own in its place."""
    recipe, old = golden / "nights.yaml", current_of(golden, "nights")[DAYS[0]]
    new = run(golden, "run", recipe, "--as-of", DAYS[1]).last["release"]
    row = train_rows(golden, "nights", new)[0]["aug_row_id"]
    (golden / "ids.txt").write_text(row, encoding="utf-8")
    before = fingerprint(golden / "store/public")
    monkeypatch.setattr(releases, "FORMAT", 1)
    for words in (
        ("path", recipe, "--verify"),
        ("show", recipe),
        ("verify", recipe),
        ("audit", new, recipe),
        ("diff", old, new, recipe),
        ("explain", row, recipe),
        ("tag", "model", recipe, "--release", new),
        ("forget", recipe, "--rows", golden / "ids.txt", "--reason", "asked for", "--orchestrator", "none"),
        ("run", recipe, "--as-of", DAYS[1]),
        ("run", recipe, "--as-of", DAYS[2]),
    ):
        said = run(golden, *words, code=4).err
        assert f"{new}/manifest.json: format 2 of a later version; this one reads up to 1" in said, words
    assert "format 2 of a later version" in run(golden, "verify", "--all", code=4).err
    assert fingerprint(golden / "store/public") == before
    for words in (("show", recipe, "--release", old), ("path", recipe, "--as-of", DAYS[0], "--verify")):
        run(golden, *words)


def test_gc_takes_nothing_that_is_current_or_named(golden: Path) -> None:
    run(golden, "gc", golden / "nights.yaml", "--delete")
    run(golden, "verify", "--all")
    for day in DAYS[:2]:
        run(golden, "path", golden / "nights.yaml", "--as-of", day)


# --- erasure ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_row_erased_before_does_not_come_back(golden: Path) -> None:
    """Neither from the store nor from the source, which still delivers it, under the recipe as it was or another."""
    erased = (golden / "forgotten-ids.txt").read_text(encoding="utf-8").strip()
    recipe = golden / "forgotten.yaml"
    document = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    for seed in (0, 5):
        recipe.write_text(yaml.safe_dump(document | {"seed": seed}), encoding="utf-8")
        release = run(golden, "run", recipe).last["release"]
        rows = train_rows(golden, "forgotten", release)
        assert erased not in {row["aug_row_id"] for row in rows}
        assert erased not in {parent for row in rows for parent in row["aug_parent_ids"] or []}


@pytest.mark.slow
def test_rows_of_an_old_store_are_forgotten(golden: Path, tmp_path: Path) -> None:
    recipe, current = golden / "published.yaml", current_of(golden, "published")
    row = next(row for row in train_rows(golden, "published", current["all"]) if row["aug_origin"] == "real")
    (tmp_path / "ids.txt").write_text(row["aug_row_id"], encoding="utf-8")
    run(golden, "forget", recipe, "--rows", tmp_path / "ids.txt", "--reason", "asked for", "--orchestrator", "none")
    made = current_of(golden, "published")["all"]
    assert made != current["all"] and row["aug_row_id"] not in str(ids_of(golden, "published", made))


def record() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        found = identities(unpack(Path(directory)))
    IDENTITIES.write_text(json.dumps(found, indent=0, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__" and sys.argv[1:] == ["--record"]:
    record()
