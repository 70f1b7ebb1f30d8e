"""A million candidate rows through validate, settle, mix and publish: wall time and peak memory. Prints a table.

    python tests/benchmarks/bench_million.py [--rows 1000000] [--real 40000] [--near 0.95] [--store DIRECTORY]

The source is made here, by a seeded generator: 20 classes, each with words of its own among common ones, about 60
characters a row, and a thesaurus over all words. `rules` asks for ``--rows`` candidates in one round; the target is half
of them. Everything runs as in a run of its own, but for the gate, whose cost does not depend on the candidates alone:
the mix is published unjudged. "validate" is generate and validate together (`rules` takes a small part of it), in
worker processes; seconds are wall time.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from machine import GIB, Meter, MeteredProgress, machine_line, markdown, plain_run

from augmill.flows import stages
from augmill.flows.augment import mix_accepted, publish
from augmill.flows.outcome import Outcome
from augmill.flows.report import Found
from augmill.flows.rounds import Made, check_configs, generate_round, shard_configs
from augmill.flows.run import Run
from augmill.flows.source import read_source
from augmill.tasks.contracts import Artifact
from augmill.tasks.recipe.recipe import Recipe, build_recipe
from augmill.tasks.stages.extensions import generator_config
from augmill.tasks.stages.settle import SettleConfig
from augmill.tasks.store.stage import read_json
from augmill.tasks.store.store import Store
from augmill.tasks.workers.pool import find_devices, worker_pool

CLASSES = 20
COMMON, OWN = 2_000, 200  # words that every class uses, and words that each class has to itself
SYLLABLES = [first + vowel for first in "bcdfghjklmnprstvwz" for vowel in "aeiou"]


def vocabulary(rng: np.random.Generator, size: int) -> list[str]:
    """Distinct words of two to four syllables."""
    words: dict[str, None] = {}
    while len(words) < size:
        words["".join(rng.choice(SYLLABLES, rng.integers(2, 5)))] = None
    return list(words)


def write_source(folder: Path, rows: int, seed: int = 0) -> None:
    """rows.csv and thesaurus.csv (each word beside two others of its class, or of the common ones)."""
    rng = np.random.default_rng(seed)
    words = vocabulary(rng, COMMON + CLASSES * OWN)
    pools = [words[:COMMON]] + [words[COMMON + at * OWN :][:OWN] for at in range(CLASSES)]
    groups = [pool[at : at + 3] for pool in pools for at in range(0, len(pool), 3)]
    with (folder / "thesaurus.csv").open("w", newline="", encoding="utf-8") as sink:
        csv.writer(sink).writerows(group for group in groups if len(group) > 1)
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as sink:
        writer = csv.writer(sink)
        writer.writerow(["text", "label"])
        for row in range(rows):
            own, length = pools[1 + row % CLASSES], int(rng.integers(7, 13))
            chosen = np.where(rng.random(length) < 0.5, rng.integers(0, OWN, length), rng.integers(0, COMMON, length))
            from_own = rng.random(length) < 0.5
            text = [own[at % OWN] if mine else words[at] for at, mine in zip(chosen, from_own, strict=True)]
            writer.writerow([" ".join(text), f"class {row % CLASSES:02d}"])


def make_recipe(folder: Path, rows: int, near: float) -> Recipe:
    document: dict[str, Any] = {
        "dataset": "million",
        "source": {"path": str(folder / "rows.csv")},
        "columns": {"text": "text", "label": "label"},
        "target": {"per_class": rows // CLASSES // 2},
        "generators": [{"use": "rules", "thesaurus": str(folder / "thesaurus.csv"), "strength": 0.2}],
        "settle": {"near": near},
        "run": {"orchestrator": "none"},
    }
    return build_recipe(document, base=folder)


def run_rows(run: Run, rows: int) -> Artifact:
    """source to release with one round of ``rows`` candidates and without the gate; what was settled."""
    recipe, name = run.recipe, run.recipe.generators[0].use
    ingested, split = read_source(run)
    fitted = {name: stages.fit(run, split, name=name, config=generator_config(recipe.generators[0], recipe))}
    checks = {
        each: stages.fit_check(run, split, name=each, config=config) for each, config in check_configs(recipe).items()
    }
    strata = list(read_json(run.store, split, "summary.json")["classes"]["train"])
    asked = [{"generator": name, "stratum": each, "start": 0, "count": rows // CLASSES} for each in strata]
    configs = shard_configs(recipe, asked, strata)
    shards = generate_round(
        run, 1, split, configs, fitted, checks
    )  # there is no plan: it would be an edge of the graph
    targets = dict.fromkeys(strata, recipe.target.per_class or 0)
    config = SettleConfig(recipe.settle, targets, {name: 1.0}, recipe.columns.fields)
    settled = stages.settle(run, shards, [], number=1, config=config)
    made = Made(checks=checks, shards=tuple(shards), settled=settled)
    found = Found(ingested, split, made, mix_accepted(run, split, made))
    publish(run, found, Outcome("published", "publish", "not judged", "mix"))
    return settled


def bench(folder: Path, store: Store, rows: int, real: int, near: float) -> None:
    write_source(folder, real)
    recipe = make_recipe(folder, rows, near)
    with Meter() as meter, worker_pool(find_devices((), recipe.run.workers), recipe.run.threads) as pool:
        settled = run_rows(plain_run(recipe, store, pool, MeteredProgress(meter)), rows)
        workers = pool.size
    report(meter, read_json(store, settled, "ledger.json"), rows, real, workers)


def report(meter: Meter, ledger: dict[str, Any], rows: int, real: int, workers: int) -> None:
    names = {"generate 1": "generate + validate", "settle 1": "settle"}
    table = [
        [
            names.get(reading.name, reading.name),
            f"{reading.seconds:,.1f}",
            f"{1e6 * reading.seconds / rows:,.1f}",
            f"{reading.driver / GIB:.2f}",
            f"{reading.workers / GIB:.2f}",
        ]
        for reading in meter.readings
    ]
    total = sum(reading.seconds for reading in meter.readings)
    peak = [f"{meter.driver_peak() / GIB:.2f}", f"{meter.whole_peak() / GIB:.2f} with driver"]
    table.append(["**all**", f"{total:,.1f}", f"{1e6 * total / rows:,.1f}", *peak])
    print(f"{rows:,} candidates from {real:,} real rows, {workers} worker(s). {machine_line()}\n")
    print(markdown(["stage", "seconds", "us a candidate", "driver GiB", "workers GiB"], table))
    entry = {key: sum(part[key] for part in ledger["rows"]) for key in ("asked", "delivered", "accepted", "surplus")}
    refused: dict[str, int] = {}
    for part in ledger["rows"]:
        for why, count in part["rejected"].items():
            refused[why] = refused.get(why, 0) + count
    print(f"\n{', '.join(f'{key} {count:,}' for key, count in entry.items())}; refused: ", end="")
    print(", ".join(f"{why} {count:,}" for why, count in sorted(refused.items())), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Candidate rows through validate, settle, mix and publish.")
    parser.add_argument("--rows", type=int, default=1_000_000, help="candidates asked for")
    parser.add_argument("--real", type=int, default=40_000, help="rows of the source")
    parser.add_argument("--near", type=float, default=0.95, help="settle.near")
    parser.add_argument("--store", type=Path, help="kept afterwards; without it a temporary one")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="augmill-bench-") as folder:
        store = Store(str(given.store or Path(folder) / "store"))
        bench(Path(folder), store, given.rows, given.real, given.near)


if __name__ == "__main__":
    main()
