"""``augmill init``: a first recipe that ``check`` accepts, whatever the format; nothing is written over, or half written."""

from __future__ import annotations

import csv
import gzip
import os
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from chain import write_rows
from commands import augmill, fingerprint, refused

from augmill.tasks.recipe.recipe import load_recipe


def rows(directory: Path, count: int = 120) -> list[dict[str, Any]]:
    with write_rows(directory / "made.csv", count).open(newline="") as stream:
        found = list(csv.DictReader(stream))
    (directory / "made.csv").unlink()
    return [{"ticket_id": f"t{at}", "body": row["text"], "queue": row["label"]} for at, row in enumerate(found)]


def write(path: Path, found: list[dict[str, Any]]) -> Path:
    table = pa.Table.from_pylist(found)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".jsonl":
        pa_lines = "\n".join(str(row).replace("'", '"') for row in found)
        path.write_text(pa_lines + "\n")
    else:
        mark = ";" if "semicolon" in path.name else ","
        text = "\n".join([mark.join(found[0]), *(mark.join(row.values()) for row in found)]) + "\n"
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def full(folder: Path, data: str) -> Path:
    """The recipe that ``--full`` writes for the same data."""
    assert augmill("init", data, "--full", "--out", folder / "full.yaml").code == 0
    return folder / "full.yaml"


@pytest.mark.parametrize("name", ["t.csv", "semicolon.csv", "t.jsonl", "t.parquet", "t.csv.gz"])
def test_init_writes_a_recipe_that_check_accepts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    found = rows(tmp_path)
    write(tmp_path / name, found)
    monkeypatch.chdir(tmp_path)
    ended = augmill("init", name)
    (recipe,) = tmp_path.glob("*.yaml")
    assert ended.code == 0 and ended.out.endswith(f"\nNext     augmill check {recipe.name}\n")
    columns = yaml.safe_load(recipe.read_text())["columns"]
    assert columns == {"text": "body", "label": "queue", "id": "ticket_id"}
    checked = augmill("check", recipe.name)
    assert checked.code == 0 and f"{len(found)} rows read: {len(found)} used, 0 refused" in checked.out
    assert len(recipe.read_text().splitlines()) <= 60
    assert load_recipe(recipe).hash() == load_recipe(full(tmp_path, name)).hash()


def test_every_comment_of_the_starter_that_is_a_key_is_that_keys_default(tmp_path: Path) -> None:
    """Taking the `#` away from all of them at once changes nothing about the recipe."""
    data = write(tmp_path / "tickets.csv", rows(tmp_path))
    path = tmp_path / "tickets.yaml"
    assert augmill("init", data, "--out", path, "--full").code == 0
    assert path.read_text().count("#") > 100
    lines = path.read_text().splitlines()
    kept = [line for line in lines if not line.lstrip().startswith("# ")]
    opened = "\n".join(line.replace("#", "", 1) if line.lstrip().startswith("#") else line for line in kept)
    other = tmp_path / "opened.yaml"
    other.write_text(opened + "\n")
    assert load_recipe(other) == load_recipe(path)


def test_each_change_that_the_starter_proposes_can_be_made_by_taking_a_mark_away(tmp_path: Path) -> None:
    data, path = write(tmp_path / "tickets.csv", rows(tmp_path)), tmp_path / "tickets.yaml"
    assert augmill("init", data, "--out", path).code == 0
    text = path.read_text()
    proposed = [line for line in text.splitlines() if re.match(r"# \w+: ", line)]
    assert len(proposed) == 3
    for line in proposed:
        other = tmp_path / "other.yaml"
        other.write_text(text.replace(line, line[2:]))
        assert load_recipe(other) != load_recipe(path), line


def test_init_writes_over_nothing_unless_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "tickets.csv", rows(tmp_path))
    (tmp_path / "tickets.yaml").write_text("mine")
    monkeypatch.chdir(tmp_path)
    refused(augmill("init", "tickets.csv"), 2, ["tickets.yaml", "exists already", "--force"])
    assert (tmp_path / "tickets.yaml").read_text() == "mine"
    assert augmill("init", "tickets.csv", "--force").code == 0
    assert load_recipe(tmp_path / "tickets.yaml").columns.label == "queue"


@pytest.mark.parametrize(
    ("name", "content", "words", "code"),
    [
        ("noise.csv", os.urandom(3000), ["noise.csv"], (2, 3)),
        ("noise.parquet", os.urandom(3000), ["noise.parquet", "Parquet"], (3,)),
        ("noise.jsonl", b"not json\n" * 20, ["noise.jsonl"], (2, 3)),
        ("empty.csv", b"", ["empty.csv", "empty file"], (3,)),
        ("header.csv", b"body,queue\n", ["header.csv", "no row"], (3,)),
        ("one.csv", b"body\n" + b"some words here\n" * 30, ["one.csv", "column"], (2, 3)),
        ("photo.png", b"\x89PNG\r\n\x1a\n", ["photo.png", ".csv"], (2,)),
        (
            "numbers.csv",
            b"a,b\n" + b"".join(b"%d,%d\n" % (i, i * 7) for i in range(50)),
            ["numbers.csv", "column", "name it: --"],
            (2,),
        ),
    ],
)
def test_what_is_no_labelled_text_is_one_message_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, words: list[str], code: tuple[int, ...]
) -> None:
    (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    before = fingerprint(tmp_path)
    ended = augmill("init", name)
    assert ended.code in code
    refused(ended, ended.code, words)
    assert fingerprint(tmp_path) == before


def test_a_column_that_is_not_there_names_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "tickets.csv", rows(tmp_path))
    monkeypatch.chdir(tmp_path)
    refused(augmill("init", "tickets.csv", "--label", "Queu"), 2, ["tickets.csv", "did you mean 'queue'", "--label"])
    refused(augmill("init", "nothing.csv"), 2, ["nothing.csv"])
    refused(augmill("init", "tickets.csv", "--out", "no/where.yaml"), 2, ["no/where.yaml", "directory"])


def test_a_title_above_the_header_is_skipped_and_check_says_it_where_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "tickets.csv", rows(tmp_path))
    path.write_text(f"All tickets\n\n{path.read_text()}")
    monkeypatch.chdir(tmp_path)
    ended = augmill("init", "tickets.csv")
    assert ended.code == 0 and "the header seems to be on line 3" in ended.out
    recipe = load_recipe(tmp_path / "tickets.yaml")
    assert recipe.source.skip_lines == 2 and recipe.columns.sources == ("body",)
    checked = augmill("check", "tickets.yaml")
    assert checked.code == 0 and "120 rows read: 120 used, 0 refused" in checked.out
    text = (tmp_path / "tickets.yaml").read_text()
    (tmp_path / "other.yaml").write_text("\n".join(line for line in text.splitlines() if "skip_lines: 2" not in line))
    refused(augmill("check", "other.yaml"), 2, ["line 3", "source.skip_lines: 2"])
    refused(augmill("run", "other.yaml", "--orchestrator", "none"), 2, ["line 3", "source.skip_lines: 2"])


def test_a_first_line_that_is_a_row_is_said_by_init_and_by_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = write(tmp_path / "tickets.csv", rows(tmp_path)).read_text()
    (tmp_path / "bare.csv").write_text(text.split("\n", 1)[1])
    monkeypatch.chdir(tmp_path)
    bare = augmill("judge", "--real", "bare.csv", "--synthetic", "tickets.csv")
    refused(bare, 3, ["line 1 looks like a row", "give --text and --label"])
    refused(augmill("init", "bare.csv"), 3, ["line 1 looks like a row", "write a line of 3 names above it"])
    _, body, queue = text.split("\n")[1].split(",")
    ended = augmill("init", "bare.csv", "--text", body, "--label", queue)
    assert ended.code == 0
    assert "line 1 looks like a row" in " ".join(augmill("check", "bare.yaml").out.split())


def test_rows_that_cannot_be_read_are_named_with_their_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = write(tmp_path / "tickets.csv", rows(tmp_path)).read_text().splitlines()
    (tmp_path / "t.csv").write_text("\n".join([text[0], *(f"{line}," for line in text[1:])]))
    monkeypatch.chdir(tmp_path)
    for command in (["init", "t.csv"], ["judge", "--real", "t.csv", "--synthetic", "t.csv"]):
        refused(augmill(*command), 3, ["line 2", "ragged", "the last one empty", "end the header with one too"])
    (tmp_path / "chat.jsonl").write_text('{"messages": [{"role": "user", "content": "hello"}], "label": "a"}\n' * 9)
    refused(augmill("init", "chat.jsonl"), 3, ["messages", "holds chat messages", "jq -c"])


def test_what_is_not_there_is_said_in_words_for_who_has_no_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = augmill("init", "nofile.csv")
    refused(ended, 2, ["there is no 'nofile.csv'", "correct the path"])
    assert "source.path" not in ended.err
    (tmp_path / "tickets.csv").write_text("text,label\nhello,a\nworld,b\n")
    refused(augmill("init", "ticket.csv"), 2, ["did you mean 'tickets.csv'"])
    far = augmill("init", tmp_path / "zzz" / "x.csv")
    refused(far, 2, ["there is no 'zzz'", "nothing with a similar name"])
    assert "tickets.csv" not in far.err
    refused(augmill("init", "tickets.csv"), 3, ["too few rows (2)", "give more rows"])


def test_a_recipe_that_is_not_there_is_answered_by_the_nearest_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("bills.yaml", "orders.yaml", "tickets.yaml"):
        (tmp_path / name).touch()
    ended = augmill("check", "ticket.yaml")
    refused(ended, 2, ["did you mean 'tickets.yaml'?"])
    assert "bills.yaml" not in ended.err
    refused(augmill("check", "other-name.yml"), 2, ["recipes in that directory: bills.yaml, orders.yaml"])
