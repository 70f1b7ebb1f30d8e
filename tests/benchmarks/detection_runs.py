"""Detection from source to release: what the gate says of `transforms`. Prints a table.

    python tests/benchmarks/detection_runs.py [--sets digits characters] [--draws 3] [--options '{paste: 0}']

Canvases of 64 x 64 pixels that a program draws (drawn_canvases.py): scikit-learn's digits, ten labels, or Omniglot's
Balinese characters, 24. Train pictures are drawn by a seed, 50 of digits and 100 of characters; 300 validation and 300 test
pictures, of other drawings, are the same in every draw. Gains are in points of mAP over overlaps from 0.5 to 0.95, of the
mix over real rows and over the placebo, with 95 % bounds, by validation and by test rows, which decide nothing. Seconds are
processor time.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from drawn_canvases import Scene, characters, digits, draw_scenes, png
from machine import Meter, machine_line, markdown
from media_runs import run_cell

SETS = {"digits": (digits, 50), "characters": (characters, 100)}
HELD_OUT = 300


def write_coco(folder: Path, split: str, scenes: list[Scene]) -> None:
    """Pictures in a directory of the split, and beside them a JSON of COCO's."""
    (folder / split).mkdir(parents=True)
    labels = sorted({box["label"] for _, boxes in scenes for box in boxes})
    images, annotations = [], []
    for at, (picture, boxes) in enumerate(scenes):
        (folder / split / f"{at:04d}.png").write_bytes(png(picture))
        images.append({"id": at, "file_name": f"{at:04d}.png", "width": picture.shape[1], "height": picture.shape[0]})
        annotations += [
            {"id": len(annotations) + own, "image_id": at, "category_id": labels.index(box["label"]) + 1}
            | {"bbox": box["bbox"], "area": box["bbox"][2] * box["bbox"][3], "iscrowd": 0}
            for own, box in enumerate(boxes)
        ]
    categories = [{"id": at + 1, "name": label} for at, label in enumerate(labels)]
    said = {"images": images, "annotations": annotations, "categories": categories}
    (folder / split / "_annotations.coco.json").write_text(json.dumps(said))


def write_recipe(folder: Path, generator: dict[str, Any], trainer: dict[str, Any], times: float) -> Path:
    splits = ("train", "validation", "test")
    document = {
        "dataset": "canvases",
        "source": {"path": "pictures"},
        "columns": {"inputs": {"image": "image"}, "target": {"objects": "boxes"}},
        "splits": {"files": {split: f"{split}/*" for split in splits}, "near": 0.98},
        "target": {"multiply": times},
        "generators": [generator],
        "trainer": {"use": "detector", **trainer},
        "checks": {"relations": {"heldout_near": 0.98}},
        "run": {"orchestrator": "none", "store": "store"},
    }
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--options", default="{}", help="of transforms, as YAML")
    parser.add_argument("--trainer", default="{}", help="options of the detector, as YAML")
    parser.add_argument("--times", type=float, default=5.0, help="rows of the mix, as a multiple of train pictures")
    parser.add_argument("--train", type=int, help="train pictures")
    given = parser.parse_args()
    print(f"{machine_line()}\n")
    table = list[list[str]]()
    with Meter() as meter:
        for name in given.sets:
            make, usual = SETS[name]
            inks, count = make(), given.train or usual
            for draw in range(given.draws):
                with tempfile.TemporaryDirectory(prefix="augmill-boxes-") as place:
                    folder = Path(place)
                    write_coco(folder / "pictures", "train", draw_scenes(inks["train"], count, draw))
                    write_coco(folder / "pictures", "validation", draw_scenes(inks["held"], HELD_OUT, 1001))
                    write_coco(folder / "pictures", "test", draw_scenes(inks["held"], HELD_OUT, 1002))
                    generator = {"use": "transforms", **yaml.safe_load(given.options)}
                    recipe = write_recipe(folder, generator, yaml.safe_load(given.trainer), given.times)
                    _, cells = run_cell(folder, recipe, meter, name)
                table.append([name, str(draw), str(count), *cells])
                print(" | ".join(table[-1]), flush=True)
    head = ["set", "draw", "train", "outcome", "runs", "over real", "over placebo", "test: over real"]
    print("\n" + markdown([*head, "test: over placebo", "CPU s"], table), flush=True)


if __name__ == "__main__":
    sys.exit(main())
