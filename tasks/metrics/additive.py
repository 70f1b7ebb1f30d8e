"""Metrics that are made of sums over rows: most are, and one product with the weights then gives every resample's sums."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from augmill.tasks.contracts import Floats, Judged, Metric


class Additive(Metric):
    """What each row adds to the sums (``statistics``), and the value that the sums make (``reduce``)."""

    @abstractmethod
    def statistics(self, judged: Judged) -> Any:
        """(rows, S): an array, or a scipy CSR matrix where most of it is zero."""

    @abstractmethod
    def reduce(self, sums: Floats) -> Floats:
        """(..., S) to (...); NaN where the sums are of no row."""

    def prepare(self, judged: Judged) -> Any:
        """The statistics of each unit, (units, S)."""
        from scipy.sparse import csr_matrix

        rows = self.statistics(judged)
        count = len(judged.units)
        if judged.count == count and np.array_equal(judged.units, np.arange(count)):
            return rows
        ones = np.ones(count, dtype=rows.dtype)
        return csr_matrix((ones, (judged.units, np.arange(count))), shape=(judged.count, count)) @ rows

    def values(self, prepared: Any, weights: npt.NDArray[np.float32]) -> Floats:
        return self.reduce(np.asarray(weights @ prepared, dtype=np.float64))

    def over_runs(self, prepared: Sequence[Any], weights: npt.NDArray[np.float32]) -> Floats:
        from scipy.sparse import hstack, issparse

        side = hstack(prepared, format="csr") if issparse(prepared[0]) else np.hstack(prepared)
        sums = np.asarray(weights @ side, dtype=np.float64)
        return self.reduce(sums.reshape(len(weights), len(prepared), -1))


def ratio(part: Floats, whole: Floats) -> Floats:
    """NaN where the whole is nothing."""
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), np.nan)
