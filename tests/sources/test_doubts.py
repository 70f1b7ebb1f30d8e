"""A file that is not the table one expects is named for what it is, with what mends it; a sound one never is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import only, put, read

from augmill.tasks.errors import DataError, UserError
from augmill.tasks.rows.hashing import hash_json
from augmill.tasks.sources import SourceOptions, describe_file, doubt_file, list_files, read_schema, sample_rows
from augmill.tasks.sources.doubts import cut_rows, doubt_header, doubt_json, doubt_objects
from augmill.tasks.sources.magic import foreign
from augmill.tasks.store.stage import identity_of

PAGE = "<!DOCTYPE html>\n<html><head><title>Sign\x1b in</title></head>\n<body>a, b</body></html>\n"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
REFUSAL = '<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code><AWSAccessKeyId>AKIA1</AWSAccessKeyId></Error>\n'
PAIRS = [(f"some words of row {at} and a few more", ("pos", "neg")[at % 2]) for at in range(12)]
BODY = "".join(f"{text},{label}\n" for text, label in PAIRS)
OBJECTS: list[dict[str, Any]] = [{"text": text, "label": label} for text, label in PAIRS]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.parquet", "a.csv.gz"])
@pytest.mark.parametrize(
    ("content", "what", "fix"),
    [
        (PAGE, "an HTML page titled 'Sign in'", "download it again"),
        ("\ufeff" + PAGE, "an HTML page", "download it again"),
        (POINTER, "a Git LFS pointer", "git lfs pull"),
        (REFUSAL, "an object store's error answer (AccessDenied)", "may read it"),
        (b"%PDF-1.7\n%\xe2\xe3", "a PDF", "export"),
        (b"PK\x03\x04\x14\x00\x06\x00[Content_Types].xml" + bytes(200), "an Excel workbook", "CSV UTF-8"),
        (b"PK\x03\x04\x14\x00" + bytes(200), "a zip archive", "unpack"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(200), "an old Office file", "CSV UTF-8"),
        (b"BZh91AY&SY" + bytes(200), "a bzip2 file", "gzip or zstd"),
    ],
)
def test_a_file_under_a_wrong_name_is_named_for_what_it_is(
    tmp_path: Path, name: str, content: bytes | str, what: str, fix: str
) -> None:
    path = put(tmp_path / name, content)
    with pytest.raises(DataError) as caught:
        read(path)
    assert what in caught.value.problem and fix in caught.value.fix and "\x1b" not in caught.value.problem
    assert "AKIA1" not in str(caught.value)
    if name.endswith(".csv"):  # whoever sets an encoding is told the same
        with pytest.raises(DataError, match="expected text in rows, found a"):
            read(path, encoding="utf-8")


def test_a_file_whose_name_says_what_it_is_gets_no_advice_on_its_name(tmp_path: Path) -> None:
    put(tmp_path / "a.xlsx", b"PK\x03\x04\x14\x00\x06\x00[Content_Types].xml" + bytes(200))
    with pytest.raises(
        UserError, match=r"found an Excel workbook \(.xlsx\)\n  What to do: save its sheet as CSV UTF-8"
    ):
        list_files(SourceOptions(path=str(tmp_path / "a.xlsx")))


@pytest.mark.parametrize("mark", [";", ",", "|", "\t"])
@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16"])
def test_excels_first_line_names_the_delimiter_and_is_no_header(tmp_path: Path, mark: str, codec: str) -> None:
    rows = "".join(f'"a, b; c {at}"{mark}pos\r\n' for at in range(5))
    path = put(tmp_path / "a.csv", f"sep={mark}\r\ntext{mark}label\r\n{rows}".encode(codec))
    found = read(path)
    assert found.table.column_names == ["text", "label"] and found.table.num_rows == 5 and not found.refused
    assert found.locations[0] == "line 3"
    about = describe_file(*only(path))
    assert (about["delimiter"], about["delimiter_why"]) == (mark, "named in line 1")
    assert read(path, delimiter=mark).table == found.table


def test_lines_above_the_header_are_left_out_where_the_recipe_says_so(tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", f'Tickets, "all"\n\nof 2026-11-01\n\ntext,label\n{BODY}')
    found = read(path, skip_lines=4)
    assert found.table.column_names == ["text", "label"] and found.table.num_rows == len(PAIRS)
    assert found.locations[0] == "line 6"
    with pytest.raises(DataError, match="nothing after the lines of source"):
        read(path, skip_lines=900)


def test_an_option_of_a_source_that_came_later_changes_no_identity_where_it_is_not_given() -> None:
    options = SourceOptions(path="a.csv")
    assert "skip_lines" not in identity_of(options)
    # Of the source section as first released: what it hashes to must stay.
    assert hash_json(identity_of(options)) == hash_json(
        {
            "format": "auto", "delimiter": None, "quote": '"', "encoding": "auto", "compression": "auto", "bom": "strip",
            "nul": "strip", "hive": "auto", "max_cell_bytes": 1_000_000,
        }
    )  # fmt: skip
    assert identity_of(SourceOptions(path="a.csv", skip_lines=2))["skip_lines"] == 2


@pytest.mark.parametrize(
    ("above", "line"),
    [
        ("Ticket export\n\nExported on 2026-11-01\n\n", 5),
        ("Ticket export,\n,\nExported on,2026-11-01\n", 4),
        ("Ticket export\n", 2),
        ("Report;all\n", 2),
        ("\n\nTickets\n", 4),
    ],
)
@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_a_header_below_a_title_is_found(tmp_path: Path, above: str, line: int, mark: str) -> None:
    text = above.replace(",", mark) + f"text,label,{'when'}\n".replace(",", mark)
    text += "".join(f"{text}{mark}{label}{mark}2026-11-0{at % 9 + 1}\n" for at, (text, label) in enumerate(PAIRS))
    doubt = doubt_file(*only(put(tmp_path / "a.csv", text)))
    assert doubt is not None and doubt.skip == line - 1 and f"on line {line} (text, label, when)" in doubt.problem
    assert f"source.skip_lines: {line - 1}" in doubt.fix
    found = read(tmp_path / "a.csv", skip_lines=doubt.skip)
    assert found.table.column_names == ["text", "label", "when"] and found.table.num_rows == len(PAIRS)
    with pytest.raises(DataError, match=f"source.skip_lines: {line - 1}"):
        read(tmp_path / "a.csv", needed=("text",))


@pytest.mark.parametrize(
    "text",
    [
        BODY,
        "".join(f"{at},{text},{label}\n" for at, (text, label) in enumerate(PAIRS, 3)),
        "".join(
            f'"{at % 2 * 4}","{14678 + at}","Mon Apr 06","NO_QUERY","{text}"\n' for at, (text, _) in enumerate(PAIRS)
        ),
        "".join(f"{('ham', 'spam')[at % 2]}\t{text}\n" for at, (text, _) in enumerate(PAIRS)),
        "".join(f"{('ham', 'spam')[at % 2]}\t{text}\n" for at, (text, _) in enumerate(PAIRS, 1)),
    ],
)
def test_a_first_line_that_is_a_row_is_said(tmp_path: Path, text: str) -> None:
    file, options = only(put(tmp_path / "a.csv", text))
    doubt = doubt_file(file, options)
    assert doubt is not None and "line 1 looks like a row" in doubt.problem and not doubt.skip
    assert f"write a line of {len(read_schema(file, options))} names above it" in doubt.fix


_NAMES = st.sampled_from(
    ["text", "label", "v1", "Class Index", "id", "spam", "2019", "is_duplicate", "review", "a b c d e"]
)
_CELLS = st.one_of(
    st.sampled_from(["0", "1", "spam", "ham", "pos", "label", "2026-11-01", ""]),
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n\x00"), max_size=30),
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_sound_table_is_never_in_doubt(data: st.DataObject) -> None:
    header = [
        "text",
        *data.draw(st.lists(_NAMES.filter(lambda name: name != "text"), min_size=1, max_size=5, unique=True)),
    ]
    rows = data.draw(st.lists(st.lists(_CELLS, min_size=len(header), max_size=len(header)), min_size=3, max_size=30))
    rows = [["a text of its own", *row[1:]] if row[0].strip() == "text" else row for row in rows]
    assert doubt_header([[(at, row) for at, row in enumerate([header, *rows], 1)]], 0) is None


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.dictionaries(st.text(max_size=5), st.one_of(st.text(), st.integers(), st.none()), min_size=1), min_size=2
    )
)
def test_lines_of_plain_objects_are_never_in_doubt(rows: list[dict[str, Any]]) -> None:
    assert doubt_json("\n".join(map(json.dumps, rows))) is None
    assert doubt_objects(rows) is None


def test_names_that_pandas_gives_are_names(tmp_path: Path) -> None:
    for header in ("0,1", ",0,1", "1,2"):
        rows = "".join(f"{'7,' * (len(header) == 4)}{text},{at % 2}\n" for at, (text, _) in enumerate(PAIRS))
        assert doubt_file(*only(put(tmp_path / "a.csv", f"{header}\n{rows}"))) is None, header


def test_rows_with_a_delimiter_more_than_the_header_say_so(tmp_path: Path) -> None:
    found = read(put(tmp_path / "a.csv", "text,label\n" + BODY.replace("\n", ",\n")))
    assert found.refused[0].detail == "expected 2 cells, found 3, the last one empty"
    both = read(put(tmp_path / "b.csv", "text,label,\n" + BODY.replace("\n", ",\n")))
    assert both.table.column_names == ["text", "label", "column_3"] and both.table.num_rows == len(PAIRS)


CHAT = [
    {"messages": [{"role": "user", "content": t}, {"role": "assistant", "content": said}], "label": said}
    for t, said in PAIRS
]
SHARE = [
    {"conversations": [{"from": "human", "value": t}, {"from": "gpt", "value": said}], "label": said}
    for t, said in PAIRS
]
NESTED = [{"user": {"id": at}, "body": {"text": t, "a key": "x"}, "label": said} for at, (t, said) in enumerate(PAIRS)]


@pytest.mark.parametrize(
    ("content", "problem", "column"),
    [
        (json.dumps(OBJECTS), "found a JSON array", "text"),
        (json.dumps(OBJECTS, indent=2), "found a JSON array", "text"),
        ("\n".join(json.dumps(row, indent=2) for row in OBJECTS), "objects over several lines", "text"),
        (json.dumps({"data": OBJECTS}), "under 'data'", "text"),
        (json.dumps({"total": 12, "my rows": OBJECTS, "next": None}, indent=1), "under 'my rows'", "text"),
        (json.dumps({f"id{at}": row for at, row in enumerate(OBJECTS)}), "under their ids", "text"),
        ("\n".join(map(json.dumps, CHAT)), "holds chat messages", "text"),
        ("\n".join(map(json.dumps, SHARE)), "holds chat messages", "text"),
        ("\n".join(map(json.dumps, NESTED)), "holds objects", "body_text"),
    ],
)
def test_json_of_another_shape_is_named_and_the_advice_makes_rows_of_it(
    tmp_path: Path, content: str, problem: str, column: str
) -> None:
    file, options = only(put(tmp_path / "a.json", content + "\n"))
    try:
        doubt = doubt_file(file, options)
        assert doubt is not None
    except DataError as error:  # an array is none of JSON Lines whatever one asks
        doubt = error  # type: ignore[assignment]
    assert problem in doubt.problem
    command = doubt.fix[doubt.fix.index("jq -c") :].replace("FILE", str(tmp_path / "a.json"))
    if shutil.which("jq") is None:
        pytest.skip("jq is not here")
    subprocess.run(command, shell=True, check=True, cwd=tmp_path, timeout=30)  # as a user takes the advice
    rows = sample_rows(*only(tmp_path / "rows.jsonl"), 100)
    assert [row[column] for row in rows] == [text for text, _ in PAIRS]
    assert [row["label"] for row in rows] == [label for _, label in PAIRS]


def test_an_object_of_whole_columns_is_named(tmp_path: Path) -> None:
    columns = {"text": [text for text, _ in PAIRS], "label": [label for _, label in PAIRS]}
    by_row = {name: {str(at): value for at, value in enumerate(values)} for name, values in columns.items()}
    for content in (columns, by_row):
        doubt = doubt_file(*only(put(tmp_path / "a.json", json.dumps(content))))
        assert doubt is not None and "whole columns" in doubt.problem and "pandas.read_json" in doubt.fix


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_whatever_the_bytes_nothing_breaks(noise: bytes) -> None:
    foreign(noise)
    text = noise.decode("latin-1")
    doubt_json(text)
    doubt_header([cut_rows(text.splitlines(keepends=True), 1, {"delimiter": ","})], 0)
    foreign(os.urandom(3) + noise)
