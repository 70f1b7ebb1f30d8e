"""Refuses empty rows and rows far shorter or longer than the train rows, in characters and in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from augmill.tasks.checks.base import (
    CHECK_FILE,
    abstention,
    field_values,
    fold_numbers,
    require,
    text_fields,
    verdicts,
    write_check,
)
from augmill.tasks.contracts import ANY, Check, Context, FitInputs, Fitted
from augmill.tasks.rows.kinds.text import is_unspaced, prepared
from augmill.tasks.rows.shown import count_characters

Bounds = dict[str, list[int]]  # unit -> [least, most], both allowed
FOLDS = 5


@dataclass(frozen=True)
class LengthOptions:
    """The bounds: the quantiles of the train rows' lengths, widened by ``slack``."""

    quantile: float = field(
        default=0.005, metadata={"help": "share of train rows left out at each end when the bounds are learnt"}
    )
    slack: float = field(
        default=1.5, metadata={"help": "the upper bound is the quantile times this, the lower one divided by it"}
    )
    max_real_refused: float = field(
        default=0.1, metadata={"help": "abstain if more than this share of real rows would be refused"}
    )

    def __post_init__(self) -> None:
        require("quantile", self.quantile, 0, 0.2)
        require("slack", self.slack, 1, 100)
        require("max_real_refused", self.max_real_refused, 0, 1)


def measure(texts: Sequence[str], spaced: bool) -> dict[str, list[int]]:
    """Lengths of canonical texts: characters as a reader counts them, and words where these are set apart by spaces."""
    units = {"characters": [len(text) if text.isascii() else count_characters(text) for text in texts]}
    return units | ({"words": [text.count(" ") + (text != "") for text in texts]} if spaced else {})


def learn(units: dict[str, list[int]], options: LengthOptions) -> Bounds:
    """Bounds on the units. Quantiles are order statistics: with few rows the extremes themselves."""
    bounds = {}
    for unit, lengths in units.items():
        low = np.quantile(lengths, options.quantile, method="lower")
        high = np.quantile(lengths, 1 - options.quantile, method="higher")
        bounds[unit] = [max(1, math.floor(low / options.slack)), max(1, math.ceil(high * options.slack))]
    return bounds


def reasons(units: dict[str, list[int]], bounds: Bounds) -> list[str | None]:
    """Why each text is refused; null where it is not."""
    result: list[str | None] = [None] * len(units["characters"])
    for unit, (low, high) in bounds.items():
        for row, length in enumerate(units[unit]):
            if result[row] is None and not low <= length <= high:
                result[row] = "too_short" if length < low else "too_long"
    return ["empty" if not length else why for length, why in zip(units["characters"], result, strict=True)]


class Length(Check):
    """Reasons: ``empty`` (abstaining or not), ``too_short``, ``too_long``. Score: characters of the shortest field."""

    VERSION: ClassVar[int] = 2
    Options: ClassVar[type[LengthOptions]] = LengthOptions
    problems: ClassVar[tuple[str, ...]] = (ANY,)

    def fit(self, inputs: FitInputs, ctx: Context) -> dict[str, Path]:
        """check.json's ``fields``: per text column the bounds ``{"characters": [least, most], "words": ...}``."""
        folds = fold_numbers(inputs.train, ctx.fields, FOLDS)
        refused = np.zeros(inputs.train.num_rows, dtype=bool)
        learnt: dict[str, Any] = {}
        for name, texts in _texts_by_field(inputs.train, ctx):
            units = measure(texts, spaced=not is_unspaced(field_values(inputs.train, name)))
            learnt[name] = learn(units, self.options)
            for fold in range(FOLDS):
                inside = folds == fold
                rest = {unit: [n for n, out in zip(v, ~inside, strict=True) if out] for unit, v in units.items()}
                if inside.any() and not inside.all():
                    why = reasons(units, learn(rest, self.options))
                    refused |= inside & np.array([reason is not None for reason in why])
        share = float(refused.mean()) if len(refused) else 0.0
        abstains, why_not = abstention(share, self.options.max_real_refused)
        return write_check(ctx, abstains=abstains, real_refused=share, why=why_not, fields=learnt)

    def judge(self, fitted: Fitted, candidates: pa.Table, ctx: Context) -> pa.Table:
        learnt = fitted.read_json(CHECK_FILE)
        result: list[str | None] = [None] * candidates.num_rows
        shortest = np.full(candidates.num_rows, np.iinfo(np.int64).max)
        for name, texts in _texts_by_field(candidates, ctx):
            bounds: Bounds = learnt["fields"][name]
            units = measure(texts, spaced="words" in bounds)
            shortest = np.minimum(shortest, units["characters"])
            why = reasons(units, {} if learnt["abstains"] else bounds)
            result = [before or now for before, now in zip(result, why, strict=True)]
        return verdicts(result, shortest.astype(np.float64))


def _texts_by_field(rows: pa.Table, ctx: Context) -> list[tuple[str, list[str]]]:
    """The canonical texts of each text column; null counts as empty."""
    fields = text_fields(ctx.fields)
    return list(zip(fields, prepared(rows.select(fields)).canonical, strict=True))
