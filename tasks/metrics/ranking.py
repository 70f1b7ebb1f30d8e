"""How well scores rank rows, each class against all others: of pairs of rows, and so not made of sums over rows."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from augmill.tasks.contracts import Floats, Foresight, Ints, Judged, Metric
from augmill.tasks.metrics.additive import ratio

# Before anything is trained: the standard deviation of what a row adds to the gain of one arm over another.
# tests/benchmarks/bench_gate.py, word deletion, 200 held-out rows: on TREC, where they are at 0.82 and 0.60, 0.15 and
# 0.26; on SNIPS, at 0.99 and 0.96, next to none.
DIFFERING = {"auc": 0.12, "average_precision": 0.2}


@dataclass(frozen=True)
class OneAgainstRest:
    """The rows of a class, and the others, each by its unit, in descending order of the class's score.

    ``own`` and ``others``: of each row of the class how many of its own, and of the others, score at least as high;
    ``above``: how many of the others score higher.
    """

    inside: Ints
    outside: Ints
    own: Ints
    others: Ints
    above: Ints


def _ranked(inside: npt.NDArray[np.bool_], scores: Floats, units: Ints) -> OneAgainstRest:
    order = np.argsort(-scores, kind="stable")
    inside, scores, units = inside[order], -scores[order], units[order]
    mine, rest = scores[inside], scores[~inside]  # ascending, for searchsorted
    return OneAgainstRest(
        units[inside],
        units[~inside],
        np.searchsorted(mine, mine, "right"),
        np.searchsorted(rest, mine, "right"),
        np.searchsorted(rest, mine, "left"),
    )


def _sums(weights: npt.NDArray[np.float32], units: Ints) -> Floats:
    """(resamples, rows + 1): the weight of the first so many rows."""
    sums = np.zeros((len(weights), len(units) + 1))
    np.cumsum(weights[:, units], axis=1, dtype=np.float64, out=sums[:, 1:])
    return sums


class Ranking(Metric):
    """The mean over the classes that have held-out rows, each against the others; where scores tie, rows share a place."""

    problems: ClassVar[tuple[str, ...]] = ("classification",)
    needs_scores: ClassVar[bool] = True

    @abstractmethod
    def of_class(self, rows: OneAgainstRest, weights: npt.NDArray[np.float32]) -> Floats:
        """(resamples,); NaN where one of the two sides has no weight."""

    def prepare(self, judged: Judged) -> list[OneAgainstRest]:
        present = np.unique(judged.truth)
        present = present if len(present) > 1 else present[:0]
        return [_ranked(judged.truth == c, np.asarray(judged.scores[:, c]), judged.units) for c in present]

    def values(self, prepared: Any, weights: npt.NDArray[np.float32]) -> Floats:
        if not prepared:
            return np.full(len(weights), np.nan)
        found = np.stack([self.of_class(rows, weights) for rows in prepared])
        return ratio(np.nansum(found, axis=0), np.isfinite(found).sum(axis=0))

    def one_unit(self, judged: Judged) -> float:
        """A row of a class of n moves its area by about 1/n, one of the m others by 1/m; the root of the mean square over

        rows, and of the classes as of independent ones.
        """
        sizes = np.bincount(judged.truth)
        sizes = sizes[sizes > 0]
        rest = np.maximum(sizes.sum() - sizes, 1)
        return float(np.sqrt(np.sum(1 / sizes + 1 / rest) / sizes.sum()) / len(sizes))

    def foresee(self, spread: float | None) -> Foresight:
        title = self.title or self.name
        words = f"For {title}, if the mix changes a row's part in it by about {100 * DIFFERING[self.name]:.0f} points."
        return Foresight(DIFFERING[self.name], 1.2, 0.01, words)


class Auc(Ranking):
    """The area under the ROC curve: how often a row of the class scores above one of the others."""

    name: ClassVar[str] = "auc"
    title: ClassVar[str] = "AUC"

    def of_class(self, rows: OneAgainstRest, weights: npt.NDArray[np.float32]) -> Floats:
        inside, rest = weights[:, rows.inside].astype(np.float64), _sums(weights, rows.outside)
        beaten = rest[:, -1:] - (rest[:, rows.others] + rest[:, rows.above]) / 2
        return ratio((inside * beaten).sum(axis=1), inside.sum(axis=1) * rest[:, -1])


class AveragePrecision(Ranking):
    """The mean, over a class's rows, of the precision at each row's score."""

    name: ClassVar[str] = "average_precision"
    title: ClassVar[str] = "average precision"

    def of_class(self, rows: OneAgainstRest, weights: npt.NDArray[np.float32]) -> Floats:
        inside, rest = weights[:, rows.inside].astype(np.float64), _sums(weights, rows.outside)
        own = _sums(weights, rows.inside)[:, rows.own]
        precision = own / np.maximum(own + rest[:, rows.others], 1e-12)
        return ratio((inside * precision).sum(axis=1), np.where(rest[:, -1] > 0, inside.sum(axis=1), 0.0))
