"""Columns of dialogues as they are read: from JSON Lines and Parquet the same turns, the assistant's last one apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from augmill.tasks.rows.kinds.dialogue import TURNS
from augmill.tasks.sources import SourceOptions, list_files, read_batches, read_schema, scan_schema

USER, REPLY = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}
ROWS: list[dict[str, Any]] = [
    {"id": "a", "messages": [USER, REPLY]},
    {"id": "b", "messages": [USER, REPLY, USER]},  # nothing to learn: the problem refuses it
    {"id": "c", "messages": None},
    {"id": "d", "messages": [USER, REPLY, USER, {"role": "assistant", "content": "you again"}]},
]


def written(path: Path, rows: list[dict[str, Any]]) -> SourceOptions:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return SourceOptions(path=str(path), dialogue="messages")


def read(options: SourceOptions, columns: list[str] | None = None) -> pa.Table:
    files = list_files(options)
    schema = scan_schema(files, options)
    parts = [each.table for file in files for each in read_batches(file, options, columns, schema=schema)]
    return pa.concat_tables(parts)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_the_assistants_last_turn_stands_apart(tmp_path: Path, name: str) -> None:
    options = written(tmp_path / name, ROWS)
    assert read_schema(list_files(options)[0], options) == ["id", "messages", "reply"]
    table = read(options)
    assert table.schema.types == [pa.string(), TURNS, pa.string()]
    assert table["reply"].to_pylist() == ["yo", None, None, "you again"]
    assert table["messages"].to_pylist() == [[USER], [USER, REPLY, USER], None, [USER, REPLY, USER]]


@pytest.mark.parametrize("columns", [["reply"], ["messages"], ["reply", "id"]])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_some_columns_are_those_of_all(tmp_path: Path, name: str, columns: list[str]) -> None:
    options = written(tmp_path / name, ROWS)
    assert read(options, columns).equals(read(options).select(columns))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_a_source_with_replies_of_its_own_keeps_dialogues_whole(tmp_path: Path, name: str) -> None:
    options = written(tmp_path / name, [row | {"reply": "own"} for row in ROWS])
    table = read(options)
    assert set(table["reply"].to_pylist()) == {"own"} and table["messages"][0].as_py() == [USER, REPLY]


def test_other_sources_are_read_as_ever(tmp_path: Path) -> None:
    options = written(tmp_path / "rows.jsonl", [{"text": "a"}])
    assert read(options).to_pylist() == [{"text": "a"}]
