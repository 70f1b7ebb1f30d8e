"""What the checks' tests share: real rows as tables, and a check fitted in a directory of its own."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from augmill.tasks.checks import CHECKS
from augmill.tasks.rows.kinds import real_schema
from augmill.testing import CheckBench

SHARED = Path(os.environ.get("AUGMILL_SHARED", Path(__file__).parents[3] / "shared"))

OPENINGS = ["please tell me", "i want to know", "can you say", "hello", "good morning", "i wonder", "quick question"]
TOPICS = {
    "card": ["where my new card is", "when the card arrives", "why the card is late", "how to track the card delivery"],
    "fee": [
        "why a fee was charged",
        "what the transfer fee costs",
        "how to avoid the fee",
        "who pays the exchange fee",
    ],
    "pin": [
        "how to change my pin",
        "what to do with a blocked pin",
        "where to find the pin",
        "if the pin can be reset",
    ],
}
ENDINGS = ["today", "this week", "as soon as you can", "thanks", "for my account", "again", "from abroad"]


def sentences(per_class: int, seed: int = 0) -> list[tuple[str, str]]:
    """(class, text) of distinct support questions."""
    draw = random.Random(seed)
    made: dict[str, str] = {}
    for stratum, topics in TOPICS.items():
        while sum(value == stratum for value in made.values()) < per_class:
            made[f"{draw.choice(OPENINGS)} {draw.choice(topics)} {draw.choice(ENDINGS)}"] = stratum
    return [(stratum, text) for text, stratum in made.items()]


def real(rows: Sequence[tuple[str, str]], second: Sequence[str] | None = None, prefix: str = "r") -> pa.Table:
    """Real rows with ids r0, r1, ..."""
    columns = {
        "row_id": pa.array([f"{prefix}{at}" for at in range(len(rows))], pa.string()),
        "stratum": pa.array([stratum for stratum, _ in rows], pa.string()),
        "text": pa.array([text for _, text in rows], pa.string()),
    }
    return pa.table(columns | ({"text_b": pa.array(second, pa.string())} if second is not None else {}))


def candidates(rows: Sequence[tuple[str | None, str | None]], parents: Sequence[list[str]] | None = None) -> pa.Table:
    """Candidates of the given (class, text), without parents unless given."""
    return pa.table(
        {
            "stratum": pa.array([stratum for stratum, _ in rows], pa.string()),
            "text": pa.array([text for _, text in rows], pa.string()),
            "parent_ids": pa.array(parents or [[] for _ in rows], pa.list_(pa.string())),
        }
    )


TABLE_FIELDS = ("number:age", "number:rate", "category:town", "timestamp:hired")


def people(count: int, seed: int = 0, target: bool = False) -> pa.Table:
    """Real rows of a table: whole ages without gaps, rates with some, towns, days; the class follows from age and town."""
    rng = np.random.default_rng(seed)
    age, town = rng.integers(20, 60, count).astype(float), rng.choice(["Ulm", "Köln", "Bonn"], count)
    days = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=day) for day in rng.integers(0, 300, count).tolist()]
    columns = {
        "row_id": [f"r{seed}-{at}" for at in range(count)],
        "stratum": np.where(age + 15 * (town == "Ulm") > 48, "old", "young").tolist(),
        **({"target": 10 * age + rng.normal(0, 1, count)} if target else {}),
        "number:age": age,
        "number:rate": pa.array(rng.normal(0, 1, count), mask=rng.random(count) < 0.2),
        "category:town": pa.array(town.tolist(), mask=rng.random(count) < 0.2),
        "timestamp:hired": days,
    }
    return pa.table(columns, real_schema(TABLE_FIELDS, pa.float64() if target else None))


def with_cells(rows: pa.Table, **cells: Any) -> pa.Table:
    """Rows with other values in some columns, which are named without their type."""
    for at, name in enumerate(rows.column_names):
        if (short := name.partition(":")[2] or name) in cells:
            rows = rows.set_column(at, name, pa.array([cells[short]] * rows.num_rows, rows.schema.field(name).type))
    return rows


class Bench(CheckBench):
    """One fitted check of the registry."""

    def __init__(
        self,
        name: str,
        directory: Path,
        train: pa.Table,
        *,
        held_out: pa.Table | None = None,
        unlabelled: pa.Table | None = None,
        fields: tuple[str, ...] | None = None,
        **options: Any,
    ) -> None:
        check = CHECKS[name](CHECKS[name].Options(**options))
        fields = fields or (TABLE_FIELDS if TABLE_FIELDS[0] in train.column_names else ("text",))
        super().__init__(check, directory, rows=train, held_out=held_out, unlabelled=unlabelled, fields=fields)


def shared_rows(name: str, file: str, per_class: int | None, seed: int = 0) -> list[tuple[str, str]]:
    """(class, text) of a public set, at most ``per_class`` of each class; skips the test where the set is absent."""
    path = SHARED / "data" / name / f"{file}.jsonl"
    if not path.exists():
        pytest.skip(f"needs {name} under AUGMILL_SHARED")
    by: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        by.setdefault(str(row["label"]), []).append(row["text"])
    draw = random.Random(seed)
    return [
        (stratum, text)
        for stratum, texts in sorted(by.items())
        for text in (texts if per_class is None else draw.sample(texts, min(per_class, len(texts))))
    ]
