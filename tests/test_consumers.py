"""The lines of docs/releases.md open the newest release, or the one as of a date, and find the same rows."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chain import WORDS, produce_and_publish, tiny_recipe, write_rows
from commands import augmill, fingerprint, refused, write_recipe
from fake_releases import put_fake

from augmill.tasks.stages.publish import commit_releases
from augmill.tasks.store.delta import sync_delta
from augmill.tasks.store.log import read_log, rollback
from augmill.tasks.store.store import Store, release_key

PAGE = (Path(__file__).parents[1] / "docs/releases.md").read_text(encoding="utf-8")
COLUMNS = ["text", "label", "aug_weight"]
WEIGHT = 0.25

BY_DAY = {"columns": {"text": "text", "label": "label", "partition": "day"}, "partitions": {"every": "day"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe and its store, in which one release is the newest as of 2026-10-01 and of all there is."""
    folder = tmp_path_factory.mktemp("consumers")
    recipe = tiny_recipe(write_rows(folder / "rows.csv", 240), mix={"synthetic_weight": WEIGHT})
    store = Store(str(folder / "store"))
    release, _ = produce_and_publish(recipe, store)
    commit_releases(store, "tiny", {"2026-10-01": (None, release)}, entry={"reason": "t"}, command="t")
    write_recipe(folder, **BY_DAY)
    return folder


@pytest.fixture(scope="module")
def release(folder: Path) -> str:
    ended = augmill("path", folder / "recipe.yaml")
    assert ended.code == 0
    return ended.out.rstrip("\n")


@pytest.fixture(scope="module")
def train(release: str) -> pa.Table:
    return pq.read_table(Path(release) / "train")


def line(start: str, **scope: Any) -> Any:
    """What the page's line that starts so gives, run as it stands there."""
    (found,) = [one for one in PAGE.splitlines() if one.startswith(start)]
    name, equals, expression = found.split("  #")[0].partition(" = ")
    return eval(expression if equals and name.isidentifier() else found.split("  #")[0], scope)


def values(table: pa.Table) -> list[tuple[Any, ...]]:
    return sorted(zip(*(table[name].to_pylist() for name in COLUMNS), strict=True))


def test_path_is_one_line_that_names_the_newest_release_wherever_one_stands(
    folder: Path, release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = read_log(Store(str(folder / "store")), "tiny").newest()
    assert newest is not None and Path(release) == folder / "store" / release_key("tiny", newest)
    assert (Path(release) / "manifest.json").exists()
    for as_of in ("2026-10-01", "2026-10-31"):
        assert augmill("path", folder / "recipe.yaml", "--as-of", as_of).out == f"{release}\n"
    monkeypatch.chdir(folder)
    relative = write_recipe(folder, name="relative.yaml", run={"store": "store"})
    assert augmill("path", relative.name).out == f"{release}\n"
    assert augmill("path", relative.name, "--store", folder / "store").out == f"{release}\n"


def test_path_follows_what_is_current(folder: Path, release: str, tmp_path: Path) -> None:
    shutil.copytree(folder / "store", tmp_path / "store")
    store, recipe = Store(str(tmp_path / "store")), write_recipe(tmp_path, **BY_DAY)
    first = read_log(store, "tiny").newest()
    assert first is not None
    second = put_fake(store, "second")
    other = tmp_path / "store" / release_key("tiny", second)
    commit_releases(store, "tiny", {"2026-10-01": (first, second)}, entry={"reason": "t"}, command="t")
    assert augmill("path", recipe, "--as-of", "2026-10-01").out == f"{other}\n"
    rollback(store, "tiny", to=None, reason="t", command="t")
    assert augmill("path", recipe, "--as-of", "2026-10-01").out.rstrip().endswith(first)


def test_path_ends_with_3_and_makes_nothing_where_there_is_no_release(folder: Path, tmp_path: Path) -> None:
    refused(augmill("path", folder / "recipe.yaml", "--as-of", "2026-09-30"), 3, ["no release as of 2026-09-30"])
    refused(augmill("path", folder / "recipe.yaml", "--delta"), 3, ["no Delta table", "format: delta"])
    for nonsense in ("2026-10-3", "yesterday", "2026-13-45"):  # compared as texts, these would give the newest
        refused(augmill("path", folder / "recipe.yaml", "--as-of", nonsense), 2, ["--as-of", nonsense])
    recipe = write_recipe(tmp_path)
    refused(augmill("path", recipe, "--as-of", "2026-09-30"), 2, ["no partitions"])
    before = fingerprint(tmp_path)
    refused(augmill("path", recipe), 3, ["'tiny' has no release", "augmill run"])
    refused(augmill("path", recipe, "--delta", "--as-of", "2026-09-30"), 2, ["versions"])
    assert fingerprint(tmp_path) == before


def test_polars_duckdb_and_pyarrow_find_the_same_rows(release: str, train: pa.Table) -> None:
    """`datasets`: tests/test_docs.py, in a process of its own."""
    import duckdb
    import polars
    import pyarrow.dataset

    assert values(line("polars.read_parquet", polars=polars, release=release).to_arrow()) == values(train)
    assert values(line("pyarrow.dataset", pyarrow=pyarrow, release=release)) == values(train)
    origins = train["aug_origin"].to_pylist()
    by_origin = dict(line("duckdb.sql", duckdb=duckdb, release=release).fetchall())
    assert by_origin == {name: origins.count(name) for name in ("real", "synthetic")}


def test_pytorch_takes_batches_of_them(release: str, train: pa.Table) -> None:
    import pyarrow.parquet
    import torch.utils.data

    loader = line("torch.utils.data.DataLoader", torch=torch, pyarrow=pyarrow, release=release, columns=COLUMNS)
    batches = list(loader)
    assert batches[0]["aug_weight"].dtype == torch.float64 and len(batches[0]["text"]) == 32
    found = [
        (text, label, weight)
        for batch in batches
        for text, label, weight in zip(batch["text"], batch["label"], batch["aug_weight"].tolist(), strict=True)
    ]
    assert sorted(found) == values(train)


def test_pytorch_is_fed_no_batch_of_one_class_or_origin_though_nobody_shuffles(release: str, train: pa.Table) -> None:
    """The line as it stands, of a set whose classes are even."""
    import pyarrow.parquet
    import torch.utils.data

    scope = {"torch": torch, "pyarrow": pyarrow, "release": release, "columns": ["label", "aug_origin"]}
    whole = [batch for batch in line("torch.utils.data.DataLoader", **scope) if len(batch["label"]) == 32]
    assert len(whole) == len(train) // 32 > 4
    for batch in whole:
        assert set(batch["aug_origin"]) == {"real", "synthetic"}
        assert set(batch["label"]) == set(WORDS)
        assert max(map(batch["label"].count, WORDS)) < 32 * 2 / 3


def test_weights_weigh_rows_in_the_loss_and_in_what_is_drawn(release: str, train: pa.Table) -> None:
    import polars
    import torch

    weights = train["aug_weight"].to_pylist()
    expected = [1.0 if origin == "real" else WEIGHT for origin in train["aug_origin"].to_pylist()]
    assert weights == expected
    logits, labels, weight = torch.zeros(3, 2), torch.tensor([0, 1, 0]), torch.tensor([1.0, 0.25, 0.0])
    logits[1, 1] = 5.0
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none").tolist()
    loss = line("loss =", torch=torch, logits=logits, labels=labels, weight=weight)
    assert loss.item() == pytest.approx((losses[0] + 0.25 * losses[1]) / 1.25)
    torch.manual_seed(0)
    frame = polars.concat([polars.DataFrame(train.select(["aug_weight", "aug_origin"]))] * 20)
    drawn = list(line("sampler =", torch=torch, train=frame))
    real = sum(frame["aug_origin"][at] == "real" for at in drawn) / len(drawn)
    assert real == pytest.approx(expected.count(1.0) / sum(expected), abs=0.05)


def test_the_reading_order_gives_each_row_of_an_epoch_in_its_place(release: str, train: pa.Table) -> None:
    import polars

    order = pq.read_table(Path(release) / "order.parquet").to_pylist()
    first = sorted((row["position"], row["aug_row_id"]) for row in order if row["epoch"] == 0)
    found = line("first_epoch", polars=polars, release=release, train=polars.DataFrame(train))
    assert found["aug_row_id"].to_list() == [name for _, name in first]
    assert found["text"].null_count() == 0


def test_a_delta_table_holds_the_release_that_path_names(
    folder: Path, release: str, train: pa.Table, tmp_path: Path
) -> None:
    pytest.importorskip("deltalake")
    import polars

    shutil.copytree(folder / "store", tmp_path / "store")
    sync_delta(Store(str(tmp_path / "store")), "tiny")
    table = augmill("path", write_recipe(tmp_path), "--delta").out.rstrip("\n")
    assert values(line("polars.read_delta", polars=polars, table=table).to_arrow()) == values(train)


def test_tf_data_takes_them(release: str, train: pa.Table) -> None:
    tensorflow = pytest.importorskip("tensorflow")
    import polars

    rows = line("tensorflow.data", tensorflow=tensorflow, polars=polars, release=release, columns=COLUMNS)
    found = [(row["text"].decode(), row["label"].decode(), row["aug_weight"]) for row in rows.as_numpy_iterator()]
    assert sorted(found) == values(train)


def test_spark_finds_the_same_rows(release: str, train: pa.Table) -> None:
    sql = pytest.importorskip("pyspark.sql")
    spark = sql.SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
    try:
        frame = line("spark.read.parquet", spark=spark, release=release)
        assert sorted(tuple(row) for row in frame.select(COLUMNS).collect()) == values(train)
    finally:
        spark.stop()
