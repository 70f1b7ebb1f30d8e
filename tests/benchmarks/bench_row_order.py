"""What the order of a release's rows costs those who read one class of it. Prints a table.

    python tests/benchmarks/bench_row_order.py [--rows 100000 1000000] [--classes 20] [--groups 32768 122880]

A train split as it is released, of texts of about 65 characters, two thirds of them synthetic, is written in both
orders: by class and origin, as up to format 1, and by the hash of the ids, as now. Then one class of it is read, all
columns, through the filters of DuckDB, polars and pyarrow, the file in the system's cache. Times are processor time
over all threads, the least of ``--repeats`` turns. "not skipped" are the row groups that may hold the class by their
statistics, which a reader has to fetch. "write" is putting the rows in order and writing them. "classes" is the fewest
that 64 rows in sequence hold, which is a batch of a reader that does not shuffle.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from bench_million import vocabulary
from machine import machine_line, markdown

from augmill.tasks.stages.publish import order_by_hash
from augmill.tasks.store.stage import PARQUET

BATCH = 64


def make_rows(count: int, classes: int, seed: int = 0) -> pa.Table:
    """Rows as they are released, in the order of the mix: real ones in source order, then synthetic ones by class."""
    rng = np.random.default_rng(seed)
    words = np.array(vocabulary(rng, 6_000), dtype=object)
    real = count // 3
    names = np.array([f"class {at:03d}" for at in range(classes)], dtype=object)
    label = np.concatenate([rng.integers(0, classes, real), np.sort(rng.integers(0, classes, count - real))])
    ids = [hashlib.sha256(str(at).encode()).hexdigest() for at in range(count)]
    made = [f"syn-{name[:24]}" for name in ids[real:]]
    scores = [{"name": name, "value": 0.0} for name in ("garbage", "label_consistency", "relations")]
    drawn = rng.random((count - real, 3)).round(6).tolist()
    text = [" ".join(row) for row in words[rng.integers(0, len(words), (count, 10))]]
    held = [[each | {"value": value} for each, value in zip(scores, row, strict=True)] for row in drawn]
    nothing: list[Any] = [None] * real
    return pa.table(
        {
            "text": text,
            "label": pa.array(names[label], pa.string()),
            "aug_row_id": ids[:real] + made,
            "aug_split": ["train"] * count,
            "aug_origin": ["real"] * real + ["synthetic"] * (count - real),
            "aug_generator": nothing + ["rules"] * (count - real),
            "aug_parent_ids": nothing + [[ids[at]] for at in rng.integers(0, real, count - real)],
            "aug_seed": nothing + rng.integers(0, 2**63, count - real).tolist(),
            "aug_weight": [1.0] * count,
            "aug_scores": nothing + held,
        }
    )


def by_class(rows: pa.Table) -> pa.Array:
    """The order up to format 1."""
    placed = rows.append_column("at", pa.array(range(rows.num_rows)))
    keys = [(name, "ascending") for name in ("label", "aug_origin", "at")]
    return pc.sort_indices(placed, sort_keys=keys)


def by_hash(rows: pa.Table) -> Any:
    return order_by_hash([rows["aug_row_id"].to_pylist()])


def read_duckdb(path: Path, label: str) -> int:
    import duckdb

    return duckdb.sql(f"select * from '{path}' where label = '{label}'").to_arrow_table().num_rows


def read_polars(path: Path, label: str) -> int:
    import polars

    return polars.scan_parquet(path).filter(polars.col("label") == label).collect().height


def read_pyarrow(path: Path, label: str) -> int:
    import pyarrow.dataset as ds

    return int(ds.dataset(path).to_table(filter=pc.field("label") == label).num_rows)


READERS: tuple[Callable[[Path, str], int], ...] = (read_duckdb, read_polars, read_pyarrow)


def seconds_of(work: Callable[[], Any], repeats: int) -> float:
    least = float("inf")
    for _ in range(repeats):
        started = time.process_time()
        work()
        least = min(least, time.process_time() - started)
    return least


def not_skipped(path: Path, label: str) -> int:
    """Bytes of the row groups whose statistics do not exclude the label."""
    metadata = pq.read_metadata(path)
    at = metadata.schema.names.index("label")
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    held = [group for group in groups if group.column(at).statistics.min <= label <= group.column(at).statistics.max]
    return sum(group.column(index).total_compressed_size for group in held for index in range(metadata.num_columns))


def measure(rows: pa.Table, order: Callable[[pa.Table], Any], group: int, path: Path, repeats: int) -> list[str]:
    """Cells of one line: MB, MB not skipped, seconds to write, milliseconds of each reader, fewest classes in a batch."""

    def write() -> None:
        pq.write_table(rows.take(order(rows)), path, row_group_size=group, **PARQUET)

    written = seconds_of(write, repeats)
    label = pc.unique(rows["label"]).sort()[len(pc.unique(rows["label"])) // 2].as_py()
    expected = pc.sum(pc.equal(rows["label"], label)).as_py()
    read = []
    for reader in READERS:
        assert reader(path, label) == expected  # and what is loaded once is loaded
        read.append(f"{1e3 * seconds_of(lambda: reader(path, label), repeats):,.0f}")  # noqa: B023
    labels = pq.read_table(path, columns=["label"])["label"].to_numpy()
    batches = (labels[at : at + BATCH] for at in range(0, len(labels) - BATCH + 1, BATCH))
    fewest = min(len(set(batch)) for batch in batches)
    sizes = [f"{size / 1e6:,.1f}" for size in (path.stat().st_size, not_skipped(path, label))]
    return [*sizes, f"{written:,.2f}", *read, str(fewest)]


def main() -> None:
    parser = argparse.ArgumentParser(description="One class of a release read, in either order of its rows.")
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--groups", type=int, nargs="+", default=[32_768, 122_880], help="rows of a row group")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    orders = {"class, origin": by_class, "hash of the id": by_hash}
    lines = []
    with tempfile.TemporaryDirectory(prefix="augmill-bench-") as folder:
        for count in given.rows:
            rows = make_rows(count, given.classes)
            for name, order in orders.items():
                for group in given.groups:
                    cells = measure(rows, order, group, Path(folder) / "rows.parquet", given.repeats)
                    lines.append([f"{count:,}", name, f"{group:,}", *cells])
    print(f"{given.classes} classes. {machine_line()}\n")
    header = [
        "rows",
        "order",
        "row group",
        "MB",
        "not skipped",
        "write: s",
        "DuckDB: ms",
        "polars",
        "pyarrow",
        "classes",
    ]
    print(markdown(header, lines))


if __name__ == "__main__":
    main()
