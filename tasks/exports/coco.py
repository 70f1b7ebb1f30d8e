"""Pictures with their boxes as COCO has them: a directory for each split, and the boxes in JSON beside them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, ClassVar

from augmill.tasks.rows.kinds.image import size_of
from augmill.tasks.rows.parts import read_parts

from .contract import Export, Exported, ending_of, to_json

_CHUNK = 1 << 20


class CocoExport(Export):
    """Categories are all labels of the release by name, ids count from 1. Sizes and boxes are of pictures as they are seen."""

    VERSION: ClassVar[int] = 1
    kinds: ClassVar[tuple[str, ...]] = ("image",)
    problems: ClassVar[tuple[str, ...]] = ("detection",)
    needs: ClassVar[str] = "one picture a row, with boxes"

    def write(self, folder: Path, release: Exported) -> None:
        (folder / "annotations").mkdir()
        ids = {label: at for at, label in enumerate(sorted(_labels(release)), 1)}
        for split in release.splits:
            (folder / split).mkdir()
            with (folder / "annotations" / f"instances_{split}.json").open("wb") as out:
                _write_split(folder / split, split, release, ids, out)


def _boxes(release: Exported, value: Any) -> list[dict[str, Any]]:
    """In the problem's own type, whatever the user's is."""
    found: list[dict[str, Any]] = release.problem.reader(None).read(value).value
    return found


def _labels(release: Exported) -> set[str]:
    return {
        box["label"]
        for path in release.splits.values()
        for part in read_parts(path, [release.answer])
        for value in part[release.answer].to_pylist()
        for box in _boxes(release, value)
    }


def _write_split(folder: Path, split: str, release: Exported, ids: Mapping[str, int], out: IO[bytes]) -> None:
    """The pictures into ``folder``, and what is said of them into ``out``: the boxes wait in a nameless file."""
    categories = to_json([{"id": at, "name": label} for label, at in ids.items()])
    out.write(b'{"info": ' + to_json({"description": split}) + b',\n"categories": ' + categories + b',\n"images": [')
    number = 0
    with tempfile.TemporaryFile(prefix="augmill-") as boxes:
        for image, (file, row) in enumerate(release.rows(split), 1):
            name = f"{release.stem(row)}.{ending_of(file)}"
            (folder / name).write_bytes(file)
            width, height = size_of(file)
            said = {"id": image, "file_name": name, "width": width, "height": height, **release.added(row)}
            out.write((b",\n" if image > 1 else b"\n") + to_json(said))
            for box in _boxes(release, row[release.answer]):
                number += 1
                x, y, wide, high = box["bbox"]
                own = {"id": number, "image_id": image, "category_id": ids[box["label"]], "bbox": [x, y, wide, high]}
                boxes.write((b",\n" if number > 1 else b"\n") + to_json(own | {"area": wide * high, "iscrowd": 0}))
        out.write(b'\n],\n"annotations": [')
        boxes.seek(0)
        shutil.copyfileobj(boxes, out, _CHUNK)
    out.write(b"\n]}\n")
