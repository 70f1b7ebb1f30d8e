"""Spoken digits from source to release: what the gate says of `speech`, of `transforms`, and of both. Prints a table.

    python tests/benchmarks/speech_runs.py [--task classification transcription] [--counts 5 20] [--draws 3]
        [--ways speech transforms both] [--seeds N] [--defect]

Classification: FSDD, train rows a class drawn by a seed from four speakers; another speaker's rows judge, a sixth's are the
test (media_runs.py). Transcription: two to five recordings of one speaker, joined with pauses; `--counts` is then the
number of train rows. Its new texts for `speech` are drawn strings of digits too, of none of which a recording is heard.

With --defect the made rows are read from a file (`replay`): train sounds, a little softer, with the transcripts of others.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from machine import Meter, machine_line, markdown
from media_runs import MEDIA, Row, Splits, drawn, fsdd, louder, run_cell, write_recipe

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGITS = dict(zip(map(str, range(10)), NAMES, strict=True))
RATE = 8000  # Hz, of FSDD
PAUSE = 0.02, 0.25  # seconds between two digits
HELD_OUT = 200  # strings of validation, and of test
WAYS: dict[str, tuple[str, ...]] = {
    "speech": ("speech",),
    "transforms": ("transforms",),
    "both": ("transforms", "speech"),
}


def joined(rows: list[Row], rng: random.Random) -> Row:
    """A string of two to five digits of one speaker, said one after the other; its transcript is of words."""
    import soundfile

    by: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by[row[2].split("_")[1]].append(row)
    own = by[rng.choice(sorted(by))]
    said, parts = [rng.choice(own) for _ in range(rng.randint(2, 5))], list[Any]()
    for at, (_, file, _) in enumerate(said):
        parts += [np.zeros(int(rng.uniform(*PAUSE) * RATE), np.float32)] if at else []
        parts.append(soundfile.read(io.BytesIO(file), dtype="float32")[0])
    stream = io.BytesIO()
    soundfile.write(stream, np.concatenate(parts), RATE, format="WAV", subtype="PCM_16")
    text = " ".join(DIGITS[label] for label, _, _ in said)
    return text, stream.getvalue(), f"{said[0][2].split('_')[1]}-{rng.getrandbits(32):08x}.wav"


def strings(whole: Splits, count: int, seed: int) -> Splits:
    held = {name: [joined(whole[name], random.Random(at)) for at in range(HELD_OUT)] for name in ("validation", "test")}
    return {"train": [joined(whole["train"], random.Random(1000 * seed + at)) for at in range(count)], **held}


def texts(count: int, seed: int) -> str:
    rng = random.Random(f"texts {seed}")
    return "".join(" ".join(rng.choice(NAMES) for _ in range(rng.randint(2, 5))) + "\n" for _ in range(count))


def generators(way: str, task: str) -> list[dict[str, Any]]:
    own: dict[str, dict[str, Any]] = {
        "transforms": {"use": "transforms"},
        "speech": {
            "use": "speech",
            **({"say": DIGITS} if task == "classification" else {"texts": "texts.txt", "new": 1.0}),
        },
    }
    return [own[name] for name in WAYS[way]]


def recipe_of(
    folder: Path, task: str, splits: Splits, made: list[dict[str, Any]], seeds: int | None, draw: int
) -> Path:
    path = write_recipe(folder, "fsdd", splits, made[0])
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    document["generators"] = made
    if task == "transcription":
        (folder / "texts.txt").write_text(texts(2000, draw), encoding="utf-8")
        document["columns"] = {"inputs": {"file": "audio"}, "target": {"label": "text"}}
        document["task"] = "transcription"
        document["target"] = {"per_class": 5 * len(splits["train"]) // 4}  # of four bins
    if seeds is not None:
        document["gate"] = {"seeds": seeds}
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path


def swapped(train: list[Row], folder: Path) -> dict[str, Any]:
    """Rows with the transcript of another recording, as somebody may have mixed up two lists."""
    rows = [
        {
            "file": {"bytes": louder(file, 0.7, 0.02), "path": f"swapped-{name}"},
            "label": train[(at + 7) % len(train)][0],
        }
        for at, (_, file, name) in enumerate(train)
    ]
    schema = pa.schema([("file", MEDIA), ("label", pa.string())])
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "made.parquet")
    return {"use": "replay", "source": "made.parquet"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=("classification", "transcription"), default="classification")
    parser.add_argument("--counts", nargs="+", type=int, default=[5, 20])
    parser.add_argument("--draws", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", choices=tuple(WAYS), default=list(WAYS))
    parser.add_argument("--seeds", type=int, help="trainings an arm (gate.seeds)")
    parser.add_argument("--defect", action="store_true")
    parser.add_argument("--trainer", default="{}", help="options of the trainer, as JSON")
    given = parser.parse_args()
    print(f"{machine_line()}\n")
    whole, table, meter = fsdd(), list[list[str]](), Meter()
    with meter:
        for count in given.counts:
            for draw in given.draws:
                classes = given.task == "classification"
                splits = drawn(whole, count, draw) if classes else strings(whole, count, draw)
                for way in ["defect"] if given.defect else given.ways:
                    with tempfile.TemporaryDirectory(prefix="augmill-speech-") as place:
                        folder = Path(place)
                        made = [swapped(splits["train"], folder)] if given.defect else generators(way, given.task)
                        recipe = recipe_of(folder, given.task, splits, made, given.seeds, draw)
                        if options := json.loads(given.trainer):
                            text = recipe.read_text(encoding="utf-8")
                            recipe.write_text(text + yaml.safe_dump({"trainer": options}), encoding="utf-8")
                        _, cells = run_cell(folder, recipe, meter, way)
                    table.append([str(count), str(draw), way, *cells])
                    print(" | ".join(table[-1]), flush=True)
    head = ["train", "draw", "rows by", "outcome", "runs", "over real", "over placebo", "test: over real"]
    print("\n" + markdown([*head, "test: over placebo", "CPU s"], table), flush=True)


if __name__ == "__main__":
    main()
