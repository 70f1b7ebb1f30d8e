"""What the checks share: the texts of a row, folds for measuring on real rows, the files and verdicts they write."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.contracts import STRATUM, VERDICT_SCHEMA, Context
from augmill.tasks.rows.folds import deal_folds
from augmill.tasks.rows.kinds import equal_keys, type_of
from augmill.tasks.rows.kinds.text import prepared

CHECK_FILE = "check.json"


def field_values(table: pa.Table, name: str) -> list[str]:
    """One text column; null counts as empty."""
    return [value or "" for value in table[name].to_pylist()]


def text_fields(fields: Sequence[str]) -> list[str]:
    """Those of a row's fields that are texts."""
    return [name for name in fields if type_of(name) == "text"]


def joined_texts(table: pa.Table, fields: Sequence[str]) -> list[str]:
    """The text columns of each row as one string (text.join_fields), whatever else the row holds."""
    return prepared(table.select(text_fields(fields))).joined


def fold_numbers(table: pa.Table, fields: Sequence[str], folds: int) -> npt.NDArray[np.int64]:
    """The fold of each row, 0 to ``folds - 1``: balanced within each class, the same for equal rows of a class.

    A function of fields and classes alone; the order of the rows does not count.
    """
    strata = table[STRATUM].to_pylist()
    points = (hashlib.sha256(key).digest() for key in equal_keys(table, fields))
    return deal_folds(strata, list(zip(points, strata, strict=True)), folds)


def verdicts(reasons: Sequence[str | None], scores: Sequence[float | None] | npt.NDArray[np.float64]) -> pa.Table:
    """The table a check answers with."""
    columns = [pa.array(reasons, pa.string()), pa.array(scores, pa.float64())]
    return pa.Table.from_arrays(columns, schema=VERDICT_SCHEMA)


def abstention(real_refused: float, limit: float) -> tuple[bool, str]:
    """(whether to abstain, why), for a check that would refuse ``real_refused`` of the real rows."""
    measured = f"refuses {real_refused:.1%} of the real rows it was not fitted on"
    if real_refused > limit:
        return True, f"abstains: {measured}, more than {limit:.0%}"
    return False, measured


def write_check(ctx: Context, *, abstains: bool, real_refused: float, why: str, **learnt: Any) -> dict[str, Path]:
    """check.json: the self-measurement and what was learnt."""
    content = {"abstains": abstains, "real_refused": round(real_refused, 6), "why": why, **learnt}
    return {CHECK_FILE: write_json(ctx, CHECK_FILE, content)}


def write_json(ctx: Context, name: str, content: Any) -> Path:
    path = ctx.workdir / name
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    return path


def require(name: str, value: float, low: float, high: float) -> None:
    """Raises: ValueError where an option lies outside [low, high]."""
    if not low <= value <= high:
        raise ValueError(f"{name}: expected {low:g} to {high:g}, found {value:g}")
