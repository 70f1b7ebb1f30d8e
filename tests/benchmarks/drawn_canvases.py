"""Pictures with boxes, drawn by a program: handwritten digits or characters that others wrote, set on shaded, noisy canvases."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Ink = npt.NDArray[np.float64]  # (height, width), 0 to 1: how much of a pixel a character covers
Scene = tuple[Pixels, list[dict[str, Any]]]

SHARED = Path(os.environ.get("AUGMILL_SHARED", Path(__file__).parents[3] / "shared"))
ALPHABET = "Balinese"


def digits() -> dict[str, dict[str, list[Ink]]]:
    """scikit-learn's, by split and label: the first 900 to train on, the rest to judge by."""
    import sklearn.datasets

    data = sklearn.datasets.load_digits()
    found: dict[str, dict[str, list[Ink]]] = {"train": {}, "held": {}}
    for at, (picture, label) in enumerate(zip(data.images, data.target, strict=True)):
        found["train" if at < 900 else "held"].setdefault(str(label), []).append(picture / 16)
    return found


def characters() -> dict[str, dict[str, list[Ink]]]:
    """Omniglot's, of one alphabet: ten drawings of each to train on, ten to judge by."""
    from PIL import Image

    found: dict[str, dict[str, list[Ink]]] = {"train": {}, "held": {}}
    with zipfile.ZipFile(SHARED / "data/omniglot_small/images_background_small1.zip") as archive:
        for name in sorted(archive.namelist()):
            parts = name.split("/")
            if name.endswith(".png") and parts[-3] == ALPHABET:
                drawing = Image.open(io.BytesIO(archive.read(name))).convert("L").resize((35, 35))
                split = "train" if int(name[-6:-4]) <= 10 else "held"
                found[split].setdefault(parts[-2], []).append(1 - np.asarray(drawing) / 255)
    return found


def draw_scenes(inks: dict[str, list[Ink]], count: int, seed: int, side: int = 64) -> list[Scene]:
    """Canvases with one to four characters that cover each other by little, at 14 to 26 pixels of height."""
    rng = np.random.default_rng(seed)
    return [_scene(inks, rng, side) for _ in range(count)]


def _scene(inks: dict[str, list[Ink]], rng: np.random.Generator, side: int) -> Scene:
    from PIL import Image

    across, down = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side))
    shade = rng.uniform(40, 110) + rng.uniform(-30, 30) * across + rng.uniform(-30, 30) * down
    canvas = np.repeat((shade + rng.normal(0, rng.uniform(2, 10), shade.shape))[..., None], 3, axis=2)
    boxes: list[dict[str, Any]] = []
    for _ in range(int(rng.integers(1, 5))):
        label = sorted(inks)[int(rng.integers(len(inks)))]
        ink = _cropped(inks[label][int(rng.integers(len(inks[label])))])
        high = int(rng.integers(14, 27))
        wide = max(5, round(high * ink.shape[1] / ink.shape[0] * rng.uniform(0.8, 1.25)))
        if wide >= side:
            continue
        small = np.asarray(Image.fromarray((ink * 255).astype(np.uint8)).resize((wide, high)), np.float64) / 255
        left, top = int(rng.integers(side - wide + 1)), int(rng.integers(side - high + 1))
        bbox = [float(left), float(top), float(wide), float(high)]
        if any(_covered(bbox, other["bbox"]) > 0.1 for other in boxes):
            continue
        part = canvas[top : top + high, left : left + wide]
        part += small[..., None] * (part.mean() + rng.uniform(80, 140) - part)
        boxes.append({"bbox": bbox, "label": label})
    return np.clip(canvas, 0, 255).astype(np.uint8), boxes


def _cropped(ink: Ink) -> Ink:
    """To what is written."""
    rows, columns = (np.flatnonzero(ink.max(axis=at) > 0.2) for at in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _covered(one: list[float], other: list[float]) -> float:
    """The share of the smaller box that the other covers."""
    shared = [min(one[at] + one[at + 2], other[at] + other[at + 2]) - max(one[at], other[at]) for at in (0, 1)]
    return max(0.0, shared[0]) * max(0.0, shared[1]) / min(one[2] * one[3], other[2] * other[3])


def png(picture: Pixels) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()
