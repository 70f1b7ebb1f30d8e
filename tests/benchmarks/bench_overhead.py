"""What orchestration costs, per run and per shard, against calling the same pure functions in a loop. Prints a table.

    python tests/benchmarks/bench_overhead.py [--shards 10,100,500] [--rows 5] [--orchestrators none,prefect]

Shards are tiny (``--rows`` rows of `rules`, no check), so that what is seen is what stands around them. "loop" calls the
stages of a shard one after the other in this process. "none" and "prefect" hand each shard to the one worker process:
what they add is the hand-over and, with Prefect, its records. Each way has a store of its own.
"""

from __future__ import annotations

import argparse
import csv
import random
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from machine import machine_line, markdown

from augmill.flows.orchestration.logs import quiet_logging
from augmill.flows.orchestration.orchestrate import Orchestrator, open_orchestrator
from augmill.flows.progress import Artifacts, Progress
from augmill.flows.snapshot import Snapshot
from augmill.flows.source import read_source
from augmill.flows.steps import Steps
from augmill.tasks.contracts import Artifact
from augmill.tasks.recipe.recipe import Recipe, build_recipe
from augmill.tasks.stages.extensions import generator_config
from augmill.tasks.stages.fit import fit
from augmill.tasks.stages.generate import ShardConfig
from augmill.tasks.stages.jobs import run_shard
from augmill.tasks.store.stage import Event, Site
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


def make_recipe(folder: Path) -> Recipe:
    draw = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        writer.writerows([" ".join(draw.choices(WORDS, k=8)), f"class {at % 2}"] for at in range(200))
    document: dict[str, Any] = {
        "dataset": "overhead",
        "source": {"path": str(folder / "rows.csv")},
        "columns": {"text": "text", "label": "label"},
        "generators": [{"use": "rules", "operations": {"swap": 1.0, "delete": 1.0}}],
        "target": {"per_class": 10},
        "validation": {"enabled": False},
        "run": {"store": "unused"},
    }
    return build_recipe(document, base=folder)


class Place:
    """A store with a fit in it; ``shards`` tiny shards that nobody has made."""

    def __init__(self, folder: Path, orchestrator: Orchestrator, pool: WorkerPool) -> None:
        self.recipe = make_recipe(folder)
        self.events: list[Event] = []
        self.site = Site(Store(str(folder / "store")), observe=self.events.append)
        progress, artifacts = Progress(live=False, quiet=True), Artifacts(orchestrator)
        self.steps = Steps(orchestrator, self.site, pool, progress, artifacts, "overhead@all", 3600.0, self.events)
        snapshot = Snapshot(self.recipe, "all", None)
        read_source(snapshot, self.steps, None)
        assert snapshot.split is not None
        self.generator = generator_config(self.recipe.generators[0], self.recipe)
        self.fitted: Artifact = fit(self.site, self.generator, snapshot.split)

    def shards(self, count: int, rows: int) -> list[ShardConfig]:
        segments = [{"stratum": "class 0", "start": at * rows, "count": rows} for at in range(count)]
        return [ShardConfig(self.generator, (), (part,), ("class 0",), self.recipe.validation) for part in segments]

    def in_a_loop(self, count: int, rows: int) -> None:
        for config in self.shards(count, rows):
            run_shard(self.site, config, self.fitted, [])

    def as_a_round(self, count: int, rows: int) -> None:
        configs = self.shards(count, rows)
        self.steps.run_shards(configs, [[self.fitted] for _ in configs], self.recipe.run, round_number=1)
        assert not self.steps.failures


def seconds_of(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def measure(way: str, counts: list[int], rows: int, folder: Path) -> tuple[float, list[float]]:
    """(seconds until the first shard can start, seconds of each number of shards)."""
    started = time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(quiet_logging(False))
        orchestrator = stack.enter_context(open_orchestrator("none" if way == "loop" else way))
        pool = stack.enter_context(worker_pool(["cpu"], 1))
        opened = time.monotonic() - started
        took = []
        for count in counts:
            place = Place(folder / way / str(count), orchestrator, pool)
            if way == "loop":
                took.append(seconds_of(lambda: place.in_a_loop(count, rows)))  # noqa: B023 - called at once
                continue
            if not took:  # the worker process starts with the first shard it is given
                opened += seconds_of(
                    lambda: as_flow(orchestrator, Place(folder / way / "warm", orchestrator, pool), 1, rows)
                )
            took.append(seconds_of(lambda: as_flow(orchestrator, place, count, rows)))  # noqa: B023
    return opened, took


def as_flow(orchestrator: Orchestrator, place: Place, count: int, rows: int) -> None:
    orchestrator.run(
        lambda: place.as_a_round(count, rows),
        name="overhead", run_name=f"overhead {count}", parameters={"shards": count}, tags=["augmill"],
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost of orchestration, per run and per shard.")
    parser.add_argument("--shards", default="10,100,500")
    parser.add_argument("--rows", type=int, default=5, help="rows of a shard")
    parser.add_argument("--orchestrators", default="none,prefect")
    given = parser.parse_args()
    counts = [int(part) for part in given.shards.split(",")]
    ways = ["loop", *given.orchestrators.split(",")]
    print(f"Shards of {given.rows} rows, one worker process. {machine_line()}\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="augmill-bench-") as folder:
        measure("none", [1], given.rows, Path(folder) / "warm")  # what is imported once is no way's cost
        found = {way: measure(way, counts, given.rows, Path(folder)) for way in ways}
    loop = found["loop"][1]
    rows = []
    for way, (opened, took) in found.items():
        cells = [
            f"{seconds:.2f} s" + ("" if way == "loop" else f", +{1000 * (seconds - base) / count:.0f} ms a shard")
            for seconds, base, count in zip(took, loop, counts, strict=True)
        ]
        rows.append([way, f"{opened:.1f} s", *cells])
    print(markdown(["way", "before the first shard", *(f"{count} shards" for count in counts)], rows))


if __name__ == "__main__":
    main()
