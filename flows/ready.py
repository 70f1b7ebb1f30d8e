"""Whether the source can be trusted (law 9): all there, not collapsed, no class vanished, the user's own expectations held.

Pure functions of what was read; each answers with the problem, or None where there is none.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from augmill.tasks.contracts import STRATUM, USER_PREFIX, UnsoundSource
from augmill.tasks.recipe.recipe import Recipe
from augmill.tasks.rows.calendar import rank
from augmill.tasks.rows.kinds.text import class_among, fold_label, label_text
from augmill.tasks.sources import SourceFile, exists
from augmill.tasks.sources.options import Ready
from augmill.tasks.stages.labels import label_array

BEFORE = 7  # partitions whose median tells how many rows are usual


def missing_marker(recipe: Recipe, name: str | None, files: Sequence[SourceFile], root: str) -> str | None:
    """``files``: those of partition ``name``, where directories or names tell it; else none, and ``root`` counts."""
    marker = recipe.source.ready.marker
    if marker is None:
        return None
    column = recipe.columns.partition
    places = sorted({_beside(file, column) for file in files}) or [root]
    missing = next((place for place in places if not exists(f"{place}/{marker}")), None)
    return None if missing is None else f"there is no {marker} in {missing}{f' for {name}' if name else ''} yet"


def _beside(file: SourceFile, column: str | None) -> str:
    """The partition's own directory (``day=2026-10-01``), or the file's where none is named so."""
    parts = file.uri.split("/")[:-1]
    own = next((at for at, part in enumerate(parts) if column is not None and part.startswith(f"{column}=")), None)
    return "/".join(parts if own is None else parts[: own + 1])


def too_few_rows(ready: Ready, name: str | None, rows: Mapping[str, int]) -> str | None:
    """``rows`` by partition, as of ``name`` (None: a source without partitions, whose rows are under ``all``)."""
    here = rows.get(name or "all", 0)
    of = f"partition {name}" if name else "the source"
    if here < ready.min_rows:
        return f"{of} has {here:,} rows; source.ready.min_rows asks for {ready.min_rows:,}"
    before = [rows[other] for other in sorted(rows, key=rank) if name and rank(other) < rank(name)][-BEFORE:]
    return collapsed(ready, of, here, int(statistics.median(before)), f"{len(before)} before it") if before else None


def collapsed(ready: Ready, what: str, here: int, usual: int, where: str) -> str | None:
    """Rows against what is usual."""
    if here >= ready.least_share * usual:
        return None
    return (
        f"{what} has {here:,} rows, {1 - here / usual:.0%} below the {usual:,} of the {where}; source.ready.max_drop "
        f"allows {ready.max_drop}"
    )


def vanished_classes(recipe: Recipe, before: Mapping[str, int], now: Mapping[str, int]) -> list[str]:
    """Classes that had rows enough to be trained on as of the partition before, and have none now."""
    spelt = fold_label if recipe.labels.fold else str
    named = [label_text(label) for label in [*recipe.labels.retired, *recipe.labels.aliases]]
    left = {spelt(class_among(name, before) or name) for name in named}
    left |= {spelt(name) for name, rows in now.items() if rows}
    enough = 2 * recipe.labels.min_rows
    return sorted(name for name, rows in before.items() if rows >= enough and spelt(name) not in left)


def no_class_left(names: Sequence[str], of: str) -> UnsoundSource:
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return UnsoundSource(
        f"{len(names):,} class(es) of {of} have no train rows any more: {', '.join(names[:5])}{more}",
        where="source",
        fix="restore their rows, or name them in labels.retired",
    )


def user_rows(rows: pa.Table, schema: pa.Schema, recipe: Recipe, labels: Mapping[str, Any]) -> pa.Table:
    """Gathered rows under the user's own names, labels in the user's own type."""
    texts = dict(zip(recipe.columns.texts, recipe.columns.fields, strict=True))
    arrays = {}
    for name in schema.names:
        if name in texts:
            arrays[name] = rows[texts[name]]
        elif name == recipe.columns.label:
            arrays[name] = label_array(rows[STRATUM].to_pylist(), labels, schema.field(name).type)
        else:
            arrays[name] = rows[f"{USER_PREFIX}{name}"]
    return pa.table(arrays)
