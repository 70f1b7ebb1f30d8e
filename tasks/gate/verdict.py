"""From intervals to a verdict, in numbers and in words; and what a gate can see before it is run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, Literal

from augmill.tasks.contracts import Foresight, Metric
from augmill.tasks.gate.gauge import POINTS, Gauge
from augmill.tasks.gate.interval import Interval

Verdict = Literal["published", "harmful", "inconclusive"]

PLACEBO = "the placebo (real rows repeated)"
REAL = {
    "real": "Real rows repeated (or weighted) are not proven to beat the real rows as they are.",
    "placebo": "Real rows repeated (or weighted) to the mix's {} counts are proven to beat them as they are.",
}
UNJUDGED = {
    "not_produced": "There are no synthetic rows that could be published.",
    "unsound_source": "The source is not sound. Nothing new was released.",
}
FOLDS = 5
WORTH_SHOWING = 2.0  # points, or what stands for them; what most augmentation gains on small sets, where it gains
POWER = 0.8  # the probability with which a "visible" gain is proven


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
    """As in gate.GateOptions, in the unit of the gauge. ``bar``: what both lower bounds must exceed."""

    kind: Literal["superior", "not_worse"]
    min_gain: float
    margin: float
    confidence: float
    gauge: Gauge = POINTS

    @classmethod
    def of(cls, options: Any, gauge: Gauge) -> Rule:
        """``options``: gate.GateOptions, resolved."""
        return cls(options.rule, options.min_gain, options.margin or 0.0, options.confidence, gauge)

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


def standing(gains: Gains) -> Literal["gain", "loss", "nothing"]:
    """What the intervals prove, whatever the rule asks: a gain over both baselines, a loss against one, or neither."""
    both = (gains.mix_real, gains.mix_placebo)
    if any(found.high < 0 for found in (*both, *gains.guards)):
        return "loss"
    return "gain" if all(found.low > 0 for found in both) else "nothing"


def headline(outcome: str, gate: Mapping[str, Any] | None) -> str:
    """What was proven, in one sentence or two, for every surface. ``gate``: its evidence; None where none ended.

    A verdict without its evidence names what was decided and claims nothing.
    """
    if outcome in UNJUDGED:
        return UNJUDGED[outcome]
    if gate is None:
        return "The synthetic rows passed the gate." if outcome == "published" else "The synthetic rows were refused."
    judged_by, options = gate["judged_by"], gate["options"]
    metric = options["metric"] if options.get("focus") else judged_by
    return proven(gate["verdict"], rule_of(gate), Gains.of(gate["validation"]["comparisons"], judged_by, metric))


def rule_of(gate: Mapping[str, Any]) -> Rule:
    """Of the gate's evidence."""
    options = gate["options"]
    margin = float(options["margin"] or 0.0)
    return Rule(options["rule"], float(options["min_gain"]), margin, options["confidence"], Gauge.read(gate))


def proven(verdict: Verdict, rule: Rule, gains: Gains) -> str:
    """The sentence. That rows help is said of a gain that is proven, and under no other condition."""
    if verdict == "harmful":
        return _harm(gains)
    shown, margin = standing(gains), rule.gauge.amount(rule.margin)
    above = f" of more than {rule.gauge.amount(rule.min_gain)}" if rule.kind == "superior" and rule.min_gain else ""
    if verdict == "published":
        focus = " the focus labels" if gains.guards else ""
        return {
            "gain": f"The synthetic rows help{focus}: a gain{above} is proven.",
            "loss": f"The synthetic rows are proven to lose, but not more than the {margin} that the rule allows.",
            "nothing": f"The synthetic rows are not worse by more than {margin}; no gain is proven.",
        }[shown]
    if rule.kind == "not_worse":
        return f"It is not proven that the synthetic rows lose at most {margin}."
    if shown == "gain":
        return f"A gain is proven, but not one{above}, which the rule asks for."
    return f"No gain{above} is proven."


def _harm(gains: Gains) -> str:
    """Who loses to repeated real rows alone may still be better than plain ones: that is no harm, but no use either."""
    if any(guard.high < 0 for guard in gains.guards):
        return "The synthetic rows do harm: a loss over all labels is proven."
    lost = [name for name, found in _baselines(gains) if found.high < 0]
    if lost == [PLACEBO]:
        return "Repeating real rows does better than the synthetic rows: a loss against the placebo is proven."
    return f"The synthetic rows do harm: a loss against {' and '.join(lost)} is proven."


def _baselines(gains: Gains) -> tuple[tuple[str, Interval], tuple[str, Interval]]:
    return ("the real rows alone", gains.mix_real), (PLACEBO, gains.mix_placebo)


def explain(
    verdict: Verdict,
    better: Literal["real", "placebo"],
    gains: Gains,
    rule: Rule,
    rows: int,
    point: float = 1.0,
    stratum: str = "class",
) -> Summary:
    """The numbers of the comparison whose lower bound stands lowest, which is the one that decides; of a proven loss

    those that prove it. ``point``: what is worth looking for where no gain was seen, in the gauge's unit.
    """
    name, found = min(_baselines(gains), key=lambda pair: pair[1].low)
    visible = max(found.gain - found.low, 1e-3 * point) * _power(rule.confidence)
    seen = rule.gauge.tidy(rule.bar + visible)
    measured = f"against {name} the gain is {_said(rule, found)} on {rows:,} held-out rows"
    shown = standing(gains)
    if shown == "loss":
        lost = [f"against {name} the gain is {_said(rule, loss)}" for name, loss in _baselines(gains) if loss.high < 0]
        lost += [f"over all labels the gain is {_said(rule, guard)}" for guard in gains.guards if guard.high < 0]
        measured = f"{lost[0]} on {rows:,} held-out rows"
    if verdict == "published":
        return Summary(f"The mix is proven to {_asked(rule, shown)}: {measured}.", seen, None)
    rest = REAL[better].format(stratum)
    if verdict == "harmful":
        return Summary(f"The mix is proven to lose: {measured}. {rest}", seen, None)
    # Below a tenth of a point an observed gain is no guide to what is worth looking for; a point is.
    target = found.gain - rule.bar if found.gain - rule.bar >= 0.1 * point else point
    needed = math.ceil(rows * (visible / target) ** 2) if target > 0 else rows
    nothing = "Too little is proven" if shown == "gain" else "Nothing is proven"
    told = f"{nothing}: {measured}, where {sight(rule, seen)}."
    if needed <= rows:
        return Summary(f"{told} {rest}", seen, None)
    effect = true_effect(rule.bar + target, rule.gauge)
    return Summary(f"{told} For {effect} it takes about {needed:,}. {rest}", seen, needed)


def told_runs(done: int, asked: int, ended: str | None) -> str:
    """A sentence of a gate that ended before all runs, with a space before it; else none."""
    if ended is None:
        return ""
    rest = "could hardly have changed that" if ended == "clear" else "could hardly have proven anything"
    return f" The gate ended after {done} of {asked} trainings of each arm: the others {rest}."


def _asked(rule: Rule, shown: Literal["gain", "loss", "nothing"]) -> str:
    """What a published mix was proven to do."""
    margin = rule.gauge.amount(rule.margin)
    if rule.kind == "superior":
        return f"gain more than {rule.gauge.amount(rule.min_gain)}"
    if shown == "gain":
        asked = f"where the rule asks only that it lose at most {rule.margin:g}"
        return f"gain more than {rule.gauge.amount(0)}, {asked}"
    if shown == "loss":
        return f"lose, but at most {margin}"
    return f"lose at most {margin}, and not proven to gain"


def sight(rule: Rule, effect: float) -> str:
    """What the held-out rows can show; ``effect``: the true gain, below zero a loss, that just passes the rule.

    A clause, to be introduced by where, or by how often: four times in five.
    """
    if rule.kind == "superior":
        return f"{true_effect(effect, rule.gauge)} would show"
    effects, margin = true_effect(effect, rule.gauge), rule.gauge.amount(rule.margin)
    return f"a mix with {effects} would be proven to lose at most {margin}"


def true_effect(gain: float, gauge: Gauge = POINTS) -> str:
    """What the mix truly gains, as a noun; below zero it is a loss."""
    if (abs(gain) < 0.05) if gauge.in_points else not gain:
        return "neither a true gain nor a true loss"
    return f"a true {'gain' if gain > 0 else 'loss'} of {gauge.shown(abs(gain))} {gauge.words}"


def _said(rule: Rule, found: Interval) -> str:
    return rule.gauge.said(found.gain, found.low, found.high)


# --- What a gate can see before it is run -----------------------------------------------------------------------------


def foresight(metric: Metric, spread: float | None) -> Foresight | None:
    """What is assumed of the metric, in the unit of its gains. ``spread``: as for ``Metric.foresee``."""
    seen = metric.foresee(spread)
    if seen is None:
        return None
    deviation, step, worth = (metric.scale * value for value in (seen.deviation, seen.step, seen.worth))
    return replace(seen, deviation=deviation, step=step, worth=worth)


def half_width(units: int, seen: Foresight, confidence: float = 0.95) -> float:
    """What lies between a gain and its bounds, before anything is trained: the deviation of the mean of so many units,

    and two units' worth of doubt.
    """
    variance = seen.deviation**2 + 2 * seen.step**2 / units
    return NormalDist().inv_cdf(confidence) * math.sqrt(variance / units)


def smallest_visible_gain(units: int, seen: Foresight, confidence: float = 0.95, min_gain: float = 0.0) -> float:
    """The true gain that ``units`` held-out units prove with probability POWER."""
    return min_gain + half_width(units, seen, confidence) * _power(confidence)


def rows_needed(gain: float, seen: Foresight, confidence: float = 0.95, min_gain: float = 0.0) -> int:
    """Held-out units that prove a true gain of ``gain`` with probability POWER; ``gain`` above ``min_gain``."""
    if gain <= min_gain:
        raise ValueError(f"expected a gain above min_gain ({min_gain}), found {gain}")
    per_unit = (NormalDist().inv_cdf(confidence) * _power(confidence) / (gain - min_gain)) ** 2
    # units = per_unit * (deviation^2 + 2 step^2 / units), solved for units
    middle = per_unit * seen.deviation**2 / 2
    return math.ceil(middle + math.sqrt(middle**2 + 2 * seen.step**2 * per_unit))


def folds_for(
    folds: Literal["auto"] | int, units: int, min_gain: float, confidence: float, seen: Foresight | None
) -> int:
    """How many folds the gate runs: ``auto`` is FOLDS where ``units`` of validation cannot show what is asked.

    Of a metric of which nothing is known beforehand (``seen`` is None) it is none, but where there is no unit at all.
    """
    if folds != "auto":
        return folds
    if seen is None or units == 0:
        return 0 if units else FOLDS
    wanted = max(min_gain, WORTH_SHOWING * seen.worth)
    return FOLDS if smallest_visible_gain(units, seen, confidence) > wanted else 0


def _power(confidence: float) -> float:
    """A visible gain in half widths: the bound must lie above the bar with probability POWER."""
    return 1 + NormalDist().inv_cdf(POWER) / NormalDist().inv_cdf(confidence)
