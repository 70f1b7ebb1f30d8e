"""Paired bootstrap intervals over held-out rows and training runs, and what they can show beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from augmill.tasks.metrics import METRICS, Array, recall

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

CHUNK = 250  # resamples held in memory at once


@dataclass(frozen=True)
class Interval:
    """A gain in points (hundredths of the metric); ``low`` and ``high`` each hold with the stated confidence."""

    gain: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        return {"gain": self.gain, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Resamples:
    """How often each row and each run stands in each resample: shapes (resamples, rows) and (resamples, runs)."""

    rows: npt.NDArray[np.float32]
    runs: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Replicates:
    """One arm's score, first the observed one, then one per resample; averaged over runs, as shares.

    ``scores[name]``: shape (1 + resamples,); ``recall``: (1 + resamples, classes). ``runs[name]`` and ``run_recall``
    are the observed scores of each run: (runs,) and (runs, classes).
    """

    scores: dict[str, Floats]
    recall: Floats
    runs: dict[str, Floats]
    run_recall: Floats


def resample(rows: int, runs: int, count: int, seed: int) -> Resamples:
    """Rows and runs are drawn independently (Owen, "The pigeonhole bootstrap", Ann. Appl. Stat. 2007).

    Of R runs R - 1 are drawn, which makes the variance over few runs unbiased (Rao and Wu, JASA 1988): with R draws
    it would be a tenth too small at 10 runs and a third at 3.
    """
    rng = np.random.default_rng(seed)
    of_rows = np.empty((count, rows), dtype=np.float32)
    of_runs = np.empty((count, runs), dtype=np.float32)
    for position in range(count):
        of_rows[position] = np.bincount(rng.integers(rows, size=rows), minlength=rows)
        of_runs[position] = np.bincount(rng.integers(runs, size=max(1, runs - 1)), minlength=runs)
    return Resamples(of_rows, of_runs / of_runs.sum(axis=1, keepdims=True))


def replicate(
    truth: Ints, predictions: Ints, classes: int, resamples: Resamples, focus: tuple[int, ...] = ()
) -> Replicates:
    """Scores of one arm under every resample.

    ``truth``: (rows,) in [0, classes); ``predictions``: (runs, rows), -1 for no class. Scores: METRICS over the
    classes that ``truth`` holds, and ``focus_f1``, the mean F1 of ``focus``, where it is asked for.
    """
    groups = {name: (metric, np.unique(truth)) for name, metric in METRICS.items()}
    if focus:
        groups["focus_f1"] = (METRICS["macro_f1"], np.array(focus))
    right, claimed, actual = _indicators(truth, predictions, classes)
    runs = len(predictions)

    def score(rows: npt.NDArray[np.float32]) -> tuple[dict[str, Array], Array]:
        """Per resample and run: (resamples, runs) of each metric, (resamples, runs, classes) of recall."""
        hit, said = (
            np.asarray(rows @ matrix, dtype=np.float64).reshape(-1, runs, classes) for matrix in (right, claimed)
        )
        held = np.asarray(rows @ actual, dtype=np.float64)[:, None, :]
        found = {name: metric(hit[..., c], said[..., c], held[..., c]) for name, (metric, c) in groups.items()}
        return found, recall(hit, said, held)

    observed, observed_recall = score(np.ones((1, len(truth)), dtype=np.float32))
    scores = {name: [values.mean(axis=1)] for name, values in observed.items()}
    recalls = [observed_recall.mean(axis=1)]
    for start in range(0, len(resamples.rows), CHUNK):
        found, found_recall = score(resamples.rows[start : start + CHUNK])
        of_runs = resamples.runs[start : start + CHUNK]
        for name, values in found.items():
            scores[name].append((values * of_runs).sum(axis=1))
        recalls.append((found_recall * of_runs[:, :, None]).sum(axis=1))
    return Replicates(
        {name: np.concatenate(parts) for name, parts in scores.items()},
        np.concatenate(recalls),
        {name: values[0] for name, values in observed.items()},
        observed_recall[0],
    )


def _indicators(truth: Ints, predictions: Ints, classes: int) -> tuple[Any, Any, Any]:
    """Sparse (rows, runs * classes) of right and of claimed predictions, (rows, classes) of the truth; float32."""
    from scipy.sparse import csr_matrix

    runs, rows = predictions.shape
    row = np.broadcast_to(np.arange(rows), (runs, rows))
    column = np.arange(runs)[:, None] * classes + predictions

    def matrix(where: npt.NDArray[np.bool_]) -> Any:
        ones = np.ones(int(where.sum()), dtype=np.float32)
        return csr_matrix((ones, (row[where], column[where])), shape=(rows, runs * classes))

    ones = np.ones(rows, dtype=np.float32)
    held = csr_matrix((ones, (np.arange(rows), truth)), shape=(rows, classes))
    return matrix(predictions == truth), matrix(predictions >= 0), held


def interval(difference: Floats, runs: Floats, confidence: float, one_row: float) -> Interval:
    """Percentile bounds of a gain, widened for few runs and for few rows that differ.

    ``difference``: arm minus reference, observed first, then per resample; ``runs``: the observed differences run by
    run; both as shares. ``one_row``: what one row moves the score by.

    Few runs: Student's t in place of the normal, with Satterthwaite's degrees of freedom for the part of the variance
    that stems from runs (15 % false publications at 3 runs where runs differ much, without it). Few differing rows:
    two rows' worth of doubt, one for and one against, added in quadrature (Bonett and Price, "Adjusted Wald
    confidence interval for a difference of binomial proportions based on paired data", JEBS 2012): three wins and no
    loss in a hundred rows would else count as proof, and no difference in a hundred rows as certain equality.
    """
    gain, others = float(difference[0]), difference[1:]
    others = others[~np.isnan(others)]
    low, high = (float(value) for value in np.quantile(others, [1 - confidence, confidence]))
    wider = _wider(others, runs, confidence)
    doubt = NormalDist().inv_cdf(confidence) * one_row * 2**0.5
    # Rounded, so that the last bits of a sum do not change a report's bytes.
    return Interval(
        round(100 * gain, 4),
        round(100 * (gain - float(np.hypot(max(gain - low, 0) * wider, doubt))), 4),
        round(100 * (gain + float(np.hypot(max(high - gain, 0) * wider, doubt))), 4),
    )


def _wider(others: Floats, runs: Floats, confidence: float) -> float:
    """Student's over the normal quantile, by the share of the variance of ``others`` that is between runs."""
    from scipy.stats import t

    total = float(others.var())
    between = min(total, float(runs.var(ddof=1)) / len(runs)) if len(runs) > 1 else 0.0
    if between <= 0:
        return 1.0
    freedom = (len(runs) - 1) * (total / between) ** 2
    return float(t.ppf(confidence, freedom) / NormalDist().inv_cdf(confidence))


def one_row(truth: Ints, classes: tuple[int, ...] | None = None) -> float:
    """What one held-out row moves a score by: 1/rows for accuracy (``classes`` None), else for mean F1 of ``classes``.

    A row of a class of n moves that class's F1 by about 1/n and the mean over K classes by 1/(K n); the root of the
    mean square over rows.
    """
    if classes is None:
        return 1 / len(truth)
    sizes = np.bincount(truth, minlength=max(classes) + 1)[list(classes)]
    sizes = sizes[sizes > 0]
    return float(np.sqrt(np.sum(1 / sizes) / sizes.sum()) / len(classes)) if len(sizes) else 1.0
