"""A release in layouts of other tools: opened by its own reader and by ours, it has the rows of the Parquet files."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from boxed import write_coco
from dated import inline_workers
from pictured import file_of
from reading import read
from running import SPLITS, Run, run

from augmill.tasks.errors import UserError
from augmill.tasks.exports import EXPORTS, tars
from augmill.tasks.exports.contract import ending_of, to_json
from augmill.tasks.exports.folders import directory_of
from augmill.tasks.recipe.recipe import Recipe, build_recipe
from augmill.tasks.recipe.sections import Publish
from augmill.tasks.sources import SourceOptions, list_files, read_batches
from augmill.tasks.stages.publish import ReleaseConfig
from augmill.tasks.store.releases import verify_release
from augmill.tasks.store.stage import identity_of

__all__ = ["inline_workers"]
pytestmark = pytest.mark.usefixtures("inline_workers")
ODD = ("test", "_a/b: é", "..")  # a split's name; what no directory may be called
QUICK = {
    "generators": [{"use": "transforms"}],
    "validation": {"enabled": False},
    "gate": {"seeds": 3, "resamples": 200, "rule": "not_worse", "margin": 100.0},
}
COUNTS = {"train": 4, "validation": 4, "test": 2}


def write_rows(path: Path, endings: tuple[str, ...] = ("png",), sound: bool = False) -> Path:
    """Files of three labels with odd names, each with a column that is often null; a row's id is no file's name."""
    rng = np.random.default_rng(1)
    rows: list[dict[str, Any]] = []
    for split, count in COUNTS.items():
        for at in range(count * len(ODD)):
            kind = endings[at % len(endings)].upper().replace("JPG", "JPEG")
            if sound:
                stream = io.BytesIO()
                soundfile.write(stream, rng.normal(0, 0.1, 2000), 8000, format=kind)
                file = stream.getvalue()
            else:
                file = file_of(rng.integers(0, 255, (20, 20, 3), dtype=np.uint8), kind)
            row = {"file": {"bytes": file, "path": None}, "species": ODD[at % 3], "split": split}
            rows.append(row | {"key": f"../{split}/{at}", "note": None if at % 2 else f"n{at}", "jpg": at})
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def recipe_of(rows: Path, store: Path, export: list[str], type: str = "image") -> Recipe:
    document = {
        "dataset": "things",
        "source": {"path": str(rows)},
        "columns": {"inputs": {"file": type}, "target": {"species": "label"}, "id": "key"},
        "splits": {"column": "split"},
        "labels": {"min_rows": 2},
        "target": {"per_class": 2},
        "trainer": {"use": "cnn", "steps": 3},
        **QUICK,
        "publish": {"export": export},
        "run": {"orchestrator": "none", "threads": 1, "store": str(store)},
    }
    return build_recipe(document, base=rows.parent)


def ids(ran: Run, split: str) -> dict[str, dict[str, Any]]:
    """The Parquet rows by what their files are called."""
    return {hashlib.sha256(row["aug_row_id"].encode()).hexdigest()[:32]: row for row in ran.rows(split)}


def test_a_directory_for_each_label_opens_as_imagefolder(tmp_path: Path) -> None:
    import datasets

    ran = run(recipe_of(write_rows(tmp_path / "rows.parquet"), tmp_path / "store", ["imagefolder"]))
    assert ran.result["arrangement"] == "mix"
    folder = ran.folder / "export/imagefolder"
    opened = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert set(opened) == set(SPLITS)
    for split in SPLITS:
        rows = ran.rows(split)
        found = opened[split].cast_column("image", datasets.Image(decode=False))
        assert [row["aug_row_id"] for row in found] == [row["aug_row_id"] for row in rows]
        for one, other in zip(found, rows, strict=True):
            data = one["image"]["bytes"] or Path(one["image"]["path"]).read_bytes()
            assert data == other["file"]["bytes"] and one["label"] == other["species"]
            assert (one["aug_origin"], one["aug_weight"]) == (other["aug_origin"], other["aug_weight"])
        assert opened[split][0]["image"].size == (20, 20)
        # Any other tool, such as our own source, has the label from the directory.
        (file,) = list_files(SourceOptions(path=str(folder / split), format="folder"))
        table = pa.concat_tables([batch.table for batch in read_batches(file, SourceOptions(path=str(folder / split)))])
        own = {row["file"]["path"].rsplit("/", 1)[1]: row for row in table.to_pylist()}
        assert {row["label"] for row in own.values()} == {"test", "+5Fa+2Fb+3A é", "+2E+2E"}
        assert len(own) == len(rows)
        for stem, row in ids(ran, split).items():
            assert own[f"{stem}.png"]["file"]["bytes"] == row["file"]["bytes"]
    assert {row["aug_origin"] for row in opened["train"]} == {"real", "synthetic"}


def test_sounds_open_as_audiofolder(tmp_path: Path) -> None:
    """By the examples of its builder: to store them, ``datasets`` wants torchcodec, though they are files already."""
    import datasets

    rows = write_rows(tmp_path / "rows.parquet", ("wav", "flac"), sound=True)
    ran = run(recipe_of(rows, tmp_path / "store", ["audiofolder"], "audio"))
    folder = ran.folder / "export/audiofolder"
    builder = datasets.load_dataset_builder(str(folder), cache_dir=str(tmp_path / "cache"))
    assert builder.BASE_COLUMN_NAME == "audio"
    splits = {split.name: split.gen_kwargs for split in builder._split_generators(datasets.DownloadManager())}
    assert {*splits} == {*SPLITS} and isinstance(builder.info.features["audio"], datasets.Audio)
    for name, arguments in splits.items():
        found = [row for _, row in builder._generate_examples(**arguments)]
        assert [Path(row["audio"]).read_bytes() for row in found] == [row["file"]["bytes"] for row in ran.rows(name)]
        assert [row["label"] for row in found] == [row["species"] for row in ran.rows(name)]
    assert {path.suffix for path in folder.rglob("*/*/*.*")} == {".wav", ".flac"}


def test_tars_open_as_webdataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tars, "TAR_BYTES", 12_000)
    ran = run(recipe_of(write_rows(tmp_path / "rows.parquet", ("png", "jpg")), tmp_path / "store", ["webdataset"]))
    folder = ran.folder / "export/webdataset"
    for split in SPLITS:
        rows, found = ids(ran, split), dict[str, dict[str, bytes]]()
        shards = sorted(folder.glob(f"{split}-*.tar"))
        assert len(shards) > 1 and shards[1].name == f"{split}-000001.tar"
        for shard in shards:
            with tarfile.open(shard) as tar:
                for info in tar:
                    assert (info.mtime, info.uid, info.gid, info.uname) == (0, 0, 0, "")
                    stem, _, ending = info.name.partition(".")
                    found.setdefault(stem, {})[ending] = tar.extractfile(info).read()  # type: ignore[union-attr]
                assert tar.offset <= 12_000 or len(tar.getnames()) == 2
        assert list(found) == list(rows), "in the release's order"
        for stem, files in found.items():
            own = json.loads(files.pop("json"))
            (ending,) = files
            assert {"png": b"\x89PNG", "jpg": b"\xff\xd8\xff"}[ending] == files[ending][: 4 - (ending == "jpg")]
            expected = {key: value for key, value in rows[stem].items() if key not in ("file", "jpg")}
            assert own == expected | {"jpg_": rows[stem]["jpg"]}
            assert files[ending] == rows[stem]["file"]["bytes"]
        tables = [read(shard).table.to_pylist() for shard in shards]
        sampled = [row for table in tables for row in table]
        assert [row["aug_row_id"] for row in sampled] == [row["aug_row_id"] for row in rows.values()]
        files_read = [(row.get("png") or row.get("jpg"))["bytes"] for row in sampled]
        assert files_read == [row["file"]["bytes"] for row in rows.values()]


@pytest.fixture
def boxes(tmp_path: Path) -> Path:
    for at, split in enumerate(SPLITS):
        write_coco(tmp_path / "pictures", split, (14, 8, 6)[at], 100 * at)
    return tmp_path / "pictures"


def boxed_recipe(boxes: Path, store: Path, **publish: Any) -> Recipe:
    document = {
        "dataset": "things",
        "source": {"path": str(boxes)},
        "columns": {"inputs": {"image": "image"}, "target": {"objects": "boxes"}},
        "splits": {"files": {split: f"{split}/*" for split in SPLITS}},
        "target": {"multiply": 2.0},
        "trainer": {"use": "detector", "side": 32, "width": 4, "steps": 3, "threads": 1},
        **QUICK,
        "run": {"orchestrator": "none", "threads": 1, "store": str(store)},
    }
    return build_recipe(document | ({"publish": publish} if publish else {}), base=boxes)


def test_boxes_open_as_coco(boxes: Path, tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    ran = run(boxed_recipe(boxes, tmp_path / "store", export=["coco"]))
    assert ran.result["arrangement"] == "mix"
    folder, categories = ran.folder / "export/coco", list[Any]()
    given = SourceOptions(path=str(folder))
    files = {file.name: file for file in list_files(given)}
    for split in SPLITS:
        rows, name = ids(ran, split), f"annotations/instances_{split}.json"
        opened = COCO(str(folder / name))
        categories.append(opened.dataset["categories"])
        assert [image["file_name"] for image in opened.dataset["images"]] == [f"{stem}.png" for stem in rows]
        for image, row in zip(opened.loadImgs(opened.getImgIds()), rows.values(), strict=True):
            assert (folder / split / image["file_name"]).read_bytes() == row["image"]["bytes"]
            assert (image["width"], image["height"]) == (40, 32) and image["aug_row_id"] == row["aug_row_id"]
            found = opened.loadAnns(opened.getAnnIds(imgIds=image["id"]))
            said = [{"bbox": a["bbox"], "label": opened.cats[a["category_id"]]["name"]} for a in found]
            assert said == row["objects"]
            assert all(a["area"] == a["bbox"][2] * a["bbox"][3] and a["iscrowd"] == 0 for a in found)
        (batch,) = read_batches(files[name], given)
        ours = {row["image"]["path"]: (row["image"]["bytes"], row["objects"]) for row in batch.table.to_pylist()}
        assert ours == {f"{split}/{stem}.png": (row["image"]["bytes"], row["objects"]) for stem, row in rows.items()}
    assert categories == [[{"id": 1, "name": "disc"}, {"id": 2, "name": "square"}]] * 3


def test_exports_are_part_of_the_release_and_bytes_do_not_hang_on_the_store(boxes: Path, tmp_path: Path) -> None:
    plain = run(boxed_recipe(boxes, tmp_path / "one"))
    ones = [run(boxed_recipe(boxes, tmp_path / at, export=["webdataset", "coco"])) for at in ("one", "two")]
    turned = run(boxed_recipe(boxes, tmp_path / "one", export=["coco", "webdataset"]))
    assert turned.result["release"] == ones[0].result["release"] == ones[1].result["release"]
    assert plain.result["release"] != ones[0].result["release"]
    (held, again) = (
        {path.relative_to(ran.folder).as_posix(): path.read_bytes() for path in ran.folder.rglob("*") if path.is_file()}
        for ran in ones
    )
    held.pop("provenance.json"), again.pop("provenance.json")
    assert held == again
    exported = {name for name in held if name.startswith("export/")}
    assert exported == {name for name in ones[0].manifest["files"] if name.startswith("export/")} and len(exported) > 28
    assert not (plain.folder / "export").exists()
    for name in (min(exported), "export/webdataset/train-000000.tar", "export/coco/annotations/instances_test.json"):
        path = ones[0].folder / name
        path.chmod(0o644)
        path.write_bytes(b"x" + held[name][1:])
        assert verify_release(ones[0].store, "things", ones[0].result["release"]) == [name]
        path.write_bytes(held[name])
    assert verify_release(ones[0].store, "things", ones[0].result["release"]) == []


def test_a_recipe_without_exports_is_what_it_was(boxes: Path, tmp_path: Path) -> None:
    assert identity_of(boxed_recipe(boxes, tmp_path / "s").publish) == {"prefix": "aug_", "copy": []}
    config = ReleaseConfig("d", "all", "mix", "aug_", boxed_recipe(boxes, tmp_path / "s").columns, "hash", "detection")
    assert "exports" not in identity_of(config) and "exports" in identity_of(replace(config, exports={"coco": 1}))
    assert boxed_recipe(boxes, tmp_path / "s").hash() == boxed_recipe(boxes, tmp_path / "s", export=[]).hash()
    assert boxed_recipe(boxes, tmp_path / "s").hash() != boxed_recipe(boxes, tmp_path / "s", export=["coco"]).hash()


@pytest.mark.parametrize(
    ("type", "export", "problem"),
    [
        ("image", "coco", "coco needs one picture a row, with boxes; this recipe's rows are image, classification"),
        ("image", "audiofolder", "audiofolder needs one sound a row, with a label; this recipe's rows are image"),
        ("audio", "imagefolder", "imagefolder needs one picture a row, with a label; this recipe's rows are audio"),
    ],
)
def test_a_layout_without_a_place_for_the_rows_is_refused_by_the_recipe(
    tmp_path: Path, type: str, export: str, problem: str
) -> None:
    with pytest.raises(UserError, match=problem) as refused:
        recipe_of(write_rows(tmp_path / "rows.parquet"), tmp_path / "store", [export], type)
    assert "publish.export" in str(refused.value.where) and "webdataset" in refused.value.fix


def test_rows_without_a_file_or_with_two_are_refused(tmp_path: Path) -> None:
    from chain import recipe_document

    document = recipe_document(tmp_path / "rows.csv", publish={"export": ["webdataset"]})
    with pytest.raises(UserError, match="webdataset needs one picture or sound a row; this recipe's rows are text"):
        build_recipe(document, base=tmp_path)
    two = {"columns": {"inputs": {"a": "image", "b": "image"}, "target": {"c": "label"}}}
    with pytest.raises(UserError, match="classification, with 2 files each"):
        build_recipe(document | two | {"generators": [{"use": "transforms"}]}, base=tmp_path)
    with pytest.raises(UserError, match="a layout is listed twice"):
        build_recipe(document | {"publish": {"export": ["coco", "coco"]}}, base=tmp_path)


def test_the_recipe_knows_every_layout() -> None:
    assert set(get_args(get_args(get_type_hints(Publish)["export"])[0])) == set(EXPORTS)


def test_names_of_directories_are_safe_and_told_apart() -> None:
    labels = [
        "a",
        "A b",
        "_a",
        ".a",
        "a.",
        "a.b",
        "..",
        "a/b",
        "a+2Fb",
        "día=1",
        "día",
        "",
        " ",
        "*",
        "?",
        "猫",
        "x" * 300,
    ]
    labels.append("x" * 301)
    names = [directory_of(label) for label in labels]
    assert len(set(names)) == len(labels) and max(len(name.encode()) for name in names) <= 120
    for name in names:
        assert not set('/\\:*?"<>|=\0_.[]') & {*name.replace(".b", "")} and name.strip(" .") == name and name
    assert directory_of("A b") == "A b" and directory_of("猫") == "猫"


def test_values_as_json_and_endings() -> None:
    import datetime
    import decimal

    row = {
        "n": float("nan"),
        "b": b"\x00",
        "t": datetime.date(2026, 1, 2),
        "d": decimal.Decimal("1.50"),
        "l": [{"é": 1}],
    }
    assert json.loads(to_json(row)) == {"n": None, "b": "AA==", "t": "2026-01-02", "d": "1.50", "l": [{"é": 1}]}
    files = {
        b"RIFF1234WEBP": "webp",
        b"RIFF1234WAVE": "wav",
        b"OggS": "ogg",
        b"\xff\xfb": "mp3",
        b"\xff\xd8\xff": "jpg",
    }
    assert {ending_of(file): ending for file, ending in files.items()} == {e: e for e in files.values()}
    assert ending_of(b"what") == "bin"
