"""Pictures and sounds from source to typed rows, by a kind of files that decodes nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blobs import BLOB
from reading import put
from test_ingest import Ingested
from test_webdataset import tar

from augmill.tasks.recipe.recipe import build_recipe
from augmill.tasks.rows.kinds.media import MEDIA, RELEASED, media
from augmill.tasks.rows.schema import rows_at_once, titles, with_titles
from augmill.tasks.sources.members import name_files
from augmill.tasks.stages import ingest
from augmill.tasks.stages.extensions import generator_config
from augmill.tasks.stages.split import _exclude_table, prepare_split
from augmill.tasks.stages.user_columns import give_back

FIELD = "blobs/Blob:{}"


def ingested(source: Path, column: str = "file", /, as_of: str | None = None, **changes: Any) -> Ingested:
    columns = {"inputs": {column: BLOB}, "target": {"label": "label"}} | changes.pop("columns", {})
    more: dict[str, Any] = {"generators": [{"use": "blobs:Appended"}], "checks": {}, "trainer": {"use": "linear"}}
    return Ingested(source, as_of, columns=columns, **more, **changes)


def files(found: Ingested, column: str = "file") -> dict[str, bytes]:
    values = found.rows[FIELD.format(column)].to_pylist()
    return {value["path"]: value["bytes"] for value in values}


def lay(root: Path, names: dict[str, bytes]) -> Path:
    for name, data in names.items():
        put(root / name, data)
    return root


def test_a_directory_gives_typed_rows_with_their_labels(tmp_path: Path) -> None:
    root = lay(tmp_path / "in", {"cat/1.png": b"a", "cat/2.png": b"", "dog/3.png": b"c", "4.png": b"d"})
    found = ingested(root)
    assert found.rows.schema.field(FIELD.format("file")).type == MEDIA
    assert files(found) == {"cat/1.png": b"a", "dog/3.png": b"c"}
    assert found.column("stratum") == ["cat", "dog"]
    assert found.reasons == [(".", "4.png", "no_label"), (".", "cat/2.png", "no_blob")]
    assert [row["row"] for row in found.refused] == ["4.png", "cat/2.png"]
    assert found.schema.field("file").type == RELEASED


def test_splits_go_by_the_name_of_each_file(tmp_path: Path) -> None:
    root = lay(tmp_path / "in", {"train/cat/1.png": b"a", "test/cat/1.png": b"b", "test/dog/2.png": b"c"})
    found = ingested(root, splits={"files": {"train": "train/**", "validation": "test/**"}})
    splits = dict(zip(files(found), found.column("given_split"), strict=True))
    assert splits == {"train/cat/1.png": "train", "test/cat/1.png": "validation", "test/dog/2.png": "validation"}


@pytest.mark.parametrize("how", ["hive", "pattern"])
def test_a_directory_is_cut_by_partitions_and_by_names(tmp_path: Path, how: str) -> None:
    form = "day={}/{}/{}.png" if how == "hive" else "{}/{}/{}.png"
    days = ["2026-10-01", "2026-10-02", "2026-10-03"]
    names = {form.format(day, label, at): f"{day}{label}".encode() for at, day in enumerate(days) for label in "ab"}
    root = lay(tmp_path / "in", names)
    cut: dict[str, Any] = {"columns": {"partition": "day"}} if how == "hive" else {}
    cut["partitions"] = {"every": "day"} | ({} if how == "hive" else {"pattern": r"(\d{4}-\d\d-\d\d)/"})
    assert len(files(ingested(root, as_of=days[1], **cut))) == 4
    found = ingested(root, **cut)
    assert files(found) == names
    assert found.column("partition") == [day for day in days for _ in "ab"]


def test_a_table_names_its_files_and_other_columns_stay(tmp_path: Path) -> None:
    root = lay(tmp_path / "in", {"1.png": b"a", "2.png": b"bb", "3.png": b"x" * 9})
    put(root / "rows.csv", "photo,label,who\n1.png,cat,me\ngone.png,cat,you\n3.png,dog,she\n2.png,dog,he\n")
    found = ingested(root / "rows.csv", "photo", source={"path": str(root / "rows.csv"), "max_file_bytes": 5})
    assert files(found, "photo") == {"1.png": b"a", "2.png": b"bb"}
    assert found.column("user.who") == ["me", "he"]
    assert found.reasons == [("rows.csv", "line 3", "no_such_file"), ("rows.csv", "line 4", "file_too_large")]
    assert "gone.png" in found.refused[0]["detail"]
    assert found.schema.field("photo").type == RELEASED


def test_columns_of_bytes_come_back_in_their_own_type(tmp_path: Path) -> None:
    table = pa.table({"photo": [b"\x00one", b"two", b""], "label": ["a", "b", "a"], "thumb": [b"t1", b"t2", b"t3"]})
    (tmp_path / "in").mkdir()
    pq.write_table(table, tmp_path / "in/rows.parquet")
    found = ingested(tmp_path / "in/rows.parquet", "photo")
    recipe = build_recipe(document(tmp_path / "in", "photo"), base=tmp_path)
    back = give_back(found.rows, found.schema, recipe.columns, recipe.problem, found.labels["values"])
    assert back["photo"].type == pa.binary() and back["photo"].to_pylist() == [b"\x00one", b"two"]
    assert back["thumb"].to_pylist() == [b"t1", b"t2"]
    (refused,) = found.refused
    assert refused["row"] == "sha256 e3b0c44298fc1c14 (0 bytes)"


def test_a_tar_gives_rows_by_its_extensions(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    parts = [
        ("1.jpg", b"a"),
        ("1.cls", b"cat"),
        ("1.json", b'{"n": 1}'),
        ("2.jpg", b"b"),
        ("2.cls", b"dog"),
        ("3.cls", b"x"),
    ]
    put(tmp_path / "in/x.tar", tar(parts))
    found = ingested(tmp_path / "in/x.tar", "jpg", columns={"target": {"cls": "label"}, "id": "__key__"})
    assert files(found, "jpg") == {"1.jpg": b"a", "2.jpg": b"b"}
    assert (found.column("row_id"), found.column("user.n")) == (["1", "2"], [1, None])
    assert found.reasons == [("x.tar", "sample 3", "no_blob")]


def test_rows_that_no_train_row_may_repeat_may_name_their_files(tmp_path: Path) -> None:
    root = lay(tmp_path / "in", {f"{'ab'[at % 2]}/{at}.png": f"{at}".encode() for at in range(40)})
    put(tmp_path / "held/rows.csv", "file,label\n1.png,x\n../in/a/2.png,x\n")
    put(tmp_path / "held/1.png", b"7")
    recipe = build_recipe(document(root) | {"splits": {"heldout_exclude": [str(tmp_path / "held")]}}, base=tmp_path)
    config = prepare_split(recipe)
    table = _exclude_table(config)
    assert [value["bytes"] for value in table[FIELD.format("file")].to_pylist()] == [b"7"]
    put(tmp_path / "held/1.png", b"8")
    assert prepare_split(recipe).excluded != config.excluded
    folder = build_recipe(document(root) | {"splits": {"heldout_exclude": [str(root)]}}, base=tmp_path)
    assert _exclude_table(prepare_split(folder)).num_rows == 40


def document(source: Path, column: str = "file") -> dict[str, Any]:
    return {
        "dataset": "d",
        "source": {"path": str(source)},
        "columns": {"inputs": {column: BLOB}, "target": {"label": "label"}},
        "target": {"multiply": 2.0},
        "generators": [{"use": "blobs:Appended"}],
    }


def test_equal_files_under_other_names_are_one_row_twice(tmp_path: Path) -> None:
    found = ingested(lay(tmp_path / "in", {"a/1.png": b"same", "b/2.png": b"same", "b/3.png": b"other"}))
    stems = [row.split("-")[0] for row in found.column("row_id")]
    assert len(set(found.column("row_id"))) == 3 and len(set(stems)) == 2


def test_a_unit_is_read_again_where_a_named_file_changed(tmp_path: Path) -> None:
    root = lay(tmp_path / "in", {"1.png": b"a", "2.png": b"b"})
    put(root / "rows.csv", "photo,label\n1.png,cat\n2.png,dog\n")
    first = ingested(root / "rows.csv", "photo")
    put(root / "3.png", b"not named")
    assert ingested(root / "rows.csv", "photo").artifact == first.artifact
    put(root / "2.png", b"changed")
    os.utime(root / "2.png", ns=(10**18, 10**18))
    again = ingested(root / "rows.csv", "photo")
    assert files(again, "photo") == {"1.png": b"a", "2.png": b"changed"}
    assert again.artifact.content != first.artifact.content


def test_a_source_of_texts_has_the_identity_it_had(tmp_path: Path) -> None:
    """What came with files counts nowhere at its default."""
    from chain import recipe_document

    path = put(tmp_path / "in/rows.csv", "text,label\nhello there,a\nwell then,b\n")
    (unit,) = ingest.prepare_ingest(build_recipe(recipe_document(path), base=tmp_path))
    said = str(ingest.ingest.identity(unit, ()))
    assert "max_file_bytes" not in said and name_files(unit.handles, unit.source, []) == list(unit.handles)


def test_rows_that_are_read_at_once_have_bounded_bytes(tmp_path: Path) -> None:
    small, large = tmp_path / "small.parquet", tmp_path / "large.parquet"
    pq.write_table(pa.table({"x": ["text"] * 1000}), small)
    pq.write_table(pa.table({"x": [os.urandom(1 << 20) for _ in range(100)]}), large)
    assert rows_at_once(pq.read_metadata(small), 500) == 500
    assert rows_at_once(pq.read_metadata(large), 500) == pytest.approx(32, abs=2)


def test_files_are_called_by_their_name_or_hash_never_shown() -> None:
    values = media([b"one", b"two", None], ["a.png", None, None])
    assert titles(values) == ["a.png", "sha256 3fc4ccfe745870e2 (3 bytes)", None]
    table = with_titles(pa.table({"n": [1, 2, 3], "file": values}))
    assert table["file"].to_pylist() == titles(values) and table["n"].to_pylist() == [1, 2, 3]


def test_a_snapshot_of_files_is_gathered_the_same_in_other_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from augmill.tasks.rows import schema

    root = lay(tmp_path / "in", {f"{'ab'[at % 2]}/{at}.png": f"{at}".encode() * 9 for at in range(40)})
    whole = ingested(root)
    monkeypatch.setattr(schema, "PART_BYTES", 200)
    other = lay(tmp_path / "other/in", {f"{'ab'[at % 2]}/{at}.png": f"{at}".encode() * 9 for at in range(40)})
    assert ingested(other).artifact.content == whole.artifact.content


def test_a_fit_hangs_on_the_libraries_of_the_kinds_that_a_recipe_has() -> None:
    """A user of sounds needs no library of pictures."""
    found = {}
    for type in ("image", "audio"):
        document = {
            "dataset": "media",
            "source": {"path": "rows.parquet"},
            "columns": {"inputs": {"file": type}, "target": {"label": "label"}},
            "target": {"per_class": 5},
            "generators": [{"use": "transforms"}],
            "run": {"store": "store"},
        }
        recipe = build_recipe(document, base=Path("/"))
        found[type] = generator_config(recipe.generators[0], recipe).libraries
    assert found["image"].keys() - found["audio"].keys() == {"kornia"}
    assert found["audio"].keys() == {"torch", "scipy"}
