"""Pictures with boxes: objects of other train pictures are pasted in, pictures are put together, and boxes move along.

Objects are cut out by their boxes (Dwibedi et al., "Cut, Paste and Learn", ICCV 2017; Ghiasi et al., CVPR 2021), four
pictures may be set into one (Bochkovskiy et al., "YOLOv4", 2020), and what comes of it goes through the transformations
that pictures without boxes get. A turned box is the one around the ellipse inside of it, as objects seldom fill the corners
(Kalra et al., 2021). A row hangs on its own seed alone; all pictures that something was taken from are its parents.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.contracts import ROW_ID, STRATUM, TARGET, Context, FitInputs, Floats, Ints, Request
from augmill.tasks.errors import RefusedFile
from augmill.tasks.generators._parents import Parents
from augmill.tasks.generators.transforms.image import Drawn, affine, batches_of, encode, erased, slack, transformed
from augmill.tasks.generators.transforms.options import TransformsOptions
from augmill.tasks.problems.detection import NOTHING, Box, Detection, labels_of
from augmill.tasks.rows.kinds import candidate_schema
from augmill.tasks.rows.kinds.image import Pixels, is_grey, pixels, resized
from augmill.tasks.rows.kinds.media import media
from augmill.tasks.rows.randomness import uniforms

ORDER = "order.json"
STREAM = 201  # of the numbers that put a picture together
TRIES = 4  # a row without its label in the end, or with nothing new, is drawn anew this often
ROWS = 64  # pictures that are put together before they are transformed
PLACES = 8  # that are drawn for an object, to be laid over others as little as can be
OVER = 0.1  # share of a box that an object may always cover; where every place covers more, the least counts
TOO_FAR = 0.5  # from which share on it is not pasted at all
BIGGER = 1.35  # times, at most, that an object is enlarged, or made smaller
MARGIN = 0.1  # of an object's sides, over which it fades into the picture
OBJECT_NUMBERS = 4 + 2 * PLACES  # which object, how large, mirrored or not, one left; and its places
PICTURE_NUMBERS = 16  # of a mosaic: its middle, three more pictures, the part of each that is seen


@dataclass
class Scene:
    """A picture as it is put together. ``parents``: positions of those that something was taken from; the first is under all."""

    picture: Pixels
    boxes: list[Box]
    parents: list[int]


def keep_order(inputs: FitInputs, ctx: Context) -> dict[str, Path]:
    """``order.json``: the labels, rarest first, as strata have them; of train rows alone the order may be another."""
    order = (inputs.strata or Detection().fit_strata(inputs.train))["order"]
    (ctx.workdir / ORDER).write_text(json.dumps(order), encoding="utf-8")
    return {ORDER: ctx.workdir / ORDER}


class Scenery:
    """The train pictures, from which rows are put together. ``field``: that of the pictures; ``order``: labels, rarest first."""

    def __init__(self, parents: Parents, options: TransformsOptions, field: str, order: Sequence[str]) -> None:
        self.options, self.parents, self.field = options, parents, field
        self.truth: list[list[Box]] = parents.table[TARGET].to_pylist() if parents.table.num_rows else []
        self.place = {label: at for at, label in enumerate(order)}
        least = [min((self.place[label] for label in labels_of(own)), default=len(order)) for own in self.truth]
        self.least = np.array(least, np.int64)
        objects = [
            (self.place[box["label"]], row, at) for row, own in enumerate(self.truth) for at, box in enumerate(own)
        ]
        self.objects = np.array(sorted(objects), np.int64).reshape(-1, 3)

    def under(self, stratum: str) -> Ints:
        """Positions of the pictures on which a row of the stratum can be made: those without a rarer label."""
        if stratum == NOTHING:
            return np.flatnonzero(self.least == len(self.place))
        return np.flatnonzero(self.least >= self.place.get(stratum, len(self.place) + 1))

    def read(self, row: int) -> Pixels:
        """Raises RefusedFile."""
        return pixels(self.file(row))

    def file(self, row: int) -> bytes:
        chunk, place = divmod(row, max(1, len(self.parents.table[STRATUM].chunk(0))))
        found: bytes = self.parents.table[self.field].chunk(chunk).field("bytes")[place].as_py() or b""
        return found

    # --- One picture -------------------------------------------------------------------------------------------------

    def compose(self, stratum: str, numbers: Floats) -> Scene:
        """``numbers``: as many as ``numbers_of`` says. Raises RefusedFile where a parent is none any more."""
        under = self.under(stratum)
        row = int(under[int(numbers[0] * len(under))])
        scene = Scene(self.read(row).copy(), [dict(box) for box in self.truth[row]], [row])
        if stratum == NOTHING:
            return scene
        rest = numbers[2 + PICTURE_NUMBERS :].reshape(-1, OBJECT_NUMBERS)
        if numbers[1] < self.options.mosaic:
            self._set_four(scene, under, numbers[2 : 2 + PICTURE_NUMBERS])
        lacks = stratum not in labels_of(scene.boxes)
        most = self.options.paste if not lacks else max(1, self.options.paste)
        place = self.place[stratum]
        start, stop = np.searchsorted(self.objects[:, 0], [place, place + 1])
        for at in range(min(len(rest), round(rest[0][3] * most + 0.5))):
            first, last = (start, stop) if at == 0 and lacks else (start, len(self.objects))
            _, source, box = self.objects[first + int(rest[at][0] * (last - first))].tolist()
            if self._paste(scene, source, self.truth[source][box], rest[at]):
                scene.parents.append(source)
        return scene

    def _paste(self, scene: Scene, source: int, box: Box, numbers: Floats) -> bool:
        """Whether there was a place for the object. Boxes that it hides go."""
        whole = self.read(source)
        patch, inner = _cut(whole, box["bbox"])
        high, wide = scene.picture.shape[:2]
        size = BIGGER ** (2 * numbers[1] - 1)
        size = min(size, 0.9 * wide / patch.shape[1], 0.9 * high / patch.shape[0])
        shape = [max(4, round(side * size)) for side in patch.shape[:2]]
        if shape[0] > high or shape[1] > wide:
            return False
        scale = np.array([shape[1] / patch.shape[1], shape[0] / patch.shape[0]])
        patch, inner = resized(patch, shape[1], shape[0]), inner * np.tile(scale, 2)
        if self.options.flip in ("horizontal", "both") and numbers[2] < 0.5:
            patch, inner = patch[:, ::-1], np.array([shape[1] - inner[0] - inner[2], *inner[1:]])
        best, place = TOO_FAR, None
        for u, v in numbers[4:].reshape(PLACES, 2).tolist():
            left, top = int(u * (wide - shape[1] + 1)), int(v * (high - shape[0] + 1))
            bbox = inner + np.array([left, top, 0, 0])
            covered = max((hidden(other["bbox"], bbox) for other in scene.boxes), default=0.0)
            covered = max(covered, max((hidden(bbox, other["bbox"]) for other in scene.boxes), default=0.0))
            if covered < best:
                best, place = covered, (left, top, bbox)
            if best <= OVER:
                break
        if place is None:
            return False
        left, top, bbox = place
        _blend(scene.picture, patch, left, top, inner)
        scene.boxes = [own for own in scene.boxes if 1 - hidden(own["bbox"], bbox) >= self.options.visible]
        scene.boxes.append({"bbox": bbox.tolist(), "label": box["label"]})
        return True

    def _set_four(self, scene: Scene, under: Ints, numbers: Floats) -> None:
        """Four pictures, each cut to a quarter of the canvas that is divided at a drawn middle."""
        high, wide = scene.picture.shape[:2]
        column, row = (round(side * (0.35 + 0.3 * u)) for side, u in zip((wide, high), numbers[:2], strict=True))
        rows = [scene.parents[0], *(int(under[int(u * len(under))]) for u in numbers[2:5])]
        spans = [(x, y) for y in ((0, row), (row, high)) for x in ((0, column), (column, wide))]
        canvas, boxes = np.empty_like(scene.picture), list[Box]()
        for at, (source, (across, down)) in enumerate(zip(rows, spans, strict=True)):
            part, room = self.read(source), (across[1] - across[0], down[1] - down[0])
            scale = max(room[0] / part.shape[1], room[1] / part.shape[0])
            scale = max(scale, min(1.0, 2 * scale))  # rather cut than made very small
            size = [
                max(side, round(scale * own)) for side, own in zip(room, (part.shape[1], part.shape[0]), strict=True)
            ]
            shift = [
                int(u * (own - side + 1)) for u, own, side in zip(numbers[5 + 2 * at :][:2], size, room, strict=True)
            ]
            small = resized(part, size[0], size[1])
            canvas[down[0] : down[1], across[0] : across[1]] = small[
                shift[1] : shift[1] + room[1], shift[0] : shift[0] + room[0]
            ]
            factor = np.array([size[0] / part.shape[1], size[1] / part.shape[0]])
            for box in self.truth[source]:
                bbox = np.array(box["bbox"]) * np.tile(factor, 2) - np.array([*shift, 0, 0])
                kept, share = cut(bbox, room[0], room[1])
                if share >= self.options.visible:
                    boxes.append({"bbox": [kept[0] + across[0], kept[1] + down[0], *kept[2:]], "label": box["label"]})
        scene.picture, scene.boxes = canvas, boxes
        scene.parents += rows[1:]


def numbers_of(options: TransformsOptions) -> int:
    """How many a row is put together by."""
    return 2 + PICTURE_NUMBERS + OBJECT_NUMBERS * max(1, options.paste)


def cut(bbox: Floats, width: float, height: float) -> tuple[list[float], float]:
    """(the part of a box that lies in the picture, its share of the box)."""
    low = np.maximum(bbox[:2], 0)
    high = np.minimum(bbox[:2] + bbox[2:], [width, height])
    size = np.maximum(high - low, 0)
    share = float(size.prod() / max(float(bbox[2:].prod()), 1e-12)) if min(size) >= 1 else 0.0
    return [*low.tolist(), *size.tolist()], share


def hidden(box: Sequence[float] | Floats, by: Sequence[float] | Floats) -> float:
    """The share of a box that another covers."""
    sides = [min(box[at] + box[at + 2], by[at] + by[at + 2]) - max(box[at], by[at]) for at in (0, 1)]
    return float(max(0.0, sides[0]) * max(0.0, sides[1]) / max(box[2] * box[3], 1e-12))


def _cut(picture: Pixels, bbox: Sequence[float]) -> tuple[Pixels, Floats]:
    """(the object with a margin where there is one, its box in that)."""
    x, y, wide, high = bbox
    left, top = (max(0, int(np.floor(low - MARGIN * size))) for low, size in ((x, wide), (y, high)))
    right = min(picture.shape[1], int(np.ceil(x + (1 + MARGIN) * wide)))
    bottom = min(picture.shape[0], int(np.ceil(y + (1 + MARGIN) * high)))
    inner = np.array([max(x - left, 0), max(y - top, 0), 0, 0])
    inner[2:] = min(wide, right - left - inner[0]), min(high, bottom - top - inner[1])
    return picture[top:bottom, left:right], inner


def _blend(picture: Pixels, patch: Pixels, left: int, top: int, inner: Floats) -> None:
    """Lays the patch over the picture; its margin fades, and it is made as bright as what is around it.

    Without the latter a detector learns to find the rectangle in place of the object.
    """
    high, wide = patch.shape[:2]
    room = picture[top : top + high, left : left + wide].astype(np.float64)
    alpha = np.ones((high, wide))
    for at, size in ((0, wide), (1, high)):
        middles = np.arange(size) + 0.5
        before, behind = inner[at], size - inner[at] - inner[at + 2]
        ramp = np.minimum(
            middles / before if before > 0.5 else 1.0, (size - middles) / behind if behind > 0.5 else 1.0
        ).clip(0, 1) * np.ones(size)
        alpha *= ramp[None] if at == 0 else ramp[:, None]
    edge = np.ones((high, wide), np.bool_)
    edge[1:-1, 1:-1] = False
    shift = np.median(room[edge], axis=0) - np.median(patch[edge].astype(np.float64), axis=0)
    made = room + alpha[..., None] * (patch + shift - room)
    picture[top : top + high, left : left + wide] = np.rint(made).clip(0, 255)


# --- All rows of a request -----------------------------------------------------------------------------------------------


def answer(scenery: Scenery, request: Request, ctx: Context) -> pa.Table:
    """Not delivered: ``no_parent`` (no train picture is of the stratum), ``unchanged`` (nothing new in four draws, or the

    label was lost each time).
    """
    made: dict[int, tuple[bytes, Scene]] = {}
    able = [at for at, stratum in enumerate(request.strata) if len(scenery.under(stratum))]
    for attempt in range(TRIES):
        left = [at for at in able if at not in made]
        for start in range(0, len(left), ROWS):
            made |= _attempt(scenery, request, np.array(left[start : start + ROWS]), attempt, ctx)
    known = set(able)
    columns: dict[str, Any] = {"ordinal": request.ordinals, "asked": request.strata, STRATUM: request.strata}
    rows = [made.get(at) for at in range(len(request))]
    columns[TARGET] = [None if row is None else row[1].boxes for row in rows]
    columns[scenery.field] = media([None if row is None else row[0] for row in rows])
    ids = scenery.parents.table[ROW_ID]
    columns["parent_ids"] = [
        [] if row is None else [ids[at].as_py() for at in dict.fromkeys(row[1].parents)] for row in rows
    ]
    columns["seed"] = request.seeds
    columns["reason"] = [
        None if at in made else "unchanged" if at in known else "no_parent" for at in range(len(request))
    ]
    schema = candidate_schema(ctx.fields, ctx.target)
    return pa.table({name: columns[name] for name in schema.names}, schema)


def _attempt(
    scenery: Scenery, request: Request, rows: Ints, attempt: int, ctx: Context
) -> dict[int, tuple[bytes, Scene]]:
    """Of these rows those that came out, each with its file."""
    options, seeds = scenery.options, request.seeds[rows]
    numbers = uniforms(seeds, numbers_of(options), stream=STREAM + attempt)
    drawn, scenes = Drawn(options, seeds, attempt, still=("elastic",)), list[Scene | None]()
    for at, row in enumerate(rows.tolist()):
        try:
            scenes.append(scenery.compose(request.strata[row], numbers[at]))
        except RefusedFile:
            scenes.append(None)
    found: dict[int, tuple[bytes, Scene]] = {}
    whole = [at for at, scene in enumerate(scenes) if scene is not None]
    shown = [scene for scene in scenes if scene is not None]
    for part in batches_of([scene.picture.shape for scene in shown]):
        places = np.array([whole[at] for at in part.tolist()])
        before = np.stack([shown[at].picture for at in part.tolist()])
        after = transformed(before, drawn, places, seeds, attempt)
        for at, place, picture in zip(part.tolist(), places.tolist(), after, strict=True):
            scene = shown[at]
            boxes, lost = _moved_boxes(scene, drawn, place, options.visible)
            ctx.usage["boxes_dropped"] = ctx.usage.get("boxes_dropped", 0) + lost
            stratum = min(labels_of(boxes), key=lambda label: (scenery.place[label], label), default=NOTHING)
            new = len(scene.parents) > 1 or not np.array_equal(picture, scene.picture)
            if stratum == request.strata[int(rows[place])] and new:
                file = _encoded(picture, scenery.file(scene.parents[0]), options)
                found[int(rows[place])] = file, Scene(picture, boxes, scene.parents)
    return found


def _encoded(picture: Pixels, parent: bytes, options: TransformsOptions) -> bytes:
    jpeg = parent.startswith(b"\xff\xd8\xff") if options.format == "as_parent" else options.format == "jpeg"
    return encode(picture[..., :1] if is_grey(picture) else picture, "jpeg" if jpeg else "png")


def _moved_boxes(scene: Scene, drawn: Drawn, row: int, visible: float) -> tuple[list[Box], int]:
    """(the boxes where the row's map takes them, cut to the picture; how many are seen too little of)."""
    height, width = scene.picture.shape[:2]
    boxes = np.array([box["bbox"] for box in scene.boxes], np.float64).reshape(-1, 4)
    moved = move_boxes(boxes, drawn, row, width, height) if drawn.moved[row] else boxes
    gone = None
    if drawn.on("erase")[row]:
        ((top, bottom), (left, right)) = (pair[0] for pair in erased(drawn, np.array([row]), height, width))
        gone = [left, top, right - left, bottom - top]
    kept = list[Box]()
    for box, bbox in zip(scene.boxes, moved, strict=True):
        inside, share = cut(bbox, width, height)
        share *= 1 - hidden(inside, gone) if gone is not None else 1.0
        if share >= visible and min(inside[2:]) >= 1:
            kept.append({"bbox": inside, "label": box["label"]})
    return kept, len(scene.boxes) - len(kept)


def move_boxes(boxes: Floats, drawn: Drawn, row: int, width: int, height: int) -> npt.NDArray[np.float64]:
    """(boxes, 4), not cut: each around the ellipse that fills it, which the row's map makes another ellipse."""
    rows = np.array([row])
    turns, offsets = affine(drawn, rows)
    ways = np.linalg.inv(turns[0])
    shift = offsets[0] * min(width, height)
    shift += [(2 * drawn.places[row, at] - 1) * slack(drawn, rows, side)[0] for at, side in enumerate((width, height))]
    middle = np.array([width / 2, height / 2])
    centres = (boxes[:, :2] + boxes[:, 2:] / 2 - middle - shift) @ ways.T + middle
    halves = np.sqrt((boxes[:, 2:] / 2) ** 2 @ (ways**2).T)
    return np.concatenate([centres - halves, 2 * halves], axis=1)
