"""Files that a table's texts name, on a disk and in a bucket; and how they count for identity."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from buckets import s3_server
from obstore.store import from_url
from reading import put

from augmill.tasks.errors import ConflictError
from augmill.tasks.rows.kinds.media import RELEASED
from augmill.tasks.sources import (
    RefusedRow,
    SourceFile,
    SourceOptions,
    list_files,
    members,
    read_batches,
    scan_schema,
)
from augmill.tasks.sources.members import name_files
from augmill.tasks.stages.partitions import hash_files
from augmill.tasks.store.store import Store

TABLE = "photo,label\nimages/1.png,cat\n2.png,dog\nimages/1.png,cat\n,none\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    put(tmp_path / "in/rows.csv", TABLE)
    put(tmp_path / "in/images/1.png", b"one")
    put(tmp_path / "in/2.png", b"two")
    return tmp_path / "in"


def named(path: Path | str, column: str = "photo", **options: Any) -> tuple[list[SourceFile], SourceOptions]:
    chosen = SourceOptions(path=str(path), **options)
    return name_files(list_files(chosen), chosen, [column]), chosen


def filled(path: Path | str, column: str = "photo", **options: Any) -> tuple[list[Any], list[RefusedRow]]:
    files, chosen = named(path, column, **options)
    schema = scan_schema(files, chosen)
    assert schema.field(column).type == RELEASED
    batches = [batch for file in files for batch in read_batches(file, chosen, needed=[column], schema=schema)]
    values = [value for batch in batches for value in batch.table[column].to_pylist()]
    return values, [row for batch in batches for row in batch.refused]


def value(name: str, data: bytes) -> dict[str, Any]:
    return {"bytes": data, "path": name}


EXPECTED = [value("images/1.png", b"one"), value("2.png", b"two"), value("images/1.png", b"one"), None]


def test_names_beside_a_table_become_files(folder: Path) -> None:
    assert filled(folder / "rows.csv") == (EXPECTED, [])
    put(folder / "rows.jsonl", '{"photo": "2.png"}\n{"photo": null}\n')
    assert filled(folder / "rows.jsonl")[0] == [value("2.png", b"two"), None]
    pq.write_table(pa.table({"photo": ["2.png"], "other": [1]}), folder / "rows.parquet")
    assert filled(folder / "rows.parquet")[0] == [value("2.png", b"two")]


def test_a_relative_path_to_the_table_works(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert filled("rows.csv") == (EXPECTED, [])


def test_names_may_climb_within_the_source_alone(folder: Path) -> None:
    put(folder / "train/rows.csv", "photo,label\n../2.png,a\n../../secret.png,b\n")
    (folder / "rows.csv").unlink()
    put(folder.parent / "secret.png", b"x")
    values, refused = filled(folder)
    assert values == [value("../2.png", b"two")]
    assert [(row.location, row.reason) for row in refused] == [("line 3", "outside_source")]
    values, refused = filled(folder / "train/rows.csv")
    assert (values, [row.reason for row in refused]) == ([], ["outside_source"] * 2)


def test_names_that_are_no_file_are_refused_each_with_its_name(folder: Path) -> None:
    put(folder.parent / "secret.png", b"x")
    (folder / "dir.png").mkdir()
    (folder / "out.png").symlink_to(folder.parent / "secret.png")
    (folder / "in.png").symlink_to(folder / "2.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "above").symlink_to(folder.parent)
    os.mkfifo(folder / "pipe.png")
    put(folder / "empty.png", b"")
    put(folder / "two\nlines.png", b"lines")
    bad = {
        "gone.png": "no_such_file",
        "2.PNG": "no_such_file",
        "2.png/x": "no_such_file",
        "dir.png": "no_such_file",
        "pipe.png": "no_such_file",
        "loop.png": "no_such_file",
        "x" * 5000: "no_such_file",
        str(folder / "2.png"): "outside_source",
        "file:///etc/passwd": "outside_source",
        "https://example.org/1.png": "outside_source",
        "../secret.png": "outside_source",
        "above/secret.png": "outside_source",
        "out.png": "outside_source",
        "images/../../in/../secret.png": "outside_source",
        "images/1.png": "file_too_large",
    }
    good = {"in.png": b"two", "empty.png": b"", "two\nlines.png": b"lines", "2.png": b"two"}
    names = [*bad, *good]
    pq.write_table(pa.table({"photo": names}), folder / "rows.parquet")
    put(folder / "images/1.png", b"much")
    values, refused = filled(folder / "rows.parquet", max_file_bytes=5)
    assert not [row for row in refused if row.reason == "file_too_large"]
    put(folder / "images/1.png", b"too much")
    values, refused = filled(folder / "rows.parquet", max_file_bytes=5)
    assert values == [value(name, data) for name, data in good.items()]
    assert {names[int(row.location.split()[-1]) - 1]: row.reason for row in refused} == bad
    assert all(repr(name) in row.detail for name, row in zip(bad, refused, strict=True))


def test_a_nul_in_a_name_is_no_file(folder: Path) -> None:
    pq.write_table(pa.table({"photo": ["2.png\0", "2.png"]}), folder / "rows.parquet")
    assert [row.reason for row in filled(folder / "rows.parquet", nul="refuse_row")[1]] == ["nul"]


def test_columns_that_hold_files_stay_as_they_are(folder: Path) -> None:
    table = pa.table({"photo": pa.array([value("a", b"x")], RELEASED), "plain": [b"y"]})
    pq.write_table(table, folder / "rows.parquet")
    (file,), _ = named(folder / "rows.parquet")
    assert not file.named and not file.members
    assert filled(folder / "rows.parquet")[0] == [value("a", b"x")]


def test_files_come_in_batches_of_bounded_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "BATCH_BYTES", 100)
    put(folder / "big.png", bytes(60))
    put(folder / "rows.csv", "photo,label\n" + "big.png,a\nnone.png,b\n" * 6)
    files, options = named(folder / "rows.csv")
    batches = list(read_batches(files[0], options))
    assert [batch.table.num_rows for batch in batches] == [1] * 6
    assert sum(len(batch.refused) for batch in batches) == 6


def test_a_large_file_in_parquet_is_a_value_where_it_is_asked_for(tmp_path: Path) -> None:
    large = bytes(20 << 20)
    pq.write_table(pa.table({"photo": [large, b"x"], "n": [1, 2]}), tmp_path / "rows.parquet", compression="none")
    options = SourceOptions(path=str(tmp_path / "rows.parquet"))
    (file,) = list_files(options)
    taken = [
        len(row) for batch in read_batches(file, options, needed=["photo"]) for row in batch.table["photo"].to_pylist()
    ]
    assert taken == [20 << 20, 1]
    reasons = [row.reason for batch in read_batches(file, options) for row in batch.refused]
    assert reasons == ["cell_too_long"]
    bounded = replace(options, max_file_bytes=1000)
    reasons = [row.reason for batch in read_batches(file, bounded, needed=["photo"]) for row in batch.refused]
    assert reasons == ["file_too_large"]


# --- Identity ----------------------------------------------------------------------------------------------------------


def hashes(path: Path, store: Store | None = None) -> list[str]:
    files, options = named(path)
    return list(hash_files(files, files, options, store, "d").values())


def test_a_picture_that_changes_under_its_name_changes_the_table_s_hash(folder: Path) -> None:
    before = hashes(folder / "rows.csv")
    put(folder / "unnamed.png", b"x")
    assert hashes(folder / "rows.csv") == before
    put(folder / "2.png", b"owt")
    changed = hashes(folder / "rows.csv")
    assert changed != before
    (folder / "2.png").unlink()
    assert hashes(folder / "rows.csv") not in (before, changed)
    put(folder / "2.png", b"two")
    assert hashes(folder / "rows.csv") == before


def test_a_directory_s_hash_hangs_on_names_and_contents(tmp_path: Path) -> None:
    def of(files: dict[str, bytes]) -> str:
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        for name, data in files.items():
            put(root / name, data)
        options = SourceOptions(path=str(root))
        listed = list_files(options)
        return next(iter(hash_files(listed, listed, options, None, "d").values()))

    first = of({"cat/1.png": b"a", "dog/1.png": b"b"})
    assert first == of({"cat/1.png": b"a", "dog/1.png": b"b", ".x.png": b"c"})
    others = [{"cat/1.png": b"b", "dog/1.png": b"a"}, {"cat/1.png": b"a", "dog/2.png": b"b"}, {"cat/1.png": b"a"}]
    assert len({first, *map(of, others)}) == 4


def test_what_did_not_change_is_not_read_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (folder / "rows.csv", folder / "2.png", folder / "images/1.png"):
        os.utime(path, ns=(10**18, 10**18))
    store, read = Store(str(tmp_path / "store")), list[str]()
    real = members.read_files

    def note(found: Any) -> list[bytes]:
        read.extend(member.name for member in found)
        return real(found)

    monkeypatch.setattr(members, "read_files", note)
    first = hashes(folder / "rows.csv", store)
    assert sorted(read) == ["2.png", "images/1.png"]
    put(folder / "2.png", b"2")
    os.utime(folder / "2.png", ns=(10**18 + 10**10, 10**18 + 10**10))
    read.clear()
    assert hashes(folder / "rows.csv", store) != first
    assert read == ["2.png"]


def test_a_file_that_changed_since_it_was_hashed_stops_the_reading(folder: Path) -> None:
    (file,), options = named(folder / "rows.csv")
    put(folder / "2.png", b"owt")
    os.utime(folder / "2.png", ns=(10**18, 10**18))
    with pytest.raises(ConflictError):
        list(read_batches(file, options))


# --- In a bucket -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server("media"):
        store = from_url("s3://media")
        obstore.put(store, "in/rows.csv", (TABLE + "gone.png,x\n../secret.png,y\n/in/2.png,z\n").encode())
        for key, data in {"in/images/1.png": b"one", "in/2.png": b"two", "secret.png": b"x"}.items():
            obstore.put(store, key, data)
        for key, data in {"pictures/cat/1.png": b"a", "pictures/dog/2.png": b"b"}.items():
            obstore.put(store, key, data)
        yield "s3://media"


def test_names_beside_a_table_in_a_bucket_become_files(bucket: str) -> None:
    values, refused = filled(f"{bucket}/in/rows.csv")
    assert values == EXPECTED
    assert [row.reason for row in refused] == ["no_such_file", "outside_source", "outside_source"]


def test_a_directory_in_a_bucket_is_read_and_hashed_as_on_a_disk(bucket: str, tmp_path: Path) -> None:
    put(tmp_path / "cat/1.png", b"a")
    put(tmp_path / "dog/2.png", b"b")
    found = []
    for path in (f"{bucket}/pictures", str(tmp_path)):
        options = SourceOptions(path=path)
        files = list_files(options)
        rows = [row for file in files for batch in read_batches(file, options) for row in batch.table.to_pylist()]
        found.append((rows, list(hash_files(files, files, options, None, "d").values())))
    assert found[0] == found[1]
    obstore.put(from_url(bucket), "pictures/dog/2.png", b"c")
    with pytest.raises(ConflictError):
        list(read_batches(replace(files[0], members=list_files_of(bucket, b"b")), options))


def list_files_of(bucket: str, data: bytes) -> Any:
    """As they were listed before the last change."""
    (file,) = list_files(SourceOptions(path=f"{bucket}/pictures"))
    return tuple(member._replace(stamp=f"old-{data!r}") for member in file.members)
