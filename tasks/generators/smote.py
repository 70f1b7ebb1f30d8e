"""Rows between two neighbouring real rows of a stratum: SMOTE (Chawla et al., JAIR 2002).

Categories as in its SMOTENC: two that differ stand as far apart as a standard deviation of a number (the median of the
numbers', which in standardised columns is 1), and a made row takes that of a neighbour of its parent, or the commonest
among them. By the commonest rare categories vanish: on adult (200 rows, and three made ones for each) it cost 2.4 points
of balanced accuracy more for a logistic regression and 1.7 for boosted trees. In a regression the target is interpolated
as the numbers are, and neighbours come from the row's own bin or the ones beside it (SMOTER: Torgo et al., EPIA 2013).

Neighbours are searched exactly, over whole numbers: standardised values in steps of 1/32, whose products a matrix
multiplication sums without rounding. So the artifact hangs on no CPU, thread count or block size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.contracts import TARGET, Context, FitInputs, Fitted, Floats, Generator, Ints, Request
from augmill.tasks.generators._tables import Cells, TableRows, keep_rows

NEIGHBOURS = "neighbours.safetensors"
STEPS, FURTHEST = (
    32,
    8,
)  # of a standard deviation; standard deviations from the mean beyond which a value counts no further
LEVELS = 200  # of a category, the commonest: rarer ones stand apart from all others, and from themselves
BLOCK = 1 << 22  # distances held at once: 16 MB
GROUP = 40  # distances of which the least is looked at first
Points = npt.NDArray[Any]


@dataclass(frozen=True)
class SmoteOptions:
    """Between which rows a row is made, and what becomes of its categories."""

    neighbours: int = field(default=5, metadata={"help": "How many of a row's nearest rows may be its other parent."})
    categories: Literal["draw", "mode"] = field(
        default="draw",
        metadata={
            "help": "How a new row gets its categories: from one of its parent's neighbours, drawn for each column; or, "
            "as in SMOTENC, the commonest among them."
        },
    )
    max_rows: int = field(
        default=20_000,
        metadata={
            "help": "Maximum number of rows of a class (or bin of targets) that are parents; the time of a fit grows with"
            " its square."
        },
    )

    def __post_init__(self) -> None:
        if not 1 <= self.neighbours <= 100:
            raise ValueError(f"neighbours: expected 1 to 100; found {self.neighbours}")
        if not 2 <= self.max_rows <= 1_000_000:
            raise ValueError(f"max_rows: expected 2 to 1000000; found {self.max_rows}")


class Smote(Generator):
    """The parents are the two rows. If one of them lacks a number, the new row has the other's number, or lacks it too."""

    VERSION: ClassVar[int] = 1
    Options: ClassVar[type[SmoteOptions]] = SmoteOptions
    repeatable: ClassVar[bool] = True
    finite: ClassVar[bool] = False
    labels: ClassVar[Literal["asked", "own"]] = "asked"
    normalisation: ClassVar[str] = "fold"
    kinds: ClassVar[tuple[str, ...]] = ("table",)
    problems: ClassVar[tuple[str, ...]] = ("classification", "regression")

    def fit(self, inputs: FitInputs, ctx: Context) -> dict[str, Path]:
        """Writes ``parents.arrow``, ``columns.json`` and ``neighbours.safetensors``: (rows, k) positions, the nearest first,

        -1 where there are fewer.
        """
        from safetensors.numpy import save_file

        files = keep_rows(inputs.train, ctx, self.options.max_rows)
        rows = TableRows(Fitted(ctx.workdir, ""))
        found = np.full((rows.table.num_rows, self.options.neighbours), -1, np.int32)
        order = _in_order(rows)
        for done, stratum in enumerate(order):
            ctx.tell(done, len(order), "strata")
            beside = order[max(0, done - 1) : done + 2] if TARGET in rows.names else [stratum]
            ranges = [rows.ranges[name] for name in beside]
            others = np.concatenate([np.arange(start, start + count) for start, count in ranges])
            start, count = rows.ranges[stratum]
            found[start : start + count] = _nearest(rows, np.arange(start, start + count), others, found.shape[1], ctx)
        save_file({"neighbours": found}, ctx.workdir / NEIGHBOURS)
        return files | {NEIGHBOURS: ctx.workdir / NEIGHBOURS}

    def sample(self, fitted: Fitted, request: Request, ctx: Context) -> pa.Table:
        """Not delivered: ``no_parent`` (the stratum has no row), ``no_partner`` (no second row), ``unchanged``."""
        rows = fitted.get("rows", lambda: TableRows(fitted))
        neighbours = fitted.get("neighbours", lambda: _load(fitted))
        width = 3 + len(rows.names) + len(rows.categories)
        return rows.answer(request, ctx, width, lambda ranges, draws: self._make(rows, neighbours, ranges, draws))

    def _make(self, rows: TableRows, neighbours: Ints, ranges: Ints, draws: Floats) -> tuple[Cells, Ints]:
        base = ranges[:, 0] + (draws[:, 0] * ranges[:, 1]).astype(np.int64)
        near = neighbours[base]
        count = (near >= 0).sum(axis=1)
        partner = near[np.arange(len(base)), (draws[:, 1] * count).astype(np.int64)]
        numbers = _between(rows, base, partner, draws[:, 2], draws[:, 3 : 3 + len(rows.names)])
        codes = rows.cells.codes[base]
        for at in range(codes.shape[1]):
            around = np.where(near >= 0, rows.cells.codes[near, at], -2)
            pick = (draws[:, 3 + len(rows.names) + at] * count).astype(np.int64)
            if self.options.categories == "mode":  # of equally common ones that of the nearest
                common = (around[:, :, None] == around[:, None, :]).sum(axis=2)
                pick = np.where(near >= 0, common, 0).argmax(axis=1)
            codes[:, at] = np.where(count > 0, around[np.arange(len(base)), pick], codes[:, at])
        return Cells(numbers, codes), np.stack([base, partner], axis=1)


def _between(rows: TableRows, base: Ints, partner: Ints, gap: Floats, coins: Floats) -> Floats:
    """On the segment between two rows, one ``gap`` a row; where one of them lacks a number, the other's or none by a coin."""
    one, other = rows.cells.numbers[base], rows.cells.numbers[partner]
    made = one + gap[:, None] * (other - one)
    for at in range(made.shape[1]):
        low, high = np.minimum(one[:, at], other[:, at]), np.maximum(one[:, at], other[:, at])
        made[:, at] = np.clip(rows.rounded(at, made[:, at]), low, high)
    has = np.where(np.isnan(one), other, one)
    result: Floats = np.where(np.isnan(made) & (coins < 0.5), has, made)
    return result


def _in_order(rows: TableRows) -> list[str]:
    """The strata, in a regression by their targets, so that bins stand beside their neighbours."""
    if TARGET not in rows.names:
        return list(rows.ranges)
    targets = rows.cells.numbers[:, rows.names.index(TARGET)]
    least = {name: targets[start : start + count].min() for name, (start, count) in rows.ranges.items()}
    return sorted(least, key=lambda name: (least[name], name))


def _nearest(rows: TableRows, own: Ints, others: Ints, most: int, ctx: Context) -> npt.NDArray[np.int32]:
    """Of each row of ``own`` the positions of its nearest rows of ``others`` but itself, (rows, most); -1: there are fewer."""
    from threadpoolctl import threadpool_limits

    found = np.full((len(own), most), -1, np.int32)
    count = min(most, len(others) - 1)
    if not count:
        return found
    left, right = _points(rows, own, others)
    order = np.argsort(others)
    itself = order[np.searchsorted(others[order], own)]
    size = max(1, BLOCK // len(others))
    with threadpool_limits(limits=ctx.threads):
        for start in range(0, len(own), size):
            block = slice(start, start + size)
            distances = left[block] @ right.T
            distances[np.arange(len(distances)), itself[block]] = np.inf
            query, position = np.nonzero(distances <= _bounds(distances, count)[:, None])
            ranked = np.lexsort((position, distances[query, position], query))  # of equally near ones the first
            query, position = query[ranked], position[ranked]
            place = np.arange(len(query)) - np.searchsorted(query, query)
            inside = place < count
            found[start + query[inside], place[inside]] = others[position[inside]]
    return found


def _bounds(distances: Points, count: int) -> Points:
    """Of each row a bound below which its ``count`` least distances lie, and few others: the least of groups are ranked,

    which is ten times as fast as to rank all.
    """
    groups = distances.shape[1] // GROUP
    if groups > count:
        whole = distances[:, : groups * GROUP].reshape(len(distances), GROUP, groups).min(axis=1)
        distances = np.concatenate([whole, distances[:, groups * GROUP :]], axis=1)
    result: Points = np.partition(distances, count - 1, axis=1)[:, count - 1]
    return result


def _points(rows: TableRows, own: Ints, others: Ints) -> tuple[Points, Points]:
    """(left, right) of whole numbers: ``left @ right.T`` orders ``others`` by their distance from each of ``own``.

    Numbers are standardised by ``others``; one that is missing stands at their mean, a category that is is one of its own.
    """
    inputs = [at for at, name in enumerate(rows.names) if name != TARGET]
    numbers = rows.cells.numbers[:, inputs]
    known = numbers[others]
    has = ~np.isnan(known)
    count = np.maximum(has.sum(axis=0), 1)
    mean = np.where(has, known, 0).sum(axis=0) / count
    spread = np.sqrt((np.where(has, known - mean, 0) ** 2).sum(axis=0) / count)
    limit = FURTHEST * STEPS
    steps = np.rint((numbers - mean) * np.where(spread > 0, STEPS / np.where(spread > 0, spread, 1), 0))
    steps = np.where(np.isnan(steps), 0, np.clip(steps, -limit, limit))
    # Sums of such products are exact in float32 up to 2^24.
    exact = 4 * limit * limit * len(inputs) + STEPS * STEPS * len(rows.categories) < 2**24
    kind = np.float32 if exact else np.float64
    squares = (steps[others] ** 2).sum(axis=1, keepdims=True)  # a row's own moves all its distances alike
    left = [-2 * steps[own], np.ones((len(own), 1))]
    right = [steps[others], squares]
    for column in rows.cells.codes.T:
        levels, counts = np.unique(column[others], return_counts=True)
        levels = np.sort(levels[np.argsort(-counts, kind="stable")[:LEVELS]])
        left.append((column[own, None] == levels).astype(kind) * -STEPS)
        right.append((column[others, None] == levels).astype(kind) * STEPS)
    return np.concatenate(left, axis=1, dtype=kind), np.concatenate(right, axis=1, dtype=kind)


def _load(fitted: Fitted) -> Ints:
    from safetensors.numpy import load_file

    found: Ints = load_file(fitted.path / NEIGHBOURS)["neighbours"].astype(np.int64)
    return found
