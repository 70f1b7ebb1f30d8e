"""A Delta table as a source: the rows of one version, none that was deleted, whatever Parquet lies about."""

from __future__ import annotations

import base64
import csv
import json
import struct
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from buckets import s3_server
from chain import tiny_recipe, write_rows
from keeping import GATE

from augmill.flows.augment import run_recipe
from augmill.flows.releases.differences import audit
from augmill.tasks.errors import DataError, UserError
from augmill.tasks.sources import (
    SourceOptions,
    describe_file,
    hash_file,
    list_files,
    read_batches,
    read_schema,
    scan_schema,
)
from augmill.tasks.store.log import read_log
from augmill.tasks.store.store import Store

deltalake = pytest.importorskip("deltalake")

TEXT_AND_LABEL = {"text": "text", "label": "label"}
B85 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"


def write(table: Path | str, rows: list[tuple[Any, ...]], names: str = "text label", **how: Any) -> None:
    columns = {name: [row[at] for row in rows] for at, name in enumerate(names.split())}
    deltalake.write_deltalake(table, pa.table(columns), **{"mode": "append", **how})


def read(table: Path | str, **options: Any) -> list[dict[str, Any]]:
    chosen = SourceOptions(path=str(table), **options)
    files = list_files(chosen)
    schema = scan_schema(files, chosen)
    return [
        row for file in files for batch in read_batches(file, chosen, schema=schema) for row in batch.table.to_pylist()
    ]


def hashes(table: Path | str, **options: Any) -> list[str]:
    chosen = SourceOptions(path=str(table), **options)
    return [hash_file(file, chosen) for file in list_files(chosen)]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Version 0: a and b. 1: c, and b gone. 2: overwritten by d, which brings a column."""
    path = tmp_path / "table"
    write(path, [("a", "x"), ("b", "y")])
    write(path, [("c", "x")])
    deltalake.DeltaTable(path).delete("text = 'b'")
    write(path, [("d", "x", 5)], "text label score", mode="overwrite", schema_mode="merge")
    return path


@pytest.mark.parametrize(("version", "texts"), [(0, "ab"), (1, "abc"), (2, "ac"), (3, "d"), (None, "d")])
def test_a_version_is_its_rows_and_no_others(table: Path, version: int | None, texts: str) -> None:
    assert len(list(table.rglob("*.parquet"))) == 4, "rows of other versions lie beside"
    for form in ("auto", "delta"):
        rows = read(table, version=version, format=form)
        assert sorted(row["text"] for row in rows) == list(texts)
    columns = deltalake.DeltaTable(table, version=version).to_pyarrow_table().sort_by("text").to_pylist()
    assert sorted(read(table, version=version), key=lambda row: row["text"]) == columns


def test_the_newest_version_is_resolved_and_named(table: Path) -> None:
    options = SourceOptions(path=str(table))
    (file,) = list_files(options)
    assert describe_file(file, options) == {"file": file.name, "format": "delta", "version": "3"}
    assert read_schema(file, options) == ["text", "label", "score"]


def test_identity_is_of_the_files_not_of_the_number(table: Path) -> None:
    before = hashes(table)
    deltalake.DeltaTable(table).alter.set_table_properties({"delta.appendOnly": "false"})
    assert deltalake.DeltaTable(table).version() == 4
    assert hashes(table) == before == hashes(table, version=3) != hashes(table, version=2)


def test_what_is_appended_stands_at_the_end(tmp_path: Path) -> None:
    for number in range(6):  # names of files are random: sorted by them, some would come first
        write(tmp_path, [(f"row {number}", "x")])
    assert [row["text"] for row in read(tmp_path)] == [f"row {number}" for number in range(6)]


def test_columns_that_it_is_partitioned_by_are_partitions(tmp_path: Path) -> None:
    days = ["2026-10-01", "a b/ü", "x=y%", None]
    write(tmp_path, [(f"t{at}", "x", day) for at, day in enumerate(days)], "text label day", partition_by=["day"])
    found = {file.partition.get("day") for file in list_files(SourceOptions(path=str(tmp_path)))}
    assert found == set(days)
    assert sorted((row["text"], row["day"]) for row in read(tmp_path)) == [
        (f"t{at}", day) for at, day in enumerate(days)
    ]


def inline_vector(deleted: list[int]) -> dict[str, Any]:
    """A deletion vector in the log itself: a roaring bitmap of one array container, in Z85."""
    bitmap = struct.pack("<IIHHI", 12346, 1, 0, len(deleted) - 1, 16) + struct.pack(f"<{len(deleted)}H", *deleted)
    raw = struct.pack("<IQI", 1681511377, 1, 0) + bitmap
    padded = raw + b"\0" * (-len(raw) % 4)
    text = base64.b85encode(padded).decode().translate(str.maketrans(B85, Z85))
    return {"storageType": "i", "pathOrInlineDv": text, "sizeInBytes": len(raw), "cardinality": len(deleted)}


def change_log(
    table: Path, *, features: list[str], deleted: list[int], configuration: dict[str, str] | None = None
) -> None:
    """A commit as other engines write it: protocol 3/7, and the one file again with a deletion vector."""
    actions = [json.loads(line) for line in (table / "_delta_log" / f"{0:020d}.json").read_text().splitlines()]
    (add,) = (action["add"] for action in actions if "add" in action)
    (metadata,) = (action["metaData"] for action in actions if "metaData" in action)
    if configuration:  # the names in the files are not the table's
        schema = json.loads(metadata["schemaString"])
        for at, column in enumerate(schema["fields"]):
            column["metadata"] = {"delta.columnMapping.id": at, "delta.columnMapping.physicalName": f"col-{at}"}
        metadata["schemaString"] = json.dumps(schema)
    version = deltalake.DeltaTable(table).version() + 1
    protocol = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": features, "writerFeatures": features}
    commit: list[dict[str, Any]] = [
        {"protocol": protocol},
        {"metaData": metadata | {"configuration": configuration or {}}},
    ]
    if deleted:
        remove = {"path": add["path"], "deletionTimestamp": 1, "dataChange": True}
        commit += [{"remove": remove}, {"add": add | {"deletionVector": inline_vector(deleted)}}]
    (table / "_delta_log" / f"{version:020d}.json").write_text("\n".join(map(json.dumps, commit)) + "\n")


def test_rows_of_a_deletion_vector_are_gone_and_change_the_identity(tmp_path: Path) -> None:
    write(tmp_path, [(f"t{at}", "x") for at in range(20)])
    before = hashes(tmp_path)
    change_log(tmp_path, features=["deletionVectors"], deleted=[0, 7, 8, 13])
    options = SourceOptions(path=str(tmp_path))
    (file,) = list_files(options)
    batches = list(read_batches(file, options))
    kept = [at for at in range(20) if at not in (0, 7, 8, 13)]
    assert [row["text"] for batch in batches for row in batch.table.to_pylist()] == [f"t{at}" for at in kept]
    assert [place for batch in batches for place in batch.locations.to_pylist()] == [f"row {at + 1}" for at in kept]
    assert hashes(tmp_path) != before == hashes(tmp_path, version=0)


def test_a_row_that_was_deleted_is_not_refused_either(tmp_path: Path) -> None:
    write(tmp_path, [("x" * 50, "x"), ("ok", "x"), ("y" * 50, "x")])
    change_log(tmp_path, features=["deletionVectors"], deleted=[0])
    options = SourceOptions(path=str(tmp_path), max_cell_bytes=20)
    (batch,) = read_batches(list_files(options)[0], options)
    assert [row.location for row in batch.refused] == ["row 3"]


@pytest.mark.parametrize(
    ("features", "configuration", "found"),
    [
        (["columnMapping"], {"delta.columnMapping.mode": "name"}, "column mapping by name"),
        (["variantType"], {}, "variantType"),
    ],
)
def test_what_of_the_protocol_is_not_read_is_refused(
    tmp_path: Path, features: list[str], configuration: dict[str, str], found: str
) -> None:
    write(tmp_path, [("a", "x")])
    change_log(tmp_path, features=features, deleted=[], configuration=configuration)
    with pytest.raises((UserError, DataError), match=found):
        list_files(SourceOptions(path=str(tmp_path)))


def test_a_version_that_is_not_there_is_answered_with_the_newest(table: Path) -> None:
    with pytest.raises(UserError, match="there is no version 9; the newest is 3"):
        list_files(SourceOptions(path=str(table), version=9))
    deltalake.DeltaTable(table).vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    with pytest.raises(DataError, match="version 0 needs a file that is gone"):
        list_files(SourceOptions(path=str(table), version=0))
    assert [row["text"] for row in read(table)] == ["d"]


def test_no_file_outside_of_the_table_is_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    write(secret, [("hush", "x")])
    (data,) = secret.glob("*.parquet")
    for at, place in enumerate((f"../secret/{data.name}", f"file://{data}", str(data))):
        table = tmp_path / str(at)
        write(table, [("a", "x")])
        log = table / "_delta_log" / f"{0:020d}.json"
        (own,) = table.glob("*.parquet")
        log.write_text(log.read_text().replace(own.name, place))
        with pytest.raises((UserError, DataError), match=r"outside|gone|cannot be read"):
            list_files(SourceOptions(path=str(table)))
    link = tmp_path / "linked"
    write(link, [("a", "x")])
    (own,) = link.glob("*.parquet")
    own.unlink()
    own.symlink_to(data)
    with pytest.raises(UserError, match="a link leads out of the table"):
        list_files(SourceOptions(path=str(link)))


def test_a_version_of_what_is_no_table_and_a_table_that_is_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\na,x\n")
    with pytest.raises(UserError, match="this is not a Delta table"):
        list_files(SourceOptions(path=str(tmp_path), version=1))
    with pytest.raises(UserError, match="expected a Delta table, found no _delta_log"):
        list_files(SourceOptions(path=str(tmp_path), format="delta"))
    with pytest.raises(ValueError, match="version: of a Delta table"):
        SourceOptions(path="x", format="csv", version=1)
    write(tmp_path / "t", [])
    with pytest.raises(DataError, match="found an empty table"):
        list_files(SourceOptions(path=str(tmp_path / "t")))
    (tmp_path / "t/_delta_log" / f"{0:020d}.json").write_text("{")
    with pytest.raises(DataError, match="the table's log cannot be read"):
        list_files(SourceOptions(path=str(tmp_path / "t")))


def test_a_table_in_a_bucket_reads_as_on_a_disk() -> None:
    with s3_server("tables"):
        settings = {"allow_http": "true", "conditional_put": "etag"}
        for number in range(2):
            write("s3://tables/in/table", [(f"row {number}", "x")], storage_options=settings)
        assert [row["text"] for row in read("s3://tables/in/table")] == ["row 0", "row 1"]
        assert [row["text"] for row in read("s3://tables/in/table/", version=0, format="delta")] == ["row 0"]
        with pytest.raises(UserError, match="read the table itself"):
            list_files(SourceOptions(path="s3://tables/in/table/*.parquet"))


def test_a_release_says_which_version_it_was_read_at_though_the_recipe_names_none(tmp_path: Path) -> None:
    """Also where all that was read stood ingested from an earlier version: that is of the run, not of the files."""
    rows = list(csv.reader(write_rows(tmp_path / "rows.csv").read_text().splitlines()))[1:]
    for name in ("table", "free"):
        write(tmp_path / name, [(row[0], row[1]) for row in rows])
    write(tmp_path / "free", [("one more", "")])
    recipe = tiny_recipe(
        tmp_path / "table", gate=GATE, unlabelled={"path": str(tmp_path / "free")}, columns=TEXT_AND_LABEL,
        run={"orchestrator": "none", "store": str(tmp_path / "store")},
    )  # fmt: skip
    store = Store(recipe.run.store)

    def versions(release: str) -> list[Any]:
        told = audit(store, read_log(store, "tiny"), release)
        return [told["provenance"]["source_versions"], *(each["source_versions"] for each in told["attempts"])]

    first = run_recipe(recipe)["release"]
    at = {"source": 0, "unlabelled": 1}
    assert versions(first) == [at, at]
    deltalake.DeltaTable(tmp_path / "table").alter.set_table_properties(
        {"delta.logRetentionDuration": "interval 9 days"}
    )
    assert run_recipe(recipe)["release"] == first
    assert versions(first) == [at, at, at | {"source": 1}]  # no row changed: the same release, read at both
    write(tmp_path / "table", [("quite another sentence about a parcel that is late", "track")])
    second = run_recipe(recipe)["release"]
    assert second != first and versions(second) == [at | {"source": 2}] * 2
