"""Errors of predicted numbers, in the target's own unit, and the share of its variance that is explained."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np

from augmill.tasks.contracts import Floats, Foresight, Judged
from augmill.tasks.metrics.additive import Additive, ratio

# Before anything is trained, in standard deviations of the train rows' targets: of what a row adds to the gain of one arm
# over another, and of the error itself. tests/benchmarks/bench_gate.py, shaken rows on diabetes and adult (age), 200
# held-out rows: 0.12 and 0.12 of MAE, 0.13 and 0.15 of RMSE, 0.22 and 0.25 of R²; errors of 0.6 to 0.9.
DIFFERING = {"mae": 0.12, "rmse": 0.15, "r2": 0.25}
EXPECTED = {"mae": 0.65, "rmse": 0.8}


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

    def foresee(self, spread: float | None) -> Foresight | None:
        return _foresee_error(self.name, self.title, 1.0, spread)


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

    def foresee(self, spread: float | None) -> Foresight | None:
        return _foresee_error(self.name, self.title, 0.5, spread)


class R2(Additive):
    """One minus the squared error relative to predicting the mean of the rows; below zero is worse than that."""

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

    def foresee(self, spread: float | None) -> Foresight:
        words = "If the mix changes the squared error of a row by about a quarter of the targets' variance."
        return Foresight(DIFFERING["r2"], EXPECTED["rmse"] ** 2, 0.01, words)


def _foresee_error(name: str, title: str, moved: float, spread: float | None) -> Foresight | None:
    """``moved``: what a row with the expected error moves it by, times the rows, as a part of it."""
    if not spread:
        return None
    error = EXPECTED[name] * spread
    words = (
        f"If {title} is about {EXPECTED[name]:.0%} of the targets' standard deviation, {spread:.3g}, and the mix changes a "
        f"row's part in it by about {DIFFERING[name]:.0%} of that."
    )
    return Foresight(DIFFERING[name] * spread, moved * error, error / 100, words)
