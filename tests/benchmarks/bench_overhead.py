"""What orchestration costs, per run and per shard, against calling the same pure functions in a loop. Prints a table.

    python tests/benchmarks/bench_overhead.py [--shards 10,100,500] [--rows 5] [--orchestrators none,prefect] [--starts 3]

Shards are tiny (``--rows`` rows of `rules`, no check), so that what is seen is what stands around them. "loop" calls the
stages of a shard one after the other in this process. "none" and "prefect" hand each shard to the one worker process:
what they add is the hand-over and, with Prefect, its records. Each way has a store of its own. "first stage line" is of
`augmill run` in a process of its own, from its start: in a new Prefect home, whose database is made then; after it the
least of ``--starts`` - 1 more.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml
from machine import machine_line, markdown, plain_run

from augmill.flows.orchestration.api import Api, open_api
from augmill.flows.orchestration.logs import quiet_logging
from augmill.flows.progress import Progress
from augmill.flows.rounds import generate_round
from augmill.flows.source import read_source
from augmill.tasks.recipe.recipe import Recipe, build_recipe
from augmill.tasks.stages.extensions import generator_config
from augmill.tasks.stages.fit import fit
from augmill.tasks.stages.generate import ShardConfig
from augmill.tasks.stages.jobs import run_shard
from augmill.tasks.store.store import Store
from augmill.tasks.workers.pool import WorkerPool, worker_pool

WORDS = [
    "money",
    "back",
    "card",
    "parcel",
    "late",
    "courier",
    "password",
    "account",
    "reset",
    "code",
    "phone",
    "order",
    "price",
    "box",
]


def make_document(folder: Path) -> dict[str, Any]:
    draw = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        writer.writerows([" ".join(draw.choices(WORDS, k=8)), f"class {at % 2}"] for at in range(200))
    return {
        "dataset": "overhead",
        "source": {"path": str(folder / "rows.csv")},
        "columns": {"text": "text", "label": "label"},
        "generators": [{"use": "rules", "operations": {"swap": 1.0, "delete": 1.0}}],
        "target": {"per_class": 10},
        "validation": {"enabled": False},
        "run": {"store": "unused"},
    }


def make_recipe(folder: Path) -> Recipe:
    return build_recipe(make_document(folder), base=folder)


class Place:
    """A store with a fit in it; ``shards`` tiny shards that nobody has made."""

    def __init__(self, folder: Path, api: Api, pool: WorkerPool) -> None:
        recipe, store = make_recipe(folder), Store(str(folder / "store"))
        self.run = plain_run(recipe, store, pool, Progress(live=False, quiet=True), api=api)
        _, self.split = read_source(self.run)
        self.generator = generator_config(recipe.generators[0], recipe)
        self.fitted = fit(self.run.site, self.generator, self.split)

    def shards(self, count: int, rows: int) -> list[ShardConfig]:
        segments = [{"stratum": "class 0", "start": at * rows, "count": rows} for at in range(count)]
        return [ShardConfig(self.generator, (), (part,), ("class 0",), self.run.recipe.validation) for part in segments]

    def in_a_loop(self, count: int, rows: int) -> None:
        for config in self.shards(count, rows):
            run_shard(self.run.site, config, self.fitted, [])

    def as_a_round(self, count: int, rows: int) -> None:
        generate_round(self.run, 1, self.split, self.shards(count, rows), {"rules": self.fitted}, {})
        assert not self.run.failures


def seconds_of(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def measure(way: str, counts: list[int], rows: int, folder: Path) -> tuple[float, list[float]]:
    """(seconds until the first shard can start, seconds of each number of shards)."""
    started = time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(quiet_logging(False))
        api = stack.enter_context(open_api("none" if way == "loop" else way))
        pool = stack.enter_context(worker_pool(["cpu"], 1))
        opened = time.monotonic() - started
        took = []
        for count in counts:
            place = Place(folder / way / str(count), api, pool)
            if way == "loop":
                took.append(seconds_of(lambda: place.in_a_loop(count, rows)))  # noqa: B023 - called at once
                continue
            if not took:  # the worker process starts with the first shard it is given
                opened += seconds_of(lambda: as_flow(Place(folder / way / "warm", api, pool), 1, rows))
            took.append(seconds_of(lambda: as_flow(place, count, rows)))  # noqa: B023
    return opened, took


def as_flow(place: Place, count: int, rows: int) -> None:
    """The round inside a flow of its own; where there is no Prefect, as it is."""
    from augmill.flows.flow import OwnFlow, call_flow  # here: Prefect's home is named in main

    def overhead(shards: int) -> dict[str, Any]:
        place.as_a_round(shards, rows)
        return {"outcome": "made", "reason": f"{shards} shards"}

    call_flow(place.run.session, OwnFlow(overhead, "overhead", name="overhead"), count)


def first_stage_line(folder: Path, way: str) -> float:
    """Seconds from the start of `augmill run` to the line of its first stage."""
    document = make_document(folder) | {"run": {"store": str(folder / "store")}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    command = [
        str(Path(sys.executable).with_name("augmill")),
        "run",
        str(folder / "recipe.yaml"),
        "--orchestrator",
        way,
    ]
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = []
    try:
        for line in process.stderr:
            said.append(line)
            if line.startswith("ingest"):
                return time.monotonic() - started
        raise RuntimeError(f"it told of no stage: {''.join(said)}")
    finally:
        process.terminate()
        process.communicate(timeout=60)


def starts_of(folder: Path, way: str, starts: int) -> str:
    """The first, and the least of the others: ``9.1 s, then 4.0 s``."""
    took = [first_stage_line(folder / f"{way}-{number}", way) for number in range(starts)]
    return f"{took[0]:.1f} s" + (f", then {min(took[1:]):.1f} s" if took[1:] else "")


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost of orchestration, per run and per shard.")
    parser.add_argument("--shards", default="10,100,500")
    parser.add_argument("--rows", type=int, default=5, help="rows of a shard")
    parser.add_argument("--orchestrators", default="none,prefect")
    parser.add_argument("--starts", type=int, default=3, help="processes whose first stage line is waited for")
    given = parser.parse_args()
    counts = [int(part) for part in given.shards.split(",")]
    ways = ["loop", *given.orchestrators.split(",")]
    print(f"Shards of {given.rows} rows, one worker process. {machine_line()}\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="augmill-bench-") as directory:
        folder = Path(directory)
        os.environ["PREFECT_HOME"] = str(folder / "prefect")  # before Prefect is imported
        os.environ.pop("PREFECT_API_URL", None)  # a server of our own is part of what is measured
        started = {way: starts_of(folder / "starts", way, given.starts) for way in ways[1:]}
        measure("none", [1], given.rows, folder / "warm")  # what is imported once is no way's cost
        found = {way: measure(way, counts, given.rows, folder) for way in ways}
    loop = found["loop"][1]
    rows = []
    for way, (opened, took) in found.items():
        cells = [
            f"{seconds:.2f} s" + ("" if way == "loop" else f", {1000 * (seconds - base) / count:+.1f} ms a shard")
            for seconds, base, count in zip(took, loop, counts, strict=True)
        ]
        rows.append([way, f"{opened:.1f} s", *cells, started.get(way, "")])
    header = ["way", "before the first shard", *(f"{count} shards" for count in counts), "first stage line"]
    print(markdown(header, rows))
    if {"none", "prefect"} <= set(found):
        more = found["prefect"][1][-1] - found["none"][1][-1]
        print(f"\n`prefect` over `none` at {counts[-1]} shards: {1000 * more / counts[-1]:.1f} ms a shard", flush=True)


if __name__ == "__main__":
    main()
