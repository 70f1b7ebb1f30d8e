"""Paired bootstrap intervals over held-out units and training runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from augmill.tasks.contracts import Floats, Ints, Judged, Metric
from augmill.tasks.gate.gauge import POINTS, Gauge

CELLS = 2_000_000  # weights of units held in float64 at once, and a few times as many numbers that are made of them


@dataclass(frozen=True)
class Interval:
    """A gain in the metric's unit; ``low`` and ``high`` each hold with the stated confidence.

    NaN where the metric says nothing of these rows, such as AUC where all are of one class.
    """

    gain: float
    low: float
    high: float

    def to_json(self) -> dict[str, float | None]:
        values = {"gain": self.gain, "low": self.low, "high": self.high}
        return {name: None if np.isnan(value) else value for name, value in values.items()}


@dataclass(frozen=True)
class Resamples:
    """How often each unit and each run stands in each resample: shapes (resamples, units) and (resamples, runs)."""

    units: npt.NDArray[np.float32]
    runs: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Replicates:
    """One metric of one arm, unscaled. ``values``: the observed one, then one per resample, each the mean over runs,

    (1 + resamples,); ``runs``: the observed one of each run.
    """

    values: Floats
    runs: Floats

    @classmethod
    def over(cls, found: Floats, runs: npt.NDArray[np.float32]) -> Replicates:
        """``found``: (1 + resamples, runs), each run's own values; ``runs``: as in ``Resamples``."""
        return cls(np.concatenate([[found[0].mean()], (found[1:] * runs).sum(axis=1)]), found[0])


def resample(units: int, runs: int, count: int, seed: int) -> Resamples:
    """All of ``resample_blocks`` at once."""
    blocks = list(resample_blocks(units, runs, count, seed))
    return Resamples(np.concatenate([b.units for b in blocks]), np.concatenate([b.runs for b in blocks]))


def resample_blocks(units: int, runs: int, count: int, seed: int, lines: Ints | None = None) -> Iterator[Resamples]:
    """Units and runs are drawn independently (Owen, "The pigeonhole bootstrap", Ann. Appl. Stat. 2007).

    As many resamples at once as CELLS allows. ``lines``: the line of each unit, which is then counted in its stead.

    Of R runs R - 1 are drawn, which makes the variance over few runs unbiased (Rao and Wu, JASA 1988): with R draws
    it would be a tenth too small at 10 runs and a third at 3.
    """
    rng, places = np.random.default_rng(seed), units if lines is None else int(lines.max()) + 1
    step = max(1, CELLS // max(places, 1))
    for start in range(0, count, step):
        size = min(step, count - start)
        of_units, of_runs = np.empty((size, places), np.float32), np.empty((size, runs), np.float32)
        for at in range(size):
            drawn = rng.integers(units, size=units)
            of_units[at] = np.bincount(drawn if lines is None else lines[drawn], minlength=places)
            of_runs[at] = np.bincount(rng.integers(runs, size=max(1, runs - 1)), minlength=runs)
        yield Resamples(of_units, of_runs / of_runs.sum(axis=1, keepdims=True))


def by_run(metric: Metric, judged: Sequence[Judged], units: npt.NDArray[Any]) -> Floats:
    """(1 + resamples, runs): the observed value of each run, then those in the resamples. ``units``: as in Resamples."""
    prepared = [metric.prepare(run) for run in judged]
    parts = [metric.over_runs(prepared, np.ones((1, judged[0].count), np.float32))]
    step = max(1, CELLS // max(judged[0].count, 1))
    for start in range(0, len(units), step):
        parts.append(metric.over_runs(prepared, units[start : start + step].astype(np.float32, copy=False)))
    return np.concatenate(parts)


def interval(difference: Floats, runs: Floats, confidence: float, one_unit: float, gauge: Gauge = POINTS) -> Interval:
    """Percentile bounds of a gain, widened for few runs and for few units that differ.

    ``difference``: arm minus reference, observed first, then per resample; ``runs``: the observed differences run by
    run; both unscaled. ``one_unit``: what one unit moves the value by.

    Few runs: Student's t in place of the normal, with Satterthwaite's degrees of freedom for the part of the variance
    that stems from runs (15 % false publications at 3 runs where runs differ much, without it). Few differing units:
    two units' worth of doubt, one for and one against, added in quadrature (Bonett and Price, "Adjusted Wald
    confidence interval for a difference of binomial proportions based on paired data", JEBS 2012): three wins and no
    loss in a hundred rows would else count as proof, and no difference in a hundred rows as certain equality.
    """
    found = spread(difference, runs, confidence, one_unit, gauge)
    if found is None:
        return Interval(np.nan, np.nan, np.nan)
    widest = found.quantile(NormalDist().inv_cdf(confidence))
    return Interval(*(gauge.tidy(value) for value in (found.gain, found.low(widest), found.high(widest))))


@dataclass(frozen=True)
class Spread:
    """A gain and the parts of its doubt, in the metric's unit.

    ``below``, ``above``: from the gain to its percentile bounds, in normal deviates; ``doubt``: of few differing units;
    ``total``: the variance of the gain; ``between``: the part of it that is between ``runs`` runs.
    """

    gain: float
    below: float
    above: float
    doubt: float
    total: float
    between: float
    runs: int

    def quantile(self, normal: float) -> float:
        """Student's, where the normal distribution has ``normal``."""
        from scipy.special import ndtr, stdtrit

        if self.between <= 1e-9 * self.total:
            return normal
        return -float(stdtrit((self.runs - 1) * (self.total / self.between) ** 2, ndtr(-normal)))

    def low(self, quantile: float) -> float:
        return self.gain - float(np.hypot(self.below * quantile, self.doubt))

    def high(self, quantile: float) -> float:
        return self.gain + float(np.hypot(self.above * quantile, self.doubt))


def spread(
    difference: Floats, runs: Floats, confidence: float, one_unit: float, gauge: Gauge = POINTS
) -> Spread | None:
    """As ``interval``; None where the metric says nothing of these rows."""
    found = gauge.improvement(difference)
    gain, others = float(found[0]), found[1:]
    others = others[~np.isnan(others)]
    if np.isnan(gain) or not len(others):
        return None
    low, high = (float(value) for value in np.quantile(others, [1 - confidence, confidence]))
    normal, total = NormalDist().inv_cdf(confidence), float(others.var())
    between = min(total, float(runs.var(ddof=1)) / len(runs)) if len(runs) > 1 else 0.0
    below, above = max(gain - low, 0) / normal, max(high - gain, 0) / normal
    scale, doubt = gauge.scale, normal * one_unit * 2**0.5
    return Spread(
        scale * gain, scale * below, scale * above, scale * doubt, scale**2 * total, scale**2 * between, len(runs)
    )
