"""CSV: what is written comes back; a bad row costs itself alone and is named; a bad file is refused."""

from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading import put, read

from augmill.tasks.errors import DataError
from augmill.tasks.sources import SourceOptions, delimited, lines
from augmill.tasks.sources.delimited import guess_delimiter

TEXTS = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(",;\t|\"'\r\n\x00\ufeff\u2028é中")))


def written(rows: list[list[str]], **how: str) -> str:
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL, **how).writerows(rows)  # type: ignore[arg-type]
    return out.getvalue()


@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=8), st.sampled_from([",", "\t", ";", "|"]))
def test_cells_come_back_as_written_and_empty_ones_as_null(rows: list[tuple[str, str]], delimiter: str) -> None:
    content = written([["text", "label"], *map(list, rows)], delimiter=delimiter)
    with tempfile.TemporaryDirectory() as folder:
        path = put(Path(folder) / "a.csv", content)
        got = read(path, delimiter=delimiter, encoding="utf-8", bom="keep")
    expected = [tuple(cell.replace("\x00", "") or None for cell in row) for row in rows]
    assert list(zip(*got.table.to_pydict().values(), strict=True)) == expected
    assert got.refused == []


def test_a_ragged_row_is_refused_with_its_line_and_the_others_are_kept(tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", 'text,label\na,1\nb\n"c\nd",2\ne,3,4\nf,5\n')
    got = read(path)
    assert got.table.to_pydict() == {"text": ["a", "c\nd", "f"], "label": ["1", "2", "5"]}
    assert got.locations == ["line 2", "line 4", "line 7"]
    assert got.reasons == [("line 3", "ragged"), ("line 6", "ragged")]
    assert got.refused[0].detail == "expected 2 cells, found 1"


@pytest.mark.parametrize("stray", ['b,"oops', '"b"x,2', '"oops,2'])
def test_a_stray_quote_costs_its_own_line_only(tmp_path: Path, stray: str) -> None:
    got = read(put(tmp_path / "a.csv", f'text,label\na,1\n{stray}\n"c, d",3\ne,4\n'))
    assert got.table["text"].to_pylist() == ["a", "c, d", "e"]
    assert got.reasons == [("line 3", "bad_quoting")]
    assert got.locations == ["line 2", "line 4", "line 5"]


def test_a_quote_never_closed_does_not_swallow_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "RECORD_LIMIT", 1000)
    rows = "".join(f"row {index},{index}\n" for index in range(2000))
    got = read(put(tmp_path / "a.csv", f'text,label\nx,"oops\n{rows}'))
    assert got.table.num_rows == 2000
    assert got.reasons == [("line 2", "bad_quoting")]


def test_a_file_of_stray_quotes_ends_with_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "REPLAY_LIMIT", 5_000)
    path = put(tmp_path / "a.csv", "text,label\n" + 'x,"oops\n' * 1001)
    with pytest.raises(DataError, match="open a quote and never close it"):
        read(path)


def test_a_line_that_is_no_text_is_refused_alone(tmp_path: Path) -> None:
    got = read(put(tmp_path / "a.csv", b"text,label\n\xc3\xa9,1\nb\xff,2\nc,3\n"), encoding="utf-8")
    assert got.table["text"].to_pylist() == ["é", "c"]
    assert got.reasons == [("line 3", "invalid_encoding")]
    assert "0xff" in got.refused[0].detail


def test_nul_and_stray_bom_are_stripped_and_counted_or_refused_as_asked(tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", "\ufefftext,label\na\x00b,1\nc\ufeffd,2\ne,3\n")
    got = read(path)
    assert got.table.to_pydict() == {"text": ["ab", "cd", "e"], "label": ["1", "2", "3"]}
    assert got.repaired == {"bom": 1, "nul": 1}
    strict = read(path, nul="refuse_row", bom="refuse")
    assert strict.reasons == [("line 2", "nul"), ("line 3", "bom")]
    assert read(path, bom="keep").table["text"].to_pylist() == ["ab", "c\ufeffd", "e"]


def test_a_cell_over_the_limit_is_refused_in_bytes_not_characters(tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", f"text,label\n{'é' * 50},1\n{'é' * 51},2\n{'e' * 100},3\n")
    got = read(path, max_cell_bytes=100)
    assert got.table["label"].to_pylist() == ["1", "3"]
    assert got.reasons == [("line 3", "cell_too_long")]


def test_a_line_too_long_to_hold_is_refused_and_reading_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "LINE_LIMIT", 1000)
    got = read(put(tmp_path / "a.csv", f"text,label\na,1\n{'x' * 5000},2\nb,3\n"))
    assert got.table["text"].to_pylist() == ["a", "b"]
    assert (got.reasons, got.locations) == ([("line 3", "cell_too_long")], ["line 2", "line 4"])
    monkeypatch.setattr(lines, "FILE_LIMIT", 3000)
    with pytest.raises(DataError, match="longer than 3,000 characters"):
        read(tmp_path / "a.csv")


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_the_delimiter_is_found(delimiter: str) -> None:
    rows = [f"a, b{delimiter}1\n".replace(", ", ", " if delimiter != "," else " "), f"c{delimiter}2\n"]
    assert guess_delimiter([f"text{delimiter}label\n", *rows], SourceOptions(path="-")) == delimiter


def test_a_wrong_delimiter_is_named_with_the_right_one(tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", "text;label\na;1\n")
    with pytest.raises(DataError, match=r"set source\.delimiter to ';'"):
        read(path, needed=("text",), delimiter=",")


def test_a_missing_column_is_answered_with_the_nearest(tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", "text,label\na,1\n")
    with pytest.raises(DataError, match="no column 'lable'; did you mean 'label'"):
        read(path, needed=("text", "lable"))


@pytest.mark.parametrize(("content", "message"), [("a,b,a\n1,2,3\n", "'a' appears twice"), ("\n\n", "empty file")])
def test_a_header_that_names_no_columns_is_refused(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(put(tmp_path / "a.csv", content))


def test_a_header_without_rows_gives_an_empty_table_with_its_columns(tmp_path: Path) -> None:
    got = read(put(tmp_path / "a.csv", "text,label\n"))
    assert (got.table.num_rows, got.table.column_names) == (0, ["text", "label"])


def test_batches_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path / "a.csv", "text,label\n" + "".join(f"row {i},{i % 3}\nbad\n" for i in range(50)))
    whole = read(path)
    monkeypatch.setattr(delimited, "BATCH_ROWS", 7)
    parts = read(path)
    assert parts.table.equals(whole.table)
    assert (parts.locations, parts.refused) == (whole.locations, whole.refused)


def test_quotes_may_be_plain_text(tmp_path: Path) -> None:
    got = read(put(tmp_path / "a.tsv", 'text\tlabel\n"so" he said\t1\n"\t2\n'), quote="none")
    assert got.table["text"].to_pylist() == ['"so" he said', '"']


def test_ten_thousand_columns_are_read(tmp_path: Path) -> None:
    names = ",".join(f"c{index}" for index in range(10_000))
    got = read(put(tmp_path / "a.csv", f"{names}\n" + (("v," * 9_999) + "v\n") * 3), ["c9999", "c0"])
    assert got.table.to_pydict() == {"c9999": ["v"] * 3, "c0": ["v"] * 3}
