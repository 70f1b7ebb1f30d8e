"""Object stores: an S3 server of this process, read through the same calls as a disk."""

from __future__ import annotations

from collections.abc import Iterator

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from buckets import s3_server
from obstore.store import from_url
from reading import only, read

from augmill.tasks.errors import ConflictError, UserError, WorldError
from augmill.tasks.sources import SourceOptions, hash_file, list_files, read_batches

ROWS = "text,label\n" + "".join(f"row number {index},{index % 5}\n" for index in range(100_000))


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server("rows"):
        store = from_url("s3://rows")
        obstore.put(store, "in/dt=1/a.csv", ROWS.encode())
        obstore.put(store, "in/dt=2/b.csv.zst", pa.compress(ROWS.encode(), codec="zstd", asbytes=True))
        obstore.put(store, "in/_SUCCESS", b"x")
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"text": ["a", "b"]}), sink)
        for name in ("table/a.parquet", "plain/a.parquet"):
            obstore.put(store, name, sink.getvalue().to_pybytes())
        obstore.put(store, "table/_delta_log/0.json", b"{}")
        yield "s3://rows"


def test_prefixes_globs_and_objects_list_as_on_a_disk(bucket: str) -> None:
    files = list_files(SourceOptions(path=f"{bucket}/in"))
    assert [(file.name, file.partition, file.compression) for file in files] == [
        ("dt=1/a.csv", {"dt": "1"}, "none"),
        ("dt=2/b.csv.zst", {"dt": "2"}, "zstd"),
    ]
    assert [file.name for file in list_files(SourceOptions(path=f"{bucket}/in/*/*.csv"))] == ["dt=1/a.csv"]
    assert only(f"{bucket}/in/dt=1/a.csv")[0].partition == {"dt": "1"}
    assert only(f"{bucket}/in/dt=2/")[0].size < len(ROWS)


def test_rows_and_hashes_are_those_of_the_bytes(bucket: str) -> None:
    import hashlib

    plain, packed = read(f"{bucket}/in/dt=1"), read(f"{bucket}/in/dt=2")
    assert plain.table.num_rows == 100_000
    assert plain.table.drop_columns(["dt"]).equals(packed.table.drop_columns(["dt"]))
    assert hash_file(*only(f"{bucket}/in/dt=1")) == hashlib.sha256(ROWS.encode()).hexdigest()
    assert read(f"{bucket}/plain/a.parquet").table["text"].to_pylist() == ["a", "b"]


@pytest.mark.parametrize("path", ["table/*.parquet", "table/a.parquet"])
def test_files_of_a_delta_table_in_a_bucket_are_refused(bucket: str, path: str) -> None:
    with pytest.raises(UserError, match="a Delta table"):
        list_files(SourceOptions(path=f"{bucket}/{path}"))


def test_a_missing_key_is_a_mistake_of_the_user_and_a_missing_bucket_one_of_the_world(bucket: str) -> None:
    with pytest.raises(UserError, match=r"did you mean 'plain'"):
        list_files(SourceOptions(path=f"{bucket}/plan"))
    with pytest.raises(WorldError, match="there is no such bucket") as caught:
        list_files(SourceOptions(path="s3://nowhere/x"))
    assert "<" not in str(caught.value)


def test_an_endpoint_without_tls_is_a_source_as_it_is_a_store(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    assert read(f"{bucket}/plain/a.parquet").table["text"].to_pylist() == ["a", "b"]


def test_an_object_put_again_after_it_was_listed_is_found(bucket: str) -> None:
    store = from_url("s3://rows")
    obstore.put(store, "moving/a.csv", b"text\nx\n")
    listed, options = list_files(SourceOptions(path=f"{bucket}/moving"))[0], SourceOptions(path=f"{bucket}/moving")
    assert sum(batch.table.num_rows for batch in read_batches(listed, options)) == 1
    obstore.put(store, "moving/a.csv", b"text\ny\n")
    with pytest.raises(ConflictError, match="changed while it was read"):
        list(read_batches(listed, options))


@pytest.mark.parametrize(("mixed", "place"), [("s3://mixed", ""), ("s3://below", "store/")])
def test_what_a_store_in_the_bucket_holds_is_no_source(mixed: str, place: str) -> None:
    with s3_server(mixed.removeprefix("s3://")):
        bucket = from_url(mixed)
        for name in (
            f"{place}private/attempts/d/all/00000000/start.json",
            f"{place}private/reports/all/rows.csv",
            f"{place}public/d/releases/0123456789abcdef/train/part-0.csv",
            f"{place}public/d/delta/_delta_log/0.json",
            "in/a.csv",
            "public/b.csv",
            "in/b.csv.part",
        ):
            obstore.put(bucket, name, b"text,label\na,1\n")
        own = ["public/b.csv"] if place else []

        def names(path: str) -> list[str]:
            return [file.name for file in list_files(SourceOptions(path=path, format="csv"))]

        assert names(f"{mixed}/") == names(f"{mixed}/**/*.csv") == ["in/a.csv", *own]
        release = f"{place}public/d/releases/0123456789abcdef"
        assert names(f"{mixed}/{release}") == ["train/part-0.csv"]
        (found,) = names(f"{mixed}/{place}public/*/releases/*/train/*.csv")
        assert release.endswith(found.removesuffix("/train/part-0.csv"))
