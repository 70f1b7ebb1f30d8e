"""How many planted near-duplicates of pictures are found, and which real pairs are called near: `bench_near_images.py`.

Prints three tables: planted pairs found at a similarity (recompressed, resized, mirrored, cropped, shifted), pairs of real
pictures that are near with the most alike of them, and processor seconds and memory for indexing and asking.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image as Pillow

from augmill.tasks.rows.kinds.image.decode import Pixels, encode, pixels
from augmill.tasks.rows.kinds.image.near import PictureIndex
from augmill.tasks.rows.kinds.media import media

SHARED = Path(os.environ.get("AUGMILL_SHARED", Path(__file__).parents[3] / "shared"))
WAYS = (
    "recompressed",
    "resized",
    "mirrored",
    "mirrored and recompressed",
    "crop 2 %",
    "crop 5 %",
    "crop 8 %",
    "crop up to 8 %",
    "crop up to 8 % and mirrored",
    "shift up to 5 %",
    "flip and turn by 8 degrees",
)


def read(name: str) -> list[tuple[str, bytes]]:
    """The files of a set with their names, sorted."""
    if name == "cifar":
        with tarfile.open(SHARED / "data/cifar10_part/images.tar") as tar:
            members = sorted((one for one in tar if one.isfile()), key=lambda one: one.name)
            return [(one.name, tar.extractfile(one).read()) for one in members if one.name.endswith(".jpg")]  # type: ignore[union-attr]
    with zipfile.ZipFile(SHARED / "data/omniglot_small/images_background_small1.zip") as archive:
        return [(each, archive.read(each)) for each in sorted(archive.namelist()) if each.endswith(".png")]


def recompress(picture: Pixels, quality: int) -> Pixels:
    stream = io.BytesIO()
    Pillow.fromarray(np.ascontiguousarray(picture)).save(stream, "JPEG", quality=quality)
    return pixels(stream.getvalue())


def resize(picture: Pixels, width: int, height: int) -> Pixels:
    image = Pillow.fromarray(np.ascontiguousarray(picture))
    return np.asarray(image.resize((width, height), Pillow.Resampling.BICUBIC))


def crop(picture: Pixels, share: float, rng: np.random.Generator) -> Pixels:
    """A window anywhere, of the picture's own size again."""
    height, width = picture.shape[:2]
    tall, wide = round(height * (1 - share)), round(width * (1 - share))
    top, left = rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1)
    return resize(picture[top : top + tall, left : left + wide], width, height)


def plant(picture: Pixels, way: str, rng: np.random.Generator) -> Pixels:
    """The picture as somebody may have it a second time."""
    height, width = picture.shape[:2]
    if "mirrored" in way or way.startswith("flip"):
        picture = picture[:, ::-1]
    if way.startswith("flip"):
        turned = Pillow.fromarray(np.ascontiguousarray(picture)).rotate(float(rng.choice([-8, 8])), fillcolor="white")
        return np.asarray(turned)
    if "recompressed" in way:
        return recompress(picture, int(rng.integers(50, 91)))
    if way == "resized":
        scale = rng.uniform(0.5, 2)
        return resize(picture, max(8, round(width * scale)), max(8, round(height * scale)))
    if way.startswith("crop"):
        share = rng.uniform(0, 0.08) if "up to" in way else int(way.split()[1]) / 100
        return crop(picture, share, rng)
    if way.startswith("shift"):
        down, right = (int(rng.integers(-round(side * 0.05), round(side * 0.05) + 1)) for side in (height, width))
        padded = np.pad(picture, ((height, height), (width, width), (0, 0)), mode="edge")
        return padded[height + down : 2 * height + down, width + right : 2 * width + right]
    return picture


def table_of(files: list[bytes]) -> pa.Table:
    return pa.table({"image:photo": media(files)})


def planted(name: str, files: list[bytes], count: int, least: float) -> None:
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(files))[:count]
    index = PictureIndex.build(table_of(files), least)
    for way in WAYS:
        made = [encode(np.ascontiguousarray(plant(pixels(files[at]), way, rng))) for at in chosen]
        query, position, similarity = index.matches(table_of(made))
        own = {(row, int(at)) for row, at in enumerate(chosen)}
        found = [
            alike
            for row, at, alike in zip(query.tolist(), position.tolist(), similarity, strict=True)
            if (row, at) in own
        ]
        others = len(query) - len(found)
        print(
            f"| {name} | {way} | {len(chosen)} | {len(found) / len(chosen):.3f} | {np.mean(found or [0]):.3f} | {others} |"
        )


def natural(name: str, files: list[tuple[str, bytes]], least: float, shown: int) -> None:
    table = table_of([data for _, data in files])
    query, position, similarity = PictureIndex.build(table, least).matches(table)
    pairs = sorted(
        (
            (alike, at, row)
            for row, at, alike in zip(query.tolist(), position.tolist(), similarity.tolist(), strict=True)
            if at < row
        ),
        reverse=True,
    )
    every = len(files) * (len(files) - 1) // 2
    told = "; ".join(f"{files[at][0]} and {files[row][0]} {alike:.3f}" for alike, at, row in pairs[:shown])
    print(f"| {name} | {every:,} | {least:g} | {len(pairs)} | {told} |")


def speed(name: str, files: list[bytes], count: int, least: float) -> None:
    """Pictures beyond those of the set are made of them by turning colours and sides."""
    rng, made = np.random.default_rng(1), list(files[:count])
    while len(made) < count:
        picture = pixels(files[int(rng.integers(len(files)))])
        made.append(encode(np.ascontiguousarray(np.rot90(picture[::-1], int(rng.integers(4))))))
    for at, what in enumerate(("index", "ask")):
        start, wall = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        if at == 0:
            index = PictureIndex.build(table_of(made), least)
        else:
            index.matches(table_of(made))
        end = resource.getrusage(resource.RUSAGE_SELF)
        used = end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime
        print(
            f"| {name} | {what} | {len(made):,} | {used:.1f} | {time.perf_counter() - wall:.1f} | {end.ru_maxrss >> 10} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="+", default=["cifar", "omniglot"], choices=["cifar", "omniglot"])
    parser.add_argument("--planted", type=int, default=1000, help="pictures of each set of which near ones are made")
    parser.add_argument("--pictures", type=int, help="of each set at most; default: all")
    parser.add_argument("--indexed", type=int, default=10_000, help="pictures for the measurement of speed; 0: none")
    parser.add_argument("--near", type=float, default=0.8, help="least similarity")
    parser.add_argument("--shown", type=int, default=6, help="pairs of real pictures that are named")
    asked = parser.parse_args()
    sets = {name: read(name)[: asked.pictures] for name in asked.sets}
    print("| set | planted | pairs | found | similarity | others found |\n|---|---|---|---|---|---|")
    for name, files in sets.items():
        planted(name, [data for _, data in files], asked.planted, asked.near)
    print("\n| set | pairs of real pictures | similarity from | near | most alike |\n|---|---|---|---|---|")
    for name, files in sets.items():
        natural(name, files, asked.near, asked.shown)
    if asked.indexed:
        print("\n| set | what | pictures | CPU s | s | MiB at most |\n|---|---|---|---|---|---|")
        for name, files in sets.items():
            speed(name, [data for _, data in files], asked.indexed, asked.near)


if __name__ == "__main__":
    main()
