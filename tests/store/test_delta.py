"""The Delta table follows from the log alone: whenever and however often it is brought up to date, it holds the newest
release, one commit a log entry, and nothing of what was erased."""

from __future__ import annotations

import hashlib
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from buckets import s3_server
from chain import recipe_document, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from running import run

from augmill.flows.mirror import mirror_delta
from augmill.flows.releases.gc import find_garbage, sweep_store
from augmill.flows.releases.retention import Limits
from augmill.tasks.errors import CorruptObject, DataError, StoreRefused
from augmill.tasks.recipe.recipe import build_recipe
from augmill.tasks.rows.hashing import canonical_json, hash_json
from augmill.tasks.stages.publish import commit_releases
from augmill.tasks.store.delta import delta_uri, sync_delta, vacuum_delta
from augmill.tasks.store.log import Log, read_log, rollback
from augmill.tasks.store.store import Store, delta_key, release_key

deltalake = pytest.importorskip("deltalake")

S3 = {"allow_http": "true", "conditional_put": "etag"}


def put_release(store: Store, train: pa.Table) -> str:
    """A release of one split, as readers find it: files and a manifest that its id is made of."""
    sink = pa.BufferOutputStream()
    pq.write_table(train, sink)
    raw = sink.getvalue().to_pybytes()
    counts = {split: {"rows": 0, "synthetic": 0, "classes": {}} for split in ("train", "validation", "test")}
    manifest = {
        **{"dataset": "d", "snapshot": "all", "arrangement": "mix", "recipe": "", "inputs": {}, "ledger": None},
        "files": {"train/part-00000.parquet": {"sha256": hashlib.sha256(raw).hexdigest(), "size": len(raw)}},
        "counts": counts,
    }
    release = hash_json(manifest)[:16]
    store.put(release_key("d", release, "train/part-00000.parquet"), raw)
    store.put(release_key("d", release, "manifest.json"), canonical_json(manifest))
    return release


def publish(store: Store, snapshot: str, train: pa.Table) -> str:
    release = put_release(store, train)
    expected = read_log(store, "d").current().get(snapshot)
    commit_releases(store, "d", {snapshot: (expected, release)}, entry={"reason": "t"}, command="t", force=True)
    return release


def rows_of(store: Store, release: str) -> pa.Table:
    assert store.local is not None
    return pq.read_table(store.local / release_key("d", release, "train/part-00000.parquet"))


def table_of(store: Store, version: int | None = None) -> Any:
    return deltalake.DeltaTable(delta_uri(store, "d"), version=version, storage_options=S3)


def texts(*values: str) -> pa.Table:
    return pa.table({"text": list(values), "label": ["a"] * len(values)})


def require_follows(store: Store) -> None:
    """Each log entry has one commit, and the table then held what was newest at that entry."""
    log = read_log(store, "d")
    numbers = {}
    for commit in table_of(store).history():
        assert int(commit["log_number"]) not in numbers, "two commits for one log entry"
        numbers[int(commit["log_number"])] = commit["version"]
    assert sorted(numbers) == list(range(len(log.entries)))
    for number, version in numbers.items():
        newest = Log("d", log.entries[: number + 1]).newest()
        assert newest is not None
        assert table_of(store, version).to_pyarrow_table().equals(rows_of(store, newest)), (number, version)


STEP = st.tuples(st.sampled_from(["2026-01", "2026-02", "2026-03", "back", "sync"]), st.integers(0, 3))


@given(st.lists(STEP, min_size=1, max_size=8))
@settings(max_examples=20)
def test_after_any_history_each_version_is_what_was_newest_at_its_log_entry(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    store = Store(str(tmp_path_factory.mktemp("store")))
    publish(store, "2026-02", texts("first"))
    for what, number in steps:
        if what == "sync":
            sync_delta(store, "d")
        elif what != "back":
            publish(store, what, texts(f"{what} {number}", "also"))
        elif len({e["current"].get("2026-02") for e in read_log(store, "d").entries} - {None}) > 1:
            state = read_log(store, "d").current()
            known = [e["current"]["2026-02"] for e in read_log(store, "d").entries if "2026-02" in e["current"]]
            other = [r for r in known if r != state["2026-02"] and r not in read_log(store, "d").withdrawn()]
            if other:
                rollback(store, "d", to=other[-1], reason="t", command="t")
    version = sync_delta(store, "d")
    require_follows(store)
    assert sync_delta(store, "d") == version, "a second try is a no-op"


def test_those_who_bring_it_up_to_date_at_once_write_each_entry_once(tmp_path: Path) -> None:
    for attempt in range(5):
        store = Store(str(tmp_path / str(attempt)))
        for number in range(4):
            publish(store, f"2026-0{number + 1}", texts(f"night {number}"))
        with ThreadPoolExecutor(4) as pool:
            versions = list(pool.map(lambda root: sync_delta(Store(root), "d"), [store.root] * 4))
        assert versions == [3] * 4
        require_follows(store)


def test_in_a_bucket_two_at_once_write_each_entry_once() -> None:
    with s3_server("delta-mill"):
        store = Store("s3://delta-mill/store")
        for number in range(2):
            publish(store, f"2026-0{number + 1}", texts(f"night {number}"))
        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(lambda root: sync_delta(Store(root), "d"), [store.root] * 2)) == [1, 1]
        table = table_of(store)
        assert table.to_pyarrow_table()["text"].to_pylist() == ["night 1"]
        assert len(store.list_keys(f"{delta_key('d')}/_delta_log")) == table.version() + 1 == 2
        assert table_of(store, 0).to_pyarrow_table()["text"].to_pylist() == ["night 0"]


@pytest.mark.parametrize(
    ("before", "after", "stands"),
    [
        (pa.array([1], pa.int64()), pa.array([2], pa.int32()), pa.int64()),  # fits: the column stays
        (pa.array([1], pa.int64()), pa.array([1.5], pa.float64()), pa.float64()),  # 1.5 would silently become 1
        (pa.array([1], pa.int8()), pa.array([200], pa.uint8()), pa.int16()),
        (pa.array(["1"]), pa.array([1], pa.int64()), pa.int64()),
        (pa.array([1], pa.timestamp("us")), pa.array([2000], pa.timestamp("ns")), pa.timestamp("us")),
        (pa.array([1], pa.uint64()), pa.array([2**64 - 1], pa.uint64()), pa.decimal128(20, 0)),
    ],
    ids=["narrower", "fraction", "unsigned", "text", "nanoseconds", "64 bits"],
)
def test_no_value_changes_where_a_column_changes_its_type(
    tmp_path: Path, before: pa.Array, after: pa.Array, stands: pa.DataType
) -> None:
    store = Store(str(tmp_path))
    publish(store, "1", pa.table({"x": before}))
    sync_delta(store, "d")
    publish(store, "2", pa.table({"x": after}))
    sync_delta(store, "d")
    found = table_of(store).to_pyarrow_table()["x"]
    assert found.type == stands
    assert found.to_pylist() == after.to_pylist()
    assert table_of(store, 0).to_pyarrow_table()["x"].to_pylist() == before.to_pylist()


def test_columns_come_as_nullable_ones_and_stay_when_a_release_lacks_them(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    scores = pa.array([[{"name": "len", "value": 1.0}]])
    publish(store, "1", pa.table({"text": ["a"], "empty": pa.nulls(1)}))
    publish(store, "2", pa.table({"text": ["b"], "empty": ["now text"], "scores": scores}))
    publish(store, "3", pa.table({"text": ["c"]}))
    sync_delta(store, "d")
    versions = [table_of(store, number).to_pyarrow_table().to_pylist() for number in range(3)]
    assert versions[0] == [{"text": "a"}]
    assert versions[1] == [{"text": "b", "empty": "now text", "scores": scores[0].as_py()}]
    assert versions[2] == [{"text": "c", "empty": None, "scores": None}]


def test_a_type_that_delta_lacks_is_named(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    publish(store, "1", pa.table({"at": pa.array([[1]], pa.list_(pa.time64("us")))}))
    with pytest.raises(DataError, match=r"the column 'at' is time64\[us\], for which Delta has no type"):
        sync_delta(store, "d")


def test_after_a_vacuum_nothing_under_the_table_holds_a_row_of_an_older_release(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    publish(store, "1", texts("the secret of Anna Example"))
    sync_delta(store, "d")
    publish(store, "1", texts("harmless"))
    sync_delta(store, "d")

    def held() -> list[str]:
        return [key for key in store.list_keys(delta_key("d")) if b"Anna" in (store.get(key) or b"")]

    assert len(held()) == 1 and held()[0].endswith(".parquet"), "its log holds no text of a row"
    assert vacuum_delta(store, "d", 1) == [] and held(), "an hour has not gone by"
    orphan = store.get(held()[0])
    assert orphan is not None
    store.put(f"{delta_key('d')}/part-of-a-killed-write.parquet", orphan)
    assert len(vacuum_delta(store, "d", 0, dry=True)) == len(held()) == 2
    assert sorted(vacuum_delta(store, "d", 0)) != held() == []
    assert table_of(store).to_pyarrow_table()["text"].to_pylist() == ["harmless"]
    publish(store, "2", texts("next"))
    sync_delta(store, "d")
    assert table_of(store).to_pyarrow_table()["text"].to_pylist() == ["next"], (
        "VACUUM's own commits do not stand in the way"
    )


def test_gc_takes_the_copies_of_releases_that_are_past_their_time(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for number in range(3):
        publish(store, "1", texts(f"night {number}"))
        sync_delta(store, "d")
    day = timedelta(days=1)
    for span, files in ((day, 0), (0 * day, 2)):
        sweep = find_garbage(store, grace=0 * day, limits={"d": Limits(span, 10, day, day)})
        assert sweep.counts().get("delta", {"files": 0})["files"] == files
    sweep_store(store, sweep, grace=0 * day, command="t")
    assert len(list((tmp_path / delta_key("d")).glob("*.parquet"))) == 1
    assert table_of(store).to_pyarrow_table()["text"].to_pylist() == ["night 2"]


def test_a_table_made_late_begins_where_releases_still_stand(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    names = [publish(store, str(number), texts(f"night {number}")) for number in range(4)]
    shutil.rmtree(tmp_path / release_key("d", names[0]))
    shutil.rmtree(tmp_path / release_key("d", names[2]))
    sync_delta(store, "d")
    assert [commit["log_number"] for commit in table_of(store).history()] == ["3", "2", "1"]
    assert table_of(store).to_pyarrow_table()["text"].to_pylist() == ["night 3"]
    path = tmp_path / release_key("d", publish(store, "5", texts("rots")), "train/part-00000.parquet")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(CorruptObject, match="not what was published"):
        sync_delta(store, "d")
    assert table_of(store).to_pyarrow_table()["text"].to_pylist() == ["night 3"]


def test_a_table_ahead_of_its_log_is_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    publish(store, "1", texts("a"))
    publish(store, "2", texts("b"))
    sync_delta(store, "d")
    shutil.rmtree(tmp_path / "public/d/_log")
    publish(store, "1", texts("c"))
    with pytest.raises(StoreRefused, match="holds log entry 1, but the log ends at 0"):
        sync_delta(store, "d")


def test_a_rollback_follows_only_where_there_is_a_table(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    publish(store, "1", texts("a"))
    assert mirror_delta(store, "d", wanted=False) is None
    assert not (tmp_path / delta_key("d")).exists()
    assert mirror_delta(store, "d", wanted=True) == 0
    publish(store, "1", texts("b"))
    assert mirror_delta(store, "d", wanted=False) == 1


@pytest.mark.slow
def test_a_run_writes_the_table_after_its_release_and_a_broken_table_costs_no_release(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = recipe_document(write_rows(tmp_path / "rows.csv"), dataset="d", publish={"format": "delta"})
    document["run"] |= {"store": str(tmp_path / "store")}
    document["gate"] |= {"rule": "not_worse", "margin": 100.0}
    document["checks"] = {"label_consistency": False}  # which trains a model
    recipe = build_recipe(document, base=tmp_path)
    first = run(recipe)
    assert first.result["delta"] == 0
    parts = [pq.read_table(first.folder / split) for split in ("train", "validation", "test")]
    columns = [name for name in parts[0].column_names if name != "aug_scores"]
    expected = pa.concat_tables(parts)
    found = table_of(first.store).to_pyarrow_table()
    assert found.select(columns).sort_by("aug_row_id").equals(expected.select(columns).sort_by("aug_row_id"))
    assert (
        found.sort_by("aug_row_id")["aug_scores"].to_pylist()
        == expected.sort_by("aug_row_id")["aug_scores"].to_pylist()
    )
    again = run(recipe)
    assert (again.result["new"], again.result["delta"]) == (False, 0)

    write_rows(tmp_path / "rows.csv", rows=70)
    log = tmp_path / "store" / delta_key("d") / "_delta_log"
    log.rename(log.with_name("aside"))
    log.write_text("no directory")
    broken = run(recipe)
    assert (broken.result["new"], broken.result["delta"]) == (True, None)
    assert "its Delta table lags behind the log" in capsys.readouterr().err
    log.unlink()
    log.with_name("aside").rename(log)
    mended = run(recipe)
    assert (mended.result["new"], mended.result["delta"]) == (False, 1)
    assert table_of(first.store).history(1)[0]["release"] == broken.result["release"]
