"""Detection from COCO's directory to a release: small, so that nothing is proven; the mix is released to be looked at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from boxed import LABELS, write_coco
from commands import augmill
from dated import inline_workers
from running import check_again, run

from augmill.flows.cli.init import draft_recipe
from augmill.flows.columns import Asked
from augmill.tasks.problems.detection import BOXES
from augmill.tasks.recipe.recipe import build_recipe
from augmill.tasks.rows.kinds.image.decode import size_of

__all__ = ["inline_workers"]
pytestmark = pytest.mark.usefixtures("inline_workers")
SPLITS = {"train": (14, 0), "validation": (8, 100), "test": (6, 200)}


def write_pictures(folder: Path) -> Path:
    for split, (count, first) in SPLITS.items():
        write_coco(folder, split, count, first)
    return folder


def document(folder: Path, store: Path) -> dict[str, Any]:
    return {
        "dataset": "things",
        "source": {"path": str(folder)},
        "columns": {"inputs": {"image": "image"}, "target": {"objects": "boxes"}},
        "splits": {"files": {split: f"{split}/*" for split in SPLITS}},
        "target": {"multiply": 2.0},
        "generators": [{"use": "transforms"}],
        "validation": {"enabled": False},
        "trainer": {"use": "detector", "side": 32, "width": 4, "steps": 3, "threads": 1},
        "gate": {"seeds": 3, "resamples": 200, "rule": "not_worse", "margin": 100.0},
        "run": {"orchestrator": "none", "threads": 1, "store": str(store)},
    }


def test_from_source_to_release(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures")
    said = json.loads((folder / "train/_annotations.coco.json").read_text())
    said["annotations"][0]["bbox"][2] = 99
    (folder / "train/_annotations.coco.json").write_text(json.dumps(said))
    changed = {"refuse": {"max_share": 0.1}}
    ran = run(build_recipe(document(folder, tmp_path / "store") | changed, base=tmp_path))
    assert ran.result["arrangement"] == "mix", ran.result
    check_again(ran)
    train = pq.read_table(ran.folder / "train")
    assert (
        train.schema.field("objects").type == BOXES and train.schema.field("image").type.get_field_index("bytes") == 0
    )
    made = [row for row in train.to_pylist() if row["aug_origin"] == "synthetic"]
    real = {row["aug_row_id"]: row for row in train.to_pylist() if row["aug_origin"] == "real"}
    names = {row["image"]["path"] for row in real.values()}
    assert "train/0.png" not in names and "train/1.png" in names, "the picture with a box outside of it is refused"
    assert len(made) >= 8
    for row in made:
        width, height = size_of(row["image"]["bytes"])
        assert {*row["aug_parent_ids"]} <= {*real} and row["objects"]
        for box in row["objects"]:
            x, y, wide, high = box["bbox"]
            assert x + wide <= width + 1e-6 and y + high <= height + 1e-6 and box["label"] in LABELS
    assert any(len(row["aug_parent_ids"]) > 1 for row in made)
    page = Path(ran.result["report"]).read_text(encoding="utf-8")
    assert '<span class="boxed"><img' in page and "<rect x=" in page and "mAP" in page
    opened = pa.concat_tables([pq.read_table(ran.folder / split).select(["objects"]) for split in SPLITS])
    assert opened.num_rows == len(real) + len(made) + 8 + 6


def test_init_finds_the_pictures_their_boxes_and_the_splits(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures")
    draft = draft_recipe(str(folder), "things", tmp_path, Asked())
    assert draft.document["columns"] == {"inputs": {"image": "image"}, "target": {"objects": "boxes"}}
    assert draft.document["generators"] == [{"use": "transforms"}]
    assert draft.document["splits"]["files"] == {split: f"{split}/*" for split in SPLITS}


def test_what_init_suggests_serves_boxes_and_check_calls_labels_labels(tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures")
    written = augmill("init", tmp_path / "pictures", "--out", tmp_path / "things.yaml")
    recipe = (tmp_path / "things.yaml").read_text(encoding="utf-8")
    assert written.code == 0 and "# trainer: {command: ...}" in recipe and "linear" not in recipe
    checked = augmill("check", tmp_path / "things.yaml")
    assert checked.code == 0 and "Labels of objects (" in checked.out and "Bins" not in checked.out
