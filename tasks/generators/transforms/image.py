"""Pictures: what is drawn for each row, and the batched calls of kornia that do it.

A row's numbers are drawn from its own seed and hang on nothing else. Pictures of one size go through a call together, and
each call is one whose result for a picture does not hang on the others in the batch, nor on threads: of kornia, `remap`,
`adjust_brightness`, `adjust_contrast`, `adjust_saturation_with_gray_subtraction`, `adjust_hue`, `solarize`, `posterize`,
`equalize`, `sharpness` and `gaussian_blur2d` were found so; `adjust_gamma` and what takes a picture's mean in floats
(`adjust_contrast_with_mean_subtraction`) differ in the last bit between one and two threads, and are not used: means are
of whole numbers here. Turning, scaling, shearing, shifting, cropping, mirroring and the elastic one are one map, so that a
picture is interpolated once.
"""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from augmill.tasks.contracts import Floats, Ints
from augmill.tasks.errors import UserError
from augmill.tasks.generators.transforms.options import TransformsOptions
from augmill.tasks.rows.names import nearest
from augmill.tasks.rows.randomness import uniforms

if TYPE_CHECKING:
    import torch

Pixels = npt.NDArray[np.uint8]  # (height, width, channels): 1 grey, 3 RGB, 4 RGBA

BATCH, VALUES = 64, 1 << 22  # pictures, and values of all of them, that go through a call together
KNOTS = 4  # of the elastic transformation, along each side
JPEG_QUALITY = 95
GREY = (0.299, 0.587, 0.114)

# What a policy does: of each transformation its chance, and the most of it. Turning and shearing in degrees; scaling,
# brightness, contrast, saturation as a share more or less; hue in turns; shifting, cropping, elastic and blur as a share of
# the shorter side; noise as a standard deviation of values from 0 to 1; erasing as a share of the area.
Amounts = dict[str, tuple[float, float]]
POLICIES: dict[str, Amounts] = {
    "light": {
        "rotate": (1.0, 12.0),
        "scale": (1.0, 0.15),
        "shear": (1.0, 10.0),
        "shift": (1.0, 0.08),
        "crop": (0.5, 0.2),
        "elastic": (0.5, 0.03),
        "brightness": (0.8, 0.2),
        "contrast": (0.8, 0.4),
        "saturation": (0.8, 0.5),
        "hue": (0.5, 0.05),
        "blur": (0.1, 0.015),
        "noise": (0.1, 0.02),
    },
    "strong": {
        "rotate": (1.0, 20.0),
        "scale": (1.0, 0.2),
        "shear": (1.0, 15.0),
        "shift": (1.0, 0.1),
        "crop": (0.5, 0.25),
        "elastic": (0.5, 0.06),
        "brightness": (0.8, 0.25),
        "contrast": (0.8, 0.4),
        "saturation": (0.8, 0.5),
        "hue": (0.5, 0.06),
        "blur": (0.2, 0.03),
        "noise": (0.3, 0.05),
        "erase": (0.3, 0.15),
    },
}
# Of TrivialAugment and RandAugment, whose transformations these are (Mueller and Hutter, ICCV 2021; Cubuk et al., NeurIPS
# 2020), but for the identity, which would make a copy. Amounts are RandAugment's; TrivialAugment's wide ones turn by 135
# degrees, which makes a 6 a 9.
CHOSEN: dict[str, float] = {
    "rotate": 30.0,
    "shear_x": 17.0,
    "shear_y": 17.0,
    "shift_x": 0.3,
    "shift_y": 0.3,
    "brightness": 0.5,
    "contrast": 0.7,
    "saturation": 0.9,
    "sharpness": 0.9,
    "posterize": 4.0,
    "solarize": 0.9,
    "autocontrast": 1.0,
    "equalize": 1.0,
}
PICKED = {"trivial": 1, "rand": 2}  # how many of CHOSEN each row gets
NAMES = tuple(dict.fromkeys([*POLICIES["strong"], *CHOSEN]))
GEOMETRY = ("rotate", "scale", "shear", "shear_x", "shear_y", "shift", "shift_x", "shift_y", "crop", "elastic")


def require(options: TransformsOptions) -> None:
    """Raises UserError where pillow or kornia is missing, or an amount names no transformation of pictures."""
    if missing := [name for name in ("PIL", "kornia") if importlib.util.find_spec(name) is None]:
        problem = f"pictures are transformed by pillow and kornia, and {' and '.join(missing)} cannot be imported"
        raise UserError(problem, where="transforms", fix="pip install 'augmill[images]'")
    for name in options.amounts:
        if name not in NAMES:
            raise UserError(
                f"amounts: {nearest(name, NAMES)}", where="transforms", fix=f"use some of {', '.join(NAMES)}"
            )


# --- What is drawn -------------------------------------------------------------------------------------------------------


class Drawn:
    """Of some rows, by transformation: whether each gets it, and how much, from -most to most, along one axis or two.

    ``still``: transformations that no row gets.
    """

    def __init__(self, options: TransformsOptions, seeds: Ints, attempt: int, still: Sequence[str] = ()) -> None:
        count, names = len(seeds), len(NAMES)
        numbers = uniforms(seeds, 4 * names + 2 * KNOTS * KNOTS + 8, stream=1 + attempt)
        gates, levels = numbers[:, :names], 2 * numbers[:, names : 3 * names].reshape(count, 2, names) - 1
        chances, most = _amounts(options)
        most = np.where(np.isin(NAMES, still), 0.0, most)
        if options.policy in PICKED:
            # Of those that are left those with the least numbers.
            order = np.where(most > 0, gates, 2.0).argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
            self._on = (order < PICKED[options.policy]) & (most > 0)
        else:
            self._on = (gates < chances) & (most > 0)
        if options.policy == "rand":
            levels = np.where(levels < 0, -1.0, 1.0)
        self._levels = levels * most
        self._most = most
        self.places = numbers[:, 3 * names : 3 * names + 8]
        knots = 2 * numbers[:, 4 * names + 8 :].reshape(count, 2, KNOTS, KNOTS) - 1
        self.knots = knots * self.amount("elastic")[:, None, None, None]
        self.mirrored = {
            axis: (self.places[:, at] < 0.5) & (options.flip in (axis, "both"))
            for at, axis in ((6, "horizontal"), (7, "vertical"))
        }
        geometric = [self.on(name) for name in GEOMETRY]
        self.moved = np.any([*geometric, *self.mirrored.values()], axis=0)

    def on(self, name: str) -> npt.NDArray[np.bool_]:
        found: npt.NDArray[np.bool_] = self._on[:, NAMES.index(name)]
        return found

    def amount(self, name: str, axis: int = 0) -> Floats:
        """0 where the row does not get it."""
        return np.where(self.on(name), self._levels[:, axis, NAMES.index(name)], 0.0)

    def most(self, name: str) -> float:
        return float(self._most[NAMES.index(name)])


def _amounts(options: TransformsOptions) -> tuple[Floats, Floats]:
    """(chance, most) of each of NAMES."""
    policy = POLICIES.get(options.policy) or {name: (1.0, most) for name, most in CHOSEN.items()}
    own = {name: (policy.get(name, (1.0, 0.0))[0], most) for name, most in options.amounts.items()}
    scaled = {name: (chance, most * options.strength) for name, (chance, most) in policy.items()}
    found = scaled | own
    return tuple(np.array([found.get(name, (0.0, 0.0))[at] for name in NAMES]) for at in (0, 1))  # type: ignore[return-value]


# --- What is done --------------------------------------------------------------------------------------------------------


class Pictures:
    """``Medium`` of pictures."""

    def __init__(self, options: TransformsOptions) -> None:
        require(options)
        self.options = options

    def transform(self, files: Sequence[Sequence[bytes]], seeds: Ints, attempt: int) -> list[list[bytes] | None]:
        drawn = Drawn(self.options, seeds, attempt)
        made: list[list[bytes]] = [list(row) for row in files]
        changed = np.zeros(len(files), np.bool_)
        for field in range(len(files[0]) if files else 0):
            pictures = [decode(row[field]) for row in files]
            for rows in batches_of([pixels.shape for pixels in pictures]):
                before = np.stack([pictures[row] for row in rows.tolist()])
                after = transformed(before, drawn, rows, seeds, attempt)
                differs = (before != after).any(axis=(1, 2, 3))
                changed[rows] |= differs
                for row, pixels in zip(rows[differs].tolist(), after[differs], strict=True):
                    made[row][field] = encode(pixels, self._format(files[row][field]))
        return [row if new else None for row, new in zip(made, changed.tolist(), strict=True)]

    def _format(self, parent: bytes) -> str:
        if self.options.format == "as_parent":
            return "jpeg" if parent.startswith(b"\xff\xd8\xff") else "png"
        return self.options.format


def batches_of(shapes: Sequence[tuple[int, ...]]) -> list[Ints]:
    """Rows of one shape, in order, some at a time."""
    own: dict[tuple[int, ...], list[int]] = {}
    for row, shape in enumerate(shapes):
        own.setdefault(shape, []).append(row)
    found = []
    for shape, rows in own.items():
        size = max(1, min(BATCH, VALUES // math.prod(shape)))
        found += [np.array(rows[start : start + size]) for start in range(0, len(rows), size)]
    return found


def transformed(before: Pixels, drawn: Drawn, rows: Ints, seeds: Ints, attempt: int) -> Pixels:
    """``before``: (pictures, height, width, channels), all of them rows of ``drawn``."""
    import torch

    values = torch.from_numpy(before.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255))
    at = np.flatnonzero(drawn.moved[rows])
    if len(at):
        values[at] = _moved(values[at], drawn, rows[at])
    alpha = values[:, 3:] if before.shape[3] == 4 else None
    colours = values[:, :3] if before.shape[3] == 4 else values
    means = before[..., :3].astype(np.int64).sum(axis=(1, 2)) / (before.shape[1] * before.shape[2] * 255)
    for name, apply in _STEPS:
        at = np.flatnonzero(drawn.on(name)[rows])
        if len(at):
            colours[at] = apply(colours[at], drawn, rows[at], means[at]).clamp(0, 1)
    at = np.flatnonzero(drawn.on("noise")[rows])
    for place in at.tolist():
        row = int(rows[place])
        noise = _noise(int(seeds[row]), attempt, math.prod(colours.shape[1:])).reshape(colours.shape[1:])
        colours[place] += torch.from_numpy(noise) * float(abs(drawn.amount("noise")[row]))
    whole = colours if alpha is None else torch.cat([colours, alpha], dim=1)
    made: Pixels = (whole * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return made


def _moved(values: torch.Tensor, drawn: Drawn, rows: Ints) -> torch.Tensor:
    """Each picture through the map of its row, from places in the made picture to places in the parent."""
    import torch
    from kornia.geometry.transform import remap

    height, width = values.shape[2:]
    short = min(height, width)
    across, down = np.meshgrid(np.arange(width) - (width - 1) / 2, np.arange(height) - (height - 1) / 2)
    turns, offsets = affine(drawn, rows)
    # In doubles and by elements alone: no sum whose order could hang on the batch.
    x = turns[:, 0, 0, None, None] * across + turns[:, 0, 1, None, None] * down
    y = turns[:, 1, 0, None, None] * across + turns[:, 1, 1, None, None] * down
    x += (offsets[:, 0] * short)[:, None, None] + ((drawn.places[rows, 0] * 2 - 1) * slack(drawn, rows, width))[
        :, None, None
    ]
    y += (offsets[:, 1] * short)[:, None, None] + ((drawn.places[rows, 1] * 2 - 1) * slack(drawn, rows, height))[
        :, None, None
    ]
    maps = torch.from_numpy(np.stack([x + (width - 1) / 2, y + (height - 1) / 2], axis=1).astype(np.float32))
    bent = np.flatnonzero(drawn.on("elastic")[rows])
    if len(bent):
        knots = torch.from_numpy((drawn.knots[rows[bent]] * short).astype(np.float32))
        maps[bent] += torch.nn.functional.interpolate(knots, size=(height, width), mode="bicubic", align_corners=True)
    moved: torch.Tensor = remap(values, maps[:, 0], maps[:, 1], padding_mode="border", align_corners=True)
    return moved


def slack(drawn: Drawn, rows: Ints, side: int) -> Floats:
    """How far a crop may lie from the middle, in pixels."""
    return np.asarray(np.abs(drawn.amount("crop")[rows]) * side / 2)


def affine(drawn: Drawn, rows: Ints) -> tuple[Floats, Floats]:
    """((rows, 2, 2), (rows, 2) as a share of the shorter side): from a place in the made picture to one in the parent."""

    def amount(name: str, axis: int = 0) -> Floats:
        return drawn.amount(name, axis)[rows]

    angle = np.radians(amount("rotate"))
    shears = [np.tan(np.radians(amount("shear", at) + amount(f"shear_{axis}"))) for at, axis in enumerate("xy")]
    scale = (1 - np.abs(amount("crop"))) * np.where(amount("scale") < 0, 1 - amount("scale"), 1 / (1 + amount("scale")))
    flips = [np.where(drawn.mirrored[axis][rows], -1.0, 1.0) for axis in ("horizontal", "vertical")]
    cosine, sine = np.cos(angle), np.sin(angle)
    turns = np.array(
        [
            [(cosine - sine * shears[1]) * scale * flips[0], (cosine * shears[0] - sine) * scale * flips[1]],
            [(sine + cosine * shears[1]) * scale * flips[0], (sine * shears[0] + cosine) * scale * flips[1]],
        ]
    ).transpose(2, 0, 1)
    offsets = np.stack([amount("shift", at) + amount(f"shift_{axis}") for at, axis in enumerate("xy")], axis=1)
    return turns, offsets


def _noise(seed: int, attempt: int, count: int) -> npt.NDArray[np.float32]:
    """Nearly normal numbers of variance 1: sums of four bytes. Of numpy's own Philox, whose raw words no version moves:

    the one of ours takes 30 times as long for as many numbers of one key.
    """
    words = np.random.Philox(key=np.array([seed, 1 + attempt], np.uint64)).random_raw(-(-count // 2))
    sums = words.view(np.uint8).reshape(-1, 4).sum(axis=1, dtype=np.int32)[:count]
    noise: npt.NDArray[np.float32] = (sums - 510).astype(np.float32) / np.float32(147.8)
    return noise


# --- Colours: (values, drawn, rows, each channel's mean) -> values ------------------------------------------------------

Step = Callable[[Any, Drawn, Ints, Floats], Any]


def _tensor(amounts: Floats) -> torch.Tensor:
    import torch

    return torch.from_numpy(amounts.astype(np.float32))


def _brightness(values: torch.Tensor, drawn: Drawn, rows: Ints, means: Floats) -> Any:
    from kornia.enhance import adjust_brightness

    return adjust_brightness(values, _tensor(drawn.amount("brightness")[rows]))


def _contrast(values: torch.Tensor, drawn: Drawn, rows: Ints, means: Floats) -> torch.Tensor:
    """About the picture's mean."""
    middle = _tensor(means.mean(axis=1))[:, None, None, None]
    return middle + (values - middle) * _tensor(1 + drawn.amount("contrast")[rows])[:, None, None, None]


def _saturation(values: torch.Tensor, drawn: Drawn, rows: Ints, means: Floats) -> Any:
    from kornia.enhance import adjust_saturation_with_gray_subtraction

    if values.shape[1] == 1:
        return values
    return adjust_saturation_with_gray_subtraction(values, _tensor(np.maximum(1 + drawn.amount("saturation")[rows], 0)))


def _hue(values: torch.Tensor, drawn: Drawn, rows: Ints, means: Floats) -> Any:
    from kornia.enhance import adjust_hue

    return values if values.shape[1] == 1 else adjust_hue(values, _tensor(drawn.amount("hue")[rows] * 2 * math.pi))


def _solarize(values: torch.Tensor, drawn: Drawn, rows: Ints, means: Floats) -> Any:
    from kornia.enhance import solarize

    return solarize(values, _tensor(1 - np.abs(drawn.amount("solarize")[rows])).clamp(0, 1))


def _posterize(values: torch.Tensor, drawn: Drawn, rows: Ints, means: Floats) -> Any:
    from kornia.enhance import posterize

    bits = np.maximum(8 - np.ceil(np.abs(drawn.amount("posterize")[rows])), 1)
    return posterize(values, _tensor(bits).int())


def _autocontrast(values: torch.Tensor, drawn: Drawn, rows: Ints, means: Floats) -> Any:
    from kornia.enhance import normalize_min_max

    return normalize_min_max(values)


def _equalize(values: torch.Tensor, drawn: Drawn, rows: Ints, means: Floats) -> Any:
    from kornia.enhance import equalize

    return equalize(values)


def _sharpness(values: torch.Tensor, drawn: Drawn, rows: Ints, means: Floats) -> Any:
    from kornia.enhance import sharpness

    return values if min(values.shape[2:]) < 3 else sharpness(values, _tensor(1 + drawn.amount("sharpness")[rows]))


def _blur(values: torch.Tensor, drawn: Drawn, rows: Ints, means: Floats) -> Any:
    from kornia.filters import gaussian_blur2d

    short = min(values.shape[2:])
    reach = min(math.ceil(2 * drawn.most("blur") * short), short - 1)
    widths = _tensor(np.maximum(np.abs(drawn.amount("blur")[rows]) * short, 1e-3))
    return gaussian_blur2d(values, 2 * reach + 1, widths[:, None].expand(-1, 2))


def erased(drawn: Drawn, rows: Ints, height: int, width: int) -> tuple[Floats, Floats]:
    """Of each row's rectangle (top, bottom) and (left, right), in whole pixels, (rows, 2) each."""
    area = np.abs(drawn.amount("erase")[rows])
    shape = 2.0 ** (2 * drawn.places[rows, 2] - 1)
    spans = []
    for at, (size, ratio) in enumerate(((height, shape), (width, 1 / shape))):
        side = np.minimum(np.sqrt(area * ratio), 1.0)
        start = drawn.places[rows, 3 + at] * (1 - side)
        spans.append(np.round(np.stack([start * size, (start + side) * size], axis=1)))
    return spans[0], spans[1]


def _erase(values: torch.Tensor, drawn: Drawn, rows: Ints, means: Floats) -> torch.Tensor:
    """A rectangle in the picture's mean colour (Zhong et al., "Random Erasing", AAAI 2020)."""
    import torch

    height, width = values.shape[2:]
    inside = [
        (np.arange(size) >= span[:, :1]) & (np.arange(size) < span[:, 1:])
        for size, span in zip((height, width), erased(drawn, rows, height, width), strict=True)
    ]
    mask = torch.from_numpy(inside[0][:, None, :, None] & inside[1][:, None, None, :])
    return torch.where(mask, _tensor(means)[:, :, None, None], values)


_STEPS: tuple[tuple[str, Step], ...] = (
    ("autocontrast", _autocontrast),
    ("equalize", _equalize),
    ("posterize", _posterize),
    ("solarize", _solarize),
    ("brightness", _brightness),
    ("contrast", _contrast),
    ("saturation", _saturation),
    ("hue", _hue),
    ("sharpness", _sharpness),
    ("blur", _blur),
    ("erase", _erase),
)


# --- Files ---------------------------------------------------------------------------------------------------------------


def decode(file: bytes) -> Pixels:
    """Pixels as they are to be seen; of 16 bits the higher 8."""
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(file)) as opened:
        picture = ImageOps.exif_transpose(opened)
    if picture.mode.startswith("I"):
        high: Pixels = (np.clip(np.asarray(picture), 0, 0xFFFF) >> 8).astype(np.uint8)
        return high[..., None]
    if picture.mode not in ("L", "RGB", "RGBA"):
        clear = picture.mode in ("LA", "PA", "La", "RGBa") or "transparency" in picture.info
        picture = picture.convert("L" if picture.mode == "1" else "RGBA" if clear else "RGB")
    pixels = np.asarray(picture)
    return pixels.reshape(*pixels.shape[:2], -1)


def encode(pixels: Pixels, format: str) -> bytes:
    """As a PNG, or a JPEG, which has no transparency."""
    from PIL import Image

    written = io.BytesIO()
    kept = pixels[..., :3] if format == "jpeg" else pixels
    picture = Image.fromarray(kept[..., 0] if kept.shape[2] == 1 else np.ascontiguousarray(kept))
    if format == "jpeg":
        picture.save(written, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    else:
        picture.save(written, "PNG", compress_level=1)
    return written.getvalue()
