"""From intervals to a verdict, in numbers and in words; and what a gate can see before it is run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

from augmill.tasks.interval import Interval

Verdict = Literal["published", "harmful", "inconclusive"]

PLACEBO = "the placebo (real rows repeated)"
REAL = {"real": "the rows as they are", "placebo": "the rows repeated (or weighted) to the mix's class counts"}
FOLDS = 5
WORTH_SHOWING = 2.0  # points; what most augmentation gains on small sets, where it gains
POWER = 0.8  # the probability with which a "visible" gain is proven
# Share of held-out rows on which the mix and the real rows alone differ (over seeds, on balance) per row that the
# trainer gets wrong. tests/benchmarks/bench_gate.py: 0.08 to 0.12 for word deletion on TREC and SNIPS, 0.10 to 0.27 for
# mixes that balance classes.
DIFFERING_PER_ERROR = 0.2


@dataclass(frozen=True)
class Gains:
    """Of the score that decides; ``guards`` are the mix's gains over all labels where ``focus`` judges some only."""

    mix_real: Interval
    mix_placebo: Interval
    placebo_real: Interval
    guards: tuple[Interval, ...] = ()

    @classmethod
    def of(cls, comparisons: Any, judged_by: str, metric: str) -> Gains:
        def read(pair: str, name: str) -> Interval:
            return Interval(**comparisons[pair]["gains"][name])

        guards = () if judged_by == metric else (read("mix-real", metric), read("mix-placebo", metric))
        mix_real, mix_placebo, placebo_real = (
            read(pair, judged_by) for pair in ("mix-real", "mix-placebo", "placebo-real")
        )
        return cls(mix_real, mix_placebo, placebo_real, guards)


@dataclass(frozen=True)
class Summary:
    """``reason`` in plain words; the other two as in gate.Evidence."""

    reason: str
    smallest_visible_gain: float
    rows_needed: int | None


@dataclass(frozen=True)
class Rule:
    """Points and confidence as in gate.GateOptions. ``bar``: what both lower bounds must exceed."""

    kind: Literal["superior", "not_worse"]
    min_gain: float
    margin: float
    confidence: float

    @property
    def bar(self) -> float:
        return self.min_gain if self.kind == "superior" else -self.margin


def decide(gains: Gains, rule: Rule) -> Verdict:
    """Published if both lower bounds pass the rule's bar; harmful if an upper bound is below zero; else inconclusive.

    Under ``not_worse`` a small proven loss inside the margin is what the user allowed, so the bar is looked at first.
    """
    both = (gains.mix_real, gains.mix_placebo)
    guarded = any(guard.high < 0 for guard in gains.guards)
    if all(found.low > rule.bar for found in both) and not guarded:
        return "published"
    if guarded or any(found.high < 0 for found in both):
        return "harmful"
    return "inconclusive"


def best_real(placebo_real: Interval) -> Literal["real", "placebo"]:
    """The better proven arrangement of real rows: repeating must earn its place, plain rows need not."""
    return "placebo" if placebo_real.low > 0 else "real"


def explain(verdict: Verdict, better: Literal["real", "placebo"], gains: Gains, rule: Rule, rows: int) -> Summary:
    """The numbers of the comparison whose lower bound stands lowest, which is the one that decides."""
    name, found = min(
        (("the real rows alone", gains.mix_real), (PLACEBO, gains.mix_placebo)), key=lambda pair: pair[1].low
    )
    visible = max(found.gain - found.low, 1e-3) * _power(rule.confidence)
    seen = round(rule.bar + visible, 4)
    measured = f"against {name} the gain is {_points(found)} on {rows:,} held-out rows"
    if verdict == "published":
        asked = f"gain more than {rule.bar:g}" if rule.kind == "superior" else f"lose at most {rule.margin:g}"
        return Summary(f"The mix is proven to {asked} points: {measured}.", seen, None)
    rest = f"The best proven arrangement of the real rows: {REAL[better]}."
    if verdict == "harmful":
        losses = (("the real rows alone", gains.mix_real), (PLACEBO, gains.mix_placebo))
        lost = [f"against {name} the gain is {_points(loss)}" for name, loss in losses if loss.high < 0]
        lost += [f"over all labels the gain is {_points(guard)}" for guard in gains.guards if guard.high < 0]
        return Summary(f"The mix is proven to lose: {lost[0]} on {rows:,} held-out rows. {rest}", seen, None)
    # Below a tenth of a point an observed gain is no guide to what is worth looking for; a point is.
    target = found.gain - rule.bar if found.gain - rule.bar >= 0.1 else 1.0
    needed = math.ceil(rows * (visible / target) ** 2)
    text = f"Nothing is proven: {measured}, where a true gain of {seen:.1f} points would show."
    if needed <= rows:
        return Summary(f"{text} {rest}", seen, None)
    return Summary(f"{text} For {rule.bar + target:.1f} points it takes about {needed:,}. {rest}", seen, needed)


def _points(found: Interval) -> str:
    return f"{found.gain:+.1f} points ({found.low:+.1f} to {found.high:+.1f})"


def half_width(rows: int, accuracy: float = 0.8, confidence: float = 0.95) -> float:
    """Points between a gain and its bounds, before anything is trained, for a trainer of about that accuracy.

    The variance of a paired difference is the share of rows on which the arms differ, over the rows.
    """
    differing = DIFFERING_PER_ERROR * (1 - accuracy) + 2 / rows
    return 100 * NormalDist().inv_cdf(confidence) * math.sqrt(differing / rows)


def smallest_visible_gain(rows: int, accuracy: float = 0.8, confidence: float = 0.95, min_gain: float = 0.0) -> float:
    """The true gain, in points, that ``rows`` held-out rows prove with probability POWER."""
    return min_gain + half_width(rows, accuracy, confidence) * _power(confidence)


def rows_needed(gain: float, accuracy: float = 0.8, confidence: float = 0.95, min_gain: float = 0.0) -> int:
    """Held-out rows that prove a true gain of ``gain`` points with probability POWER; ``gain`` above ``min_gain``."""
    if gain <= min_gain:
        raise ValueError(f"expected a gain above min_gain ({min_gain} points), found {gain}")
    width = 100 * NormalDist().inv_cdf(confidence) * _power(confidence)
    per_row = (width / (gain - min_gain)) ** 2
    # rows = per_row * (differing + 2 / rows), solved for rows
    middle = per_row * DIFFERING_PER_ERROR * (1 - accuracy) / 2
    return math.ceil(middle + math.sqrt(middle**2 + 2 * per_row))


def folds_for(folds: Literal["auto"] | int, rows: int, min_gain: float, confidence: float) -> int:
    """How many folds the gate runs: ``auto`` is FOLDS where ``rows`` validation rows cannot show what is asked."""
    if folds != "auto":
        return folds
    wanted = max(min_gain, WORTH_SHOWING)
    return FOLDS if rows == 0 or smallest_visible_gain(rows, confidence=confidence) > wanted else 0


def _power(confidence: float) -> float:
    """A visible gain in half widths: the bound must lie above the bar with probability POWER."""
    return 1 + NormalDist().inv_cdf(POWER) / NormalDist().inv_cdf(confidence)
