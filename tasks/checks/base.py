"""What the checks share: the texts of a row, folds for measuring on real rows, the files and verdicts they write."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from augmill.tasks.contracts import STRATUM, VERDICT_SCHEMA, Context
from augmill.tasks.rows.kinds import equal_keys, type_of
from augmill.tasks.rows.kinds.text import prepared
from augmill.tasks.rows.parts import rest

CHECK_FILE = "check.json"
SLICE = 1 << 15


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
    names = pc.unique(table[STRATUM])
    stratum = pc.index_in(table[STRATUM], names).to_numpy().astype(np.int64)
    points = np.concatenate([_points(part, fields) for part in slices(table)])
    order = np.lexsort((points[:, 1], points[:, 0], stratum))
    ranked, own = points[order], stratum[order]
    new = np.ones(len(order), np.bool_)
    new[1:] = (ranked[1:] != ranked[:-1]).any(axis=1)  # equal rows of two classes may be one: each begins anew below
    unit = np.cumsum(new) - 1
    found = np.empty(len(order), np.int64)
    found[order] = (unit - unit[np.searchsorted(own, own)]) % folds  # each class begins at fold 0
    return found


def _points(table: pa.Table, fields: Sequence[str]) -> npt.NDArray[np.uint64]:
    """(rows, 2): the first 128 bits of the hash of what equal rows share."""
    digests = b"".join(hashlib.sha256(key).digest()[:16] for key in equal_keys(table, fields))
    return np.frombuffer(digests, ">u8").astype(np.uint64).reshape(-1, 2)


def slices(table: pa.Table) -> Iterator[pa.Table]:
    """The rows, ``SLICE`` at once, one part at least: their texts as Python has them take some ten times what they take here."""
    for start in range(0, max(1, table.num_rows), SLICE):
        yield table if table.num_rows <= SLICE else table.slice(start, SLICE)
        rest()


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
