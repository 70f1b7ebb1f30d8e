"""``augmill init`` on events and on lists of items."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from commands import augmill
from drawn_histories import users


def lay_events(path: Path) -> Path:
    lines = [
        f"{each['user']},{item},{3 + step % 3},{step}\n"
        for each in users(120)
        for step, item in enumerate([*each["history"], each["next"]])
    ]
    path.write_text("userId,movieId,rating,timestamp\n" + "".join(lines))
    return path


def test_events_are_seen_by_their_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = augmill("init", str(lay_events(tmp_path / "ratings.csv")))
    assert done.code == 0, done.err
    assert "userId is the user, movieId is the item" in " ".join(done.out.split())
    recipe = yaml.safe_load((tmp_path / "ratings.yaml").read_text())
    assert recipe["source"] == {
        "path": "ratings.csv",
        "format": "events",
        "events": {"user": "userId", "item": "movieId", "time": "timestamp", "value": "rating"},
    }
    assert recipe["columns"] == {
        "id": "user",
        "group": "user",
        "inputs": {"history": "items"},
        "target": {"next": "item"},
    }
    assert [each["use"] for each in recipe["generators"]] == ["sequences"]
    checked = augmill("check", "ratings.yaml")
    assert checked.code == 0 and "ranking of items" in checked.out


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_lists_of_items_are_seen_by_what_they_hold(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"seen.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(users(120)), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in users(120)))
    done = augmill("init", str(path))
    assert done.code == 0, done.err
    columns = yaml.safe_load((tmp_path / "seen.yaml").read_text())["columns"]
    assert columns["inputs"] == {"history": "items"} and columns["target"] == {"next": "item"}
