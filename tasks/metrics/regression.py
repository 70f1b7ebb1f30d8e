"""Errors of predicted numbers, in the target's own unit, and the share of its variance that is explained."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np

from augmill.tasks.contracts import Floats, Judged
from augmill.tasks.metrics.additive import Additive, ratio


def errors(judged: Judged) -> Floats:
    """(rows,): predicted less true."""
    return np.asarray(judged.predicted, dtype=np.float64) - np.asarray(judged.truth, dtype=np.float64)


class Mae(Additive):
    """Mean absolute error."""

    name: ClassVar[str] = "mae"
    title: ClassVar[str] = "MAE"
    problems: ClassVar[tuple[str, ...]] = ("regression",)
    better: ClassVar[Literal["more", "less"]] = "less"
    scale: ClassVar[float] = 1.0
    unit: ClassVar[str] = "{target}"

    def statistics(self, judged: Judged) -> Any:
        found = np.abs(errors(judged))
        return np.stack([found, np.ones(len(found))], axis=1)

    def reduce(self, sums: Floats) -> Floats:
        return ratio(sums[..., 0], sums[..., 1])

    def one_unit(self, judged: Judged) -> float:
        """The mean error's part in itself."""
        return float(np.abs(errors(judged)).mean()) / judged.count


class Rmse(Additive):
    """Root of the mean squared error."""

    name: ClassVar[str] = "rmse"
    title: ClassVar[str] = "RMSE"
    problems: ClassVar[tuple[str, ...]] = ("regression",)
    better: ClassVar[Literal["more", "less"]] = "less"
    scale: ClassVar[float] = 1.0
    unit: ClassVar[str] = "{target}"

    def statistics(self, judged: Judged) -> Any:
        found = errors(judged) ** 2
        return np.stack([found, np.ones(len(found))], axis=1)

    def reduce(self, sums: Floats) -> Floats:
        return np.sqrt(ratio(sums[..., 0], sums[..., 1]))

    def one_unit(self, judged: Judged) -> float:
        """A row with the mean squared error moves its root by half of what it moves the mean."""
        return float(np.sqrt((errors(judged) ** 2).mean())) / (2 * judged.count)


class R2(Additive):
    """One less the squared error over that of the mean of the same rows; below zero for worse than that."""

    name: ClassVar[str] = "r2"
    title: ClassVar[str] = "R²"
    problems: ClassVar[tuple[str, ...]] = ("regression",)

    def statistics(self, judged: Judged) -> Any:
        truth = np.asarray(judged.truth, dtype=np.float64)
        truth = truth - truth.mean()  # else two large sums would be subtracted
        return np.stack([errors(judged) ** 2, truth**2, truth, np.ones(len(truth))], axis=1)

    def reduce(self, sums: Floats) -> Floats:
        error, square, total, count = (sums[..., at] for at in range(4))
        variance = square - ratio(total, count) * total
        return 1 - ratio(error, np.where(variance > 1e-12 * square, variance, 0.0))

    def one_unit(self, judged: Judged) -> float:
        variance = float(np.var(np.asarray(judged.truth, dtype=np.float64)))
        return float((errors(judged) ** 2).mean()) / max(variance, 1e-300) / judged.count
