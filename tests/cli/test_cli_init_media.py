"""``augmill init`` on pictures and sounds: in directories, beside a table, in Parquet, in a tar."""

from __future__ import annotations

import csv
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import yaml
from commands import augmill
from PIL import Image

COUNT = 144
CLASSES = tuple(map(str, range(12)))  # numbers as names, as of characters; in a table so many would be amounts


def picture(at: int) -> bytes:
    pixels = np.random.default_rng(at).integers(0, 255, (12, 12, 3)).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def sound(at: int) -> bytes:
    out = io.BytesIO()
    samples = np.random.default_rng(at).normal(0, 0.1, 4000)
    soundfile.write(out, samples, 8000, format="WAV")
    return out.getvalue()


def rows(make: Any = picture) -> list[tuple[bytes, str]]:
    return [(make(at), CLASSES[at % 12]) for at in range(COUNT)]


def lay_folder(root: Path, make: Any, ending: str) -> Path:
    for at, (data, label) in enumerate(rows(make)):
        path = root / ("train" if at // 12 % 4 else "test") / label / f"{at}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def lay_table(root: Path) -> Path:
    (root / "images").mkdir(parents=True)
    with (root / "metadata.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file_name", "label", "note"])
        for at, (data, label) in enumerate(rows()):
            (root / f"images/{at}.png").write_bytes(data)
            writer.writerow([f"images/{at}.png", label, "taken on a sunny day by somebody"])
    return root


def lay_parquet(path: Path) -> Path:
    pictures = [{"bytes": data, "path": None} for data, _ in rows()]
    labels = [CLASSES.index(label) for _, label in rows()]
    pq.write_table(pa.table({"image": pictures, "label": pa.array(labels, pa.int64())}), path)
    return path


def lay_tar(path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        for at, (data, label) in enumerate(rows(sound)):
            for ending, content in (("wav", data), ("cls", label.encode()), ("json", b'{"speaker": "me"}')):
                info = tarfile.TarInfo(f"{at:04}.{ending}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("source", ["pictures", "sounds", "table", "parquet", "tar"])
def test_init_finds_files_and_their_classes_in_what_check_accepts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.chdir(tmp_path)
    data, columns = {
        "pictures": (lambda: lay_folder(tmp_path / "photos", picture, "png"), ({"file": "image"}, {"label": "label"})),
        "sounds": (lambda: lay_folder(tmp_path / "clips", sound, "wav"), ({"file": "audio"}, {"label": "label"})),
        "table": (lambda: lay_table(tmp_path / "shop"), ({"file_name": "image"}, {"label": "label"})),
        "parquet": (lambda: lay_parquet(tmp_path / "set.parquet"), ({"image": "image"}, {"label": "label"})),
        "tar": (lambda: lay_tar(tmp_path / "set.tar"), ({"wav": "audio"}, {"cls": "label"})),
    }[source]
    ended = augmill("init", data(), "--out", "recipe.yaml")
    assert ended.code == 0, ended.err
    text = (tmp_path / "recipe.yaml").read_text()
    recipe = yaml.safe_load(text)
    assert (recipe["columns"]["inputs"], recipe["columns"]["target"]) == columns
    assert len(text.splitlines()) <= 60 and recipe["generators"] == [{"use": "transforms"}]
    if source in ("pictures", "sounds"):
        assert recipe["splits"]["files"] == {"train": "train/*", "validation": "test/*"}
    checked = augmill("check", "recipe.yaml")
    assert checked.code == 0 and f"{COUNT} rows read: {COUNT} used, 0 refused" in checked.out, checked.err


def test_a_directory_without_classes_asks_what_to_learn(tmp_path: Path) -> None:
    for at in range(12):
        (tmp_path / f"{at}.png").write_bytes(picture(at))
    ended = augmill("init", tmp_path, "--out", tmp_path / "recipe.yaml")
    assert ended.code != 0 and "cannot tell which column to predict" in ended.err


def test_damaged_files_are_refused_each_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = lay_folder(tmp_path / "photos", picture, "png")
    whole = (root / "train/0/12.png").read_bytes()
    bad = {"train/0/12.png": whole[: len(whole) // 2], "train/1/13.png": b"this is a text", "test/2/2.png": b""}
    for name, data in bad.items():
        (root / name).write_bytes(data)
    assert augmill("init", root, "--out", "recipe.yaml").code == 0
    checked = augmill("check", "recipe.yaml")
    assert checked.code == 0 and f"{COUNT} rows read: {COUNT - 3} used, 3 refused" in checked.out
    assert f"folder, {COUNT} files" in checked.out
    assert all(name in checked.out for name in bad), checked.out
