"""Parquet: types are the file's; damage is named; text is checked although the format promises it."""

from __future__ import annotations

import datetime
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading import put, read

from augmill.tasks.errors import DataError
from augmill.tasks.sources import SourceOptions, columnar, list_files, read_batches, scan_schema


def stored(path: Path, table: pa.Table) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


@given(st.lists(st.tuples(st.text(), st.integers(-(2**31), 2**31 - 1), st.booleans(), st.dates()), max_size=8))
def test_tables_come_back_in_their_own_types(rows: list[tuple[str, int, bool, datetime.date]]) -> None:
    schema = pa.schema([("text", pa.string()), ("label", pa.int32()), ("ok", pa.bool_()), ("day", pa.date32())])
    table = pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema)
    table = table.set_column(0, "text", pa.array([row[0].replace("\x00", "") for row in rows], pa.string()))
    with tempfile.TemporaryDirectory() as folder:
        got = read(stored(Path(folder) / "a.parquet", table), bom="keep")
    assert got.table.equals(table)
    assert got.locations == [f"row {index + 1}" for index in range(len(rows))]


def test_encodings_of_strings_do_not_show(tmp_path: Path) -> None:
    texts = pa.array(["a", None, "a"])
    table = pa.table(
        {"d": texts.dictionary_encode(), "l": texts.cast(pa.large_string()), "n": pa.array([[1], [], None])}
    )
    got = read(stored(tmp_path / "a.parquet", table)).table
    assert got.schema.field("d").type == got.schema.field("l").type == pa.string()
    assert got.to_pydict() == {"d": ["a", None, "a"], "l": ["a", None, "a"], "n": [[1], [], None]}


def test_bad_text_is_refused_or_mended_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = pa.array([b"a", b"b\xff", b"c\x00", b"d\xef\xbb\xbf", b"e" * 11, b"f"], pa.binary())
    texts = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())
    path = stored(tmp_path / "a.parquet", pa.table({"text": texts, "label": range(6)}))
    monkeypatch.setattr(columnar, "BATCH_ROWS", 2)
    got = read(path, max_cell_bytes=10)
    assert got.table["text"].to_pylist() == ["a", "c", "d", "f"]
    assert got.table["label"].to_pylist() == [0, 2, 3, 5]
    assert got.reasons == [("row 2", "invalid_encoding"), ("row 5", "cell_too_long")]
    assert got.repaired == {"bom": 1, "nul": 1}
    assert got.locations == ["row 1", "row 3", "row 4", "row 6"]


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_cut_file_is_refused_by_name(tmp_path: Path, keep: float) -> None:
    whole = stored(tmp_path / "a.parquet", pa.table({"text": ["a"] * 1000})).read_bytes()
    put(tmp_path / "a.parquet", whole[: int(len(whole) * keep) or 3])
    with pytest.raises(DataError, match=r"a\.parquet: expected a whole Parquet file"):
        read(tmp_path / "a.parquet")


def test_a_damaged_page_is_refused_by_name(tmp_path: Path) -> None:
    texts = [f"text number {index}" for index in range(5000)]
    whole = bytearray(stored(tmp_path / "a.parquet", pa.table({"text": texts})).read_bytes())
    whole[100 : len(whole) // 2] = b"\xff" * (len(whole) // 2 - 100)
    with pytest.raises(DataError, match="found a damaged or cut one"):
        read(put(tmp_path / "a.parquet", bytes(whole)))


def test_types_widen_over_files_and_a_retyped_column_is_named(tmp_path: Path) -> None:
    stored(tmp_path / "a.parquet", pa.table({"x": pa.array([1], pa.int32()), "y": pa.array([None], pa.null())}))
    stored(tmp_path / "b.parquet", pa.table({"x": pa.array([2**40], pa.int64()), "y": ["s"]}))
    options = SourceOptions(path=str(tmp_path))
    files = list_files(options)
    schema = scan_schema(files, options)
    assert schema == pa.schema([("x", pa.int64()), ("y", pa.string())])
    tables = [batch.table for file in files for batch in read_batches(file, options, schema=schema)]
    assert pa.concat_tables(tables).to_pydict() == {"x": [1, 2**40], "y": [None, "s"]}
    stored(tmp_path / "c.parquet", pa.table({"x": ["s"]}))
    with pytest.raises(DataError, match=r"c\.parquet.*type of a column \(x\)"):
        scan_schema(list_files(options), options)


def test_a_file_that_lacks_a_needed_column_is_refused_another_is_filled_with_null(tmp_path: Path) -> None:
    stored(tmp_path / "a.parquet", pa.table({"text": ["a"], "extra": [1]}))
    stored(tmp_path / "b.parquet", pa.table({"text": ["b"]}))
    options = SourceOptions(path=str(tmp_path))
    files = list_files(options)
    schema = scan_schema(files, options)
    (batch,) = read_batches(files[1], options, schema=schema, needed=["text"])
    assert batch.table.to_pydict() == {"text": ["b"], "extra": [None]}
    with pytest.raises(DataError, match=r"b\.parquet: there is no column 'extra'"):
        next(read_batches(files[1], options, schema=schema, needed=["extra"]))
