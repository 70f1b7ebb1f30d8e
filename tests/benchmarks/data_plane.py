"""From the source to a release, without the gate: rows a second, processor time and memory of each stage, by size.

    python tests/benchmarks/data_plane.py [--rows 100000 1000000] [--real 40000] [--source CSV] [--workers 0]
        [--store DIRECTORY]

``--rows``: candidates asked of `rules` in one round, whose target is what 1.3 rows are asked for each. The source is that of
bench_million.py, or a CSV with the columns text and label (then `rules` has no thesaurus). Everything runs as in a run of
its own, but the mix is published unjudged: the gate has a benchmark of its own (bench_gate.py). Rows a second and
microseconds count candidates, by the processor time of all processes together; memory is what was resident at most, of
the driver and of the largest process below it, what earlier stages left there too; "anonymous" is that without the pages
of files, which the system may take back.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import tempfile
from pathlib import Path
from typing import Any

from bench_million import CLASSES, write_source
from machine import GIB, Meter, MeteredProgress, Reading, machine_line, markdown, plain_run

from augmill.flows.augment import mix_accepted, publish
from augmill.flows.outcome import Outcome
from augmill.flows.report import Found
from augmill.flows.rounds import produce
from augmill.flows.run import Run
from augmill.flows.source import read_source
from augmill.tasks.recipe.recipe import Recipe, build_recipe
from augmill.tasks.stages.plan import FIRST_ASK
from augmill.tasks.store.stage import read_json
from augmill.tasks.store.store import Store
from augmill.tasks.workers.pool import find_devices, worker_pool


def make_recipe(folder: Path, rows: int, workers: int, source: Path | None = None) -> Recipe:
    path, own = source or folder / "rows.csv", {"thesaurus": str(folder / "thesaurus.csv")}
    document: dict[str, Any] = {
        "dataset": "plane",
        "source": {"path": str(path)},
        "columns": {"text": "text", "label": "label"},
        "target": {"per_class": int(rows / (count_classes(path) if source else CLASSES) / FIRST_ASK)},
        "generators": [{"use": "rules", "strength": 0.2} | ({} if source else own)],
        "refill": {"max_rounds": 1},
        "run": {"orchestrator": "none", "workers": workers},
    }
    return build_recipe(document, base=folder)


def count_classes(path: Path) -> int:
    with path.open(encoding="utf-8", newline="") as stream:
        return len({row["label"] for row in itertools.islice(csv.DictReader(stream), 100_000)})


def devices_of(recipe: Recipe) -> list[str]:
    """Of a run of its own: a worker per core, for `rules` runs no model."""
    return find_devices((), recipe.run.workers, light=True)


def run_rows(run: Run) -> dict[str, Any]:
    """Source to release with one round; the ledger."""
    ingested, split = read_source(run)
    made = produce(run, split, ingested)
    assert made.settled is not None, made.missing
    found = Found(ingested, split, made, mix_accepted(run, split, made))
    publish(run, found, Outcome("published", "publish", "not judged", "mix"))
    ledger: dict[str, Any] = read_json(run.store, made.settled, "ledger.json")
    return ledger


def bench(store: str | None, rows: int, real: int, workers: int, source: Path | None) -> None:
    with tempfile.TemporaryDirectory(prefix="augmill-bench-") as folder:
        if source is None:
            write_source(Path(folder), real)
        recipe = make_recipe(Path(folder), rows, workers, source)
        with Meter() as meter, worker_pool(devices_of(recipe), recipe.run.threads) as pool:
            root = Store(f"{store or folder}/{rows}")  # else the second size finds rows of the first one
            ledger = run_rows(plain_run(recipe, root, pool, MeteredProgress(meter)))
            size = pool.size
    print(f"\n{rows:,} candidates from {source.name if source else f'{real:,} real rows'}, {size} worker(s)\n")
    print(table(meter.readings, rows))
    print(f"\n{told(ledger)}", flush=True)


def table(readings: list[Reading], rows: int) -> str:
    """A line for each stage, in the order in which they ran, and one for all."""
    whole = Reading(
        "**all**",
        sum(each.seconds for each in readings),
        max(each.driver for each in readings),
        max(each.workers for each in readings),
        sum(each.processor for each in readings),
        max(each.largest for each in readings),
        max(each.anonymous for each in readings),
        max(each.largest_anonymous for each in readings),
    )
    cells = [
        [
            each.name,
            f"{each.seconds:,.1f}",
            f"{each.processor:,.1f}",
            f"{1e6 * each.processor / rows:,.1f}",
            f"{rows / max(each.processor, 0.01):,.0f}",
            *(
                f"{1024 * part / GIB:,.0f}"
                for part in (each.driver, each.anonymous, each.largest, each.largest_anonymous)
            ),
        ]
        for each in [*readings, whole]
    ]
    memory = ["driver MiB", "anonymous", "largest worker MiB", "anonymous"]
    return markdown(["stage", "s", "CPU-s", "us a row", "rows/CPU-s", *memory], cells)


def told(ledger: dict[str, Any]) -> str:
    """What came of the candidates."""
    entry = {key: sum(part[key] for part in ledger["rows"]) for key in ("asked", "delivered", "accepted", "surplus")}
    refused: dict[str, int] = {}
    for part in ledger["rows"]:
        for why, count in part["rejected"].items():
            refused[why] = refused.get(why, 0) + count
    counts = ", ".join(f"{key} {count:,}" for key, count in entry.items())
    return f"{counts}; refused: {', '.join(f'{why} {count:,}' for why, count in sorted(refused.items()))}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Rows a second, processor time and memory from source to release.")
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000], help="candidates, size by size")
    parser.add_argument("--real", type=int, default=40_000, help="rows of the source")
    parser.add_argument("--source", type=Path, help="a CSV with the columns text and label instead")
    parser.add_argument("--workers", type=int, default=0, help="worker processes; 0: as a recipe without it has them")
    parser.add_argument("--store", help="kept afterwards; without it a temporary one")
    given = parser.parse_args()
    print(machine_line(), flush=True)
    for rows in given.rows:
        bench(given.store, rows, given.real, given.workers, given.source)


if __name__ == "__main__":
    main()
