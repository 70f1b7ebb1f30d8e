"""Refuses empty rows and rows far shorter or longer than the train rows, in characters and in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.checks.base import (
    CHECK_FILE,
    abstention,
    fold_numbers,
    require,
    slices,
    text_fields,
    verdicts,
    write_check,
)
from augmill.tasks.contracts import ANY, Check, Context, FitInputs, Fitted
from augmill.tasks.rows.kinds.text import is_unspaced, prepared
from augmill.tasks.rows.shown import count_characters

Bounds = dict[str, list[int]]  # unit -> [least, most], both allowed
Units = dict[str, npt.NDArray[np.int64]]  # unit -> the length of each text
REASONS = (None, "empty", "too_short", "too_long")
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


def measure(texts: Sequence[str], spaced: bool) -> Units:
    """Lengths of canonical texts: characters as a reader counts them, and words where these are set apart by spaces."""
    units = {"characters": [len(text) if text.isascii() else count_characters(text) for text in texts]}
    units |= {"words": [text.count(" ") + (text != "") for text in texts]} if spaced else {}
    return {unit: np.array(lengths, np.int64) for unit, lengths in units.items()}


def learn(units: Units, options: LengthOptions) -> Bounds:
    """Bounds on the units. Quantiles are order statistics: with few rows the extremes themselves."""
    bounds = {}
    for unit, lengths in units.items():
        low = np.quantile(lengths, options.quantile, method="lower")
        high = np.quantile(lengths, 1 - options.quantile, method="higher")
        bounds[unit] = [max(1, math.floor(low / options.slack)), max(1, math.ceil(high * options.slack))]
    return bounds


def refused(units: Units, bounds: Bounds) -> npt.NDArray[np.int64]:
    """Why each text is, by its place in ``REASONS``; the first unit in which it is too short or too long counts."""
    found = np.zeros(len(units["characters"]), np.int64)
    for unit, (low, high) in bounds.items():
        found = np.where(found > 0, found, np.select([units[unit] < low, units[unit] > high], [2, 3], 0))
    return np.where(units["characters"] == 0, 1, found)


class Length(Check):
    """Reasons: ``empty`` (abstaining or not), ``too_short``, ``too_long``. Score: characters of the shortest field."""

    VERSION: ClassVar[int] = 2
    Options: ClassVar[type[LengthOptions]] = LengthOptions
    problems: ClassVar[tuple[str, ...]] = (ANY,)

    def fit(self, inputs: FitInputs, ctx: Context) -> dict[str, Path]:
        """check.json's ``fields``: per text column the bounds ``{"characters": [least, most], "words": ...}``."""
        folds = fold_numbers(inputs.train, ctx.fields, FOLDS)
        out = np.zeros(inputs.train.num_rows, dtype=bool)
        learnt: dict[str, Any] = {}
        for name, units in _measure_all(inputs.train, ctx).items():
            learnt[name] = learn(units, self.options)
            for fold in range(FOLDS):
                inside = folds == fold
                if inside.any() and not inside.all():
                    rest = {unit: lengths[~inside] for unit, lengths in units.items()}
                    out |= inside & (refused(units, learn(rest, self.options)) > 0)
        share = float(out.mean()) if len(out) else 0.0
        abstains, why_not = abstention(share, self.options.max_real_refused)
        return write_check(ctx, abstains=abstains, real_refused=share, why=why_not, fields=learnt)

    def judge(self, fitted: Fitted, candidates: pa.Table, ctx: Context) -> pa.Table:
        learnt = fitted.read_json(CHECK_FILE)
        found = np.zeros(candidates.num_rows, np.int64)
        shortest = np.full(candidates.num_rows, np.iinfo(np.int64).max)
        for name, texts in _texts_by_field(candidates, ctx):
            bounds: Bounds = learnt["fields"][name]
            units = measure(texts, spaced="words" in bounds)
            shortest = np.minimum(shortest, units["characters"])
            found = np.where(found > 0, found, refused(units, {} if learnt["abstains"] else bounds))
        return verdicts([REASONS[at] for at in found.tolist()], shortest.astype(np.float64))


def _measure_all(rows: pa.Table, ctx: Context) -> dict[str, Units]:
    """The lengths in each text column."""
    spaced = {
        name: not is_unspaced(text or "" for part in slices(rows) for text in part[name].to_pylist())
        for name in text_fields(ctx.fields)
    }
    parts: dict[str, list[Units]] = {name: [] for name in spaced}
    for part in slices(rows):
        for name, texts in _texts_by_field(part, ctx):
            parts[name].append(measure(texts, spaced[name]))
    return {
        name: {unit: np.concatenate([part[unit] for part in found]) for unit in found[0]}
        for name, found in parts.items()
    }


def _texts_by_field(rows: pa.Table, ctx: Context) -> list[tuple[str, list[str]]]:
    """The canonical texts of each text column; null counts as empty."""
    fields = text_fields(ctx.fields)
    return list(zip(fields, prepared(rows.select(fields)).canonical, strict=True))
