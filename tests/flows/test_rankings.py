"""Rankings from events to release: what stands in it, that it opens elsewhere, and that held-out histories are refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ranking_runs import evidence
from running import SPLITS, Run, run

from augmill.tasks.recipe.recipe import load_recipe
from augmill.tasks.stages.settle import verify_ledger

PLAYS = Path(__file__).parents[2] / "infra" / "examples" / "plays"
QUICK = (
    "gate.seeds=3",
    "gate.rule=not_worse",
    "gate.margin=100",
    "splits.validation=0.3",
    "validation.data_docs=false",
)


def histories() -> dict[str, list[str]]:
    """Of each listener all songs, in the order of time."""
    found: dict[str, list[tuple[int, str]]] = {}
    with (PLAYS / "plays.csv").open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            found.setdefault(row["listener"], []).append((int(row["time"]), row["song"]))
    return {who: [song for _, song in sorted(songs)] for who, songs in found.items()}


def ran(folder: Path, *changes: str) -> Run:
    recipe = load_recipe(PLAYS / "recipe.yaml", store=str(folder / "store"), changes=[*QUICK, *changes])
    return run(recipe, orchestrator="none")


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return ran(tmp_path_factory.mktemp("plays"))


def test_events_go_to_a_release_of_histories(released: Run) -> None:
    assert released.result["arrangement"] == "mix"
    verify_ledger(released.manifest["ledger"])
    rows = [row for split in SPLITS for row in released.rows(split)]
    real = {row["user"]: row for row in rows if row["aug_origin"] == "real"}
    wanted = {who: songs for who, songs in histories().items() if len(songs) >= 5}
    left = len(wanted) - len(real)  # near a held-out user
    assert all(wanted[who] == [*row["history"], row["next"]] for who, row in real.items()) and 0 <= left < 20
    by_id = {row["aug_row_id"]: row for row in real.values()}
    made, held = released.synthetic(), [*released.rows("validation"), *released.rows("test")]
    assert len(made) == sum(row["aug_split"] == "train" for row in real.values())
    for row in made:
        (parent,) = (by_id[name] for name in row["aug_parent_ids"])
        assert parent["aug_split"] == "train" and row["next"] == parent["next"] and row["history"] != parent["history"]
        for other in held:
            both, either = set(row["history"]) & set(other["history"]), set(row["history"]) | set(other["history"])
            assert len(both) / len(either) < 0.8


def test_the_release_opens_elsewhere(released: Run, tmp_path: Path) -> None:
    import datasets
    import duckdb
    import polars

    count = len(released.rows("train"))
    opened = datasets.load_dataset(str(released.folder), cache_dir=str(tmp_path / "cache"))
    assert opened["train"].num_rows == count and isinstance(opened["train"][0]["history"], list)
    frame = polars.read_parquet(released.folder / "train" / "*.parquet")
    assert frame.height == count and frame["history"].dtype == polars.List(polars.String)
    found = duckdb.sql(f"select count(*), max(len(history)) from '{released.folder}/train/*.parquet'").fetchall()
    assert found == [(count, max(len(row["history"]) for row in released.rows("train")))]


def test_whole_numbers_of_a_parquet_file_come_back_as_such(tmp_path: Path) -> None:
    numbers = {song: at for at, song in enumerate(sorted({song for songs in histories().values() for song in songs}))}
    rows = [
        {"who": at, "seen": [numbers[song] for song in songs[:-1]], "next": numbers[songs[-1]]}
        for at, songs in enumerate(histories().values())
        if len(songs) >= 5
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    changes = ["columns.id=who", "columns.group=who", 'columns.inputs={"seen": "items"}']
    found = ran(
        tmp_path, *changes, f"source.path={tmp_path / 'rows.parquet'}", "source.format=auto", "source.events={}"
    )
    train = pq.read_table(found.folder / "train")
    assert train.schema.field("seen").type.value_type == train.schema.field("next").type == pa.int64()
    assert len(found.synthetic()) > 50
    real = {row["who"]: row["seen"] for row in found.rows("train") if row["aug_origin"] == "real"}
    assert all(rows_of["seen"] == real[rows_of["who"]] for rows_of in rows if rows_of["who"] in real)


def test_held_out_users_given_as_made_rows_are_refused(released: Run, tmp_path: Path) -> None:
    """Their own histories, in another order, and with the next item at the end of them."""
    planted = []
    for row in released.rows("test"):
        songs = row["history"]
        planted += [songs, songs[::-1], [*songs, row["next"]]]
    made = [
        {"history": each, "label": row["next"]} for each, row in zip(planted, released.rows("train") * 9, strict=False)
    ]
    (tmp_path / "made.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    generator = json.dumps([{"use": "replay", "path": str(tmp_path / "made.jsonl")}])
    found = ran(tmp_path, f"generators={generator}", "target.multiply=9")
    assert found.result["outcome"] != "published" or not found.synthetic()
    rejected: dict[str, int] = {}
    for entry in ledger_of(found)["rows"]:
        for reason, count in entry["rejected"].items():
            rejected[reason] = rejected.get(reason, 0) + count
    leaks = sum(count for reason, count in rejected.items() if reason.endswith("_heldout"))
    short = sum(len(set(row["history"])) < 4 for row in released.rows("test"))  # one item more is a fifth of such
    assert leaks >= len(planted) - short, rejected


def ledger_of(found: Run) -> dict[str, Any]:
    (*_, ledger) = evidence(found.store, "settle", "ledger.json")
    return dict(ledger)


def test_a_user_stays_on_one_side_however_many_events_come(released: Run, tmp_path: Path) -> None:
    lines = (PLAYS / "plays.csv").read_text(encoding="utf-8")
    more = "".join(f"{who},song-{at % 200:03},1799999999\n" for at, who in enumerate(histories()))
    (tmp_path / "plays.csv").write_text(lines + more, encoding="utf-8")
    again = ran(tmp_path, f"source.path={tmp_path / 'plays.csv'}")
    before, after = (
        {row["user"]: split for split in SPLITS for row in found.rows(split) if row["aug_origin"] == "real"}
        for found in (released, again)
    )
    assert len(before.keys() & after.keys()) > 100
    assert all(before[who] == after[who] for who in before.keys() & after.keys())
