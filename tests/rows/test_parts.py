"""Rows that are not held at once come in parts, and in another order, as they would all at once."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from augmill.tasks.rows import parts
from augmill.tasks.rows.parts import in_order, read_parts

KINDS = pa.schema([("text", pa.string()), ("list", pa.list_(pa.string())), ("file", pa.binary()), ("at", pa.int64())])
ROWS = st.lists(st.tuples(st.text(max_size=3) | st.none(), st.lists(st.text(max_size=2)) | st.none()), max_size=60)


def table_of(rows: list[tuple[Any, Any]]) -> pa.Table:
    found = [
        {"text": text, "list": of, "file": (text or "").encode("utf-8", "replace"), "at": at}
        for at, (text, of) in enumerate(rows)
    ]
    return pa.Table.from_pylist(found, KINDS)


@given(rows=ROWS, order=st.randoms(use_true_random=False), most=st.integers(1, 70), cuts=st.lists(st.integers(1, 20)))
def test_rows_brought_into_an_order_are_those_of_a_plain_take(
    rows: list[tuple[Any, Any]], order: Any, most: int, cuts: list[int]
) -> None:
    table = table_of(rows)
    moves = np.array(order.sample(range(len(rows)), len(rows)), np.int64)
    places = np.empty_like(moves)
    places[moves] = np.arange(len(moves))
    ends = [0, *(end for end in np.cumsum(cuts).tolist() if end < len(rows)), len(rows)]
    pieces = (table.slice(start, end - start) for start, end in pairwise(ends))
    found = list(in_order(pieces, places, most))
    assert pa.concat_tables([table.slice(0, 0), *found]).equals(table.take(pa.array(moves)))
    assert all(0 < part.num_rows <= max(most, 1) for part in found)


def test_no_more_files_are_open_than_many_systems_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few rows are held at once."""
    monkeypatch.setattr(parts, "FILES", 5)
    opened = list[IO[bytes]]()
    make = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **how: opened.append(make(**how)) or opened[-1])
    table = table_of([(str(at), None) for at in range(23)])
    found = pa.concat_tables(in_order([table], np.arange(22, -1, -1), 1))
    assert found["at"].to_pylist() == [*range(22, -1, -1)]
    assert len(opened) <= 5 and all(file.closed for file in opened)


def test_parts_of_a_file_are_its_rows_with_the_columns_in_the_order_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PART_ROWS", 7)
    table = table_of([(str(at), [str(at)]) for at in range(20)])
    pq.write_table(table, tmp_path / "rows", row_group_size=9)
    found = list(read_parts(tmp_path / "rows", ["at", "text"]))
    assert max(part.num_rows for part in found) <= 7
    assert pa.concat_tables(found).equals(table.select(["at", "text"]))
