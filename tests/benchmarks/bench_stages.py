"""Wall time and peak memory of every stage of a whole run on BANKING77 (77 classes). Prints a table.

    python tests/benchmarks/bench_stages.py [--per-class 10 50] [--generator rules] [--classes 77] [--seeds 10]

Train has that many rows of each class, and the run is to double them; 20 rows of each class judge, 20 more are only
reported. What runs is what `augmill run` runs under `orchestrator: none`, with one worker process per device. Rounds
are summed. Memory is the most that was resident while a stage ran; what earlier stages left there counts too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from machine import GIB, Meter, MeteredProgress, Reading, machine_line, markdown, plain_run

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
    """Rounds put together: seconds summed, peaks the largest."""
    together: dict[str, Reading] = {}
    for reading in readings:
        name = re.sub(r" \d+$", "", reading.name)
        before = together.get(name, Reading(name, 0.0, 0, 0))
        together[name] = Reading(
            name,
            before.seconds + reading.seconds,
            max(before.driver, reading.driver),
            max(before.workers, reading.workers),
        )
    return list(together.values())


def report(found: dict[int, list[Reading]]) -> str:
    """A line per stage; per size its seconds and the resident memory of the driver and of the workers."""
    header = ["stage"]
    for size in found:
        header += [f"{size} a class: s", "driver MiB", "workers MiB"]
    lines = []
    for name in dict.fromkeys(reading.name for readings in found.values() for reading in readings):
        line = [name]
        for readings in found.values():
            here = next((reading for reading in readings if reading.name == name), None)
            line += _cells(here.seconds, here.driver, here.workers) if here else ["", "", ""]
        lines.append(line)
    total = ["**all**"]
    for readings in found.values():
        seconds = sum(reading.seconds for reading in readings)
        total += _cells(seconds, max(r.driver for r in readings), max(r.workers for r in readings))
    return markdown(header, [*lines, total])


def _cells(seconds: float, driver: int, workers: int) -> list[str]:
    return [f"{seconds:,.1f}", f"{1024 * driver / GIB:,.0f}", f"{1024 * workers / GIB:,.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Wall time and peak memory of each stage on BANKING77.")
    parser.add_argument("--per-class", type=int, nargs="+", default=[10, 50], help="train rows of each class")
    parser.add_argument("--generator", choices=list(GENERATORS), default="rules")
    parser.add_argument("--classes", type=int, default=77, help="the first this many of the set")
    parser.add_argument("--seeds", type=int, default=10, help="trainings of each arm of the gate")
    given = parser.parse_args()
    print(f"BANKING77, {given.classes} classes, `{given.generator}`. {machine_line()}\n")
    found: dict[int, list[Reading]] = {}
    ends = []
    for size in given.per_class:
        with tempfile.TemporaryDirectory(prefix="augmill-bench-") as name:
            folder = Path(name)
            write_rows(folder, size, given.classes)
            found[size], outcome = run_stages(make_recipe(folder, given.generator, given.seeds), folder)
            ends.append(f"{size} a class: {outcome}")
    print(report(found))
    print(f"\n{'; '.join(ends)}", flush=True)


if __name__ == "__main__":
    main()
