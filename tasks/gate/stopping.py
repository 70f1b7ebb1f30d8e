"""When a gate may end before its last run: what the runs that are left could still change.

More runs narrow the part of a gain's variance that is between runs; the held-out rows are the same at every look. So a
gain after k of K runs has the variance V(k) = rows + runs / k, its covariance with the last one is V(K), and the share
V(K) / V(k) says how much of the last look is known: a group-sequential design as any other, with looks after each run.

A claim (a gain above the bar, a loss) is proven before the last run where, if it were just false, the last run would
still prove it with probability CERTAIN (stochastic curtailment: Lan, Simon and Halperin, "Stochastically curtailed tests
in long-term clinical trials", Comm. Stat. C 1982). That probability is a martingale: however often one looks, a false
claim is made with probability (1 - confidence) / CERTAIN at most, 5.3 % for 5 %. A claim is out of reach where the gain
of all runs, by what the runs so far differ, stays below what it takes with probability 1 - CHANCE. That costs power, not
error. What is published are the ordinary intervals of the runs that were trained (docs/decisions.md has how often
their bounds miss).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Literal

import numpy as np
import numpy.typing as npt

from augmill.tasks.contracts import Floats, Metric
from augmill.tasks.gate.evidence import ARMS, PAIRS, Ending, Predictions
from augmill.tasks.gate.gauge import Gauge
from augmill.tasks.gate.interval import Replicates, Spread, by_run, resample_blocks, spread
from augmill.tasks.gate.verdict import Rule

FIRST = 3  # runs before the first look: two would leave one degree of freedom
CERTAIN = 0.95
CHANCE = 0.05
# The variance between a few runs is taken as large as the runs let it be with this probability: by their own, 6.5 % of
# simulated gates without effect were published where runs differ more than rows do, with this 5.4 %.
CAREFUL = 0.9
WEIGHTS = 100_000_000  # of units in all resamples, a byte each; of more units a look has fewer resamples
FEWEST, SCORED = 200, 400  # resamples of a look, at least; at most where a metric ranks rows, which takes longest

Standing = Literal["proven", "open", "hopeless"]


@dataclass(frozen=True)
class Look:
    """The claims' gains after some of ``asked`` runs. ``guards``: as in verdict.Gains."""

    mix_real: Spread
    mix_placebo: Spread
    placebo_real: Spread
    guards: tuple[Spread, ...] = ()

    def ending(self, asked: int, rule: Rule) -> Ending | None:
        """Why the gate may end here: what it will say stands. None where the runs that are left could change that."""

        def gains(found: Spread, bar: float) -> Standing:
            return standing(found, bar, asked, rule.confidence)

        def loses(found: Spread) -> Standing:
            return gains(replace(found, gain=-found.gain, below=found.above, above=found.below), 0.0)

        both = (self.mix_real, self.mix_placebo)
        passed, guarded = {gains(found, rule.bar) for found in both}, {loses(found) for found in self.guards}
        if passed == {"proven"} and guarded <= {"hopeless"}:
            return "clear"
        # What is not published is replaced by the better of the two arms of real rows.
        if gains(self.placebo_real, 0.0) == "open":
            return None
        lost = guarded | {loses(found) for found in both}
        if "proven" in guarded or ("proven" in lost and "hopeless" in passed):
            return "clear"
        return "hopeless" if "hopeless" in passed and lost == {"hopeless"} else None


def standing(found: Spread, bar: float, asked: int, confidence: float) -> Standing:
    """Of the claim that the gain is above ``bar``, after some of ``asked`` runs."""
    from scipy.special import gammaincinv, stdtrit

    if found.total <= 0:  # no resample differs: what is left is the doubt, at every look
        return "proven" if found.low(0.0) > bar else "hopeless"
    normal, free = NormalDist().inv_cdf(confidence), found.runs - 1
    left, rows = 1 - found.runs / asked, max(found.total - found.between, 0.0)
    between = found.between * free / (2 * float(gammaincinv(free / 2, 1 - CAREFUL)))
    share = 1 - left * between / (rows + between)
    needed = (normal + NormalDist().inv_cdf(CERTAIN) * math.sqrt(1 - share)) / math.sqrt(share)
    if found.low(found.quantile(needed)) > bar:
        return "proven"
    # The mean of all runs around that of these is Student's; at best nothing is left between runs but the rows' part.
    at_best = found.gain + float(stdtrit(free, 1 - CHANCE)) * math.sqrt(found.between * left)
    least = math.hypot(found.below * normal * math.sqrt(rows / found.total), found.doubt)
    return "hopeless" if at_best - least <= bar else "open"


@dataclass
class Looks:
    """Looks at the gains that decide, after each run; what a run resamples to is computed once.

    ``deciding``: the metric that decides; ``guard``: the one in which no loss may be proven, if that is another.
    """

    deciding: Metric
    guard: Metric | None
    rule: Rule
    asked: int  # runs
    resamples: int
    seed: int
    target: str = ""  # what the target's column is called
    _units: npt.NDArray[np.uint8] | None = None
    _found: dict[tuple[str, str], Floats] = field(default_factory=dict)  # metric and arm: (1 + resamples, runs so far)

    def ending(self, predictions: Predictions) -> Ending | None:
        """``predictions``: of the rows that decide, all runs so far."""
        from threadpoolctl import threadpool_limits

        if not FIRST <= predictions.runs < self.asked:
            return None
        with threadpool_limits(limits=1):  # as when the gate measures
            return self._ending(predictions)

    def _ending(self, predictions: Predictions) -> Ending | None:
        judged = {arm: predictions.judged(arm) for arm in ARMS}
        units = self._drawn(judged["mix"][0].count)
        metrics = [self.deciding, *([self.guard] if self.guard else [])]
        for metric in metrics:
            for arm in ARMS:
                known = self._found.get((metric.name, arm), np.empty((1 + len(units), 0)))
                new = by_run(metric, judged[arm][known.shape[1] :], units)
                self._found[metric.name, arm] = np.concatenate([known, new], axis=1)
        weights = np.concatenate([each.runs for each in resample_blocks(1, predictions.runs, len(units), self.seed)])
        steps = {
            (metric.name, arm): max(metric.one_unit(run) for run in judged[arm]) for metric in metrics for arm in ARMS
        }

        def gain(metric: Metric, arm: str, reference: str) -> Spread | None:
            sides = [Replicates.over(self._found[metric.name, side], weights) for side in (arm, reference)]
            difference, apart = sides[0].values - sides[1].values, sides[0].runs - sides[1].runs
            step = max(steps[metric.name, arm], steps[metric.name, reference])
            return spread(difference, apart, self.rule.confidence, step, Gauge.of(metric, self.target))

        over_real, over_placebo, placebo = (gain(self.deciding, *pair) for pair in PAIRS)
        guards = [gain(self.guard, *pair) for pair in PAIRS[:2]] if self.guard else []
        sure = tuple(each for each in guards if each is not None)
        if over_real is None or over_placebo is None or placebo is None or len(sure) < len(guards):
            return None
        return Look(over_real, over_placebo, placebo, sure).ending(self.asked, self.rule)

    def _drawn(self, count: int) -> npt.NDArray[np.uint8]:
        if self._units is None:
            ranks = self.deciding.needs_scores or (self.guard is not None and self.guard.needs_scores)
            most = min(self.resamples, SCORED) if ranks else self.resamples
            size = min(most, max(FEWEST, WEIGHTS // count))
            blocks = resample_blocks(count, 1, size, self.seed)
            self._units = np.concatenate([np.minimum(each.units, 255).astype(np.uint8) for each in blocks])
        return self._units
