"""What a night costs between refits: rows sampled and judged, seconds, over many nights of a growing source. Prints tables.

    python tests/benchmarks/bench_nights.py [--nights 30] [--rows 3000] [--new 1] [--windows all,30d] [--refits none,7d]

The source is made here: thirty days of history with ``--rows`` rows in all, then ``--new`` percent of them each night, in
four classes. At 1 % a window of 30 days shrinks, for it loses a thirtieth a night: it keeps its size with ``--new 3.3``.
Each night runs from source to settled rows; the gate, whose cost does not depend on what is reused, is left out.
`rules` makes as many rows as there are (target.multiply 2). Seconds are wall time, one worker process.
"""

from __future__ import annotations

import argparse
import csv
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import machine_line, markdown, plain_run

from augmill.flows.progress import Progress
from augmill.flows.rounds import produce
from augmill.flows.source import read_source
from augmill.tasks.recipe.recipe import Recipe, build_recipe
from augmill.tasks.rows.calendar import Calendar
from augmill.tasks.store.store import Store
from augmill.tasks.workers.pool import WorkerPool, worker_pool

HISTORY, FIRST = 30, "2026-10-12"  # a Monday: its night comes right after a refit of the grid of seven days
WORDS = [first + vowel + last for first in "bdfgklmnprst" for vowel in "aeiou" for last in "nrstl"]


@dataclass(frozen=True)
class Night:
    name: str
    fitted: str
    sampled: int
    judged: int
    seconds: float


def write_source(folder: Path, rows: int, nights: int, new: float) -> list[str]:
    """A directory a day; the names of the nights to run."""
    calendar, draw = Calendar("day"), random.Random(0)
    days = list(calendar.between(calendar.step(FIRST, 1 - HISTORY), calendar.step(FIRST, nights - 1)))
    for at, day in enumerate(days):
        path = folder / f"day={day}" / "rows.csv"
        path.parent.mkdir(parents=True)
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["text", "label"])
            for number in range(rows // HISTORY if at < HISTORY else max(1, round(rows * new / 100))):
                label = number % 4
                own = draw.choices(WORDS[label * 40 : label * 40 + 40], k=4)
                words = own + draw.choices(WORDS, k=6)
                draw.shuffle(words)
                writer.writerow([" ".join(words), f"class {label}"])
    return days[HISTORY - 1 :]


def make_recipe(folder: Path, window: str, refit: str) -> Recipe:
    document: dict[str, Any] = {
        "dataset": "nights",
        "source": {"path": str(folder)},
        "columns": {"text": "text", "label": "label", "partition": "day"},
        "partitions": {"every": "day", "window": window},
        "refit": {} if refit == "none" else {"every": refit},
        "target": {"multiply": 2.0},
        "generators": [{"use": "rules", "operations": {"insert": 1.0, "swap": 1.0, "delete": 1.0}}],
        "validation": {"enabled": False},
        "run": {"orchestrator": "none", "shard_rows": 1000, "store": "unused"},
    }
    return build_recipe(document, base=folder)


def run_night(recipe: Recipe, store: Store, pool: WorkerPool, name: str) -> Night:
    run = plain_run(recipe, store, pool, Progress(live=False, quiet=True), name)
    started = time.monotonic()
    ingested, split = read_source(run)
    made = produce(run, split, ingested)
    seconds = time.monotonic() - started
    if made.missing is not None:
        raise made.missing

    def count(stage: str) -> int:
        return sum(event.rows for event in run.events if event.stage == stage and not event.reused)

    return Night(name, str(made.drift["fitted"]), count("sample"), count("generate"), seconds)


def report(title: str, nights: list[Night]) -> list[str]:
    """Prints a table of the nights; a line of the summary."""
    first = nights[0]
    header = ["night", "fitted as of", "rows sampled", "rows judged", "seconds", "sampled, of the first night"]
    rows = [
        [n.name, n.fitted, f"{n.sampled:,}", f"{n.judged:,}", f"{n.seconds:.1f}", f"{n.sampled / first.sampled:.1%}"]
        for n in nights
    ]
    print(f"\n{title}\n\n{markdown(header, rows)}", flush=True)
    before = zip(nights[1:], nights, strict=False)
    standing = [night for night, last in before if night.fitted == last.fitted]
    others = [night for night in nights[1:] if night not in standing]
    shares = sorted(night.sampled / first.sampled for night in standing)
    middle, most = (f"{shares[len(shares) // 2]:.1%}", f"{shares[-1]:.1%}") if shares else ("", "")
    total = sum(night.sampled for night in nights)
    seconds = [sum(n.seconds for n in part) / len(part) if part else 0.0 for part in (standing, others)]
    return [
        title,
        f"{len(others)}",
        middle,
        most,
        f"{total:,}",
        *(f"{value:.1f}" for value in (first.seconds, *seconds)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Nights with and without reuse.")
    parser.add_argument("--nights", type=int, default=30)
    parser.add_argument("--rows", type=int, default=3000, help="rows of the thirty days of history")
    parser.add_argument("--new", type=float, default=1.0, help="percent of them that come each night")
    parser.add_argument("--windows", default="all,30d")
    parser.add_argument("--refits", default="none,7d")
    given = parser.parse_args()
    print(f"{given.rows:,} rows, then {given.new:g} % a night, {given.nights} nights. {machine_line()}", flush=True)
    summary = []
    with tempfile.TemporaryDirectory(prefix="augmill-bench-") as directory, worker_pool(["cpu"], 1) as pool:
        folder = Path(directory)
        names = write_source(folder / "rows", given.rows, given.nights, given.new)
        for window in given.windows.split(","):
            for refit in given.refits.split(","):
                recipe = make_recipe(folder / "rows", window, refit)
                store = Store(str(folder / f"{window}-{refit}"))
                nights = [run_night(recipe, store, pool, name) for name in names]
                summary.append(report(f"window {window}, refit {refit}", nights))
    header = [
        "what", "refits", "sampled between refits: median", "most", "rows sampled in all", "first night: s",
        "between refits: s", "refit: s",
    ]  # fmt: skip
    print(f"\n{markdown(header, summary)}")


if __name__ == "__main__":
    main()
