"""A release is readable on its own: the user's columns as they came, the added ones typed, every byte vouched for."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import decimal
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from chain import WORDS, Produced, make_run, produce_snapshot, recipe_document, write_rows

from augmill.flows.augment import mix_accepted, mix_config
from augmill.flows.source import read_source
from augmill.flows.units import gather_source
from augmill.tasks.contracts import Artifact
from augmill.tasks.errors import DataError, UserError
from augmill.tasks.recipe.recipe import Recipe, build_recipe
from augmill.tasks.rows.hashing import hash_json, hash_table
from augmill.tasks.rows.schema import as_training, class_counts
from augmill.tasks.stages import mix as mixing
from augmill.tasks.stages import publish
from augmill.tasks.stages.mix import MixConfig, arrange_real
from augmill.tasks.stages.publish import ReleaseConfig, build_release, order_by_hash, put_release, release_id
from augmill.tasks.stages.settle import verify_ledger
from augmill.tasks.stages.split import prepare_split, split
from augmill.tasks.store.releases import verify_release
from augmill.tasks.store.stage import Site, Work, read_manifest
from augmill.tasks.store.store import Store, release_key

LABELS = (30, 1, 20, 30, 1)  # three classes; 30 appears first, so that no sorting would give this order
ADDED = {
    "aug_row_id": pa.string(),
    "aug_split": pa.string(),
    "aug_origin": pa.string(),
    "aug_generator": pa.string(),
    "aug_parent_ids": pa.list_(pa.string()),
    "aug_seed": pa.int64(),
    "aug_weight": pa.float64(),
    "aug_scores": pa.list_(pa.struct([("name", pa.string()), ("value", pa.float64())])),
}


def typed_source(path: Path, rows: int = 150) -> pa.Table:
    """Rows with columns of many types around text and label, nulls in each."""
    words = list(WORDS.values())

    def some(values: list[Any], kind: pa.DataType) -> pa.Array:
        return pa.array([None if i % 7 == 3 else values[i % len(values)] for i in range(rows)], kind)

    day = datetime.datetime(2026, 1, 1, 12)
    table = pa.table(
        {
            "price": some([decimal.Decimal("1.50"), decimal.Decimal("-2.25")], pa.decimal128(6, 2)),
            "text": [
                " ".join(words[LABELS[i % 5] % 3][(i * k + k * k) % 12] for k in range(1, 8)) for i in range(rows)
            ],
            "ok": some([True, False], pa.bool_()),
            "label": pa.array([LABELS[i % 5] for i in range(rows)], pa.int16()),
            "day": some([day.date()], pa.date32()),
            "at": some([day], pa.timestamp("us", "Europe/Berlin")),
            "lang": some(["en", "de", "fr"], pa.string()),
            "stars": some([1, 5], pa.uint8()),
            "share": some([0.5, float("inf")], pa.float32()),
            "tags": some([["a", None], []], pa.list_(pa.string())),
            "nothing": pa.nulls(rows, pa.int32()),
        }
    )
    pq.write_table(table, path)
    return table


@dataclasses.dataclass
class Made:
    recipe: Recipe
    source: pa.Table
    store: Store
    produced: Produced
    mixed: Artifact
    config: ReleaseConfig
    built: Artifact
    release: str

    @property
    def directory(self) -> Path:
        return Path(self.store.root) / release_key("tiny", self.release)

    def read(self, part: str = "train") -> pa.Table:
        return pq.read_table(self.directory / part / "part-00000.parquet")

    def json(self, name: str) -> Any:
        return json.loads((self.directory / name).read_bytes())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    directory = tmp_path_factory.mktemp("made")
    source = typed_source(directory / "rows.parquet")
    document = recipe_document(directory / "rows.parquet", publish={"copy": ["lang"]})
    recipe = build_recipe(document, base=directory)
    store = Store(str(directory / "store"))
    produced = produce_snapshot(recipe, store)
    run, ingested, split = produced.run, produced.ingested, produced.split
    mixed = mix_accepted(run, split, produced.made)
    config = ReleaseConfig("tiny", "all", "mix", "aug_", recipe.columns, recipe.hash(), recipe.task)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("augmill.tasks.store.stage.ROW_GROUP", 16)  # so that these few rows make several groups
        built = build_release(run.site, config, ingested, split, mixed, [produced.settled])
    release = put_release(store, "tiny", built, {"command": "test"})
    yield Made(recipe, source, store, produced, mixed, config, built, release)


def test_the_users_columns_come_back_in_name_order_type_and_value(made: Made) -> None:
    names = made.source.column_names
    rows = pa.concat_tables([made.read(name) for name in ("train", "validation", "test")])
    assert rows.column_names == [*names, *ADDED]
    assert rows.select(names).schema.equals(made.source.schema)
    real = rows.filter(pc.equal(rows["aug_origin"], "real")).select(names)
    held = {tuple(map(repr, row.values())) for row in made.source.to_pylist()}
    assert {tuple(map(repr, row.values())) for row in real.to_pylist()} <= held
    manifest = made.json("manifest.json")
    assert real.num_rows == sum(part["rows"] - part["synthetic"] for part in manifest["counts"].values())


def test_the_added_columns_have_their_types_and_say_what_a_row_is(made: Made) -> None:
    for part in ("train", "validation", "test"):
        rows = made.read(part)
        for name, kind in ADDED.items():
            assert rows.schema.field(name).type.equals(kind), name
        assert set(rows["aug_split"].to_pylist()) == {part}
        assert rows["aug_row_id"].null_count == 0
    synthetic = made.read().filter(pc.equal(made.read()["aug_origin"], "synthetic")).to_pylist()
    real_ids = set(made.read().filter(pc.equal(made.read()["aug_origin"], "real"))["aug_row_id"].to_pylist())
    assert len(synthetic) == 60
    for row in synthetic:
        assert (row["aug_generator"], row["aug_weight"]) == ("rules", 1.0)
        assert row["aug_seed"] >= 0 and row["aug_scores"]
        assert row["aug_parent_ids"] and set(row["aug_parent_ids"]) <= real_ids
    assert set(made.read("test")["aug_origin"].to_pylist()) == {"real"}


def test_synthetic_rows_are_null_where_nothing_was_made_and_copied_where_the_recipe_says(made: Made) -> None:
    rows = made.read().to_pylist()
    langs = {row["aug_row_id"]: row["lang"] for row in rows}
    synthetic = [row for row in rows if row["aug_origin"] == "synthetic"]
    for row in synthetic:
        assert row["lang"] == langs[row["aug_parent_ids"][0]]
        assert {row[n] for n in ("price", "ok", "day", "at", "stars", "share", "nothing")} == {None}
        assert row["tags"] is None
        assert row["text"] and row["label"] in LABELS
    assert {row["lang"] for row in synthetic} > {"en", "de"}


def test_label_ids_follow_the_order_of_first_appearance(made: Made) -> None:
    names = [("30", 30), ("1", 1), ("20", 20)]
    assert made.json("labels.json")["labels"] == [{"id": i, "name": n, "value": v} for i, (n, v) in enumerate(names)]


def test_the_manifest_vouches_for_every_file_and_names_the_release(made: Made) -> None:
    manifest = made.json("manifest.json")
    files = {path.relative_to(made.directory).as_posix() for path in made.directory.rglob("*") if path.is_file()}
    assert files == {*manifest["files"], "manifest.json", "provenance.json"}
    assert hash_json(manifest)[:16] == made.release == release_id(made.store, made.built)
    verify_ledger(manifest["ledger"])
    assert manifest["counts"]["train"]["synthetic"] == sum(manifest["ledger"]["accepted"].values())
    assert made.json("provenance.json") == {"command": "test"}


def test_the_reading_order_names_each_training_row(made: Made) -> None:
    order = pq.read_table(made.directory / "order.parquet")
    assert order.column_names == ["epoch", "position", "aug_row_id"]
    assert sorted(order["aug_row_id"].to_pylist()) == sorted(made.read()["aug_row_id"].to_pylist())


def test_rows_stand_in_the_order_of_their_ids_hashes(made: Made) -> None:
    """Not by class and origin, which a reader without a shuffle would be fed one after the other."""
    for part in ("train", "validation", "test"):
        ids = made.read(part)["aug_row_id"].to_pylist()
        assert ids == sorted(ids, key=lambda row_id: hashlib.sha256(row_id.encode()).digest())
    metadata = pq.ParquetFile(made.directory / "train" / "part-00000.parquet").metadata
    assert metadata.num_row_groups > 6 and metadata.row_group(0).column(0).compression == "ZSTD"


def test_the_order_of_a_release_hangs_on_nothing_but_the_ids() -> None:
    ids = [f"row {at}" for at in range(100)]
    standing = [ids[at] for at in order_by_hash([ids[:30], [], ids[30:]])]
    assert sorted(standing) == sorted(ids) and standing != ids
    assert [ids[::-1][at] for at in order_by_hash([ids[::-1]])] == standing


@pytest.mark.parametrize(("group", "part"), [(1, 13), (7, 1000), (16, 1), (16, 50), (1000, 7)])
def test_a_release_is_written_part_by_part_as_it_would_be_at_once(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: int, part: int
) -> None:
    """Each split's rows by their ids' hashes, by plain sorting; the same file, byte for byte."""
    monkeypatch.setattr(publish, "ROW_GROUP", group)
    monkeypatch.setattr("augmill.tasks.store.stage.ROW_GROUP", 16)
    monkeypatch.setattr("augmill.tasks.rows.parts.PART_ROWS", part)
    work = Work(made.produced.run.site, tmp_path)
    tables = {"train": work.read(made.mixed, "mix.parquet"), "test": work.read(made.produced.split, "test.parquet")}
    paths = {"train": work.path(made.mixed, "mix.parquet"), "test": work.path(made.produced.split, "test.parquet")}
    schema = pq.read_schema(work.path(made.produced.ingested, "source.parquet")).remove_metadata()
    labels = work.read_json(made.produced.ingested, "labels.json")["values"]
    found = publish._write_splits(work, made.config, paths, schema, labels)
    assert list(found) == ["train/part-00000.parquet", "test/part-00000.parquet"]
    tables["test"] = as_training(tables["test"])
    for name, rows in tables.items():
        digests = [hashlib.sha256(row_id.encode()).digest() for row_id in rows["row_id"].to_pylist()]
        order = sorted(range(rows.num_rows), key=digests.__getitem__)
        work.write(publish.user_table(rows.take(order), name, made.config, schema, labels), "whole")
        file = f"{name}/part-00000.parquet"
        assert found[file] == {"rows": rows.num_rows, "content": work.contents["whole"]}
        assert (tmp_path / file).read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("part", [1, 7, 1000])
def test_a_mix_written_part_by_part_is_that_of_all_rows_at_once(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    """With a column that synthetic rows copy from their parents."""
    monkeypatch.setattr("augmill.tasks.rows.parts.PART_ROWS", part)
    monkeypatch.setattr(mixing, "PART_ROWS", part)
    work, config, split, settled = (
        Work(made.produced.run.site, tmp_path), mix_config(made.recipe), made.produced.split, made.produced.settled,
    )  # fmt: skip
    mixing.mix.run(work, config, split, settled)
    train, accepted = work.read(split, "train.parquet"), work.read(settled, "accepted.parquet")
    real, whole = (mixing.arrange(train, rows, config) for rows in (accepted.slice(0, 0), accepted))
    counts = whole.group_by(["stratum", "weight"]).aggregate([([], "count_all")]).to_pylist()
    weights = mixing.placebo_weights(class_counts(real["stratum"]), [tuple(each.values()) for each in counts])
    expected = {"real": real, "mix": whole, "placebo": mixing.weigh_placebo(real, weights)}
    assert whole["user.lang"].slice(real.num_rows).null_count < accepted.num_rows
    for name, rows in expected.items():
        assert pq.read_table(tmp_path / f"{name}.parquet").equals(rows)
        order = pa.concat_tables(mixing.reading_order(rows["row_id"], real.num_rows, config))
        assert pq.read_table(tmp_path / f"{name}.order.parquet").equals(order)
        assert work.contents[f"{name}.parquet"] == hash_table(rows)
        assert work.contents[f"{name}.order.parquet"] == hash_table(order)
    assert work.rows == whole.num_rows


def test_a_release_reads_alike_through_pyarrow_polars_and_duckdb(made: Made) -> None:
    import duckdb

    for name, part in made.json("manifest.json")["counts"].items():
        pattern = f"{made.directory}/{name}/*.parquet"
        expected = part["classes"]
        frame = pl.read_parquet(pattern)
        assert {str(k): v for k, v in frame.group_by("label").len().iter_rows()} == expected
        found = duckdb.sql(f"select label, count(*) from read_parquet('{pattern}') group by label").fetchall()
        assert {str(k): v for k, v in found} == expected
        table = ds.dataset(str(made.directory / name)).to_table()
        assert frame["text"].to_list() == table["text"].to_pylist()
        texts = duckdb.sql(f"select text, aug_scores[1].name from read_parquet('{pattern}')").fetchall()
        assert [text for text, _ in texts] == table["text"].to_pylist()


@pytest.mark.slow
def test_a_release_reads_through_datasets_from_its_card(made: Made, tmp_path: Path) -> None:
    import datasets

    loaded = datasets.load_dataset(str(made.directory), cache_dir=str(tmp_path))
    counts = made.json("manifest.json")["counts"]
    assert {name: part.num_rows for name, part in loaded.items()} == {n: part["rows"] for n, part in counts.items()}
    assert loaded["train"].column_names == made.read().column_names
    assert list(loaded["train"]["text"]) == made.read()["text"].to_pylist()


def test_any_flipped_bit_is_found_in_its_file(made: Made) -> None:
    assert verify_release(made.store, "tiny", made.release) == []
    names = [*made.json("manifest.json")["files"], "manifest.json"]
    for name in names:
        path = made.directory / name
        good = path.read_bytes()
        for at in {0, len(good) // 3, len(good) // 2, len(good) - 1}:
            path.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
            assert verify_release(made.store, "tiny", made.release) == [name]
        path.unlink()
        if name != "manifest.json":
            assert verify_release(made.store, "tiny", made.release) == [name]
        path.write_bytes(good)
    with pytest.raises(UserError, match="no release 'other'"):
        verify_release(made.store, "tiny", "other")


def test_a_manifest_changed_in_any_byte_is_found_and_not_believed(made: Made) -> None:
    path = made.directory / "manifest.json"
    good = path.read_bytes()
    try:
        for at in range(0, len(good), 7):
            path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
            assert verify_release(made.store, "tiny", made.release) == ["manifest.json"]
    finally:
        path.write_bytes(good)


def test_a_release_that_was_cut_off_is_completed_and_one_that_stands_is_left_alone(made: Made) -> None:
    (made.directory / "manifest.json").unlink()
    part = made.directory / "train" / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:100])
    (made.directory / "order.parquet").unlink()
    assert put_release(made.store, "tiny", made.built, {"command": "test"}) == made.release
    assert verify_release(made.store, "tiny", made.release) == []
    stamps = {path: path.stat().st_mtime_ns for path in made.directory.rglob("*")}
    assert put_release(made.store, "tiny", made.built, {"command": "later"}) == made.release
    assert stamps == {path: path.stat().st_mtime_ns for path in made.directory.rglob("*")}


def test_the_manifest_is_put_last(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release is whole when it stands: every other file, provenance too, is there before it."""
    put: list[str] = []
    store = Store(made.store.root)
    monkeypatch.setattr(store, "put", lambda key, value: put.append(key))
    monkeypatch.setattr(store, "holds", lambda *of: False)
    monkeypatch.setattr(store, "size", lambda key: None)
    monkeypatch.setattr(publish, "fetch", lambda *of: Path("unread"))
    monkeypatch.setattr(publish, "read_manifest", lambda store, built: read_manifest(made.store, built))
    put_release(store, "tiny", made.built, {})
    names = [key.removeprefix(release_key("tiny", made.release, "x")[:-1]) for key in put]
    assert names[-1] == "manifest.json" and sorted(names[:-1]) == sorted(
        {*made.json("manifest.json")["files"], "provenance.json"}
    )


@pytest.mark.parametrize("name", ["manifest.json", "train/part-00000.parquet", "labels.json"])
def test_a_file_that_rotted_in_a_release_is_put_again_by_the_next_run(made: Made, name: str) -> None:
    path = made.directory / name
    good = path.read_bytes()
    path.write_bytes(good[:10] + bytes([good[10] ^ 255]) + good[11:])
    assert verify_release(made.store, "tiny", made.release) == [name]
    run = make_run(made.recipe, made.store, expected=made.release)
    _, again = read_source(run)  # looks into the current release's manifest
    assert again == made.produced.split
    assert put_release(made.store, "tiny", made.built, {"command": "later"}) == made.release
    assert path.read_bytes() == good
    assert made.json("provenance.json") == {"command": "test"}


def test_a_prefix_that_clashes_with_the_users_columns_is_refused(made: Made) -> None:
    config = dataclasses.replace(made.config, prefix="la")
    with pytest.raises(UserError, match=r"publish\.prefix: the source's column 'label' begins with the prefix 'la'"):
        build_release(Site(made.store), config, made.produced.ingested, made.produced.split, made.mixed, [])


def release_real(directory: Path, as_of: str | None = None, **changes: Any) -> Path:
    """The release of the real rows alone, without generation."""
    recipe = build_recipe(recipe_document(directory / "rows.csv") | changes, base=directory)
    site = Site(Store(str(directory / "store")))
    ingested = gather_source(site, recipe, as_of)
    parts = split(site, prepare_split(recipe), ingested, [])
    real = arrange_real(site, MixConfig(recipe.mix, (), recipe.columns.fields, recipe.seed), parts)
    config = ReleaseConfig("tiny", "all", "real", recipe.publish.prefix, recipe.columns, recipe.hash(), recipe.task)
    built = build_release(site, config, ingested, parts, real, [])
    release = put_release(site.store, "tiny", built, {})
    assert verify_release(site.store, "tiny", release) == []
    return Path(site.store.root) / release_key("tiny", release)


def test_an_empty_split_has_no_file(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv")
    directory = release_real(tmp_path, splits={"validation": 0.3, "test": 0.0})
    assert sorted(path.name for path in directory.iterdir() if path.is_dir()) == ["train", "validation"]
    assert json.loads((directory / "manifest.json").read_bytes())["counts"]["test"]["rows"] == 0
    assert "split: test" not in (directory / "README.md").read_text()
    train = pq.read_table(directory / "train")
    assert (train["aug_generator"].null_count, train["aug_generator"].type) == (train.num_rows, pa.string())


def test_nested_and_binary_columns_come_back_too(tmp_path: Path) -> None:
    rows = 40
    fixed = pa.array([i.to_bytes(16, "big") if i % 3 else None for i in range(rows)], pa.binary(16))
    table = pa.table(
        {
            "fixed": fixed,
            "uuid": pa.ExtensionArray.from_storage(pa.uuid(), fixed),
            "text": [f"{WORDS['refund'][i % 7]} {WORDS['track'][i % 11]} {i * 7919}" for i in range(rows)],
            "label": [i % 2 == 0 for i in range(rows)],
            "map": pa.array([[("k", i), ("l", None)] if i % 3 else None for i in range(rows)], pa.map_("str", "int64")),
            "pair": pa.array([[i, 1] if i % 3 else None for i in range(rows)], pa.list_(pa.int32(), 2)),
            "struct": [{"a": i, "b": [str(i)]} if i % 3 else None for i in range(rows)],
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    directory = release_real(tmp_path, source={"path": "rows.parquet"}, splits={"validation": 0.3, "test": 0.0})
    released = [pq.read_table(directory / name) for name in ("train", "validation")]
    for name in ("map", "fixed", "uuid"):
        assert released[0].schema.field(name).type == table.schema.field(name).type
    got = {row["text"]: row for part in released for row in part.select(table.column_names).to_pylist()}
    assert len(got) > 30
    assert got == {row["text"]: row for row in table.to_pylist() if row["text"] in got}


def test_a_label_renamed_to_another_type_is_the_class_name_in_a_text_column_and_refused_in_a_number_one(
    tmp_path: Path,
) -> None:
    write_rows(tmp_path / "rows.csv")
    directory = release_real(tmp_path, labels={"aliases": {"login": True, "track": 7}})
    labels = pq.read_table(directory / "train")["label"].to_pylist()
    assert set(labels) == {"refund", "true", "7"}
    typed_source(tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"labels\.aliases"):
        release_real(tmp_path, source={"path": str(tmp_path / "rows.parquet")}, labels={"aliases": {"30": "thirty"}})


def public_files(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file() and path.name != "provenance.json")
    return {path.relative_to(directory.parent).as_posix(): path.read_bytes() for path in files}


LATER = [
    {"key": "0", "text": "an id of the day before", "label": "refund"},
    {"key": "later-1", "text": "", "label": "refund"},
    {"key": "later-2", "text": "a class of its own", "label": "brand new"},
    {"key": None, "text": "without an id", "label": "refund"},
    {"key": "later-3", "text": "WITHOUT a label", "label": None},
]


@pytest.mark.parametrize("ids", [True, False])
def test_a_release_as_of_a_day_has_the_same_bytes_whatever_comes_later(tmp_path: Path, ids: bool) -> None:
    """Later rows that are refused, doubled, of new labels, and even stand first in the file."""
    with write_rows(tmp_path / "made.csv").open(newline="") as stream:
        made = [row | {"key": str(at), "day": "2026-11-03"} for at, row in enumerate(csv.DictReader(stream))]
    names = ("text", "label", "lang", "key", "day")  # the columns and their order are of the whole source
    later = [row | {"lang": "en", "day": "2026-11-04"} for row in [*LATER, *made[:20]]]
    later = [{name: row[name] for name in names} for row in later]
    recipe: dict[str, Any] = {
        "source": {"path": "rows.jsonl"},
        "columns": {"text": "text", "label": "label", "partition": "day"} | ({"id": "key"} if ids else {}),
        "labels": {"declared": ["refund", "track", "login"], "unknown": "stop"} if ids else {},
        "refuse": {"max_share": 0.0},
    }

    def release(name: str, rows: list[dict[str, Any]]) -> dict[str, bytes]:
        (tmp_path / name).mkdir()
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / name / "rows.jsonl").write_text(text)
        return public_files(release_real(tmp_path / name, "2026-11-03", **recipe))

    alone = release("alone", made)
    assert release("before", [*later, *made]) == alone == release("after", [*made, *later])
    with pytest.raises(DataError):  # what they would do if they were seen
        release_real(tmp_path / "after", "2026-11-04", **recipe)


def test_a_later_line_that_cannot_be_read_is_counted_and_changes_no_release(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.csv").read_text().replace(",en", ",2026-11-03")
    (tmp_path / "rows.csv").write_text(rows)
    columns = {"text": "text", "label": "label", "partition": "lang"}
    before = public_files(release_real(tmp_path, "2026-11-03", columns=columns))
    (tmp_path / "rows.csv").write_text(rows + "a line,of too,many,cells,2026-11-04\n")
    assert public_files(release_real(tmp_path, "2026-11-03", columns=columns)) == before


def test_a_class_that_gets_rows_enough_shifts_no_label_id(tmp_path: Path) -> None:
    def ids(rare: int) -> dict[str, int]:
        write_rows(tmp_path / "rows.csv")
        head, *rows = (tmp_path / "rows.csv").read_text().splitlines()
        made = [f"{'abc'[at % 3] * 9} {at * 7919} {'xyz'[at % 2] * 9},rare,en" for at in range(rare)]
        (tmp_path / "rows.csv").write_text("\n".join([head, *made, *rows]) + "\n")
        labels = {"rare": "quarantine", "min_rows": 5}
        directory = release_real(tmp_path, labels=labels, splits={"validation": 0.3, "test": 0.0})
        return {part["name"]: part["id"] for part in json.loads((directory / "labels.json").read_bytes())["labels"]}

    few, many = ids(1), ids(60)
    assert few == {"refund": 1, "track": 2, "login": 3}
    assert many == few | {"rare": 0}


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"retired": ["a"]}, {"b": 1, "c": 2}),
        ({"declared": ["a", "c"], "unknown": "quarantine"}, {"a": 0, "c": 2}),
        ({"aliases": {"b": "a"}}, {"a": 0, "c": 2}),
        ({"aliases": {"a": "c"}}, {"c": 0, "b": 1}),  # a class that is renamed keeps its id
    ],
)
def test_what_the_recipe_says_of_a_label_shifts_no_other_labels_id(
    tmp_path: Path, rules: dict[str, Any], expected: dict[str, int]
) -> None:
    def ids(labels: dict[str, Any]) -> dict[str, int]:
        texts = [f"{'pqr'[at % 3] * 9} {at * 7919} {'xyz'[at % 2] * 9}" for at in range(60)]
        rows = "".join(f"{text},{'abc'[at // 20]},en\n" for at, text in enumerate(texts))
        (tmp_path / "rows.csv").write_text(f"text,label,lang\n{rows}")
        changes = {"labels": labels, "refuse": {"max_share": 1.0}, "splits": {"validation": 0.3, "test": 0.0}}
        directory = release_real(tmp_path, **changes)
        return {part["name"]: part["id"] for part in json.loads((directory / "labels.json").read_bytes())["labels"]}

    assert ids({}) == {"a": 0, "b": 1, "c": 2}
    assert ids(rules) == expected


@pytest.mark.parametrize("excluded", ["theirs/*.jsonl", "theirs", "theirs/b.jsonl"])
def test_two_checkouts_in_two_directories_make_one_release(tmp_path: Path, excluded: str) -> None:
    def release(name: str, text: str) -> dict[str, bytes]:
        directory = tmp_path / name
        (directory / "theirs").mkdir(parents=True)
        write_rows(directory / "rows.csv")
        for at, file in enumerate(("b.jsonl", "a.jsonl")):
            (directory / "theirs" / file).write_text(json.dumps({"text": f"{text} {at}"}) + "\n")
        splits = {"validation": 0.3, "test": 0.0, "heldout_exclude": [excluded]}
        return public_files(release_real(directory, splits=splits))

    assert release("one", "some text") == release("two", "some text") != release("three", "another text")
