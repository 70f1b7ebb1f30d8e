"""Folds: which of how many parts of the data a row belongs to, whatever the order of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def deal_folds(
    strata: Sequence[Any] | Ints, keys: Sequence[Any] | npt.NDArray[Any], folds: int, *, onward: bool = False
) -> Ints:
    """The fold of each row, 0 to ``folds - 1``, shape (rows,): dealt out within each stratum in the order of the keys.

    Rows with equal keys share a fold; their stratum is the least of theirs. Within a stratum the folds differ by one
    key at most. Each stratum begins at fold 0, or ``onward`` where the one before it ended: then all folds together
    differ by one key at most too.
    """
    distinct, unit = np.unique(_array(keys), return_inverse=True)
    names, own = np.unique(_array(strata), return_inverse=True)
    stratum = np.full(len(distinct), len(names), dtype=np.int64)
    np.minimum.at(stratum, unit, own)
    order = np.argsort(stratum, kind="stable")
    starts = 0 if onward else np.searchsorted(stratum[order], stratum[order])
    fold = np.empty(len(distinct), dtype=np.int64)
    fold[order] = (np.arange(len(distinct)) - starts) % folds
    return fold[unit]


def fold_of(digest: bytes, folds: int) -> int:
    """The fold that a hash alone decides: what else there is changes nothing, but a fold may be large, or empty."""
    return int.from_bytes(digest[:8], "big") % folds


def _array(values: Sequence[Any] | npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Texts, bytes and tuples stay objects: numpy's own would drop zeros at their end, and break tuples up."""
    return values if isinstance(values, np.ndarray) else np.fromiter(values, dtype=object, count=len(values))
