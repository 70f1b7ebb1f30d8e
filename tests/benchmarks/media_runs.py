"""Pictures and sound from source to release on public sets: what the gate says of `transforms`. Prints a table.

    python tests/benchmarks/media_runs.py [--sets cifar-10 omniglot-10 digits-10 fsdd-5] [--draws 3] [--defects]

A set's name ends with its train rows a class. cifar: the part of CIFAR-10 in shared/, omniglot: Balinese and Early Aramaic,
fsdd: spoken digits, four speakers to train on, one to judge by, one to report on; digits: scikit-learn's. Train rows are
drawn by a seed; validation and test rows are the same in every draw. Digits of 8 x 8 pixels are alike by nature, so that
near begins at 0.98 there. Gains are in points of accuracy of the mix over real rows and over the placebo, with 95 %
bounds, by validation and by test rows, which decide nothing. Seconds are processor time.

With --defects the made rows are read from a file (`replay`): copies of train rows, train rows under other labels (20 %,
turned a little), held-out rows mirrored (pictures) or in part of their loudness (sounds). What the checks refused of each, and
what the gate said of the rest.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from machine import Meter, machine_line, markdown

from augmill.tasks.store.store import Store

SHARED = Path(os.environ.get("AUGMILL_SHARED", Path(__file__).parents[3] / "shared"))
AUGMILL = str(Path(sys.executable).with_name("augmill"))
SETS = ("cifar-10", "omniglot-10", "digits-10", "fsdd-5")
HELD_OUT = 600  # rows of validation, and of test, at most
ALPHABETS = ("Balinese", "Early_Aramaic")
SPEAKERS = {"train": ("george", "lucas", "theo", "yweweler"), "validation": ("jackson",), "test": ("nicolas",)}
MEDIA = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
Row = tuple[str, bytes, str]  # label, file, name
Splits = dict[str, list[Row]]


def cifar() -> Splits:
    found: Splits = defaultdict(list)
    with tarfile.open(SHARED / "data/cifar10_part/images.tar") as tar:
        for member in tar.getmembers():
            if member.isfile():
                split, label, name = member.name.split("/")[-3:]
                file = tar.extractfile(member)
                assert file is not None
                found["train" if split == "train" else "held"].append((label, file.read(), name))
    return found


def omniglot() -> Splits:
    """Ten drawings of each character to train on, ten held out."""
    found: Splits = defaultdict(list)
    with zipfile.ZipFile(SHARED / "data/omniglot_small/images_background_small1.zip") as archive:
        for name in sorted(archive.namelist()):
            parts = name.split("/")
            if name.endswith(".png") and parts[-3] in ALPHABETS:
                drawing = int(name[-6:-4])
                split = "train" if drawing <= 10 else "held"
                found[split].append((f"{parts[-3]}-{parts[-2]}", archive.read(name), parts[-1]))
    return found


def digits() -> Splits:
    import sklearn.datasets
    from PIL import Image

    data, found = sklearn.datasets.load_digits(), defaultdict[str, list[Row]](list)
    for at, (picture, label) in enumerate(zip(data.images, data.target, strict=True)):
        stream = io.BytesIO()
        Image.fromarray((picture * 15.9).astype(np.uint8)).save(stream, "PNG")
        found["train" if at < 900 else "held"].append((str(label), stream.getvalue(), f"{at}.png"))
    return found


def fsdd() -> Splits:
    found: Splits = defaultdict(list)
    with tarfile.open(SHARED / "data/fsdd/recordings.tar") as tar:
        for member in sorted(tar.getmembers(), key=lambda member: member.name):
            if member.isfile() and member.name.endswith(".wav"):
                label, speaker, _ = Path(member.name).stem.split("_")
                file = tar.extractfile(member)
                assert file is not None
                split = next(split for split, names in SPEAKERS.items() if speaker in names)
                found[split].append((label, file.read(), Path(member.name).name))
    return found


def drawn(found: Splits, per_class: int, seed: int) -> Splits:
    """Train rows by the seed, so many of each label; held-out rows always the same."""
    rng, by = random.Random(seed), defaultdict[str, list[Row]](list)
    for row in found["train"]:
        by[row[0]].append(row)
    train = [row for label in sorted(by) for row in rng.sample(by[label], min(per_class, len(by[label])))]
    held = {name: list(found.get(name, [])) for name in ("validation", "test")}
    if not held["validation"]:
        rows = list(found["held"])
        random.Random(0).shuffle(rows)
        held = {"validation": rows[: len(rows) // 2], "test": rows[len(rows) // 2 :]}
    for rows in held.values():
        random.Random(1).shuffle(rows)
        del rows[HELD_OUT:]
    return {"train": train, **held}


def as_table(splits: Splits) -> pa.Table:
    rows = [
        {"file": {"bytes": file, "path": name}, "label": label, "split": split}
        for split, given in splits.items()
        for label, file, name in given
    ]
    return pa.Table.from_pylist(rows, pa.schema([("file", MEDIA), ("label", pa.string()), ("split", pa.string())]))


def write_recipe(
    folder: Path, name: str, splits: Splits, generator: dict[str, Any], trainer: str | None = None
) -> Path:
    pq.write_table(as_table(splits), folder / "rows.parquet")
    kind = "audio" if name.startswith("fsdd") else "image"
    count = len(splits["train"]) // len({label for label, _, _ in splits["train"]})
    document = {
        "dataset": "media",
        "source": {"path": "rows.parquet"},
        "columns": {"inputs": {"file": kind}, "target": {"label": "label"}},
        "splits": {"column": "split", **({"near": 0.98} if name.startswith("digits") else {})},
        "target": {"per_class": 9 * count},
        "generators": [generator],
        **({"trainer": trainer} if trainer else {}),
        "checks": {"relations": {"heldout_near": 0.98}} if name.startswith("digits") else {},
        "run": {"orchestrator": "none", "store": "store"},
    }
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return recipe


def evidence(store: Store, stage: str, file: str) -> list[dict[str, Any]]:
    """What the last run of a stage wrote."""
    found = []
    for key in store.list_keys(f"private/manifests/{stage}"):
        entry = (store.read_sealed(key) or {})["files"].get(file)
        if entry is not None:
            found.append(json.loads(store.fetch_object(entry["sha256"], entry["size"]).read_text()))
    return found


def shown(gains: dict[str, Any], judged_by: str) -> list[str]:
    return [
        "{:+.1f} ({:+.1f} to {:+.1f})".format(*(gains[pair]["gains"][judged_by][at] for at in ("gain", "low", "high")))
        for pair in ("mix-real", "mix-placebo")
    ]


def run_cell(folder: Path, recipe: Path, meter: Meter, name: str) -> tuple[dict[str, Any], list[str]]:
    """What the run said last, and a table's cells: outcome, trainings, gains, seconds. Raises RuntimeError where it failed."""
    with meter.measure(name):
        done = subprocess.run([AUGMILL, "run", str(recipe)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}: ended with {done.returncode}: {done.stdout}{done.stderr[-2000:]}")
    said, seconds = json.loads(done.stdout.strip().splitlines()[-1]), f"{meter.readings[-1].processor:,.0f}"
    found = evidence(Store(str(folder / "store")), "evaluate", "evidence.json")
    if not found:
        return said, [said["outcome"], "", "", "", "", "", seconds]
    (judged,) = found
    gains = [*shown(judged["validation"]["comparisons"], judged["judged_by"])]
    gains += shown(judged["test"]["comparisons"], judged["judged_by"])
    return said, [said["outcome"], str(judged["seeds"]), *gains, seconds]


def mirrored(file: bytes) -> bytes:
    from PIL import Image, ImageOps

    return _png(ImageOps.mirror(Image.open(io.BytesIO(file))))


def turned(file: bytes, degrees: float) -> bytes:
    from PIL import Image

    return _png(Image.open(io.BytesIO(file)).convert("RGB").rotate(degrees, fillcolor=(128, 128, 128)))


def _png(picture: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def louder(file: bytes, factor: float, start: float = 0.0) -> bytes:
    import soundfile

    samples, rate = soundfile.read(io.BytesIO(file), dtype="float32")
    stream = io.BytesIO()
    soundfile.write(stream, samples[int(start * len(samples)) :] * factor, rate, format="WAV", subtype="PCM_16")
    return stream.getvalue()


def planted(name: str, splits: Splits) -> dict[str, list[Row]]:
    """Defects by name: rows as somebody may have made them."""
    rng, sound = random.Random(3), name.startswith("fsdd")
    labels = sorted({label for label, _, _ in splits["train"]})
    train, held = splits["train"], splits["validation"]

    def moved(file: bytes) -> bytes:
        return louder(file, 0.7, 0.02) if sound else turned(file, rng.uniform(-8, 8))

    def wrong(label: str) -> str:
        return rng.choice([other for other in labels if other != label])

    return {
        "copies of train rows": [(label, file, f"copy-{name}") for label, file, name in train],
        "held-out rows mirrored" if not sound else "held-out rows at half their loudness": [
            (label, louder(file, 0.5) if sound else mirrored(file), f"held-{name}") for label, file, name in held
        ],
        "every fifth label another": [
            (wrong(label) if at % 5 == 0 else label, moved(file), f"moved-{at}-{name}")
            for at, (label, file, name) in enumerate(3 * train)
        ],
    }


def judge_defects(name: str, splits: Splits, meter: Meter) -> list[list[str]]:
    found = []
    for defect, rows in planted(name, splits).items():
        with tempfile.TemporaryDirectory(prefix="augmill-media-") as place:
            folder = Path(place)
            pq.write_table(as_table({"made": rows}).drop_columns(["split"]), folder / "made.parquet")
            recipe = write_recipe(folder, name, splits, {"use": "replay", "source": "made.parquet"})
            _, cells = run_cell(folder, recipe, meter, name)
            (*_, ledger) = evidence(Store(str(folder / "store")), "settle", "ledger.json")
        refused: dict[str, int] = defaultdict(int)
        for row in ledger["rows"]:
            for reason, count in (row["rejected"] | row["undelivered"]).items():
                refused[reason] += count
        told = ", ".join(f"{reason} {count}" for reason, count in sorted(refused.items(), key=lambda item: -item[1]))
        found.append(
            [name, defect, f"{len(rows):,}", f"{sum(ledger['accepted'].values()):,}", told, *cells[:1], *cells[2:4]]
        )
        print(f"{name}, {defect}: {cells[0]}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--options", default="{}", help="of transforms, as YAML")
    parser.add_argument("--trainer", help="instead of the default one, such as linear")
    parser.add_argument("--defects", action="store_true")
    given = parser.parse_args()
    print(f"{machine_line()}\n")
    table = list[list[str]]()
    with Meter() as meter:
        for name in given.sets:
            base, _, count = name.partition("-")
            whole = {"cifar": cifar, "omniglot": omniglot, "digits": digits, "fsdd": fsdd}[base]()
            for draw in range(given.draws):
                splits = drawn(whole, int(count), draw)
                if given.defects:
                    table += judge_defects(name, splits, meter)
                    continue
                with tempfile.TemporaryDirectory(prefix="augmill-media-") as place:
                    folder = Path(place)
                    generator = {"use": "transforms", **yaml.safe_load(given.options)}
                    recipe = write_recipe(folder, name, splits, generator, given.trainer)
                    _, cells = run_cell(folder, recipe, meter, name)
                table.append([name, str(draw), str(len(splits["train"])), *cells])
                print(" | ".join(table[-1]), flush=True)
    if given.defects:
        head = ["set", "made rows", "rows", "accepted", "refused", "outcome", "over real", "over placebo"]
    else:
        head = ["set", "draw", "train", "outcome", "runs", "over real", "over placebo", "test: over real"]
        head += ["test: over placebo", "CPU s"]
    print("\n" + markdown(head, table), flush=True)


if __name__ == "__main__":
    main()
