"""Small tables of real rows for benches: support messages in three classes, and people and days in a table."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from augmill.tasks.contracts import ANY, TARGET
from augmill.tasks.registry import CONTRACT
from augmill.tasks.rows.kinds import real_schema

ROWS = [
    # Two numbers, so that parts of two rows make a third.
    (f"{stratum}-{number}", stratum, text.format(number, 30 - number), f"{second} {number}")
    for stratum, text, second in (
        ("refund", "please pay the money for order {} back to me by day {}", "the refund of order"),
        ("track", "where is the parcel number {} that you sent on day {}", "the status of parcel"),
        ("中文", "请问第{}个包裹{}天后在哪里，谢谢", "包裹查询"),
    )
    for number in range(12)
]
# The same rows as tables: numbers, one in four of them missing, a name and a day.
TABLE_FIELDS = ("number:amount", "number:parts", "category:place", "timestamp:day")
TABLE_ROWS: list[tuple[Any, ...]] = [
    (
        row_id,
        stratum,
        None if number % 4 == 3 else round(1.7**number + at, 2),
        float(number % 5 + at),
        (None, "Köln", "Ulm", "Bonn")[(number + at) % 4],
        datetime(2026, 1 + at, 1 + number, tzinfo=UTC),
    )
    for at, stratum in enumerate(("refund", "track", "中文"))
    for number, (row_id, *_) in enumerate(row for row in ROWS if row[1] == stratum)
]
# The same kinds of row without a class, for generators that want such.
UNLABELLED = [
    (f"free-{row_id}-{turn}", "", *(f"{part} {turn}" for part in texts))
    for row_id, _, *texts in ROWS
    for turn in (1, 2, 3)
]


def table(rows: Sequence[Sequence[Any]], fields: tuple[str, ...]) -> pa.Table:
    """Rows of (row id, stratum, fields ...); what a row has beyond the fields is left out."""
    columns = list(zip(*rows, strict=True))[: 2 + len(fields)]
    return pa.table(dict(zip(("row_id", "stratum", *fields), map(list, columns), strict=True)), real_schema(fields))


def rows_for(extension: Any) -> pa.Table:
    """Real rows that the extension serves. Raises ValueError where it serves neither texts nor tables: give your own."""
    if {"text", ANY} & set(extension.kinds):
        return table(ROWS, ("text",))
    if "table" in extension.kinds:
        return table(TABLE_ROWS, TABLE_FIELDS)
    raise ValueError(f"there are sample rows of texts and of tables; {extension.kinds} needs rows of your own (`rows`)")


def fields_in(rows: pa.Table) -> tuple[str, ...]:
    """The names of the inputs among a table's columns."""
    return tuple(name for name in rows.column_names if name not in ("row_id", "stratum", TARGET))


def target_in(rows: pa.Table) -> pa.DataType | None:
    return rows.schema.field(TARGET).type if TARGET in rows.column_names else None


def require_declared(extension: Any) -> None:
    """What every generator, check and trainer says of itself. One that ships with Augmill names no contract."""
    kind = type(extension)
    ships = kind.__module__.startswith("augmill.")
    assert ships or kind.contract == CONTRACT, f"expected `contract = {CONTRACT}` in the class"
    assert type(kind.VERSION) is int and kind.VERSION >= 1, "VERSION is a whole number from 1"
    for name in ("kinds", "problems"):
        value = getattr(kind, name)
        assert value and isinstance(value, tuple), f"{name} is a tuple that names some, or `('*',)`"
    options: Any = kind.Options
    assert dataclasses.is_dataclass(options) and vars(options)["__dataclass_params__"].frozen, "Options are frozen"
    for item in dataclasses.fields(options):
        assert item.metadata.get("help"), f"{item.name}: a help text in its metadata"
        free = item.metadata.get("identity") is False
        assert not free or item.metadata.get("why"), f"{item.name}: why it changes no row"


# What a bare GPU worker does without, and what costs seconds: none of it is imported with an extension's own module.
NOT_AT_IMPORT = (
    "prefect",
    "polars",
    "great_expectations",
    "pydantic",
    "ray",
    "torch",
    "transformers",
    "sklearn",
    "scipy",
)


def require_light_import(extension: Any) -> None:
    """Imports the module in a process of its own. Those of Augmill's own extensions are looked at by its own tests."""
    module = type(extension).__module__
    if module.startswith("augmill."):
        return
    code = f"import sys, {module}; print(*[name for name in {NOT_AT_IMPORT!r} if name in sys.modules])"
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": path}
    )
    assert done.returncode == 0, f"{module} cannot be imported by itself: {done.stderr.strip().splitlines()[-1:]}"
    heavy = done.stdout.split()
    assert not heavy, f"import {', '.join(heavy)} inside the functions that need it: a worker may have none of it"


def require_files(files: dict[str, Any], directory: Any) -> None:
    """What a fit returned is all that it wrote, and nothing that could run code when it is read."""
    there = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    assert sorted(files) == there, f"fit returned {sorted(files)} and wrote {there}"
    for name in files:
        assert name.endswith((".json", ".arrow", ".safetensors")), f"{name}: JSON, Arrow or safetensors, never a pickle"
