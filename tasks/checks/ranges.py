"""Refuses cells that no train row could have: numbers and moments outside their range, categories that none has.

Of a whole-number column fractions too, and of one without missing values those that are. What a column's bounds would
refuse of real rows is measured first: a small train set does not span its columns, and one that grows with time (ids,
dates) never does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from augmill.tasks.checks.base import CHECK_FILE, fold_numbers, require, verdicts, write_check
from augmill.tasks.contracts import ANY, TARGET, Check, Context, FitInputs, Fitted
from augmill.tasks.rows.kinds import KINDS, type_of

FOLDS = 5
# In the order in which they are given for a cell.
REASONS = ("missing", "unknown_category", "out_of_range", "fraction")
Learnt = dict[str, Any]  # of one column: {"nulls": bool, "known": [...]} or {"nulls": bool, "low", "high", "whole"}
Codes = npt.NDArray[np.int64]  # of each cell: 0 where it is in order, else 1 + its place in REASONS


@dataclass(frozen=True)
class RangesOptions:
    """How far beyond the train rows a number may lie."""

    leeway: float = field(
        default=0.0,
        metadata={
            "help": "how far a number may be outside the range of the train rows, as a share of their interquartile range"
        },
    )
    max_real_refused: float = field(
        default=0.1,
        metadata={
            "help": "leave out columns, or fewer of them, until at most this share of real rows would be refused"
        },
    )

    def __post_init__(self) -> None:
        require("leeway", self.leeway, 0, 1000)
        require("max_real_refused", self.max_real_refused, 0, 1)


def learn(column: pa.ChunkedArray, leeway: float) -> Learnt:
    """What cells of a column may be. ``low`` and ``high`` (moments: microseconds) are null where no row has a value."""
    values = column.drop_null()
    nulls = column.null_count > 0
    if pa.types.is_string(column.type):
        return {"nulls": nulls, "known": sorted(values.unique().to_pylist())}
    numbers = _numbers(values)
    if not len(numbers):
        return {"nulls": nulls, "low": None, "high": None, "whole": False}
    low, high = float(numbers.min()), float(numbers.max())
    quarters = np.quantile(numbers, [0.25, 0.75], method="nearest")
    room = leeway * float(quarters[1] - quarters[0])
    whole = not pa.types.is_timestamp(column.type) and bool((numbers == np.rint(numbers)).all())
    return {"nulls": nulls, "low": low - room, "high": high + room, "whole": whole}


def judge(column: pa.ChunkedArray, learnt: Mapping[str, Any]) -> Codes:
    """What is wrong with each cell."""
    if "known" in learnt:
        known = pc.is_in(column, pa.array(learnt["known"], column.type))
        wrong = np.where(known.to_numpy(), 0, 2)
    elif learnt["low"] is None:
        wrong = np.full(len(column), 3)
    else:
        numbers = _numbers(column)
        outside = ~((numbers >= learnt["low"]) & (numbers <= learnt["high"]))
        wrong = np.where(outside, 3, np.where(learnt["whole"] & (numbers != np.rint(numbers)), 4, 0))
    missing = column.is_null().to_numpy()
    result: Codes = np.where(missing, 0 if learnt["nulls"] else 1, wrong)
    return result


def _numbers(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """NaN where null; moments in microseconds."""
    whole = column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
    values: npt.NDArray[np.float64] = whole.cast(pa.float64(), safe=False).to_numpy()
    return values


class Ranges(Check):
    """Reasons: ``missing``, ``unknown_category``, ``out_of_range``, ``fraction``; for a target, which is checked last,

    ``target_out_of_range``. Score: the share of the judged columns in which the row's cell passes.
    """

    VERSION: ClassVar[int] = 1
    Options: ClassVar[type[RangesOptions]] = RangesOptions
    kinds: ClassVar[tuple[str, ...]] = ("table",)
    problems: ClassVar[tuple[str, ...]] = (ANY,)

    def fit(self, inputs: FitInputs, ctx: Context) -> dict[str, Path]:
        """check.json's ``columns``: what was learnt of each column, whether it ``abstains``, what it would refuse."""
        train = inputs.train
        folds = fold_numbers(train, ctx.fields, FOLDS)
        refused: dict[str, npt.NDArray[np.bool_]] = {}
        learnt: dict[str, Learnt] = {}
        for name in _columns(ctx):
            learnt[name] = learn(train[name], self.options.leeway)
            refused[name] = np.zeros(train.num_rows, np.bool_)
            for fold in np.unique(folds):
                inside = folds == fold
                if not inside.all():
                    rest = learn(train[name].filter(pa.array(~inside)), self.options.leeway)
                    refused[name][inside] = judge(train[name].filter(pa.array(inside)), rest) > 0
        judged, share = _bearable(refused, self.options.max_real_refused)
        for name, column in learnt.items():
            column |= {"abstains": name not in judged, "real_refused": round(_mean(refused[name]), 6)}
        silent = [name for name in learnt if name not in judged]
        why = (
            f"judges {len(judged)} of {len(learnt)} columns; refuses {share:.1%} of the real rows it was not fitted on"
        )
        why += f"; abstains for {', '.join(silent)}, whose real rows it would refuse too often" if silent else ""
        return write_check(
            ctx,
            abstains=not judged,
            real_refused=share,
            why=why if judged else f"abstains: {why}",
            columns=learnt,
        )

    def judge(self, fitted: Fitted, candidates: pa.Table, ctx: Context) -> pa.Table:
        columns: dict[str, Learnt] = fitted.read_json(CHECK_FILE)["columns"]
        own = [name for name in _columns(ctx) if not columns[name]["abstains"]]
        first = np.zeros(candidates.num_rows, np.int64)
        wrong = np.zeros(candidates.num_rows, np.int64)
        for name in own:
            found = judge(candidates[name], columns[name])
            found = np.where(found > 0, len(REASONS) + 1, 0) if name == TARGET else found
            first = np.where(first > 0, first, found)
            wrong += found > 0
        names = [None, *REASONS, "target_out_of_range"]
        return verdicts([names[at] for at in first], 1 - wrong / max(1, len(own)))


def _columns(ctx: Context) -> list[str]:
    """Those that this check looks at: a table's fields, and a target that is a number."""
    own = [name for name in ctx.fields if KINDS[type_of(name)].name == "table"]
    return [*own, TARGET] if ctx.target is not None and pa.types.is_floating(ctx.target) else own


def _bearable(refused: Mapping[str, npt.NDArray[np.bool_]], limit: float) -> tuple[set[str], float]:
    """(the columns that may be judged, the share of real rows that they refuse together).

    Each may refuse as much as ``limit``, and so may all: of a hundred rows every column's bounds refuse a few others.
    """
    judged = [name for name, rows in refused.items() if _mean(rows) <= limit]
    judged.sort(key=lambda name: (_mean(refused[name]), name))
    while judged and _mean(np.any([refused[name] for name in judged], axis=0)) > limit:
        judged.pop()
    return set(judged), _mean(np.any([refused[name] for name in judged], axis=0)) if judged else 0.0


def _mean(rows: npt.NDArray[np.bool_]) -> float:
    return float(rows.mean()) if len(rows) else 0.0
