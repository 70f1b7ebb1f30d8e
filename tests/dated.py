"""A small dataset cut by day, and backfills of it in one process: worker processes' jobs run in this one."""

from __future__ import annotations

import contextlib
import csv
import random
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from chain import WORDS, InlinePool, recipe_document

from augmill.flows import run as running
from augmill.tasks.recipe.recipe import Recipe, build_recipe
from augmill.tasks.stages import jobs as shards
from augmill.tasks.store.attempts import Attempt, read_attempts
from augmill.tasks.store.store import Store

FIRST = date(2026, 10, 1)


def day(number: int) -> str:
    """The name of the day so many after the first one."""
    return (FIRST + timedelta(days=number)).isoformat()


def noon_after(days: int) -> datetime:
    """A moment at which the first ``days`` days are complete, and no more."""
    return datetime(FIRST.year, FIRST.month, FIRST.day, 12, tzinfo=UTC) + timedelta(days=days)


def write_days(
    path: Path, days: int, *, each: int = 2, first_day_labels: tuple[str, ...] = ("refund", "track")
) -> Path:
    """40 rows on the first day, ``each`` on every later one."""
    rng = random.Random(5)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label", "day"])
        for index in range(40 + each * (days - 1)):
            at = 0 if index < 40 else 1 + (index - 40) // each
            labels = first_day_labels if at == 0 else ("refund", "track")
            label = labels[index % len(labels)]
            writer.writerow([" ".join(rng.choices(WORDS[label], k=7)), label, day(at)])
    return path


def dated_document(rows: Path, store: Path, **changes: Any) -> dict[str, Any]:
    """Nothing is asked of the generator, so every release is of real rows: what a backfill does is the same, and quick."""
    document = recipe_document(rows) | {
        "columns": {"text": "text", "label": "label", "partition": "day"},
        "partitions": {"every": "day"},
        "target": {"balance": 1},
        "checks": dict.fromkeys(("length", "label_set", "garbage", "label_consistency"), False),
        "run": {"orchestrator": "none", "shard_rows": 1000, "threads": 1, "store": str(store)},
    }
    return document | changes


def dated_recipe(rows: Path, store: Path, **changes: Any) -> Recipe:
    return build_recipe(dated_document(rows, store, **changes), base=rows.parent)


class _Pool(InlinePool):
    def close(self, *, kill: bool = False) -> None:
        """Nothing runs elsewhere."""


@pytest.fixture
def inline_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker process takes 3 s to start, and none of this is about workers."""

    @contextlib.contextmanager
    def pool(devices: list[str], threads: int) -> Iterator[_Pool]:
        shards.STORES.clear()
        yield _Pool()

    monkeypatch.setattr(running, "worker_pool", pool)


def starts(store: Store, dataset: str = "tiny") -> list[str]:
    """The snapshots in the order in which their attempts began, by when the store got the documents."""
    assert store.local is not None
    found = sorted(
        (store.local / f"private/attempts/{dataset}").rglob("start.json"), key=lambda p: p.stat().st_mtime_ns
    )
    return [path.parts[-3] for path in found]


def tries(store: Store, dataset: str = "tiny") -> dict[str, list[Attempt]]:
    return read_attempts(store, dataset)
