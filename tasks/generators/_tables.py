"""Rows of numbers, categories and moments as arrays: train rows kept, values rounded as the data are, rows drawn.

A column of numbers is a field ``number:...`` or ``timestamp:...`` (microseconds), or the TARGET of a regression.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.contracts import ROW_ID, STRATUM, TARGET, Context, Fitted, Floats, Ints, Request
from augmill.tasks.generators._parents import PARENTS, Parents, count_classes, sort_parents, write_parents
from augmill.tasks.rows.kinds import candidate_schema, equal_keys, type_of
from augmill.tasks.rows.randomness import stream_key, uniforms

COLUMNS = "columns.json"
DIGITS = 6  # decimals up to which a column of numbers counts as one that somebody rounded
MOMENTS = (86_400_000_000, 3_600_000_000, 60_000_000, 1_000_000, 1_000)  # day, hour, minute, second, millisecond
TRIES = 4  # a row that equals a parent is drawn anew this often; then it is `unchanged`


@dataclass(frozen=True)
class Cells:
    """Rows: ``numbers`` (rows, columns), NaN where missing; ``codes`` (rows, columns), -1 where missing."""

    numbers: Floats
    codes: Ints

    def take(self, rows: Ints) -> Cells:
        return Cells(self.numbers[rows], self.codes[rows])


# How a process makes rows: (first position and count of each row's stratum, its random numbers) -> the rows, and the
# positions of their parents, (rows, parents); -1 where there is none.
Make = Callable[[Ints, Floats], tuple[Cells, Ints]]


def grain(values: Floats, type: str) -> tuple[int, int]:
    """(steps per unit, the unit) in which these values stand: (1, 1) whole numbers, (100, 1) two decimals, (1, 3600000000)

    whole hours. (0, 1): no such step.
    """
    if type == "timestamp":
        return 1, next((unit for unit in MOMENTS if not np.fmod(values, unit).any()), 1)
    per = next((10**digits for digits in range(DIGITS + 1) if (np.round(values, digits) == values).all()), 0)
    return per, 1


def _type(name: str) -> str:
    return "number" if name == TARGET else type_of(name)


def keep_rows(train: pa.Table, ctx: Context, most: int | None = None) -> dict[str, Path]:
    """Writes ``parents.arrow`` and ``columns.json``, which ``TableRows`` reads. ``most``: rows of a stratum, if not all."""
    names = (TARGET, *ctx.fields) if ctx.target is not None else ctx.fields
    rows = sort_parents(train, names)
    grains = {
        name: grain(values[~np.isnan(values)], _type(name))
        for name in names
        if _type(name) != "category"
        for values in [_floats(rows[name])]
    }
    rows = rows if most is None else _some(rows, most)
    text = json.dumps({"rows": count_classes(rows), "grains": grains}, sort_keys=True, ensure_ascii=False)
    (ctx.workdir / COLUMNS).write_text(text + "\n", encoding="utf-8")
    return {PARENTS: write_parents(rows, ctx), COLUMNS: ctx.workdir / COLUMNS}


def _some(rows: pa.Table, most: int) -> pa.Table:
    """At most ``most`` rows of each stratum, by the hash of their ids: mostly the same ones as rows come and go."""
    place: Counter[str] = Counter()
    points = [stream_key("kept", name) for name in rows[ROW_ID].to_pylist()]
    kept = np.zeros(rows.num_rows, np.bool_)
    strata = rows[STRATUM].to_pylist()
    for row in sorted(range(rows.num_rows), key=points.__getitem__):
        place[strata[row]] += 1
        kept[row] = place[strata[row]] <= most
    return rows.filter(pa.array(kept))


class TableRows(Parents):
    """The rows that ``keep_rows`` wrote. ``names``: columns of numbers; ``categories``: the others, and their values."""

    def __init__(self, fitted: Fitted) -> None:
        super().__init__(fitted)
        grains: dict[str, tuple[int, int]] = fitted.read_json(COLUMNS)["grains"]
        self.names = [name for name in self.table.column_names if name in grains]
        self.grains = [grains[name] for name in self.names]
        self.categories: dict[str, pa.Array] = {}
        codes = np.empty((self.table.num_rows, 0), np.int64)
        for name in self.table.column_names[2:]:
            if name not in grains:
                encoded = self.table[name].combine_chunks().dictionary_encode()
                self.categories[name] = encoded.dictionary
                own = encoded.indices.fill_null(-1).to_numpy().astype(np.int64)
                codes = np.concatenate([codes, own[:, None]], axis=1)
        columns = [_floats(self.table[name])[:, None] for name in self.names]
        self.cells = Cells(np.concatenate([np.empty((len(codes), 0)), *columns], axis=1), codes)

    def rounded(self, column: int, values: Floats) -> Floats:
        """In the steps of the column's own values."""
        per, unit = self.grains[column]
        made: Floats = np.rint(values * per / unit) / per * unit if per else values
        return made

    def fields_of(self, cells: Cells, ctx: Context, missing: npt.NDArray[np.bool_]) -> dict[str, pa.Array]:
        """The columns of rows (TARGET first, where there is one); null in those that are ``missing``."""
        made: dict[str, pa.Array] = {}
        types = {item.name: item.type for item in candidate_schema(ctx.fields, ctx.target)}
        for at, name in enumerate(self.names):
            values, lost = cells.numbers[:, at], np.isnan(cells.numbers[:, at]) | missing
            if type_of(name) == "timestamp":
                moments = pa.array(np.where(lost, 0, values).astype(np.int64), mask=lost)
                made[name] = moments.cast(types[name])
            else:
                made[name] = pa.array(values, types[name], mask=lost)
        for at, (name, values) in enumerate(self.categories.items()):
            lost = (cells.codes[:, at] < 0) | missing
            made[name] = values.take(pa.array(cells.codes[:, at], mask=lost)).cast(types[name])
        return made

    def equal_parent(self, cells: Cells, parents: Ints, ctx: Context) -> npt.NDArray[np.bool_]:
        """Which rows equal the parent at that position, as relations will ask (``Kind.equal``)."""
        inputs = [at for at, name in enumerate(self.names) if name != TARGET]
        ours, theirs = cells.numbers[:, inputs], self.cells.numbers[parents][:, inputs]
        # No kind calls numbers equal that differ by a thousandth: only the others' keys are made, which are dear.
        near = np.asarray(np.isclose(ours, theirs, rtol=1e-3, atol=0, equal_nan=True).all(axis=1))
        at = np.flatnonzero(near)
        nothing = np.zeros(len(at), np.bool_)
        keys = [
            equal_keys(pa.table(self.fields_of(some, ctx, nothing)), ctx.fields)
            for some in (cells.take(at), self.cells.take(parents[at]))
        ]
        near[at] = [one == other for one, other in zip(*keys, strict=True)]
        return near

    def answer(self, request: Request, ctx: Context, draws: int, make: Make) -> pa.Table:
        """A row a request. ``draws``: random numbers that ``make`` takes of a row.

        Not delivered: ``no_parent`` (its stratum has no train row), ``no_partner`` (its parent has no second),
        ``unchanged`` (all TRIES rows drawn equal a parent).
        """
        count = len(request)
        ranges = np.array([self.ranges.get(name, (0, 0)) for name in request.strata], np.int64).reshape(-1, 2)
        numbers, codes = self.cells.numbers.shape[1], self.cells.codes.shape[1]
        cells = Cells(np.full((count, numbers), np.nan), np.full((count, codes), -1, np.int64))
        reasons: list[str | None] = ["no_parent"] * count
        ids: list[list[str]] = [[] for _ in range(count)]
        wanted = np.flatnonzero(ranges[:, 1] > 0)
        for attempt in range(TRIES):
            found, parents = make(ranges[wanted], uniforms(request.seeds[wanted], draws, stream=attempt))
            alone = np.asarray((parents < 0).any(axis=1))
            same = alone
            for one in parents.T:
                same = same | self.equal_parent(found, one, ctx)
            cells.numbers[wanted], cells.codes[wanted] = found.numbers, found.codes
            names = self.ids.take(pa.array(parents.ravel(), mask=parents.ravel() < 0)).to_pylist()
            width = parents.shape[1]
            for at, row in enumerate(wanted.tolist()):
                reasons[row] = "no_partner" if alone[at] else "unchanged" if same[at] else None
                ids[row] = [] if same[at] else names[at * width : (at + 1) * width]
            wanted = wanted[same & ~alone]
        lost = np.array([reason is not None for reason in reasons], np.bool_)
        columns = {
            "ordinal": request.ordinals,
            "asked": request.strata,
            STRATUM: request.strata,
            **self.fields_of(cells, ctx, lost),
            "parent_ids": ids,
            "seed": request.seeds,
            "reason": reasons,
        }
        return pa.table(columns, schema=candidate_schema(ctx.fields, ctx.target))


def _floats(column: pa.ChunkedArray) -> Floats:
    """NaN where null; moments in microseconds, which are exact up to the year 2255."""
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64())
    values: Floats = column.cast(pa.float64(), safe=False).to_numpy()
    return values
