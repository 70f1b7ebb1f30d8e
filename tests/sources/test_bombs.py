"""A small file that would be vast, or lies: refused, rows or file, before memory is taken; what is merely odd is read."""

from __future__ import annotations

import gzip
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzz_bombs import BIG, BOMBS, MANY, bomb
from hypothesis import given
from hypothesis import strategies as st
from reading import put, read

from augmill.tasks.boundary import parquet
from augmill.tasks.errors import DataError
from augmill.tasks.sources import batching, jsonl

READS = {"10,000 columns": 9, "much metadata": MANY, "many row groups": MANY, "dictionary past the limit": 0}
READS |= {"one page of 100 MB": 0, "dictionary in lists": MANY - 1}
REFUSED = {"dictionary past the limit": MANY, "one page of 100 MB": 1, "dictionary in lists": 1}
READ = """
import resource, sys
from augmill.tasks.errors import DataError
from augmill.tasks.sources import SourceOptions, list_files, read_batches, scan_schema
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = refused = 0
said = ""
try:
    options = SourceOptions(path=sys.argv[1])
    (file,) = list_files(options)
    for batch in read_batches(file, options, schema=scan_schema([file], options)):
        rows, refused = rows + batch.table.num_rows, refused + len(batch.refused)
except DataError as error:
    said = str(error)
used = resource.getrusage(resource.RUSAGE_SELF)
print([rows, refused, said, used.ru_maxrss - before, used.ru_utime + used.ru_stime])
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_or_a_lie_ends_in_a_refusal_within_memory(tmp_path: Path, name: str) -> None:
    path = put(tmp_path / "a.parquet", bomb(name))
    ended = subprocess.run(
        [sys.executable, "-c", READ, str(path)], capture_output=True, text=True, timeout=120, check=True
    )
    rows, refused, said, kilobytes, seconds = eval(ended.stdout)
    assert kilobytes < 400_000 and seconds < 30
    if name in READS:
        assert rows == READS[name] and not said
        assert refused == {"dictionary past the limit": MANY, "one page of 100 MB": 1, "dictionary in lists": 1}.get(
            name, 0
        )
    else:
        assert "a.parquet" in said and "What to do" in said


def test_a_cell_past_the_limit_is_refused_before_it_is_repeated(tmp_path: Path) -> None:
    indices = pa.array([0, 1, 0, 1, None], pa.int32())
    texts = pa.DictionaryArray.from_arrays(indices, pa.array(["short", "x" * 11]))
    pq.write_table(pa.table({"text": texts, "label": range(5)}), tmp_path / "a.parquet")
    got = read(tmp_path / "a.parquet", max_cell_bytes=10)
    assert got.table.to_pydict() == {"text": ["short", "short", None], "label": [0, 2, 4]}
    assert got.reasons == [("row 2", "cell_too_long"), ("row 4", "cell_too_long")]
    assert got.locations == ["row 1", "row 3", "row 5"]


def test_batches_are_cut_by_decoded_bytes(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"text": pa.DictionaryArray.from_arrays(pa.array([0] * 100, pa.int32()), pa.array(["x" * BIG]))}),
        tmp_path / "a.parquet",
    )
    with (tmp_path / "a.parquet").open("rb") as stream:
        tables = list(parquet.read_tables(stream, "a", ["text"]))
    assert sum(table.nbytes for table, _ in tables) < 2 * BIG  # as stored: once
    got = read(tmp_path / "a.parquet").table
    assert got.num_rows == 100 and max(map(len, got["text"].chunks)) * BIG <= batching.BATCH_CHARACTERS


CELLS = st.one_of(st.none(), st.text(max_size=5))
NESTED = [pa.list_(pa.string()), pa.large_list(pa.string()), pa.list_(pa.string(), 2), pa.list_view(pa.string())]


@given(st.lists(st.tuples(CELLS, st.tuples(CELLS, CELLS), st.integers(0, 9)), max_size=20), st.integers(0, 20))
def test_sizes_are_those_of_the_values_whatever_holds_them(
    rows: list[tuple[str | None, tuple[str | None, str | None], int]], start: int
) -> None:
    texts = [row[0] for row in rows]
    expected = [len((text or "").encode()) for text in texts][start:]
    kinds = (pa.string(), pa.large_string(), pa.binary(), pa.string_view(), pa.dictionary(pa.int8(), pa.string()))
    for kind in kinds:
        assert parquet.decoded_bytes(pa.array(texts, pa.string()).cast(kind).slice(start)).tolist() == expected
    pairs = [list(row[1]) for row in rows]
    expected = [sum(len((text or "").encode()) for text in pair) for pair in pairs][start:]
    for kind in NESTED:
        assert parquet.decoded_bytes(pa.array(pairs, kind).slice(start)).tolist() == expected
    structs = pa.array(
        [{"a": one, "b": other, "c": 1} for one, other in pairs], pa.struct({"a": "string", "b": "string"})
    )
    assert parquet.decoded_bytes(structs.slice(start)).tolist() == expected
    maps = pa.array([[("k", one)] for one, _ in pairs], pa.map_(pa.string(), pa.string())).slice(start)
    assert parquet.decoded_bytes(maps).tolist() == [1 + len((one or "").encode()) for one, _ in pairs][start:]


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "brotli", "zstd", "lz4"])
@pytest.mark.parametrize("encoding", ["PLAIN", "DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY", "dictionary"])
def test_every_encoding_and_codec_is_measured_and_read(tmp_path: Path, encoding: str, codec: str, version: str) -> None:
    texts = [None if at % 7 == 0 else f"order {at // 3} of {'x' * (at % 50)}" for at in range(3_000)]
    table = pa.table(
        {"text": texts, "more": [[text, "b"] for text in texts], "fixed": pa.array([b"abc"] * 3_000, pa.binary(3))}
    )
    coded = {} if encoding == "dictionary" else dict.fromkeys(("text", "more.list.element"), encoding)
    pq.write_table(
        table,
        tmp_path / "a.parquet",
        compression=codec,
        data_page_version=version,
        data_page_size=5_000,
        row_group_size=1_100,
        use_dictionary=not coded,
        column_encoding=coded or None,
    )
    assert read(tmp_path / "a.parquet").table.to_pydict() == table.to_pydict()
    with (tmp_path / "a.parquet").open("rb") as stream:
        measured = parquet.measure(
            stream, pq.ParquetFile(tmp_path / "a.parquet"), 0, {"text"}, parquet.Unpacked("a", 9**9)
        )
    assert [chunk.values for chunk in measured] == [1_100]
    if encoding == "DELTA_BYTE_ARRAY":
        assert measured[0].pages >= sum(len(text or "") for text in texts[:1_100])


def test_parts_that_are_lists_or_views_come_without_their_encoding(tmp_path: Path) -> None:
    texts = pa.array(["a", "b", "a"])
    table = pa.table(
        {
            "views": pa.array([["a"], ["b"], None], pa.list_(pa.string_view())),
            "codes": pa.StructArray.from_arrays([texts.dictionary_encode()], ["a"]),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    got = read(tmp_path / "a.parquet").table
    assert got.schema.types == [pa.list_(pa.string()), pa.struct({"a": pa.string()})]
    assert got.to_pydict() == {"views": [["a"], ["b"], None], "codes": [{"a": "a"}, {"a": "b"}, {"a": "a"}]}


@pytest.mark.parametrize("name", ["rows.csv.gz", "rows.jsonl.gz"])
def test_packed_text_may_not_unpack_to_more_than_its_size_allows(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "UNPACKED", 1_000_000)
    row = b'{"text": "a", "label": "b"}\n' if "jsonl" in name else b"a,b\n"
    put(tmp_path / name, gzip.compress(b"text,label\n" * ("csv" in name) + row * 1_000))
    assert read(tmp_path / name).table.num_rows == 1_000
    put(tmp_path / name, gzip.compress(b"text,label\n" * ("csv" in name) + row * 1_000_000, 9))
    with pytest.raises(DataError, match=r"unpacks to more than .*decompression bomb"):
        read(tmp_path / name)


@pytest.mark.parametrize("name", ["rows.csv.gz", "rows.jsonl.gz"])
def test_a_file_of_refused_rows_is_given_up(tmp_path: Path, name: str) -> None:
    """Kilobytes that unpack to 3.4 million bad lines took over ten seconds, and half a gigabyte for their places."""
    head = b'{"text": "a", "label": "b"}\n' if "jsonl" in name else b"text,label\na,b\n"
    path = put(tmp_path / name, gzip.compress(head + b"x\n" * 3_400_000))
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(DataError, match=r"of the first 2\d\d,\d\d\d rows are refused; the last: line 2\d+ \("):
        read(path)
    assert time.process_time() - started < 5 and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def test_keys_that_are_data_are_refused_where_most_cells_would_be_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl, "MAX_CELLS", 1_000_000)
    dense = "".join(json.dumps({f"k{at % 1_000}": 1, "n": at}) + "\n" for at in range(900))
    assert read(put(tmp_path / "a.jsonl", dense)).table.num_rows == 900
    sparse = "".join(json.dumps({f"k{at}": 1, "n": at}) + "\n" for at in range(5_000))
    with pytest.raises(DataError, match="different keys in 5,000 rows with 10,000 values"):
        read(put(tmp_path / "a.jsonl", sparse))


def test_what_is_read_of_a_step_is_about_eight_megabytes() -> None:
    chunk = parquet.Chunk("a", 4, False, True, pages=100 << 20, largest=1 << 20, values=1_000)
    assert parquet._step([chunk], 1_000, 16_384, 10**6) == 79
