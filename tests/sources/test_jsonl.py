"""JSON Lines: types are the source's, never a batch's; a bad line costs itself alone."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading import put, read

from augmill.tasks.errors import DataError
from augmill.tasks.sources import SourceOptions, jsonl, list_files, read_batches, scan_schema

TEXTS = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from('"\\\r\n\u2028é中😀')))
CLEAN = TEXTS.filter(lambda text: "\x00" not in text)


def dumped(rows: list[Any], ascii_only: bool = False) -> str:
    return "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows)


@given(
    st.lists(st.tuples(CLEAN, st.integers(-(2**63), 2**63 - 1), st.booleans() | st.none()), min_size=1, max_size=8),
    st.booleans(),
)
def test_values_come_back_in_their_own_types(rows: list[tuple[str, int, bool | None]], ascii_only: bool) -> None:
    objects = [dict(zip(("text", "label", "flag"), row, strict=True)) for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        got = read(put(Path(folder) / "a.jsonl", dumped(objects, ascii_only)), encoding="utf-8", bom="keep")
    assert got.table.to_pylist() == objects
    assert got.table.schema.field("label").type == pa.int64()


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, 2.5, None], pa.float64(), [1.0, 2.5, None]),
        ([1, "a", True], pa.string(), ["1", "a", "true"]),
        ([2**53 + 1, 0.5], pa.string(), [str(2**53 + 1), "0.5"]),
        ([2**63, 1], pa.string(), [str(2**63), "1"]),
        ([True, 1], pa.string(), ["true", "1"]),
        ([None, None], pa.null(), [None, None]),
        ([["a"], {"b": 1}, None], pa.string(), ['["a"]', '{"b": 1}', None]),
    ],
)
def test_mixed_columns_widen_without_rounding(
    tmp_path: Path, values: list[Any], kind: Any, expected: list[Any]
) -> None:
    got = read(put(tmp_path / "a.jsonl", dumped([{"x": value} for value in values])))
    assert got.table.schema.field("x").type == kind
    assert got.table["x"].to_pylist() == expected
    assert got.refused == []


def test_types_do_not_depend_on_batches_or_on_which_file_came_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "a.jsonl", dumped([{"x": index} for index in range(20)] + [{"x": 0.5}]))
    put(tmp_path / "b.jsonl", dumped([{"x": "s", "y": 1}]))
    options = SourceOptions(path=str(tmp_path))
    files = list_files(options)
    schema = scan_schema(files, options)
    assert schema == pa.schema([("x", pa.string()), ("y", pa.int64())])
    assert scan_schema(files[:1], options).field("x").type == pa.float64()
    whole = [batch.table for batch in read_batches(files[0], options, schema=schema)]
    monkeypatch.setattr(jsonl, "BATCH_ROWS", 3)
    parts = [batch.table for batch in read_batches(files[0], options, schema=schema)]
    assert len(parts) == 7
    assert pa.concat_tables(parts).combine_chunks().equals(pa.concat_tables(whole).combine_chunks())
    assert parts[0].column_names == ["x", "y"]


def test_bad_lines_are_refused_with_their_numbers(tmp_path: Path) -> None:
    good = '{"text": "a", "label": 1}\n'
    bad = '{"text": \n\n[1]\n{"text": NaN}\n{"text": "\\ud800"}\n{"text": ["n"], "label": 2}\n{"text": }\n'
    content = good.encode() * 2 + bad.encode() + b'{"text": "\xff"}\n' + b"[" * 200_000 + b"\n" + good.encode()
    got = read(put(tmp_path / "a.jsonl", content), encoding="utf-8")
    assert got.locations == ["line 1", "line 2", "line 12"]
    assert got.reasons == [
        ("line 3", "bad_json"),
        ("line 5", "not_an_object"),
        ("line 6", "bad_json"),
        ("line 7", "invalid_encoding"),
        ("line 8", "nested_value"),
        ("line 9", "bad_json"),
        ("line 10", "invalid_encoding"),
        ("line 11", "bad_json"),
    ]
    assert got.table["label"].to_pylist() == [1, 1, 1]


def test_a_value_that_no_longer_fits_the_scanned_type_is_refused_not_rounded(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", dumped([{"x": 1}, {"x": 1.5}, {"x": True}, {"x": 2}]))
    options = SourceOptions(path=str(path))
    (batch,) = read_batches(list_files(options)[0], options, schema=pa.schema([("x", pa.int64())]))
    assert batch.table["x"].to_pylist() == [1, 2]
    assert [(row.location, row.reason) for row in batch.refused] == [("line 2", "wrong_type"), ("line 3", "wrong_type")]


@pytest.mark.parametrize("mark", ["\x00", "\ufeff", "\\u0000", "\\ufeff"])
def test_nul_and_stray_bom_are_handled_raw_and_escaped(tmp_path: Path, mark: str) -> None:
    path = put(tmp_path / "a.jsonl", f'\ufeff{{"text": "a{mark}b"}}\n\ufeff{{"text": "c"}}\n')
    got = read(path)
    assert got.table["text"].to_pylist() == ["ab", "c"]
    assert got.repaired == {"nul" if "0" in mark or mark == "\x00" else "bom": 1}
    assert [row.reason for row in read(path, nul="refuse_row").refused] == (["nul"] if got.repaired.get("nul") else [])


def test_long_cells_are_refused_plain_and_nested(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", dumped([{"x": "y" * 101}, {"x": "y" * 100}]))
    assert read(path, max_cell_bytes=100).reasons == [("line 1", "cell_too_long")]
    path = put(tmp_path / "b.jsonl", dumped([{"x": ["y" * 60, "y" * 60]}, {"x": ["y"]}]))
    assert read(path, max_cell_bytes=100).reasons == [("line 1", "cell_too_long")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"text": "a"}]', "found a JSON array"),
        ("[\n{}\n]\n", "found a JSON array"),
        ('{\n"text": "a"\n}\n', "found objects over several lines"),
        ("\n\n", "only blank lines"),
        ("".join(f'{{"k{i}": 1}}\n' for i in range(300)), "more than 200 different keys"),
    ],
)
def test_a_file_that_is_no_json_lines_says_so(
    tmp_path: Path, content: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl, "MAX_KEYS", 200)
    with pytest.raises(DataError, match=message):
        read(put(tmp_path / "a.jsonl", content))


def test_a_column_that_no_row_has_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="did you mean 'label'"):
        read(put(tmp_path / "a.jsonl", dumped([{"text": "a", "label": 1}])), needed=("labels",))
