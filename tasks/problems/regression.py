"""Regression: one number per row. Its stratum is a bin of the numbers of train rows, each with about as many of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from augmill.tasks.contracts import TARGET, Problem, ReadTarget, TargetReader

BINS = 8  # at most
ROWS_PER_BIN = 20  # at least, so that each bin can be asked for and judged


class NumberReader(TargetReader):
    """Refused: ``no_target`` (null, blank), ``target_not_a_number`` (words, NaN, infinity). Truth values are no numbers."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.coerced = 0

    def read(self, value: Any) -> ReadTarget:
        if value is None or (isinstance(value, str) and not value.strip()):
            return ReadTarget(None, None, "no_target", None)
        if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
            return ReadTarget(None, None, "target_not_a_number", None)
        try:
            number = float(value)
        except (ValueError, OverflowError):
            return ReadTarget(None, None, "target_not_a_number", None)
        if not math.isfinite(number):
            return ReadTarget(None, None, "target_not_a_number", None)
        self.coerced += isinstance(value, str)
        return ReadTarget("", number, "", None)


class Regression(Problem):
    """Strata are quantile bins of the train rows' targets (``fit_strata``), whose names sort in ascending order."""

    VERSION: ClassVar[int] = 1
    name: ClassVar[str] = "regression"
    types: ClassVar[tuple[str, ...]] = ("number",)
    target: ClassVar[pa.DataType | None] = pa.float64()
    fits_strata: ClassVar[bool] = True
    metric: ClassVar[str] = "mae"
    metrics: ClassVar[tuple[str, ...]] = ("mae", "rmse", "r2")
    stratum_metric: ClassVar[str] = "mae"
    stratum_word: ClassVar[str] = "bin"
    hub: ClassVar[str] = "regression"
    remedies: ClassVar[Mapping[str, str]] = {
        "no_target": "check columns.target, and fill the empty cells",
        "target_not_a_number": "check columns.target: every cell has to be a number",
    }

    def reader(self, rules: Any) -> NumberReader:
        return NumberReader()

    def lacks(self, train: pa.Table) -> tuple[str, str] | None:
        values = len(train[TARGET].unique())
        if values >= 2:
            return None
        found = "every row has the same" if values else "there are no rows at all"
        return f"train needs at least two different targets; {found}", "check columns.target and the splits section"

    def fit_strata(self, train: pa.Table) -> dict[str, Any]:
        """``edges``: ascending; bin i holds targets from edge i - 1 up to, not with, edge i."""
        values = train[TARGET].to_numpy()
        bins = int(np.clip(len(values) // ROWS_PER_BIN, 1, BINS))
        # As they stand in the data ("higher"), so that no edge hangs on how a machine interpolates.
        edges = (
            np.unique(np.quantile(values, np.arange(1, bins) / bins, method="higher")) if len(values) else np.empty(0)
        )
        return {"edges": [float(edge) for edge in edges if edge > values.min()]}

    def stratum(self, target: pa.Array, fitted: Mapping[str, Any]) -> pa.Array:
        edges = [float(edge) for edge in fitted["edges"]]
        names = _names(edges)
        at = np.searchsorted(edges, target.to_numpy(zero_copy_only=False), side="right")
        return pa.array([names[place] for place in at], pa.string())


def _names(edges: list[float]) -> list[str]:
    if not edges:
        return ["1: all"]
    shown = [f"{edge:.6g}" for edge in edges]
    between = [f"{low} to {high}" for low, high in itertools.pairwise(shown)]
    return [f"{at}: {name}" for at, name in enumerate([f"below {shown[0]}", *between, f"from {shown[-1]}"], 1)]
