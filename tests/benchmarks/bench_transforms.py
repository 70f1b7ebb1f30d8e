"""Pictures a second of `transforms`, beside kornia and albumentations alone. Prints a table.

    python tests/benchmarks/bench_transforms.py [--rows 2048] [--side 32] [--batch 64] [--repeats 5]

Of each policy: rows a second of processor time of `sample`, which reads a parent's file, decodes it, transforms it and
encodes it; and of the same transformations without files. kornia alone: its own random affine transformation, colours and
blur on batches of pixels. albumentations: the like, picture by picture, where it is installed (2.0.8 is the last free one).
All turns of a repeat follow each other; the median is printed, with the ratio to kornia. One thread each.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from augmill.tasks.contracts import Context, FitInputs, Fitted, Request
from augmill.tasks.generators.transforms import Transforms, TransformsOptions
from augmill.tasks.generators.transforms.image import BATCH, Drawn, transformed
from augmill.tasks.rows.kinds import real_schema
from augmill.tasks.rows.randomness import row_seeds

FIELDS = ("image:photo",)


def pictures(count: int, side: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Smooth colours with some noise, which compress as photographs do."""
    rng = np.random.default_rng(0)
    coarse = rng.random((count, 4, 4, 3))
    fine = coarse.repeat(-(-side // 4), axis=1).repeat(-(-side // 4), axis=2)[:, :side, :side]
    return (fine * 220 + rng.integers(0, 30, (count, side, side, 3))).astype(np.uint8)


def train_rows(pixels: Any, format: str) -> pa.Table:
    from PIL import Image

    files = []
    for each in pixels:
        stream = io.BytesIO()
        Image.fromarray(each).save(stream, format)
        files.append({"bytes": stream.getvalue(), "path": None})
    columns = {"row_id": [f"r{at:06d}" for at in range(len(files))], "stratum": ["a"] * len(files), FIELDS[0]: files}
    return pa.table(columns, real_schema(FIELDS))


def sampling(rows: pa.Table, policy: str, count: int, folder: Path) -> Callable[[], None]:
    generator = Transforms(TransformsOptions(policy=policy))  # type: ignore[arg-type]
    folder.mkdir()
    context, empty = Context(seed=0, fields=FIELDS, workdir=folder), rows.slice(0, 0)
    generator.fit(FitInputs(rows, empty, empty, empty, empty), context)
    fitted, ordinals = Fitted(folder, "content"), np.arange(count, dtype=np.int64)
    request = Request(["a"] * count, ordinals, row_seeds(7, ordinals))
    return lambda: void(generator.sample(fitted, request, context))


def pixels_alone(pixels: Any, policy: str, count: int) -> Callable[[], None]:
    options, seeds = TransformsOptions(policy=policy), row_seeds(7, np.arange(count, dtype=np.int64))  # type: ignore[arg-type]

    def run() -> None:
        drawn = Drawn(options, seeds, 0)
        for start in range(0, count, BATCH):
            rows = np.arange(start, min(start + BATCH, count))
            transformed(pixels[rows % len(pixels)], drawn, rows, seeds, 0)

    return run


def kornia_alone(pixels: Any, count: int, batch: int) -> Callable[[], None]:
    import torch
    from kornia import augmentation as ka

    steps = ka.AugmentationSequential(
        ka.RandomAffine(10.0, (0.06, 0.06), (0.9, 1.1), (-8.0, 8.0, -8.0, 8.0), p=1.0),
        ka.ColorJitter(0.1, 0.2, 0.2, 0.02, p=0.5),
        ka.RandomGaussianBlur((3, 3), (0.1, 0.5), p=0.1),
        ka.RandomGaussianNoise(std=0.02, p=0.2),
    )
    values = torch.from_numpy(pixels.transpose(0, 3, 1, 2)).float() / 255

    def run() -> None:
        for start in range(0, count, batch):
            steps(values[np.arange(start, min(start + batch, count)) % len(values)])

    return run


def albumentations_alone(pixels: Any, count: int) -> Callable[[], None] | None:
    if importlib.util.find_spec("albumentations") is None:
        return None
    import albumentations as al  # type: ignore[import-not-found]

    steps = al.Compose(
        [
            al.Affine(rotate=(-10, 10), translate_percent=(-0.06, 0.06), scale=(0.9, 1.1), shear=(-8, 8), p=1.0),
            al.ElasticTransform(alpha=1, sigma=4, p=0.5),
            al.ColorJitter(0.1, 0.2, 0.2, 0.02, p=0.5),
            al.GaussianBlur((3, 3), p=0.1),
            al.GaussNoise((0.02, 0.02), p=0.2),
        ]
    )

    def run() -> None:
        for at in range(count):
            steps(image=pixels[at % len(pixels)])

    return run


def void(value: object) -> None:
    """Forgets it."""


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("rows", 2048), ("side", 32), ("batch", 64), ("repeats", 5), ("parents", 1000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    pixels = pictures(given.parents, given.side)
    with tempfile.TemporaryDirectory() as folder:
        ways: dict[str, Callable[[], None] | None] = {"kornia alone": kornia_alone(pixels, given.rows, given.batch)}
        for policy in ("light", "strong", "trivial", "rand"):
            ways[f"{policy}, pixels alone"] = pixels_alone(pixels, policy, given.rows)
        for format in ("PNG", "JPEG"):
            rows = train_rows(pixels, format)
            for policy in ("light", "strong", "trivial", "rand"):
                place = Path(folder) / f"{policy}-{format}"
                ways[f"{policy}, {format} to {format}"] = sampling(rows, policy, given.rows, place)
        ways["albumentations alone"] = albumentations_alone(pixels, given.rows)
        seconds: dict[str, list[float]] = {name: [] for name, way in ways.items() if way is not None}
        for turn in range(given.repeats + 1):
            for name, way in ways.items():
                if way is not None:
                    start = time.process_time()
                    way()
                    if turn:  # the first loads
                        seconds[name].append(time.process_time() - start)
    base = statistics.median(seconds["kornia alone"])
    print(f"{given.side} x {given.side}, batches of {given.batch}, median of {given.repeats}\n")
    print("| policy | rows/s | of kornia alone |\n|---|---|---|")
    for name, took in seconds.items():
        middle = statistics.median(took)
        print(f"| {name} | {given.rows / middle:,.0f} | {base / middle:.2f} |")


if __name__ == "__main__":
    main()
