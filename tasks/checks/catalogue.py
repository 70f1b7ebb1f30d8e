"""Refuses histories of items that no train row has, as who invents names makes them, and ones far shorter or longer.

A few unknown items are borne with: of real users many have one that nobody else has.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from augmill.tasks.checks.base import CHECK_FILE, abstention, fold_numbers, require, verdicts, write_check
from augmill.tasks.contracts import ANY, TARGET, Check, Context, FitInputs, Fitted, Floats, Ints
from augmill.tasks.rows.kinds import type_of
from augmill.tasks.rows.kinds.whole import read_arrow, write_arrow

FOLDS = 5
_KNOWN = "known.arrow"
Bounds = tuple[int, int]  # items of a row, both allowed


@dataclass(frozen=True)
class CatalogueOptions:
    """How much of a row may be unknown, and how long it may be."""

    max_unknown: float = field(
        default=0.2,
        metadata={"help": "refuse rows of which a larger share of items, the next one too, is in no train row"},
    )
    quantile: float = field(
        default=0.005,
        metadata={"help": "share of train rows left out at each end when the bounds of lengths are learnt"},
    )
    slack: float = field(
        default=1.5, metadata={"help": "the upper bound is the quantile times this, the lower one divided by it"}
    )
    max_real_refused: float = field(
        default=0.1, metadata={"help": "abstain if more than this share of real rows would be refused"}
    )

    def __post_init__(self) -> None:
        require("max_unknown", self.max_unknown, 0, 1)
        require("quantile", self.quantile, 0, 0.2)
        require("slack", self.slack, 1, 100)
        require("max_real_refused", self.max_real_refused, 0, 1)


class Catalogue(Check):
    """Reasons: ``unknown_items``, ``few_items``, ``many_items``. Score: the share of items that are known."""

    VERSION: ClassVar[int] = 1
    Options: ClassVar[type[CatalogueOptions]] = CatalogueOptions
    kinds: ClassVar[tuple[str, ...]] = ("items",)
    problems: ClassVar[tuple[str, ...]] = (ANY,)

    def fit(self, inputs: FitInputs, ctx: Context) -> dict[str, Path]:
        """``real_refused``: train rows refused by what the rows of the other folds know."""
        rows = _rows(inputs.train, ctx)
        lengths = np.array([len(row) for row in rows], np.int64)
        fold = fold_numbers(inputs.train, ctx.fields, FOLDS) if rows else np.empty(0, np.int64)
        counts = Counter(item for row in rows for item in set(row))
        refused = np.zeros(len(rows), np.bool_)
        for held in range(FOLDS):
            own = np.flatnonzero(fold == held)
            mine = Counter(item for at in own.tolist() for item in set(rows[at]))
            known = {item for item, count in counts.items() if count > mine[item]}
            bounds = self._bounds(lengths[fold != held])
            refused[own] = self._wrong([rows[at] for at in own.tolist()], known, bounds)[0] > 0
        share = float(refused.mean()) if rows else 0.0
        abstains, why = abstention(share, self.options.max_real_refused)
        known_path = write_arrow(pa.table({"item": pa.array(sorted(counts), pa.string())}), ctx.workdir / _KNOWN)
        files = write_check(
            ctx, abstains=abstains, real_refused=share, why=why, lengths=list(self._bounds(lengths)), items=len(counts)
        )
        return files | {_KNOWN: known_path}

    def judge(self, fitted: Fitted, candidates: pa.Table, ctx: Context) -> pa.Table:
        known = fitted.get("known", lambda: set(read_arrow(fitted.path / _KNOWN)["item"].to_pylist()))
        low, high = fitted.read_json(CHECK_FILE)["lengths"]
        wrong, share = self._wrong(_rows(candidates, ctx), known, (low, high))
        reasons = (None, "unknown_items", "few_items", "many_items")
        return verdicts([reasons[at] for at in wrong.tolist()], share)

    def _bounds(self, lengths: Ints) -> Bounds:
        if not len(lengths):
            return 1, 1
        low = np.quantile(lengths, self.options.quantile, method="lower")
        high = np.quantile(lengths, 1 - self.options.quantile, method="higher")
        return max(1, math.floor(low / self.options.slack)), max(1, math.ceil(high * self.options.slack))

    def _wrong(self, rows: list[list[str]], known: set[str], bounds: Bounds) -> tuple[Ints, Floats]:
        """(0 or the place of what is wrong, the share of known items) of each row."""
        share = np.array([sum(item in known for item in row) / max(1, len(row)) for row in rows])
        lengths = np.array([len(row) for row in rows], np.int64)
        unknown = 1 - share > self.options.max_unknown + 1e-9
        which = np.select([unknown, lengths < bounds[0], lengths > bounds[1]], [1, 2, 3], 0).astype(np.int64)
        return which, share


def _rows(table: pa.Table, ctx: Context) -> list[list[str]]:
    """The items of each row, with the next one where an item is what is learnt."""
    columns: list[list[Any]] = [table[name].to_pylist() for name in ctx.fields if type_of(name) == "items"]
    if ctx.target is not None and pa.types.is_string(ctx.target):
        columns.append([[item] for item in table[TARGET].to_pylist()])
    rows: list[list[str]] = [[] for _ in range(table.num_rows)]
    for column in columns:
        for row, items in zip(rows, column, strict=True):
            row.extend(items or ())
    return rows
