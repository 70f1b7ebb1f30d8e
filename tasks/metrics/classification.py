"""Accuracy and F1, from how often each class was right, was claimed, and was there."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from augmill.tasks.contracts import Floats, Foresight, Ints, Judged
from augmill.tasks.metrics.additive import Additive, ratio

RIGHT = 0.8  # of a trainer that nobody has trained yet
# Share of held-out rows on which the mix and the real rows alone differ (over seeds, on balance) per row that the
# trainer gets wrong. tests/benchmarks/bench_gate.py: 0.08 to 0.12 for word deletion on TREC and SNIPS, 0.10 to 0.27 for
# mixes that balance classes.
DIFFERING_PER_ERROR = 0.2
DENSE = 4  # classes up to which an array of mostly zeros is quicker than a sparse matrix (30 times at two)


def foresee_rows(right: float = RIGHT) -> Foresight:
    """Of a metric that a row moves by being right or wrong, for a trainer that is right on this share of rows."""
    words = f"For accuracy, if the trainer is right on about {right:.0%} of them."
    return Foresight(math.sqrt(DIFFERING_PER_ERROR * (1 - right)), 1.0, 0.01, words)


class Accuracy(Additive):
    """Share of rows predicted correctly. Over the rows of one class it is the class's recall."""

    name: ClassVar[str] = "accuracy"
    of_stratum: ClassVar[str] = "recall"
    problems: ClassVar[tuple[str, ...]] = ("classification",)

    def statistics(self, judged: Judged) -> Any:
        """Whether a row is right, and that it is one."""
        right = judged.truth == judged.predicted
        return np.stack([right, np.ones(len(right))], axis=1).astype(np.float32)

    def reduce(self, sums: Floats) -> Floats:
        return ratio(sums[..., 0], sums[..., 1])

    def foresee(self, spread: float | None) -> Foresight:
        return foresee_rows()


class MeanF1(Additive):
    """The mean over some classes of 2 right / (claimed + actual); 0 for a class that has neither in a resample."""

    problems: ClassVar[tuple[str, ...]] = ("classification",)

    def classes(self, judged: Judged) -> Ints:
        """Places of the classes that count."""
        return np.unique(judged.truth)

    def statistics(self, judged: Judged) -> Any:
        """Of each class that counts whether the row is right as it; then how often it is claimed or is it, 0 to 2."""
        from scipy.sparse import csr_matrix

        classes = self.classes(judged)
        width = len(classes)
        place = np.full(max(len(judged.classes), int(judged.truth.max()) + 1) + 1, -1)  # the last one is of no class
        place[classes] = np.arange(width)
        actual, claimed = place[judged.truth], place[judged.predicted]
        right = np.where(judged.truth == judged.predicted, actual, -1)
        rows = np.arange(len(actual))
        parts = [(rows[at >= 0], at[at >= 0] + shift) for at, shift in ((right, 0), (claimed, width), (actual, width))]
        row, column = (np.concatenate(part) for part in zip(*parts, strict=True))
        if width <= DENSE:
            flat = np.bincount(row * 2 * width + column, minlength=len(rows) * 2 * width)
            return flat.reshape(len(rows), 2 * width).astype(np.float32)
        return csr_matrix((np.ones(len(row), dtype=np.float32), (row, column)), shape=(len(rows), 2 * width))

    def reduce(self, sums: Floats) -> Floats:
        width = sums.shape[-1] // 2
        return np.asarray((2 * sums[..., :width] / np.maximum(sums[..., width:], 1e-12)).mean(axis=-1))

    def one_unit(self, judged: Judged) -> float:
        """A row of a class of n moves that class's F1 by about 1/n and the mean over K classes by 1/(K n); the root of

        the mean square over rows.
        """
        sizes = np.bincount(judged.truth, minlength=len(judged.classes))[self.classes(judged)]
        sizes = sizes[sizes > 0]
        width = len(self.classes(judged))
        return float(np.sqrt(np.sum(1 / sizes) / sizes.sum()) / width) if len(sizes) else 1.0


class MacroF1(MeanF1):
    """Mean F1 over the classes that have held-out rows."""

    name: ClassVar[str] = "macro_f1"
    title: ClassVar[str] = "macro-F1"
    of_stratum: ClassVar[str] = "f1"

    def only(self, strata: tuple[str, ...]) -> FocusF1:
        return FocusF1(strata)

    def each(self, judged: Judged) -> Floats:
        width, said = len(judged.classes), judged.predicted[judged.predicted >= 0]
        right = np.bincount(judged.truth[judged.truth == judged.predicted], minlength=width)
        both = np.bincount(said, minlength=width) + np.bincount(judged.truth, minlength=width)
        return np.asarray(2 * right / np.maximum(both, 1e-12))

    def foresee(self, spread: float | None) -> Foresight:
        return foresee_rows()


class FocusF1(MeanF1):
    """Mean F1 over some classes: recall alone would reward predicting them everywhere."""

    name: ClassVar[str] = "focus_f1"
    title: ClassVar[str] = "mean F1 of the focus labels"

    def __init__(self, strata: tuple[str, ...]) -> None:
        self.strata = strata

    def classes(self, judged: Judged) -> Ints:
        named = [at for at, name in enumerate(judged.classes) if name in self.strata]
        return np.intersect1d(np.array(named, dtype=np.int64), judged.truth)

    def foresee(self, spread: float | None) -> Foresight:
        return foresee_rows()
