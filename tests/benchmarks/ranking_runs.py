"""Ratings from source to release: what the gate says of `sequences` on MovieLens latest-small. Prints a table.

    python tests/benchmarks/ranking_runs.py [--draws 10] [--trainers transitions ease] [--ways changed markov]

A draw is a seed of recipe and splits: about half of the 610 users train, three tenths judge, two tenths are only reported. All
ratings count. `changed`: crop, mask, reorder and substitute alike; the name of a way: it alone. Gains are in points of
NDCG@10 of the mix over real users and over the placebo, with 95 % bounds, on validation and on test users, which decide
nothing; `deviation`: of what a user adds to the gain over the placebo, in points, from the width of its interval.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from statistics import NormalDist
from typing import Any

from machine import machine_line, markdown
from media_runs import evidence, shown

from augmill.flows.augment import make_snapshot
from augmill.tasks.generators.sequences.ways import WAYS
from augmill.tasks.recipe.recipe import Recipe, build_recipe
from augmill.tasks.store.store import Store

sys.path.append(str(Path(__file__).parents[1]))  # helpers, also where this file is run by itself
SHARED = Path(os.environ.get("AUGMILL_SHARED", Path(__file__).parents[3] / "shared"))
CHANGED = ("crop", "mask", "reorder", "substitute")


def recipe_of(folder: Path, draw: int, trainer: str, way: str) -> Recipe:
    chosen = CHANGED if way == "changed" else (way,)
    document: dict[str, Any] = {
        "dataset": "movielens",
        "seed": draw,
        "source": {
            "path": str(SHARED / "data/movielens_small/ratings.csv"),
            "format": "events",
            "events": {"user": "userId", "item": "movieId", "time": "timestamp"},
        },
        "columns": {"id": "user", "group": "user", "inputs": {"history": "items"}, "target": {"next": "item"}},
        "splits": {"seed": draw, "validation": 0.3, "test": 0.2},
        "target": {"multiply": 2.0},
        "generators": [{"use": "sequences", **{name: float(name in chosen) for name in WAYS}}],
        "trainer": trainer,
        "validation": {"data_docs": False},
        "run": {"orchestrator": "none", "store": str(folder / "store")},
    }
    return build_recipe(document, base=folder)


def run_once(draw: int, trainer: str, way: str) -> list[str]:
    from chain import make_run

    with tempfile.TemporaryDirectory(prefix="augmill-ranking-") as place:
        recipe = recipe_of(Path(place), draw, trainer, way)
        make_snapshot(make_run(recipe, Store(recipe.run.store)))
        (judged,) = evidence(Store(recipe.run.store), "evaluate", "evidence.json")
        (*_, ledger) = evidence(Store(recipe.run.store), "settle", "ledger.json")
    by, held = judged["judged_by"], judged["validation"]
    found = held["comparisons"]["mix-placebo"]["gains"][by]
    deviation = (found["high"] - found["low"]) / 2 / NormalDist().inv_cdf(0.95) * held["rows"] ** 0.5
    level = f"{held['arms']['real'][by]:.1f}"
    gains = [*shown(held["comparisons"], by), *shown(judged["test"]["comparisons"], by)]
    made = f"{sum(ledger['accepted'].values()):,}"
    return [trainer, way, str(draw), made, judged["verdict"], str(judged["seeds"]), level, *gains, f"{deviation:.1f}"]


def summary(table: list[list[str]]) -> list[list[str]]:
    """Of each trainer and way: verdicts, and the mean of each gain over the draws."""
    out = []
    for trainer, way in dict.fromkeys((row[0], row[1]) for row in table):
        rows = [row for row in table if (row[0], row[1]) == (trainer, way)]
        verdicts = ", ".join(f"{count} {name}" for name, count in sorted(Counter(row[4] for row in rows).items()))
        means = [f"{sum(float(row[at].split()[0]) for row in rows) / len(rows):+.2f}" for at in range(7, 11)]
        out.append([trainer, way, verdicts, *means, f"{sum(float(row[11]) for row in rows) / len(rows):.1f}"])
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--trainers", nargs="+", default=["transitions", "ease"])
    parser.add_argument("--ways", nargs="+", default=["changed", "markov"])
    given = parser.parse_args()
    print(f"{machine_line()}\n")
    table = list[list[str]]()
    for draw in range(given.draws):
        for trainer in given.trainers:
            for way in given.ways:
                table.append(run_once(draw, trainer, way))
                print(" | ".join(table[-1]), flush=True)
    gains = ["over real", "over placebo", "test: over real", "test: over placebo", "deviation"]
    head = ["trainer", "way", "draw", "made", "verdict", "runs", "NDCG@10", *gains]
    print("\n" + markdown(head, table), flush=True)
    print("\n" + markdown(["trainer", "way", "verdicts", *gains], summary(table)), flush=True)


if __name__ == "__main__":
    main()
