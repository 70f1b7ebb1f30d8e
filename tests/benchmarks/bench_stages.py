"""Wall time and peak memory of every stage of a whole run on BANKING77 (77 classes). Prints a table.

    python tests/benchmarks/bench_stages.py [--per-class 10 50] [--generator rules] [--classes 77] [--seeds 10]
    python tests/benchmarks/bench_stages.py --per-class --rows 100000 --seeds 3

Train has that many rows of each class, and the run is to double them; 20 rows of each class judge, 20 more are only
reported. What runs is what `augmill run` runs under `orchestrator: none`, with one worker process per device. Rounds,
and checks, are summed. Memory is the most that was resident while a stage ran; what earlier stages left there counts too.

``--rows``: text beside a table of as many rows, two classes each, eight tenths of them train rows, which the run is to
double. Text: halves of two lines of one class of BANKING77, whose classes are put together in two; `rules`. Table: rows of
adult with other weights, ages and hours; `resample`. Their seconds are processor time of all processes; rows/s: of all
rows.
"""

from __future__ import annotations

import argparse
import csv
import functools
import json
import os
import random
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import GIB, Meter, MeteredProgress, Reading, machine_line, markdown, plain_run
from table_runs import adult

from augmill.flows.augment import make_snapshot
from augmill.flows.report import write_report
from augmill.tasks.generators import GENERATORS
from augmill.tasks.recipe.recipe import Recipe, build_recipe
from augmill.tasks.store.store import Store
from augmill.tasks.workers.pool import find_devices, worker_pool

SHARED = Path(os.environ.get("AUGMILL_SHARED", Path(__file__).parents[3] / "shared"))
HELD_OUT = 20  # rows of each class in validation, and in test


def write_rows(folder: Path, per_class: int, classes: int) -> None:
    """train.jsonl, validation.jsonl and test.jsonl, each with the first rows of each class in the order of the set."""
    wanted = {"train": ("train", 0, per_class), "validation": ("test", 0, HELD_OUT), "test": ("test", HELD_OUT, 40)}
    names: list[str] = []
    for split, (source, low, high) in wanted.items():
        seen: Counter[str] = Counter()
        kept = []
        for line in (SHARED / "data" / "banking77" / f"{source}.jsonl").read_text(encoding="utf-8").splitlines():
            label = json.loads(line)["label"]
            if split == "train" and label not in names and len(names) < classes:
                names.append(label)
            if label in names and low <= seen[label] < high:
                kept.append(line)
            seen[label] += 1
        (folder / f"{split}.jsonl").write_text("\n".join(kept) + "\n", encoding="utf-8")


def make_recipe(folder: Path, generator: str, seeds: int) -> Recipe:
    document: dict[str, Any] = {
        "dataset": "banking77",
        "source": {"path": str(folder / "*.jsonl")},
        "columns": {"text": "text", "label": "label"},
        "splits": {"files": {name: f"{name}.jsonl" for name in ("train", "validation", "test")}},
        "target": {"multiply": 2.0},
        "generators": [{"use": generator}],
        "gate": {"seeds": seeds},
        "run": {"orchestrator": "none"},
    }
    return build_recipe(document, base=folder)


def run_stages(recipe: Recipe, folder: Path) -> tuple[list[Reading], str]:
    """Readings of a run into a new store, and how it ended."""
    with Meter() as meter, worker_pool(find_devices((), recipe.run.workers), recipe.run.threads) as pool:
        run = plain_run(recipe, Store(str(folder / "store")), pool, MeteredProgress(meter))
        outcome, found = make_snapshot(run)
        write_report(run, outcome, found)
    return by_stage(meter.readings), outcome.name


def by_stage(readings: list[Reading]) -> list[Reading]:
    """Rounds put together, and checks: seconds summed, peaks the largest."""
    together: dict[str, Reading] = {}
    for reading in readings:
        name = reading.name.split(" ")[0]
        before = together.get(name, Reading(name, 0.0, 0, 0))
        together[name] = Reading(
            name,
            before.seconds + reading.seconds,
            max(before.driver, reading.driver),
            max(before.workers, reading.workers),
            before.processor + reading.processor,
        )
    return list(together.values())


def write_text(path: Path, rows: int, draw: random.Random) -> dict[str, Any]:
    """The parts of a recipe over the rows written there."""
    lines = (SHARED / "data" / "banking77" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    by: dict[str, list[list[str]]] = {}
    for line in map(json.loads, lines):
        by.setdefault(line["label"], []).append(line["text"].split())
    with path.open("w", encoding="utf-8", newline="") as sink:
        writer = csv.writer(sink)
        writer.writerow(["text", "label"])
        for row in range(rows):
            one, other = draw.choices(by[list(by)[row % len(by)]], k=2)
            text = " ".join(one[: len(one) // 2] + other[len(other) // 2 :])
            writer.writerow([text, f"class {row % len(by) % 2}"])
    return {"columns": {"text": "text", "label": "label"}, "generators": [{"use": "rules"}]}


def write_table(path: Path, rows: int, draw: random.Random) -> dict[str, Any]:
    """The parts of a recipe over the rows written there."""
    types, real = adult()
    moved = {list(types).index(name): share for name, share in (("age", 0.1), ("fnlwgt", 0.2), ("hours_per_week", 0.1))}
    with path.open("w", encoding="utf-8", newline="") as sink:
        writer = csv.writer(sink)
        writer.writerow([*types, "income"])
        for row in draw.choices(real, k=rows):
            new = [
                str(round(float(cell) * draw.uniform(1 - moved[at], 1 + moved[at]))) if at in moved else cell
                for at, cell in enumerate(row)
            ]
            writer.writerow(new)
    return {"columns": {"inputs": types, "target": {"income": "label"}}, "generators": [{"use": "resample"}]}


def big_recipe(folder: Path, kind: str, rows: int, seeds: int) -> Recipe:
    write = {"text": write_text, "table": write_table}[kind]
    document = write(folder / "rows.csv", rows, random.Random(0)) | {
        "dataset": kind,
        "source": {"path": str(folder / "rows.csv")},
        "splits": {"validation": 0.1, "test": 0.1},
        "target": {"multiply": 2.0},
        "gate": {"seeds": seeds},
        "run": {"orchestrator": "none"},
    }
    return build_recipe(document, base=folder)


def report(found: dict[str, tuple[int | None, list[Reading]]]) -> str:
    """A line per stage; per run its seconds (and rows a second, where rows are given) and the resident memory of the

    driver and of the workers.
    """
    header = ["stage"]
    for name, (rows, _) in found.items():
        header += [f"{name}: s", *(["rows/s"] if rows else []), "driver MiB", "workers MiB"]
    lines = []
    for stage in dict.fromkeys(reading.name for _, readings in found.values() for reading in readings):
        line = [stage]
        for rows, readings in found.values():
            here = next((reading for reading in readings if reading.name == stage), None)
            line += _cells(rows, here) if here else [""] * (4 if rows else 3)
        lines.append(line)
    total = ["**all**"]
    for rows, readings in found.values():
        seconds, processor = (sum(getattr(r, of) for r in readings) for of in ("seconds", "processor"))
        most = (max(r.driver for r in readings), max(r.workers for r in readings))
        total += _cells(rows, Reading("all", seconds, *most, processor))
    return markdown(header, [*lines, total])


def _cells(rows: int | None, reading: Reading) -> list[str]:
    seconds = reading.seconds if rows is None else reading.processor
    memory = [f"{1024 * part / GIB:,.0f}" for part in (reading.driver, reading.workers)]
    return [f"{seconds:,.1f}", *([f"{rows / max(seconds, 0.01):,.0f}"] if rows else []), *memory]


def main() -> None:
    parser = argparse.ArgumentParser(description="Wall time and peak memory of each stage on BANKING77.")
    parser.add_argument("--per-class", type=int, nargs="*", default=[10, 50], help="train rows of each class")
    parser.add_argument("--generator", choices=list(GENERATORS), default="rules")
    parser.add_argument("--classes", type=int, default=77, help="the first this many of the set")
    parser.add_argument("--seeds", type=int, default=10, help="trainings of each arm of the gate")
    parser.add_argument("--rows", type=int, help="of a text and of a table, beside one another")
    parser.add_argument("--kinds", nargs="+", default=["text", "table"], help="one of them, for the memory of it alone")
    given = parser.parse_args()
    print(f"BANKING77, {given.classes} classes, `{given.generator}`. {machine_line()}\n")
    found: dict[str, tuple[int | None, list[Reading]]] = {}
    ends = []

    def measure(name: str, rows: int | None, make: Callable[[Path], Recipe]) -> None:
        with tempfile.TemporaryDirectory(prefix="augmill-bench-") as folder:
            readings, outcome = run_stages(make(Path(folder)), Path(folder))
        found[name] = rows, readings
        ends.append(f"{name}: {outcome}")

    for size in given.per_class:

        def few(folder: Path, size: int = size) -> Recipe:
            write_rows(folder, size, given.classes)
            return make_recipe(folder, given.generator, given.seeds)

        measure(f"{size} a class", None, few)
    for kind in given.kinds if given.rows else ():
        measure(kind, given.rows, functools.partial(big_recipe, kind=kind, rows=given.rows, seeds=given.seeds))
    print(report(found))
    print(f"\n{'; '.join(ends)}", flush=True)


if __name__ == "__main__":
    main()
