"""Rows a second of the generators of tables. Prints a table.

    python tests/benchmarks/bench_tables.py [--rows 100000] [--asked 100000] [--max-rows 20000]

Train rows are of two classes, with six numbers (whole, skewed, mostly zero, with gaps, continuous), eight categories of 2 to
40 values and a moment, as adult has them. ``fit``: seconds; rows a second: as ``sample`` makes them in one process, what
it loads first not counted. The memory is the process's greatest, of both.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from augmill.tasks.contracts import Context, FitInputs, Fitted, Request
from augmill.tasks.generators import GENERATORS
from augmill.tasks.rows.kinds import real_schema
from augmill.tasks.rows.randomness import row_seeds

LEVELS = (2, 2, 5, 6, 7, 15, 16, 40)


def train_rows(count: int) -> pa.Table:
    rng = np.random.default_rng(0)
    stratum = rng.choice(["no", "yes"], count, p=[0.75, 0.25])
    second = 1_000_000
    columns: dict[str, Any] = {
        "number:age": np.rint(rng.normal(40, 12, count)),
        "number:hours": np.where(rng.random(count) < 0.4, 40.0, rng.integers(1, 99, count)),
        "number:gain": np.where(rng.random(count) < 0.9, 0.0, np.rint(np.exp(rng.normal(8, 1, count)))),
        "number:weight": np.rint(np.exp(rng.normal(12, 0.6, count))),
        "number:rate": rng.normal(0, 1, count),
        "number:score": pa.array(rng.normal(0, 1, count), mask=rng.random(count) < 0.1),
        **{
            f"category:c{at}": (rng.exponential(0.2, count) * levels)
            .astype(int)
            .clip(0, levels - 1)
            .astype(str)
            .tolist()
            for at, levels in enumerate(LEVELS)
        },
        "timestamp:hired": pa.array(rng.integers(10**9, 2 * 10**9, count) * second, pa.timestamp("us", "UTC")),
    }
    keys = {"row_id": [f"r{at:08d}" for at in range(count)], "stratum": stratum.tolist()}
    return pa.table(keys | columns, real_schema(tuple(columns)))


def measure(name: str, train: pa.Table, asked: int, **options: Any) -> str:
    fields = tuple(train.column_names[2:])
    kind = GENERATORS[name]
    generator, empty = kind(kind.Options(**options)), train.slice(0, 0)
    with tempfile.TemporaryDirectory() as folder:
        context = Context(seed=0, fields=fields, workdir=Path(folder))
        start = time.perf_counter()
        generator.fit(FitInputs(train, empty, empty, empty, empty), context)
        fit = time.perf_counter() - start
        fitted, ordinals = Fitted(Path(folder), ""), np.arange(asked, dtype=np.int64)
        strata = [("no", "yes")[at % 2] for at in range(asked)]
        generator.sample(fitted, Request(strata[:2], ordinals[:2], row_seeds(1, ordinals[:2])), context)
        start = time.perf_counter()
        made = generator.sample(fitted, Request(strata, ordinals, row_seeds(1, ordinals)), context)
        taken = time.perf_counter() - start
    delivered = made["reason"].null_count
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return (
        f"| {name} | {train.num_rows:,} | {fit:.1f} | {asked / taken:,.0f} | {delivered:,} of {asked:,} | {memory:,} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="train rows")
    parser.add_argument("--asked", type=int, default=100_000, help="rows to make")
    parser.add_argument("--max-rows", type=int, default=20_000, help="smote's parents of a class, at most")
    given = parser.parse_args()
    train = train_rows(given.rows)
    print("| generator | train rows | fit: s | rows/s | delivered | memory: MB |\n|---|---|---|---|---|---|")
    print(measure("resample", train, given.asked), flush=True)
    print(measure("smote", train, given.asked, max_rows=given.max_rows), flush=True)


if __name__ == "__main__":
    main()
