"""Detection: what is to be seen in a picture, and where. A row is a picture with its boxes.

A box is ``bbox``, the four numbers of COCO: x and y of its upper left corner, width and height, in pixels of the picture as
it is seen, which EXIF's orientation may have turned; and ``label``, a text.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from augmill.tasks.contracts import TARGET, Floats, Problem, ReadTarget, TargetReader
from augmill.tasks.errors import RefusedFile
from augmill.tasks.problems.labels import fold_label
from augmill.tasks.rows.kinds.image import size_of
from augmill.tasks.rows.kinds.media import files_of, is_media
from augmill.tasks.rows.shown import visible

NOTHING = "(no box)"  # the stratum of pictures without a box
BEYOND = 1.0  # pixels that a box may reach beyond the picture: boxes are rounded, or count from 1
BBOX = pa.list_(pa.float64(), 4)
BOXES = pa.list_(pa.struct([("bbox", BBOX), ("label", pa.string())]))
FOUND = pa.list_(pa.struct([("bbox", BBOX), ("label", pa.string()), ("score", pa.float64())]))

# What people call the two, the first that a box has.
_BOX_KEYS = ("bbox", "box")
_LABEL_KEYS = ("label", "category", "category_id", "class", "name")

_HALF = re.compile("[\ud800-\udfff]")  # of a surrogate pair, which no table can hold
Box = dict[str, Any]  # ``bbox``, ``label``; of a prediction also ``score``


class _Unread(RefusedFile):
    """What stands in the place of boxes is none; ``reason``: one of the remedies."""


class BoxReader(TargetReader):
    """Reads a list of boxes, each an object; an object of lists, as ``datasets`` has them; or the JSON of either."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.coerced = 0

    def read(self, value: Any) -> ReadTarget:
        """Refused: the reasons in ``Detection.remedies``, the first box that has one."""
        try:
            return ReadTarget("", [_box(each) for each in _boxes(value)], "", "")
        except _Unread as refused:
            return ReadTarget(None, None, refused.reason, None)


def _boxes(value: Any) -> list[Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise _Unread("not_boxes") from None
    if value is None:
        raise _Unread("no_target")
    if isinstance(value, Mapping):  # of lists: one list a key, all of one length
        columns = {key: own for key, own in value.items() if isinstance(own, list)}
        boxes = columns.get(_key(columns, _BOX_KEYS))
        if boxes is None or any(len(own) != len(boxes) for own in columns.values()):
            raise _Unread("not_boxes")
        return [{key: own[at] for key, own in columns.items()} for at in range(len(boxes))]
    if not isinstance(value, list):
        raise _Unread("not_boxes")
    return value


def _key(box: Mapping[str, Any], names: Sequence[str]) -> str:
    return next((name for name in names if name in box), "")


def _box(value: Any) -> Box:
    if not isinstance(value, Mapping):
        raise _Unread("not_boxes")
    numbers = value.get(_key(value, _BOX_KEYS))
    if not isinstance(numbers, list | tuple) or len(numbers) != 4:
        raise _Unread("box_not_four_numbers")
    bbox = [_number(number) for number in numbers]
    if not all(map(math.isfinite, bbox)):
        raise _Unread("box_not_finite")
    if min(bbox[2:]) < 1:
        raise _Unread("box_empty")
    return {"bbox": bbox, "label": _label(value.get(_key(value, _LABEL_KEYS)))}


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise _Unread("box_not_four_numbers")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _label(value: Any) -> str:
    label = str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if not label or _HALF.search(label):
        raise _Unread("box_unlabelled")
    if label == NOTHING:
        raise _Unread("label_reserved")
    return label


class Detection(Problem):
    """A picture's stratum is the rarest of its labels, by how many train pictures have each; ties by name.

    A label that no train picture has is rarer than all. A picture without a box is of a stratum of its own.
    """

    VERSION: ClassVar[int] = 1
    name: ClassVar[str] = "detection"
    kinds: ClassVar[tuple[str, ...]] = ("image",)
    types: ClassVar[tuple[str, ...]] = ("boxes",)
    target: ClassVar[pa.DataType | None] = BOXES
    answer: ClassVar[pa.DataType | None] = FOUND
    fits_strata: ClassVar[bool] = True
    metric: ClassVar[str] = "map"
    metrics: ClassVar[tuple[str, ...]] = ("map", "map50")
    stratum_metric: ClassVar[str] = "map"
    stratum_word: ClassVar[str] = "label"
    hub: ClassVar[str] = "object-detection"
    remedies: ClassVar[Mapping[str, str]] = {
        "no_target": "give each of those pictures a list of boxes; an empty one where there is nothing to see",
        "not_boxes": "check columns.target: expected a list of boxes, each with `bbox` and `label`",
        "box_not_four_numbers": "write each `bbox` as [x, y, width, height], four numbers",
        "box_not_finite": "remove boxes with NaN or infinity",
        "box_empty": "boxes are in pixels, [x, y, width, height], each side one pixel at least: not corners, not shares",
        "box_outside": "cut boxes to the picture; they count from the upper left corner of the picture as it is seen",
        "box_unlabelled": "name what each box shows (`label`), or remove the box",
        "label_reserved": f"rename the label {NOTHING}, which stands for pictures without a box",
    }

    def reader(self, rules: Any) -> BoxReader:
        return BoxReader()

    def misfits(self, fields: pa.Table, values: Sequence[Any]) -> list[str | None]:
        """``box_outside``: a box that reaches more than ``BEYOND`` beyond the smallest picture of its row."""
        reasons: list[str | None] = [None] * len(values)
        for column in fields.columns:
            for at, file in enumerate(files_of(column) if is_media(column.type) else ()):
                size = _size(file)
                if size is not None and not all(is_inside(box["bbox"], *size) for box in values[at]):
                    reasons[at] = "box_outside"
        return reasons

    def lacks(self, train: pa.Table) -> tuple[str, str] | None:
        if len(train[TARGET].combine_chunks().flatten()):
            return None
        return "no train picture has a box", "check columns.target and the splits section"

    def doubts(
        self, rules: Any, said: set[str], counts: Mapping[str, int], several: tuple[int, int], kind: pa.DataType
    ) -> list[str]:
        alike: dict[str, list[str]] = defaultdict(list)
        for name in sorted(counts):
            alike[fold_label(name)].append(name)
        return [
            f"the labels {' and '.join(map(repr, names))} differ in case or blanks alone; write them alike if they are one"
            for names in alike.values()
            if len(names) > 1
        ]

    def fit_strata(self, train: pa.Table) -> dict[str, Any]:
        """``order``: every label, that of the fewest train pictures first."""
        counts = Counter(label for boxes in train[TARGET].to_pylist() for label in labels_of(boxes))
        return {"order": sorted(counts, key=lambda label: (counts[label], label))}

    def stratum(self, target: pa.Array, fitted: Mapping[str, Any]) -> pa.Array:
        place = {label: at for at, label in enumerate(fitted.get("order", ()))}

        def rarest(boxes: list[Box]) -> str:
            return min(labels_of(boxes), key=lambda label: (place.get(label, -1), label), default=NOTHING)

        return pa.array(map(rarest, target.to_pylist()), pa.string())

    def column(self, rows: pa.Table, values: Mapping[str, Any], kind: pa.DataType) -> pa.Array:
        """Boxes in the user's own type: of a struct's keys those that stand for a box and its label, the others null."""
        return pa.array([None if boxes is None else _as(boxes, kind) for boxes in rows[TARGET].to_pylist()], kind)

    def tell(self, value: Any) -> str:
        """How many boxes of each label, such as ``2 cat, 1 dog``."""
        counts = Counter(box["label"] for box in value or ())
        return ", ".join(f"{counts[label]} {label}" for label in sorted(counts)) or NOTHING

    def draw(self, drawn: str, fields: pa.Table, value: Any) -> str:
        """The boxes over the first picture, each with its label."""
        sizes = [size for size in map(_size, files_of(fields.column(0).slice(0, 1))) if size is not None]
        if not value or not drawn or not sizes:
            return drawn
        width, height = sizes[0]
        shapes = "".join(_svg(box, height / 11) for box in value)
        return f'<span class="boxed">{drawn}<svg viewBox="0 0 {width} {height}">{shapes}</svg></span>'


def _size(file: bytes | None) -> tuple[int, int] | None:
    """None where the file is refused."""
    try:
        return size_of(file or b"")
    except RefusedFile:
        return None


def _svg(box: Box, size: float) -> str:
    x, y, wide, high = box["bbox"]
    name = html.escape(visible(box["label"]))
    place = f'x="{x:.1f}" y="{max(y - size / 4, size):.1f}" font-size="{size:.1f}"'
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{high:.1f}"/><text {place}>{name}</text>'


def labels_of(boxes: Iterable[Box]) -> set[str]:
    return {box["label"] for box in boxes}


def is_inside(bbox: Sequence[float], width: int, height: int) -> bool:
    """Whether a box lies in a picture of this size, but for ``BEYOND`` pixels."""
    x, y, wide, high = bbox
    return min(x, y) >= -BEYOND and x + wide <= width + BEYOND and y + high <= height + BEYOND


def overlaps(one: Floats, other: Floats) -> Floats:
    """(one, other): the area that two boxes share, of the area that they cover together. Boxes: x, y, width, height."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, :2] + one[:, None, 2:], other[None, :, :2] + other[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    both = np.prod(one[:, 2:], axis=1)[:, None] + np.prod(other[:, 2:], axis=1)[None] - shared
    return np.asarray(shared / np.maximum(both, 1e-12))


def _as(boxes: list[Box], kind: pa.DataType) -> Any:
    """A value of the user's type: JSON, an object of lists, or a list of objects."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return json.dumps([{"bbox": box["bbox"], "label": box["label"]} for box in boxes], ensure_ascii=False)
    if pa.types.is_struct(kind):
        fields = {field.name: field.type.value_type for field in kind if hasattr(field.type, "value_type")}
        each = [_renamed(box, fields) for box in boxes]
        return {name: [box.get(name) for box in each] for name in fields}
    return [_renamed(box, {field.name: field.type for field in kind.value_type}) for box in boxes]


def _renamed(box: Box, fields: Mapping[str, pa.DataType]) -> dict[str, Any]:
    label, name = box["label"], _key(fields, _LABEL_KEYS)
    whole = pa.types.is_integer(fields[name])
    bbox, own = box["bbox"], _key(fields, _BOX_KEYS)
    if pa.types.is_integer(getattr(fields[own], "value_type", pa.float64())):
        bbox = [round(number) for number in bbox]
    return {own: bbox, name: int(label) if whole else label}
