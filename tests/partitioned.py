"""A source of days in ``day=...`` directories, and its rows as of a day."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from chain import recipe_document

from augmill.flows.units import gather_source
from augmill.tasks.contracts import Artifact
from augmill.tasks.recipe.recipe import Recipe, build_recipe
from augmill.tasks.store.stage import Event, Site, Work
from augmill.tasks.store.store import Store

Row = dict[str, Any]
DATED = {"text": "text", "label": "label", "partition": "day"}


def write_day(source: Path, day: str, rows: Iterable[Row], name: str = "rows.jsonl") -> Path:
    """``rows`` without their day, which the directory tells."""
    path = source / f"day={day}" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def labelled(texts: Iterable[str], label: str = "a", **more: Any) -> list[Row]:
    return [{"text": text, "label": label, **more} for text in texts]


class Nights:
    """A recipe over ``directory/in`` with a store beside it, and what its rows are as of a day."""

    def __init__(self, directory: Path, /, **changes: Any) -> None:
        self.source = directory / "in"
        self.source.mkdir(exist_ok=True, parents=True)
        document = {"columns": DATED, "refuse": {"max_share": 1.0}, "partitions": {"every": "day"}} | changes
        self.document = recipe_document(self.source) | document
        self.directory = directory
        self.events: list[Event] = []
        self.store = Store(str(directory / "store"))
        self.site = Site(self.store, observe=self.events.append)
        self.work = Work(self.site, directory)

    @property
    def recipe(self) -> Recipe:
        return build_recipe(self.document, base=self.directory)

    def gathered(self, as_of: str | None = None) -> Artifact:
        return gather_source(self.site, self.recipe, as_of)

    def rows(self, as_of: str | None = None) -> list[Row]:
        found: list[Row] = self.work.read(self.gathered(as_of)).to_pylist()
        return found

    def texts(self, as_of: str | None = None) -> list[str]:
        return [row["text"] for row in self.rows(as_of)]

    def refused(self, as_of: str | None = None) -> list[tuple[str, str, str]]:
        rows = self.work.read(self.gathered(as_of), "refused.parquet").to_pylist()
        return [(row["file"], row["location"], row["reason"]) for row in rows]

    def schema(self, as_of: str | None = None) -> dict[str, str]:
        schema = pq.read_schema(self.work.path(self.gathered(as_of), "source.parquet"))
        return {field.name: str(field.type) for field in schema}

    def worked(self) -> list[str]:
        """The stages that had to work since this was asked last."""
        found = [event.stage for event in self.events if not event.reused]
        self.events.clear()
        return found
