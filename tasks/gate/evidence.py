"""What a gate leaves behind: scores of the arms and the gains between them, as plain JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal, TypedDict

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.contracts import STRATUM, Floats, Ints, Judged, Metric
from augmill.tasks.gate.gauge import Gauge
from augmill.tasks.gate.interval import Interval, Replicates, Resamples, interval, resample_blocks
from augmill.tasks.gate.verdict import Verdict
from augmill.tasks.rows.randomness import stream_key, uniforms
from augmill.tasks.rows.schema import is_number
from augmill.tasks.trainers import TrainerInputs, Training

# --- The three arms of the gate: real rows alone, the placebo (real rows repeated to the mix's counts), the mix -------
# Each run draws anew four fifths of the added rows of each stratum: of the synthetic rows for the mix, of the copies for
# the placebo. So runs tell how much hangs on which rows happened to be drawn, and the placebo is dealt with exactly as
# the mix is. The added rows' total weight per stratum is kept, whatever was drawn. Real rows always weigh what they
# weigh: perturbing them (a Bayesian bootstrap) would judge the arms at a smaller effective sample, where a generator
# that remembers train rows without naming them as parents wins back what the perturbation took (docs/decisions.md).


ARMS = ("real", "placebo", "mix")
KEPT = 0.8  # of the added rows, per run; what is one unit is drawn together


def trainings(inputs: TrainerInputs, seed: int, runs: int, arms: Sequence[str] = ARMS) -> list[Training]:
    """``runs`` trainings of each arm, run by run. Tables may carry a ``weight`` column (default 1)."""
    real_strata, strata = (np.array(t[STRATUM].to_pylist(), dtype=object) for t in (inputs.real, inputs.synthetic))
    real_weights, weights = _weights(inputs.real), _weights(inputs.synthetic)
    real_keys, keys = _keys(inputs, inputs.real, seed), _keys(inputs, inputs.synthetic, seed)
    base = np.arange(inputs.real.num_rows, dtype=np.int64)
    made: list[Training] = []
    for run in range(runs):
        added: dict[str, list[tuple[Ints, Floats]]] = {arm: [] for arm in ARMS}
        for stratum in sorted(set(strata)):
            mine, own = np.flatnonzero(strata == stratum), np.flatnonzero(real_strata == stratum)
            total = float(weights[mine].sum())
            kept = mine[_draw(uniforms(keys[mine], 1, stream=run)[:, 0])]
            added["mix"].append((kept + len(base), weights[kept] * (total / weights[kept].sum())))
            if len(own):
                copies = own[_copies(real_keys[own], len(mine), run)]
                added["placebo"].append((copies, np.full(len(copies), total / len(copies))))
        # torch and numpy's RandomState take seeds of 32 bits at most
        run_seed = stream_key("gate", seed, run) & 0x7FFFFFFF
        for arm in arms:
            rows = np.concatenate([base, *(rows for rows, _ in added[arm])])
            load = np.concatenate([real_weights, *(load for _, load in added[arm])])
            made.append(Training(arm, run, run_seed, rows, load))
    return made


def _draw(draws: Floats) -> Ints:
    """Positions of the KEPT share of the distinct draws, the smallest, at least one; in order."""
    distinct = np.unique(draws)
    kept = max(1, round(KEPT * len(distinct)))
    return np.flatnonzero(draws <= distinct[kept - 1]).astype(np.int64)


def _copies(keys: Ints, count: int, run: int) -> Ints:
    """Positions (repeated) of a stratum's rows: ``count`` copies dealt out evenly, the rest drawn, then as ``_draw``."""
    whole, rest = divmod(count, len(keys))
    draws = uniforms(keys, whole + 2, stream=run)
    copies = np.full(len(keys), whole, dtype=np.int64)
    copies[np.argsort(draws[:, -1], kind="stable")[:rest]] += 1
    rows = np.repeat(np.arange(len(keys), dtype=np.int64), copies)
    ordinal = np.arange(len(rows)) - np.repeat(np.cumsum(copies) - copies, copies)
    return rows[_draw(draws[rows, ordinal])]


def _weights(table: pa.Table) -> Floats:
    if "weight" not in table.column_names:
        return np.ones(table.num_rows)
    return np.asarray(table["weight"].to_numpy(), dtype=np.float64)


def _keys(inputs: TrainerInputs, table: pa.Table, seed: int) -> Ints:
    """A unit's draws hang on its id, not its place: tomorrow's gate draws the same rows where they are still there."""
    units = inputs.problem.units(table).to_pylist()
    return np.array([stream_key("gate", seed, unit) >> 1 for unit in units], dtype=np.int64)


# --- Evidence ---------------------------------------------------------------------------------------------------------


PAIRS = (("mix", "real"), ("mix", "placebo"), ("placebo", "real"))
# Why a gate ended before its last run (gate.stopping): what it says was clear, or nothing was left to be proven.
Ending = Literal["clear", "hopeless"]


@dataclass(frozen=True)
class Predictions:
    """Of one split. ``arms``: arm to (runs, rows), places in ``strata`` (-1 for none), or the values that were told.

    ``stratum``: (rows,), places in ``strata``; ``values``: (rows,), the column TARGET, None where the stratum says all of
    it; ``types``: where values are no numbers, theirs and that of predictions; ``units``: each row's unit, None where
    that is the row; ``scores``: arm to (runs, rows, strata), where the metric needs them; ``chosen``: arm to what the
    trainer chose, run by run; ``ended``: why there are fewer runs than asked.
    """

    strata: tuple[str, ...]
    stratum: Ints
    arms: dict[str, npt.NDArray[Any]]
    chosen: dict[str, list[dict[str, Any]]]
    values: npt.NDArray[Any] | None = None
    units: tuple[str, ...] | None = None
    scores: dict[str, Floats] | None = None
    ended: Ending | None = None
    types: tuple[pa.DataType, pa.DataType] | None = None

    @property
    def runs(self) -> int:
        return len(next(iter(self.arms.values())))

    @property
    def truth(self) -> npt.NDArray[Any]:
        return self.stratum if self.values is None else self.values

    def judged(self, arm: str) -> list[Judged]:
        """What metrics are asked of, run by run."""
        units, count = np.arange(len(self.stratum)), len(self.stratum)
        if self.units is not None:
            names, units = np.unique(np.array(self.units, dtype=object), return_inverse=True)
            count = len(names)
        classes = self.strata if self.values is None else ()
        scores = self.scores[arm] if self.scores else [None] * len(self.arms[arm])
        return [
            Judged(self.truth, predicted, score, units, count, classes)
            for predicted, score in zip(self.arms[arm], scores, strict=True)
        ]

    def to_table(self) -> pa.Table:
        """A held-out row a line: its truth, and what each run of each arm predicted, as ``<arm>.<run>``."""
        truth, answer = self.types or (None, None)  # of numbers Arrow knows by itself
        columns: dict[str, Any] = {"truth": pa.array(self.truth, truth)}
        if self.values is not None:
            columns["stratum"] = self.stratum
        if self.units is not None:
            columns["unit"] = self.units
        columns |= {
            f"{arm}.{run}": pa.array(row, answer) for arm, runs in self.arms.items() for run, row in enumerate(runs)
        }
        for arm, scored in (self.scores or {}).items():
            for run, each in enumerate(scored):
                flat = pa.array(np.ascontiguousarray(each).ravel())
                columns[f"{arm}.{run}.score"] = pa.FixedSizeListArray.from_arrays(flat, each.shape[1])
        return pa.table(columns)

    def about(self) -> dict[str, Any]:
        """What the table does not hold."""
        return {"labels": self.strata, "chosen": self.chosen, "ended": self.ended}

    @classmethod
    def from_table(cls, table: pa.Table, about: dict[str, Any]) -> Predictions:
        names = table.column_names
        runs = sum(bool(re.fullmatch(rf"{ARMS[0]}\.\d+", name)) for name in names)
        arms = {arm: np.stack([values_of(table[f"{arm}.{run}"]) for run in range(runs)]) for arm in ARMS}
        truth = values_of(table["truth"])
        types = (table.schema.field("truth").type, table.schema.field(f"{ARMS[0]}.0").type)
        return cls(
            tuple(about["labels"]),
            table["stratum"].to_numpy() if "stratum" in names else truth,
            arms,
            about["chosen"],
            values=truth if "stratum" in names else None,
            units=tuple(table["unit"].to_pylist()) if "unit" in names else None,
            scores={arm: np.stack([_scores(table, f"{arm}.{run}.score") for run in range(runs)]) for arm in ARMS}
            if f"{ARMS[0]}.0.score" in names
            else None,
            ended=about.get("ended"),
            types=types if truth.dtype == object else None,
        )


def values_of(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """Numbers as they are, anything else as plain Python values (dtype object)."""
    if is_number(column.type):
        found: npt.NDArray[Any] = column.to_numpy()
        return found
    found = np.empty(len(column), dtype=object)
    found[:] = column.to_pylist()
    return found


def _scores(table: pa.Table, name: str) -> Floats:
    column = table[name].combine_chunks()
    found: Floats = column.flatten().to_numpy().reshape(len(column), -1)
    return found


class StratumGain(TypedDict):
    """Gain in the problem's metric of one stratum; null bounds and ``judged: false`` under ``min_heldout_per_class``."""

    label: str
    n: int
    judged: bool
    gain: float | None
    low: float | None
    high: float | None


class PairEvidence(TypedDict):
    """Gains of ``arm`` over ``reference``: metric name to ``{gain, low, high}`` in its unit, and per stratum."""

    arm: str
    reference: str
    gains: dict[str, dict[str, float | None]]
    per_class: list[StratumGain]


class SplitEvidence(TypedDict):
    """What was measured on one split. ``comparisons``: "mix-real", "mix-placebo", "placebo-real".

    ``arms``: of each arm every metric by its name, means over seeds (accuracy and F1 in percent); ``per_class``: label
    and ``n`` of each stratum, with its own metrics; ``chosen``: per seed, what the trainer chose (its
    hyper-parameters).
    """

    rows: int
    arms: dict[str, dict[str, Any]]
    comparisons: dict[str, PairEvidence]


class Evidence(TypedDict):
    """All that the report, the log and the release say of a gate; plain JSON.

    ``judged_by``: the metric that decided, such as "accuracy" or "focus_f1"; ``unit``: of its gains, "points" or the
    target's column; ``metrics``: how the values of each metric are read (gate.gauge.Gauge); ``stratum``: what one is
    called. ``seeds``: trainings of each arm; ``ended``: why they are fewer than ``seeds_asked``, where they are.
    ``smallest_visible_gain``: true gain (below zero where ``not_worse`` lets a loss pass) that would have passed
    with 80 % probability here; ``rows_needed``: where inconclusive, held-out rows that would show the observed gain
    (where there is none, a point beyond what the rule asks), null where these rows suffice for that. ``test`` is
    reported and never decides.
    """

    verdict: Verdict
    reason: str
    best_real: Literal["real", "placebo"]
    judged_by: str
    unit: str
    metrics: dict[str, dict[str, Any]]
    stratum: str
    options: dict[str, Any]
    seeds: int
    seeds_asked: int
    ended: Ending | None
    draws: int
    rows: dict[str, int]
    smallest_visible_gain: float
    rows_needed: int | None
    validation: SplitEvidence
    test: SplitEvidence | None


@dataclass(frozen=True)
class Yardsticks:
    """What one split is measured by. ``focus``: name to metric, of those strata that the recipe's focus names;

    ``stratum``: of the rows of one stratum; ``focusing``: of which ``only`` some strata can be looked at.
    """

    overall: Mapping[str, Metric]
    focus: Mapping[str, Metric]
    stratum: Metric
    focusing: Metric | None
    target: str  # the name of its column

    def gauge(self, metric: Metric) -> Gauge:
        return Gauge.of(metric, self.target)


def measure(
    predictions: Predictions,
    by: Yardsticks,
    *,
    confidence: float,
    min_rows_per_class: int,
    resamples: int,
    seed: int,
) -> SplitEvidence:
    """Scores and gains of one split. Resamples of units are shared by the arms: every comparison is paired."""
    metrics = {**by.overall, **by.focus}
    strata = [_Stratum.of(predictions, place) for place in np.unique(predictions.stratum)]
    found, inside = _replicate(predictions, metrics, by.stratum, strata, resamples, seed)
    judged = {arm: predictions.judged(arm) for arm in ARMS}

    def gain(metric: Metric, of: dict[str, Replicates], arm: str, reference: str, among: dict[str, Any]) -> Interval:
        difference, runs = of[arm].values - of[reference].values, of[arm].runs - of[reference].runs
        step = max(metric.one_unit(run) for side in (arm, reference) for run in among[side])
        return interval(difference, runs, confidence, step, by.gauge(metric))

    def stratum_gain(each: _Stratum, arm: str, reference: str) -> StratumGain:
        here = each.count >= min_rows_per_class
        bounds = gain(by.stratum, inside[each.name], arm, reference, each.judged).to_json() if here else {}
        low, middle, high = (bounds.get(name) for name in ("low", "gain", "high"))
        return {"label": each.name, "n": each.rows, "judged": here, "gain": middle, "low": low, "high": high}

    return {
        "rows": len(predictions.stratum),
        "arms": {arm: _arm_score(arm, found, inside, strata, predictions, by) for arm in ARMS},
        "comparisons": {
            f"{arm}-{reference}": {
                "arm": arm,
                "reference": reference,
                "gains": {
                    name: gain(metric, found[name], arm, reference, judged).to_json()
                    for name, metric in metrics.items()
                },
                "per_class": [stratum_gain(each, arm, reference) for each in strata],
            }
            for arm, reference in PAIRS
        },
    }


@dataclass(frozen=True)
class _Stratum:
    """The rows of one stratum, as if there were no others."""

    name: str
    place: int
    rows: int
    units: Ints  # places among all units
    judged: dict[str, list[Judged]]

    @property
    def count(self) -> int:
        return len(self.units)

    @classmethod
    def of(cls, predictions: Predictions, place: int) -> _Stratum:
        at = np.flatnonzero(predictions.stratum == place)
        judged = {arm: predictions.judged(arm) for arm in ARMS}
        units, own = np.unique(judged["mix"][0].units[at], return_inverse=True)

        def part(run: Judged) -> Judged:
            scores = None if run.scores is None else run.scores[at]
            return replace(
                run, truth=run.truth[at], predicted=run.predicted[at], scores=scores, units=own, count=len(units)
            )

        of_arms = {arm: [part(run) for run in runs] for arm, runs in judged.items()}
        return cls(predictions.strata[place], int(place), len(at), units, of_arms)


ByArm = dict[str, Replicates]


def _replicate(
    predictions: Predictions,
    metrics: Mapping[str, Metric],
    inner: Metric,
    strata: list[_Stratum],
    count: int,
    seed: int,
) -> tuple[dict[str, ByArm], dict[str, ByArm]]:
    """Each metric, by name, and the metric ``inner`` of each stratum, by its name; in one pass over the resamples."""
    folded, lines = fold_alike(predictions)
    judged = {arm: folded.judged(arm) for arm in ARMS}
    units = judged["mix"][0].count if lines is None else len(lines)
    inside = strata if lines is None else [_Stratum.of(folded, each.place) for each in strata]
    asked: list[tuple[Ints | slice, Metric, dict[str, list[Judged]]]] = [
        *((slice(None), metric, judged) for metric in metrics.values()),
        *((each.units, inner, each.judged) for each in inside),
    ]
    prepared = [(at, metric, [metric.prepare(run) for arm in ARMS for run in of[arm]]) for at, metric, of in asked]
    times = np.ones(units) if lines is None else np.bincount(lines)
    found: list[list[Floats]] = [[] for _ in prepared]
    drawn: list[npt.NDArray[np.float32]] = []
    blocks = resample_blocks(units, len(judged["mix"]), count, seed, lines)
    for block in chain([Resamples(times[None].astype(np.float32), np.empty((1, 0), np.float32))], blocks):
        drawn.append(block.runs)
        for values, (at, metric, runs) in zip(found, prepared, strict=True):
            values.append(metric.over_runs(runs, block.units[:, at]))
    weights = np.concatenate(drawn[1:])

    def by_arm(values: list[Floats]) -> ByArm:
        split = np.split(np.concatenate(values), len(ARMS), axis=1)
        return {arm: Replicates.over(part, weights) for arm, part in zip(ARMS, split, strict=True)}

    made = [by_arm(values) for values in found]
    of_strata = zip((each.name for each in strata), made[len(metrics) :], strict=True)
    return dict(zip(metrics, made[: len(metrics)], strict=True)), dict(of_strata)


def fold_alike(predictions: Predictions) -> tuple[Predictions, Ints | None]:
    """Rows that every training predicted alike as one line, and the line of each row: most rows are alike.

    None where no row is folded: those with scores, numbers or units of their own stay as they are.
    """
    if predictions.values is not None or predictions.units is not None or predictions.scores is not None:
        return predictions, None
    columns = [predictions.stratum, *(run for arm in ARMS for run in predictions.arms[arm])]
    table = np.stack(columns, axis=1, dtype=np.int32, casting="same_kind")
    whole = table.view(np.dtype((np.void, table.dtype.itemsize * table.shape[1])))[:, 0]
    _, first, lines = np.unique(whole, return_index=True, return_inverse=True)
    arms = {arm: predictions.arms[arm][:, first] for arm in ARMS}
    return replace(predictions, stratum=predictions.stratum[first], arms=arms), lines.astype(np.int64)


def _arm_score(
    arm: str,
    found: dict[str, dict[str, Replicates]],
    inside: dict[str, dict[str, Replicates]],
    strata: Sequence[_Stratum],
    predictions: Predictions,
    by: Yardsticks,
) -> dict[str, Any]:
    def score(metric: Metric, value: float) -> float | None:
        return None if np.isnan(value) else by.gauge(metric).tidy(metric.scale * float(value))

    def of_stratum(each: _Stratum) -> dict[str, Any]:
        name = by.stratum.of_stratum or by.stratum.name
        told = {"label": each.name, "n": each.rows, name: score(by.stratum, inside[each.name][arm].values[0])}
        if by.focusing is not None:
            told[by.focusing.of_stratum or by.focusing.name] = score(by.focusing, alone[each.place])
        return told

    runs = [by.focusing.each(run) for run in predictions.judged(arm)] if by.focusing is not None else []
    alone = np.mean(runs, axis=0) if runs else np.empty(0)
    told = {name: score(metric, found[name][arm].values[0]) for name, metric in by.overall.items()}
    if by.focusing is not None:  # the key stands there where no label is in focus, too
        told[by.focusing.only(()).name] = None
    told |= {name: score(metric, found[name][arm].values[0]) for name, metric in by.focus.items()}
    return {**told, "per_class": [of_stratum(each) for each in strata], "chosen": predictions.chosen[arm]}
