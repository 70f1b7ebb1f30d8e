"""Megabytes a second of each reader on a clean file, and `augmill check` of the CSV by stage. Prints two tables.

    python tests/benchmarks/bench_readers.py [--megabytes 50] [--repeats 5] [--columns 0] [--only csv jsonl parquet check]

Seconds are of the processor, this process's, and megabytes those of the file as it lies on the disk. ``--columns``: so many
further columns of numbers. A reader is measured as ingest uses it, the types of all columns first (which reads JSON Lines
once more); the fastest of the repeats counts. The peak of ``check`` is the process's greatest up to that stage's end.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from machine import machine_line, markdown

from augmill.flows.cli import survey
from augmill.tasks.recipe.recipe import build_recipe
from augmill.tasks.sources import SourceOptions, list_files, read_batches, scan_schema
from augmill.tasks.store.stage import Event

LABELS = ("refund", "track", "cancel", "other", "lost card")
PART = 20_000  # rows that are made at once


def rows_of(count: int, columns: int) -> Iterator[list[dict[str, Any]]]:
    """Texts of 6 to 30 words, a third of them with a comma, so that a CSV quotes them, and some beyond ASCII."""
    draw = random.Random(7)
    words = ["".join(draw.choices("etaoinshrdlucmfwypvbgkjqxz", k=draw.randint(2, 9))) for _ in range(5000)]
    for start in range(0, count, PART):
        part = []
        for at in range(start, min(start + PART, count)):
            text = " ".join(draw.choices(words, k=draw.randint(6, 30)))
            text = f"{text[:40]}, {text[40:]}" if at % 3 == 0 else text
            row = {"text": f'{text} "café"' if at % 50 == 0 else text, "label": draw.choice(LABELS), "n": at}
            part.append(row | {f"c{other}": draw.randrange(1000) for other in range(columns)})
        yield part


def write_files(folder: Path, megabytes: float, columns: int) -> None:
    """The same rows as CSV, JSON Lines and Parquet; the CSV has about so many megabytes."""
    count = max(50, int(megabytes * 1e6 / (130 + 4 * columns)))
    parts = rows_of(count, columns)
    first = next(parts)
    schema = pa.Table.from_pylist(first).schema
    with (
        (folder / "rows.csv").open("w", newline="", encoding="utf-8") as table,
        (folder / "rows.jsonl").open("w", encoding="utf-8") as lines,
        pq.ParquetWriter(folder / "rows.parquet", schema, compression="zstd") as parquet,
    ):
        writer = csv.DictWriter(table, list(first[0]))
        writer.writeheader()
        for part in (first, *parts):
            writer.writerows(part)
            lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in part)
            parquet.write_table(pa.Table.from_pylist(part, schema))


def peak() -> float:
    """MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def read(path: Path, repeats: int) -> list[str]:
    options = SourceOptions(path=str(path))
    (file,) = list_files(options)
    taken = []
    for _ in range(repeats + 1):  # the first imports
        start = time.process_time()
        schema = scan_schema([file], options)
        typed = time.process_time()
        rows = sum(batch.table.num_rows for batch in read_batches(file, options, schema=schema))
        taken.append((time.process_time() - start, typed - start))
    seconds, types = min(taken[1:])
    rate = f"{file.size / 1e6 / seconds:,.0f}"
    return [
        path.suffix[1:],
        f"{file.size / 1e6:,.1f}",
        f"{rows:,}",
        f"{seconds:.2f}",
        f"{types:.2f}",
        rate,
        f"{peak():,.0f}",
    ]


def check(path: Path) -> list[list[str]]:
    """Each stage of `augmill check`: seconds of processor time, peak."""
    recipe = build_recipe(
        {
            "dataset": "readers",
            "source": {"path": str(path)},
            "columns": {"text": "text", "label": "label"},
            "target": {"per_class": 10**6},
            "generators": [{"use": "rules"}],
            "run": {"store": "store", "orchestrator": "none"},
        },
        base=path.parent,
    )
    table, last = [], time.process_time()
    make = survey.Site

    def observed(*parts: Any, **named: Any) -> Any:
        def note(event: Event) -> None:
            nonlocal last
            now = time.process_time()
            table.append(
                [event.stage, f"{now - last:.1f}", f"{1e6 * (now - last) / max(event.rows, 1):.1f}", f"{peak():,.0f}"]
            )
            last = now

        return make(*parts, **{**named, "observe": note})

    survey.Site = observed  # type: ignore[misc, assignment]
    try:
        survey.survey(recipe)
    finally:
        survey.Site = make  # type: ignore[misc]
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description="Megabytes a second of each reader, and `augmill check` by stage.")
    parser.add_argument("--megabytes", type=float, default=50, help="size of the CSV")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--columns", type=int, default=0, help="further columns of numbers")
    parser.add_argument("--only", nargs="+", default=["csv", "jsonl", "parquet", "check"])
    given = parser.parse_args()
    print(f"{machine_line()}\n")
    with tempfile.TemporaryDirectory(prefix="augmill-bench-") as folder:
        write_files(Path(folder), given.megabytes, given.columns)
        kinds = [kind for kind in ("csv", "jsonl", "parquet") if kind in given.only]
        header = ["format", "MB", "rows", "CPU s", "of it types", "MB/s", "peak MiB"]
        print(markdown(header, [read(Path(folder, f"rows.{kind}"), given.repeats) for kind in kinds]))
        if "check" in given.only:
            print(f"\n{markdown(['stage', 'CPU s', 'us a row', 'peak MiB'], check(Path(folder, 'rows.csv')))}")


if __name__ == "__main__":
    main()
