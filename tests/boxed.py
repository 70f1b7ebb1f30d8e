"""Pictures with boxes that a program draws: bright squares and discs on noise, for tests of detection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pictured import PICTURE_FIELDS, Pixels, file_of, value

from augmill.tasks.problems import PROBLEMS
from augmill.tasks.rows.kinds import real_schema

DETECTION = PROBLEMS["detection"]
LABELS = ("disc", "square")


def box(x: float, y: float, wide: float, high: float, label: str = "square", **more: Any) -> dict[str, Any]:
    return {"bbox": [x, y, wide, high], "label": label, **more}


def scene(
    number: int, size: tuple[int, int] = (32, 40), labels: tuple[str, ...] | None = None
) -> tuple[Pixels, list[Any]]:
    """(pixels, boxes): one object, or two; (height, width)."""
    rng = np.random.Generator(np.random.Philox(key=number))
    pixels = rng.integers(0, 60, (*size, 3), dtype=np.uint8)
    boxes = []
    for at, label in enumerate(labels if labels is not None else LABELS[: 1 + number % 2]):
        side = int(rng.integers(8, 13))
        left = int(rng.integers(0, size[1] // 2 - side + 1)) + at * size[1] // 2
        top = int(rng.integers(0, size[0] - side + 1))
        down, across = np.meshgrid(np.arange(side) - side / 2 + 0.5, np.arange(side) - side / 2 + 0.5, indexing="ij")
        inside = down**2 + across**2 <= side**2 / 4 if label == "disc" else np.ones((side, side), np.bool_)
        pixels[top : top + side, left : left + side][inside] = rng.integers(150, 250)
        boxes.append(box(left, top, side, side, label))
    return pixels, boxes


def boxed_rows(count: int, prefix: str = "r", first: int = 0, empty: bool = False) -> pa.Table:
    """Real rows with their strata; ``empty``: the last has no box."""
    scenes = [scene(first + at) for at in range(count)]
    if empty:
        scenes[-1] = scene(first + count, labels=())
    target = pa.array([boxes for _, boxes in scenes], DETECTION.target)
    columns = {
        "row_id": [f"{prefix}{at:03d}" for at in range(count)],
        "stratum": DETECTION.stratum(target, DETECTION.fit_strata(pa.table({"target": target}))),
        "target": target,
        PICTURE_FIELDS[0]: [value(file_of(pixels)) for pixels, _ in scenes],
    }
    schema = real_schema(PICTURE_FIELDS, DETECTION.target)
    return pa.table({name: columns[name] for name in schema.names}, schema)


def write_coco(folder: Path, split: str, count: int, first: int = 0) -> None:
    """Pictures, and beside them COCO's JSON, as Roboflow lays them."""
    (folder / split).mkdir(parents=True)
    said: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    said["categories"] = [{"id": 7 + at, "name": name} for at, name in enumerate(LABELS)]
    for at in range(count):
        pixels, boxes = scene(first + at)
        (folder / split / f"{at}.png").write_bytes(file_of(pixels))
        said["images"].append({"id": at, "file_name": f"{at}.png", "width": 40, "height": 32})
        for own in boxes:
            annotation = {"id": len(said["annotations"]), "image_id": at, "category_id": 7 + LABELS.index(own["label"])}
            said["annotations"].append(annotation | {"bbox": own["bbox"], "iscrowd": 0})
    (folder / split / "_annotations.coco.json").write_text(json.dumps(said))
