"""What a path stands for: all of it, sorted, nothing from outside, no table whose files are not its rows."""

from __future__ import annotations

import hashlib
import shutil
from itertools import product
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading import only, put, read

from augmill.tasks.errors import ConflictError, DataError, UserError
from augmill.tasks.sources import (
    SourceOptions,
    hash_file,
    list_files,
    read_batches,
    read_schema,
    sample_rows,
    scan_schema,
)
from augmill.tasks.store.store import Store


def names(path: Path | str, **options: str | bool) -> list[str]:
    return [file.name for file in list_files(SourceOptions(path=str(path), **options))]  # type: ignore[arg-type]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in (
        "b/x.csv",
        "a/y.csv.gz",
        "a/z.tsv",
        "c.csv",
        "README.txt",
        "_tmp/part.csv",
        ".hidden.csv",
        "b/_SUCCESS",
    ):
        put(tmp_path / name, "text,label\na,1\n")
    return tmp_path


def test_a_directory_is_its_files_sorted_without_hidden_and_foreign_ones(tree: Path) -> None:
    assert names(tree) == ["a/y.csv.gz", "a/z.tsv", "b/x.csv", "c.csv"]


def test_globs_match_within_a_part_and_across_with_two_stars(tree: Path) -> None:
    assert names(f"{tree}/*.csv") == ["c.csv"]
    assert names(f"{tree}/**/*.csv") == ["b/x.csv", "c.csv"]
    assert names(f"{tree}/[ab]") == ["a/y.csv.gz", "a/z.tsv", "b/x.csv"]


def test_a_file_named_alone_is_read_whatever_its_name(tree: Path) -> None:
    assert names(tree / "_tmp/part.csv") == ["part.csv"]
    assert [file.format for file in list_files(SourceOptions(path=str(tree / "README.txt"), format="csv"))] == ["csv"]
    with pytest.raises(UserError, match=r"set source\.format"):
        names(tree / "README.txt")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("c.cvs", "did you mean 'c.csv'"),
        ("d/e/f.csv", "there is no 'd'"),
        ("*.parquet", "there is no"),
        ("_tmp/../nothing", "there is no 'nothing'"),
    ],
)
def test_a_missing_path_is_answered_with_the_nearest(tree: Path, path: str, message: str) -> None:
    with pytest.raises(UserError, match=message.replace("*", r"\*")):
        names(f"{tree}/{path}")


def test_several_formats_in_one_directory_want_a_word(tree: Path) -> None:
    put(tree / "d.jsonl", '{"text": "a"}\n')
    with pytest.raises(UserError, match="4 csv, 1 jsonl"):
        names(tree)
    assert names(tree, format="jsonl") == ["d.jsonl"]


def test_empty_files_are_passed_over_unless_there_is_nothing_else(tmp_path: Path) -> None:
    put(tmp_path / "a.jsonl", "")
    with pytest.raises(DataError, match=r"found an empty file: a\.jsonl"):
        names(tmp_path)
    put(tmp_path / "b.jsonl", '{"text": "a"}\n')
    assert names(tmp_path) == ["b.jsonl"]


def test_partitions_in_the_path_become_columns_and_win_over_the_file(tmp_path: Path) -> None:
    put(tmp_path / "dt=2026-01-02/lang=d%2Fe/x.csv", "text,lang\na,en\n")
    file, options = only(tmp_path)
    assert file.partition == {"dt": "2026-01-02", "lang": "d/e"}
    assert read(tmp_path).table.to_pylist() == [{"text": "a", "lang": "d/e", "dt": "2026-01-02"}]
    assert read_schema(file, options) == ["text", "lang", "dt"]
    assert sample_rows(file, options, 5) == [{"text": "a", "lang": "d/e", "dt": "2026-01-02"}]
    assert scan_schema([file], options).names == ["text", "lang", "dt"]
    below, _ = only(tmp_path / "dt=2026-01-02")
    assert below.partition == file.partition
    assert only(tmp_path, hive=False)[0].partition == {}
    put(tmp_path / "y.csv", "text,lang\na,en\n")
    with pytest.raises(UserError, match="expected key=value directories"):
        names(tmp_path, hive=True)


LOGS = ("_delta_log/0.json", "metadata/v1.metadata.json", ".hoodie/hoodie.properties")
BELOW = ("*.parquet", "dt=1", "dt=1/b.parquet")


# A Delta table's own directory is read by its log: test_delta_source.py
@pytest.mark.parametrize(("log", "path"), [*product(LOGS, BELOW), *product(LOGS[1:], [""])])
def test_tables_with_a_log_are_refused_as_plain_parquet(tmp_path: Path, log: str, path: str) -> None:
    for name in ("a.parquet", "dt=1/b.parquet"):
        put(tmp_path / "table" / name, "PAR1")
    assert names(tmp_path / "table" / path)
    put(tmp_path / "table" / log, "{}")
    with pytest.raises(UserError, match="its Parquet files hold rows that were deleted"):
        names(tmp_path / "table" / path)


def test_links_may_not_lead_out_of_the_directory(tmp_path: Path) -> None:
    put(tmp_path / "secret.csv", "text\na\n")
    inside = put(tmp_path / "in/a.csv", "text\na\n").parent
    (inside / "alias.csv").symlink_to(inside / "a.csv")
    assert names(inside) == ["a.csv", "alias.csv"]
    (inside / "out.csv").symlink_to(tmp_path / "secret.csv")
    with pytest.raises(UserError, match=r"out\.csv: a link leads out of"):
        names(inside)
    (inside / "out.csv").unlink()
    (inside / "out").symlink_to(tmp_path)
    with pytest.raises(UserError, match="a link leads out of"):
        names(inside)
    assert names(tmp_path / "secret.csv") == ["secret.csv"]


@pytest.mark.parametrize(
    "path", ["file:///etc/passwd", "http://169.254.169.254/x.csv", "https://host/x.csv", "ftp://h/x"]
)
def test_other_addresses_are_refused(path: str) -> None:
    with pytest.raises(UserError, match=f"{path.split(':', maxsplit=1)[0]}:// addresses cannot be read"):
        names(path)


@pytest.mark.parametrize(
    "path",
    [
        "s3://KEYID:hush@bucket/x.csv",
        "az://box/x.csv?sv=1&sig=hush",
        "s3://10.0.0.1:9000/hush.csv",
        "gs://b/x?token=hush",
    ],
)
def test_credentials_in_an_address_are_refused_and_not_repeated(path: str) -> None:
    with pytest.raises(UserError, match="credentials") as caught:
        names(path)
    assert "hush" not in str(caught.value)


def test_the_hash_is_of_the_bytes_as_stored(tmp_path: Path) -> None:
    content = b"text,label\n" + b"a,1\n" * 700_000
    file, options = only(put(tmp_path / "a.csv", content))
    assert hash_file(file, options) == hashlib.sha256(content).hexdigest()
    assert file.size == len(content)


@pytest.mark.parametrize(
    "wrong",
    [
        {"path": ""},
        {"delimiter": ",,"},
        {"delimiter": '"'},
        {"encoding": "utf-9"},
        {"encoding": "zlib"},
        {"max_cell_bytes": 0},
    ],
)
def test_options_out_of_bounds_are_refused(wrong: dict[str, str | int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: "):
        SourceOptions(**{"path": "a.csv", **wrong})  # type: ignore[arg-type]


def test_a_file_that_is_rewritten_while_it_is_read_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": [f"text number {i * 7919}" for i in range(1000)]}), path)
    file, options = only(path)
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(ConflictError, match="changed while it was read"):
        list(read_batches(file, options))
    with pytest.raises(DataError, match="damaged or cut"):
        list(read_batches(*only(path)))


def a_store(root: Path) -> Path:
    """What a run leaves, in names: Parquet and JSON that nobody means by "the source"."""
    for name in (
        f"private/manifests/ingest/{'0' * 64}.json",
        "private/attempts/d/all/00000000/start.json",
        f"private/objects/aa/{'a' * 64}",
        "private/reports/all/rows.jsonl",
        "public/d/_log/00000000.json",
        "public/d/releases/0123456789abcdef/train/part-0.csv",
        "public/d/delta/_delta_log/0.json",
    ):
        put(root / name, "text,label\na,1\n")
    return root


@pytest.mark.parametrize("place", ["", "augmill-store", "deep/er/store"])
def test_what_a_store_below_the_path_holds_is_no_source(tmp_path: Path, place: str) -> None:
    """As a directory, by globs, and where the store is the very directory of the source."""
    put(tmp_path / "a.csv", "text,label\na,1\n")
    put(tmp_path / "public/b.csv", "text,label\na,1\n")  # a directory of that name is none of a store
    own = [] if place == "" else ["public/b.csv"]
    a_store(tmp_path / place)
    beside = put(tmp_path / place / "c.csv", "text,label\na,1\n").relative_to(tmp_path).as_posix()
    assert names(tmp_path) == names(f"{tmp_path}/**/*.csv") == sorted(["a.csv", beside, *own])


def test_only_one_mark_of_a_store_is_needed(tmp_path: Path) -> None:
    put(tmp_path / "a.csv", "text,label\na,1\n")
    store = a_store(tmp_path / "store")
    for gone in ("private/manifests", "private/attempts"):
        shutil.rmtree(store / gone)
        assert names(tmp_path) == ["a.csv"]


def test_a_release_is_read_where_the_path_names_it(tmp_path: Path) -> None:
    store = a_store(tmp_path / "store")
    release = store / "public/d/releases/0123456789abcdef"
    assert names(release) == ["train/part-0.csv"] and names(release / "train") == ["part-0.csv"]
    (found,) = names(f"{tmp_path}/*/public/d/releases/*/train/*.csv")
    assert tmp_path / found == release / "train/part-0.csv"


LEFT = ["~$a.csv", ".~lock.a.csv#", "#a.csv#", "a.csv~", "a.csv.lock", ".a.csv.crc", "a.csv.crc", "a.csv.tmp", "b.part"]
LEFT += ["b.csv.crdownload", "b.csv._COPYING_", ".b.csv.swp", "b.csv.swp", "b.csv.bak", "b.csv.orig"]
LEFT += ["_temporary/0/part.csv", "_SUCCESS", ".ipynb_checkpoints/a.csv", "__MACOSX/._a.csv"]


@pytest.mark.parametrize("format", ["auto", "csv"])
def test_what_programs_leave_beside_files_is_no_source(tmp_path: Path, format: str) -> None:
    for name in LEFT:
        put(tmp_path / name, "half a ro")
    with pytest.raises(UserError, match="nothing but hidden files"):
        names(tmp_path, format=format)
    put(tmp_path / "_day=1/part.csv", "text,label\na,1\n")  # a partition, as Spark and Hive have it
    assert names(tmp_path, format=format) == ["_day=1/part.csv"]


def test_a_file_without_an_ending_is_read_beside_leftovers_and_a_leftover_by_its_name(tmp_path: Path) -> None:
    for name in ("part-00000", "part-00001.tmp"):
        put(tmp_path / name, "text,label\na,1\n")
    assert names(tmp_path, format="csv") == ["part-00000"]
    assert (
        names(f"{tmp_path}/*.tmp", format="csv")
        == names(tmp_path / "part-00001.tmp", format="csv")
        == ["part-00001.tmp"]
    )


def test_empty_files_among_others_are_named(tmp_path: Path, said: list[str]) -> None:
    put(tmp_path / "b.csv", "text,label\na,1\n")
    for at in range(7):
        put(tmp_path / f"empty-{at}.csv", "")
    assert names(tmp_path) == names(tmp_path) == ["b.csv"]
    (line,) = said  # once, however often a run lists its source
    assert "empty (0 bytes): 'empty-0.csv', 'empty-1.csv'" in line and line.endswith("and 2 more")


@pytest.mark.parametrize("given", ["loop.csv", "folder", "folder/*.csv", "gone.csv", "loop.csv/rows.csv"])
def test_a_link_to_itself_or_to_nothing_is_named(tmp_path: Path, given: str) -> None:
    put(tmp_path / "folder" / "a.csv", "text,label\na,b\n")
    for link, target in (("loop.csv", "loop.csv"), ("gone.csv", "nothing"), ("folder/loop.csv", "folder/loop.csv")):
        (tmp_path / link).symlink_to(tmp_path / target)
    with pytest.raises(UserError, match=r"a link (that )?leads nowhere, or to itself"):
        list_files(SourceOptions(path=str(tmp_path / given)))


@pytest.mark.parametrize("key", ["b/../../x", "b/..", "../x", "b/./x", "b//x", "b/%2e%2e/x", "b/a\x01b", ".."])
@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_an_address_that_climbs_out_of_its_bucket_is_refused_without_a_connection(scheme: str, key: str) -> None:
    with pytest.raises(UserError, match="is not a place in a bucket"):
        list_files(SourceOptions(path=f"{scheme}://{key}"))
    with pytest.raises(UserError, match="is not a place in a bucket"):
        Store(f"{scheme}://{key}")
