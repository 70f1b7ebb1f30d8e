"""Tables from source to release on public sets: run, compare, forget, backfill, nightly, verify. Prints two tables.

    python tests/benchmarks/table_runs.py [--sets adult-1000 adult-5000 wine breast_cancer diabetes] [--seeds 2]

adult (rows drawn by a seed; left out where shared/ is not there) and scikit-learn's sets, each as one CSV with a header
and a column `day` of the last three days, by a hash of the row; half stand on the first day. Four tenths of the rows
train. The first table has the cells of `augmill compare`: the verdict by validation rows with its gains (95 % bounds),
and the same gains on as many test rows, which decide nothing; in points of accuracy, or the target's own unit of mean
absolute error. The second table has the other commands. Seconds are processor time of all processes of a command, and
memory is of all together.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from machine import GIB, Meter, machine_line, markdown

from augmill.tasks.report import lines
from augmill.tasks.store.log import read_log
from augmill.tasks.store.store import Store, release_key

SHARED = Path(os.environ.get("AUGMILL_SHARED", Path(__file__).parents[3] / "shared"))
AUGMILL = str(Path(sys.executable).with_name("augmill"))
GENERATORS = ("resample", "smote")
SETS = ("adult-1000", "adult-5000", "wine", "breast_cancer", "diabetes")
ADULT = (
    "age", "workclass", "fnlwgt", "education", "education_num", "marital_status", "occupation", "relationship", "race",
    "sex", "capital_gain", "capital_loss", "hours_per_week", "native_country", "income",
)  # fmt: skip
ADULT_NUMBERS = ("age", "fnlwgt", "education_num", "capital_gain", "capital_loss", "hours_per_week")
Rows = list[list[str]]


def adult(count: int | None = None, seed: int = 0) -> tuple[dict[str, str], Rows]:
    """(type of each input, so many rows with the target last; all of them without a count). An unknown cell is empty."""
    with (SHARED / "data" / "adult" / "adult.data").open(encoding="utf-8", newline="") as stream:
        rows = [
            [("" if cell == "?" else cell) for cell in row] for row in csv.reader(stream, skipinitialspace=True) if row
        ]
    types = {name: "number" if name in ADULT_NUMBERS else "category" for name in ADULT[:-1]}
    return types, rows if count is None else random.Random(seed).sample(rows, count)


def shipped(name: str) -> tuple[dict[str, str], Rows]:
    """A set that scikit-learn holds. Its diabetes in its own units."""
    import sklearn.datasets

    how = {"scaled": False} if name == "diabetes" else {}
    found = getattr(sklearn.datasets, f"load_{name}")(**how)
    names = [str(each).replace(" ", "_").replace("/", "_") for each in found.feature_names]
    targets = found.target if name == "diabetes" else [str(found.target_names[at]) for at in found.target]
    rows = [[*map(repr, map(float, row)), str(target)] for row, target in zip(found.data, targets, strict=True)]
    return dict.fromkeys(names, "number"), rows


def place_of(row: list[str]) -> int:
    """Of its day among three: half of the rows stand on the first one, so that it has enough of each class."""
    return max(0, hashlib.sha256(repr(row).encode()).digest()[0] // 64 - 1)


class Bench:
    """One set: its source, its recipe, its store, and the commands over them."""

    def __init__(self, folder: Path, name: str, meter: Meter) -> None:
        self.folder, self.name, self.meter, self.store = folder, name, meter, folder / "store"
        base, _, count = name.partition("-")
        types, rows = adult(int(count)) if base == "adult" else shipped(name)
        self.rows, self.dataset = len(rows), base
        today = datetime.now(UTC).date()
        self.days = [(today - timedelta(days=back)).isoformat() for back in (3, 2, 1)]
        with (folder / "rows.csv").open("w", encoding="utf-8", newline="") as sink:
            writer = csv.writer(sink)
            writer.writerow([*types, "target", "day"])
            writer.writerows([*row, self.days[place_of(row)]] for row in rows)
        number = base == "diabetes"
        document = {
            "dataset": base,
            "source": {"path": "rows.csv"},
            "columns": {"inputs": types, "target": {"target": "number" if number else "label"}, "partition": "day"},
            "partitions": {"every": "day"},
            "splits": {"validation": 0.3, "test": 0.3},
            "target": {"multiply": 2.0},
            "generators": [{"use": "resample"}],
            "gate": {"seeds": 3, **({} if number else {"metric": "accuracy"})},
            "run": {"orchestrator": "none", "store": str(self.store)},
        }
        self.recipe = folder / "recipe.yaml"
        self.recipe.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")

    def call(self, verb: str, *arguments: str, plain: bool = False) -> tuple[dict[str, Any], list[str]]:
        """What a command said last, and its seconds and MB. Raises RuntimeError where it failed."""
        command = [AUGMILL, verb, *([] if plain else [str(self.recipe), "--orchestrator", "none"]), *arguments]
        with self.meter.measure(verb):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{self.name}: {verb} ended with {done.returncode}: {done.stdout}{done.stderr[-2000:]}")
        reading = self.meter.readings[-1]
        said = done.stdout.strip().splitlines()[-1]
        spent = [f"{reading.processor:,.0f}", f"{1024 * reading.workers / GIB:,.0f}"]
        return (json.loads(said) if said.startswith("{") else {"said": said}), spent

    def current(self) -> dict[str, str]:
        return read_log(Store(str(self.store)), self.dataset).current()

    def holds(self, row_id: str) -> bool:
        """Whether any current release holds the row, or one made of it."""
        for release in set(self.current().values()):
            for path in (self.store / release_key(self.dataset, release)).glob("*/*.parquet"):
                table = pq.read_table(path, columns=["aug_row_id", "aug_parent_ids"]).to_pylist()
                if any(row_id in (row["aug_row_id"], *(row["aug_parent_ids"] or [])) for row in table):
                    return True
        return False

    def forget(self) -> tuple[str, list[str]]:
        """The train row of the current release that stands first; what became of it and of the snapshot."""
        (release,) = set(self.current().values())
        first = next((self.store / release_key(self.dataset, release) / "train").glob("*.parquet"))
        rows = pq.read_table(first, columns=["aug_row_id", "aug_origin"]).to_pylist()
        row_id = next(row["aug_row_id"] for row in rows if row["aug_origin"] == "real")
        (self.folder / "ids.txt").write_text(row_id + "\n", encoding="utf-8")
        if not self.holds(row_id):
            raise RuntimeError(f"{self.name}: the row to forget is not in the current release")
        _, spent = self.call("forget", "--rows", str(self.folder / "ids.txt"), "--reason", "benchmark")
        made, (again, _) = self.current(), self.call("run")
        if self.holds(row_id) or again["new"] or made != self.current() or made == {"all": release}:
            raise RuntimeError(f"{self.name}: the forgotten row came back, or the next run was not what forget made")
        return "the release is current without it; the next run gives the same", spent

    def compared(self, seeds: int) -> list[list[str]]:
        """A line per generator and seed. Each generator is run alone, for its price; then both, from the store."""
        out = str(self.folder / "comparison")
        how = ("--seeds", str(seeds), "--ratios", "", "--out", out)
        spent = {name: self.call("compare", "--generators", name, *how)[1] for name in GENERATORS}
        said, _ = self.call("compare", "--generators", ",".join(GENERATORS), *how)
        if said["new"] or said["left"]:
            raise RuntimeError(f"{self.name}: {said}")
        cells = [json.loads(line) for line in Path(out, "cells.jsonl").read_text(encoding="utf-8").splitlines()]
        return [
            [self.name, f"{self.rows:,}", cell["generator"], str(cell["seed"]), cell["outcome"], *gains(cell)]
            + (spent[cell["generator"]] if cell["seed"] == 0 else ["", ""])
            for cell in sorted(cells, key=lambda cell: (cell["generator"], cell["seed"]))
        ]

    def followed(self) -> list[list[str]]:
        """run, forget, backfill of two days, the night of the third, verify: a line each."""
        found = []

        def note(what: str, said: str, spent: list[str]) -> None:
            found.append([self.name, what, said, *spent])

        said, spent = self.call("run")
        note("run", said["outcome"], spent)
        note("forget a row", *self.forget())
        said, spent = self.call("backfill", "--to", self.days[1])
        note("backfill of two days", f"{said['outcome']}: {len(said['released'])} released", spent)
        said, spent = self.call("nightly")
        note("nightly", f"{said['outcome']}: {len(said['released'])} released", spent)
        if sorted(self.current()) != sorted(["all", *self.days]):
            raise RuntimeError(f"{self.name}: {self.current()} are current")
        said, spent = self.call("verify", "--all", "--store", str(self.store), plain=True)
        note("verify --all", said.get("said", json.dumps(said)), spent)
        return found


def gains(cell: dict[str, Any]) -> list[str]:
    """Of the mix over real rows and over the placebo, by validation and by test rows."""
    if "validation" not in cell:
        return ["", "", "", ""]
    (line,) = lines([cell])
    tested = [line.gains[f"mix-{arm}"] for arm in ("real", "placebo")]
    judged = [cell["validation"][f"mix-{arm}"] for arm in ("real", "placebo")]
    return [_bounds(each["gain"], each["low"], each["high"]) for each in judged] + [
        _bounds(each.gain, each.low, each.high) for each in tested
    ]


def _bounds(gain: float, low: float, high: float) -> str:
    shown, least, most = (f"{round(value, 1) + 0.0:+.1f}" for value in (gain, low, high))
    return f"{shown} ({least} to {most})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(SETS), help="adult-ROWS, or a set that scikit-learn holds")
    parser.add_argument("--seeds", type=int, default=2, help="of a comparison")
    given = parser.parse_args()
    print(f"{machine_line()}\n")
    compared, followed = [], []
    with Meter() as meter:
        for name in given.sets:
            if name.startswith("adult") and not SHARED.exists():
                print(f"{name}: left out, for the shared data sets are not here")
                continue
            with tempfile.TemporaryDirectory(prefix="augmill-tables-") as folder:
                bench = Bench(Path(folder), name, meter)
                followed += bench.followed()
                compared += bench.compared(given.seeds)
            print(f"{name}: done", flush=True)
    head = ["set", "rows", "generator", "seed", "outcome", "over real", "over placebo", "test: over real"]
    print("\n" + markdown([*head, "test: over placebo", "s, all seeds", "MB"], compared))
    print("\n" + markdown(["set", "command", "ended", "s", "MB"], followed), flush=True)


if __name__ == "__main__":
    main()
