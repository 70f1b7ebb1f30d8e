"""Draws the pictures, makes the sounds, orders and plays of infra/examples/: ``python tests/examples.py DIR`` writes all.

Few rows to train on and many to judge by, as where labelling is dear: a reader sees in seconds what a night finds.
"""

from __future__ import annotations

import csv
import io
import sys
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt

SIDE, FINE = 24, 4  # pixels; drawn so many times as fine and averaged
SHAPES = ("circle", "cross", "ring", "square", "star", "triangle")
PER_SPLIT = {"train": 10, "validation": 50, "test": 30}  # pictures of each shape

Image = npt.NDArray[np.uint8]


def inside(shape: str, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Whether points of the plane are in the shape, which fills about the unit circle."""
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    if shape == "circle":
        return radius < 0.8
    if shape == "ring":
        return (radius < 0.95) & (radius > 0.5)
    if shape == "square":
        return np.maximum(abs(x), abs(y)) < 0.7
    if shape == "cross":
        return (np.minimum(abs(x), abs(y)) < 0.28) & (np.maximum(abs(x), abs(y)) < 0.95)
    corners = 3 if shape == "triangle" else 5
    part = np.pi / corners
    turned = abs((angle + part) % (2 * part) - part)
    if shape == "triangle":
        return radius * np.cos(turned) < 0.5
    return radius * (np.cos(turned) + 1.4 * np.sin(turned)) < 0.95


def draw_shape(shape: str, rng: np.random.Generator) -> Image:
    """(SIDE, SIDE), grey: anywhere, at any angle and size, brighter or darker than a ground with noise."""
    size, turn = rng.uniform(0.25, 0.48), rng.uniform(0, 2 * np.pi)
    middle = rng.uniform(size, 1 - size, 2) if size < 0.5 else np.full(2, 0.5)
    squeeze = rng.uniform(0.75, 1.0)
    places = (np.arange(SIDE * FINE) + 0.5) / (SIDE * FINE)
    x, y = np.meshgrid((places - middle[0]) / size, (places - middle[1]) / size)
    x, y = x * np.cos(turn) - y * np.sin(turn), (x * np.sin(turn) + y * np.cos(turn)) / squeeze
    share = inside(shape, x, y).reshape(SIDE, FINE, SIDE, FINE).mean(axis=(1, 3))
    ground, ink = rng.uniform(0.1, 0.5), rng.uniform(0.55, 0.95)
    if rng.random() < 0.5:
        ground, ink = ink, ground
    grey = ground + (ink - ground) * share + rng.normal(0, 0.1, (SIDE, SIDE))
    return (255 * np.clip(grey, 0, 1)).astype(np.uint8)


def encode_png(image: Image) -> bytes:
    from PIL import Image as Pictures

    stream = io.BytesIO()
    Pictures.fromarray(image).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def write_shapes(folder: Path) -> None:
    """``train/circle/00.png`` and so on: a folder for each split, and in it one for each class."""
    rng = np.random.default_rng(7)
    for split, count in PER_SPLIT.items():
        for shape in SHAPES:
            place = folder / split / shape
            place.mkdir(parents=True, exist_ok=True)
            for at in range(count):
                (place / f"{at:02}.png").write_bytes(encode_png(draw_shape(shape, rng)))


RATE, SECONDS = 8000, 0.4
SOUNDS = ("bell", "buzz", "chirp", "drum", "horn")
HEARD = {"train": 5, "validation": 30, "test": 15}  # sounds of each class


def make_sound(name: str, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Mono, at RATE: at any pitch and loudness, in noise, with silence around it."""
    time = np.arange(int(RATE * SECONDS)) / RATE
    pitch, start, length = rng.uniform(150, 450), rng.uniform(0, 0.12), rng.uniform(0.18, 0.26)
    since = np.clip(time - start, 0, None)
    slope = rng.choice([-1, 1]) * rng.uniform(1.5, 6)
    phase = 2 * np.pi * pitch * since
    wave = {
        "bell": lambda: sum(np.sin(phase * ratio) * np.exp(-since * 6 * ratio) for ratio in (1, 2.76, 5.4)),
        "buzz": lambda: 2 * (pitch / 3 * since % 1) - 1,
        "chirp": lambda: np.sin(phase * (1 + slope * since)),
        "drum": lambda: (
            np.sin(phase / 3 * np.exp(-since * 4)) * np.exp(-since * 18)
            + 0.3 * rng.normal(size=len(time)) * np.exp(-since * 40)
        ),
        "horn": lambda: (
            sum(np.sin(phase * harmonic) / harmonic for harmonic in range(1, 6)) * np.minimum(since * 12, 1)
        ),
    }[name]()
    heard = (time >= start) & (time < start + length)
    mixed = rng.uniform(0.1, 0.4) * wave * heard / max(abs(wave).max(), 1e-9) + rng.normal(0, 0.06, len(time))
    return np.clip(mixed, -1, 1).astype(np.float32)


def write_sounds(path: Path) -> None:
    """One Parquet file as ``datasets`` writes a column of sounds: ``struct<bytes, path>``, here of FLAC."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import soundfile

    rng, rows = np.random.default_rng(7), []
    for split, count in HEARD.items():
        for name in SOUNDS:
            for at in range(count):
                stream = io.BytesIO()
                soundfile.write(stream, make_sound(name, rng), RATE, format="FLAC", subtype="PCM_16")
                clip = {"bytes": stream.getvalue(), "path": f"{split}_{name}_{at:02}.flac"}
                rows.append({"clip": clip, "sound": name, "split": split})
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("clip", kind), ("sound", pa.string()), ("split", pa.string())])
    pq.write_table(pa.Table.from_pylist(rows, schema), path, compression="zstd")


COLUMNS = (
    "order",
    "ordered",
    "shipped",
    "goods",
    "channel",
    "items",
    "first",
    "net",
    "discount",
    "tax",
    "gross",
    "outcome",
)
ORDERS, TAX = 700, {"books": 7, "toys": 19, "garden": 19, "shoes": 19, "coats": 19}  # rows; per cent by what is bought


def write_orders(path: Path) -> None:
    """A CSV of orders and what became of them: tax follows from net, gross is their sum, nothing ships before it is paid."""
    rng = np.random.default_rng(7)
    rows = []
    for at in range(ORDERS):
        goods = rng.choice(list(TAX), p=[0.3, 0.2, 0.15, 0.2, 0.15])
        items, first = int(rng.geometric(0.45)), bool(rng.random() < 0.3)
        net = round(float(items * rng.lognormal(3.1 if goods in ("shoes", "coats", "garden") else 2.4, 0.5)), 2)
        discount = round(net * float(rng.choice([0, 0, 0, 0.1, 0.2])), 2)
        tax = round((net - discount) * TAX[goods] / 100, 2)
        ordered = datetime(2026, 3, 1) + timedelta(minutes=int(rng.integers(0, 60 * 24 * 120)))
        shipped = ordered + timedelta(hours=float(rng.gamma(2, 20)))
        worn = goods in ("shoes", "coats")
        late = (shipped - ordered) / timedelta(days=1)
        odds = -3.6 + 2.2 * worn + 0.5 * (items - 1) * worn + 0.35 * late + 0.9 * first * worn + 0.02 * (net - 30)
        outcome = "returned" if rng.random() < 1 / (1 + np.exp(-odds)) else "kept"
        channel = str(rng.choice(["app", "web", "shop"])) if rng.random() > 0.05 else ""
        rows.append([f"O{10000 + at}", f"{ordered:%Y-%m-%d %H:%M}", f"{shipped:%Y-%m-%d %H:%M}", goods, channel, items,
                     "yes" if first else "no", net, discount, tax, round(net - discount + tax, 2), outcome])  # fmt: skip
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)


LISTENERS, GENRES, SONGS = 200, 8, 25  # songs of each genre


def write_plays(path: Path) -> None:
    """Who played which song when, as an export has it: by time, not by listener. Songs of a genre follow one another."""
    rng, plays = np.random.default_rng(11), list[tuple[int, str, str]]()
    for listener in range(LISTENERS):
        genre, song = rng.integers(0, GENRES), rng.integers(0, SONGS)
        heard, time = set[int](), int(rng.integers(0, 50_000))
        for _ in range(int(rng.integers(4, 16))):
            song = (song + int(rng.choice([1, 1, 1, 2, 5]))) % SONGS
            if song in heard:
                continue
            heard.add(song)
            time += int(rng.integers(60, 600))
            plays.append((1_790_000_000 + time, f"listener-{listener:03}", f"song-{SONGS * genre + song:03}"))
    lines = [f"{who},{what},{when}\n" for when, who, what in sorted(plays)]
    path.write_text("listener,song,time\n" + "".join(lines), encoding="utf-8")


if __name__ == "__main__":
    write_shapes(Path(sys.argv[1]) / "shapes" / "pictures")
    write_sounds(Path(sys.argv[1]) / "sounds" / "sounds.parquet")
    write_orders(Path(sys.argv[1]) / "orders" / "orders.csv")
    write_plays(Path(sys.argv[1]) / "plays" / "plays.csv")
