"""What a gate leaves behind: scores of the arms and the gains between them, as plain JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augmill.tasks.gate.interval import Floats, Interval, Replicates, interval, one_row, replicate, resample
from augmill.tasks.gate.verdict import Verdict
from augmill.tasks.metrics import counts, f1
from augmill.tasks.rows.randomness import stream_key, uniforms
from augmill.tasks.trainers import Problem, Training

# --- The three arms of the gate: real rows alone, the placebo (real rows repeated to the mix's counts), the mix -------
# Each run draws anew four fifths of the added rows of each class: of the synthetic rows for the mix, of the copies for
# the placebo. So runs tell how much hangs on which rows happened to be drawn, and the placebo is dealt with exactly as
# the mix is. The added rows' total weight per class is kept, whatever was drawn. Real rows always weigh what they
# weigh: perturbing them (a Bayesian bootstrap) would judge the arms at a smaller effective sample, where a generator
# that remembers train rows without naming them as parents wins back what the perturbation took (docs/decisions.md).


ARMS = ("real", "placebo", "mix")
KEPT = 0.8  # of the added rows, per run

Ints = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float64]


def trainings(problem: Problem, seed: int, runs: int) -> list[Training]:
    """``runs`` trainings of each arm, run by run. Tables may carry a ``weight`` column (default 1)."""
    real_strata, strata = (np.array(t["stratum"].to_pylist(), dtype=object) for t in (problem.real, problem.synthetic))
    real_weights, weights = _weights(problem.real), _weights(problem.synthetic)
    real_keys, keys = _keys(problem.real, seed), _keys(problem.synthetic, seed)
    base = np.arange(problem.real.num_rows, dtype=np.int64)
    made: list[Training] = []
    for run in range(runs):
        added: dict[str, list[tuple[Ints, Weights]]] = {"real": [], "placebo": [], "mix": []}
        for stratum in problem.labels:
            mine, own = np.flatnonzero(strata == stratum), np.flatnonzero(real_strata == stratum)
            if not len(mine):
                continue
            total = float(weights[mine].sum())
            kept = mine[_draw(uniforms(keys[mine], 1, stream=run)[:, 0], len(mine))]
            added["mix"].append((kept + len(base), weights[kept] * (total / weights[kept].sum())))
            if len(own):
                copies = own[_copies(real_keys[own], len(mine), run)]
                added["placebo"].append((copies, np.full(len(copies), total / len(copies))))
        # torch and numpy's RandomState take seeds of 32 bits at most
        run_seed = stream_key("gate", seed, run) & 0x7FFFFFFF
        for arm in ARMS:
            rows = np.concatenate([base, *(rows for rows, _ in added[arm])])
            load = np.concatenate([real_weights, *(load for _, load in added[arm])])
            made.append(Training(arm, run, run_seed, rows, load))
    return made


def _draw(draws: Weights, count: int) -> Ints:
    """Positions of the KEPT share with the smallest draws, at least one, in order."""
    kept = max(1, round(KEPT * count))
    return np.sort(np.argsort(draws, kind="stable")[:kept]).astype(np.int64)


def _copies(keys: Ints, count: int, run: int) -> Ints:
    """Positions (repeated) of a class's rows: ``count`` copies dealt out evenly, the rest drawn, then as ``_draw``."""
    whole, rest = divmod(count, len(keys))
    draws = uniforms(keys, whole + 2, stream=run)
    copies = np.full(len(keys), whole, dtype=np.int64)
    copies[np.argsort(draws[:, -1], kind="stable")[:rest]] += 1
    rows = np.repeat(np.arange(len(keys), dtype=np.int64), copies)
    ordinal = np.arange(len(rows)) - np.repeat(np.cumsum(copies) - copies, copies)
    return rows[_draw(draws[rows, ordinal], len(rows))]


def _weights(table: pa.Table) -> Weights:
    if "weight" not in table.column_names:
        return np.ones(table.num_rows)
    return np.asarray(table["weight"].to_numpy(), dtype=np.float64)


def _keys(table: pa.Table, seed: int) -> Ints:
    """A row's draws hang on its id, not its place: tomorrow's gate draws the same rows where they are still there."""
    return np.array([stream_key("gate", seed, row_id) >> 1 for row_id in table["row_id"].to_pylist()], dtype=np.int64)


# --- Evidence ---------------------------------------------------------------------------------------------------------


PAIRS = (("mix", "real"), ("mix", "placebo"), ("placebo", "real"))


@dataclass(frozen=True)
class Predictions:
    """Of one split. ``truth``: (rows,); ``arms``: arm to (runs, rows). Both positions in ``labels``, -1 for none.

    ``chosen``: arm to what the trainer chose, run by run.
    """

    labels: tuple[str, ...]
    truth: Ints
    arms: dict[str, Ints]
    chosen: dict[str, list[dict[str, Any]]]

    def to_table(self) -> pa.Table:
        """A held-out row a line: its truth, and what each run of each arm predicted, as ``<arm>.<run>``."""
        columns = {f"{arm}.{run}": row for arm, runs in self.arms.items() for run, row in enumerate(runs)}
        return pa.table({"truth": self.truth, **columns})

    def about(self) -> dict[str, Any]:
        """What the table does not hold."""
        return {"labels": self.labels, "chosen": self.chosen}

    @classmethod
    def from_table(cls, table: pa.Table, about: dict[str, Any]) -> Predictions:
        runs = (len(table.column_names) - 1) // len(ARMS)
        arms = {arm: np.stack([table[f"{arm}.{run}"].to_numpy() for run in range(runs)]) for arm in ARMS}
        return cls(tuple(about["labels"]), table["truth"].to_numpy(), arms, about["chosen"])


class ClassScore(TypedDict):
    """A class in one arm; ``recall`` and ``f1`` in percent, means over seeds."""

    label: str
    n: int
    recall: float
    f1: float


class ArmScore(TypedDict):
    """Percent, means over seeds. ``chosen``: per seed, what the trainer chose (its hyper-parameters)."""

    accuracy: float
    macro_f1: float
    focus_f1: float | None
    per_class: list[ClassScore]
    chosen: list[dict[str, Any]]


class ClassGain(TypedDict):
    """Gain in recall, points; null bounds and ``judged: false`` under ``min_heldout_per_class``."""

    label: str
    n: int
    judged: bool
    gain: float | None
    low: float | None
    high: float | None


class Comparison(TypedDict):
    """Gains of ``arm`` over ``reference``: metric name to ``{gain, low, high}`` in points, and per class."""

    arm: str
    reference: str
    gains: dict[str, dict[str, float]]
    per_class: list[ClassGain]


class SplitEvidence(TypedDict):
    """What was measured on one split. ``comparisons``: "mix-real", "mix-placebo", "placebo-real"."""

    rows: int
    arms: dict[str, ArmScore]
    comparisons: dict[str, Comparison]


class Evidence(TypedDict):
    """All that the report, the log and the release say of a gate; plain JSON.

    ``judged_by``: the score that decided ("accuracy", "macro_f1" or "focus_f1"). ``smallest_visible_gain``: true points
    (below zero where ``not_worse`` lets a loss pass) that would have passed with 80 % probability here; ``rows_needed``:
    where inconclusive, held-out rows that would show the observed gain (where there is none, a point beyond what the
    rule asks), null where these rows suffice
    for that. ``test`` is reported and never decides.
    """

    verdict: Verdict
    reason: str
    best_real: Literal["real", "placebo"]
    judged_by: str
    options: dict[str, Any]
    seeds: int
    draws: int
    rows: dict[str, int]
    smallest_visible_gain: float
    rows_needed: int | None
    validation: SplitEvidence
    test: SplitEvidence | None


def measure(
    predictions: Predictions,
    *,
    focus: tuple[str, ...],
    confidence: float,
    min_rows_per_class: int,
    resamples: int,
    seed: int,
) -> SplitEvidence:
    """Scores and gains of one split. Row resamples are shared by the arms: every comparison is paired."""
    truth, labels = predictions.truth, predictions.labels
    runs = len(predictions.arms["mix"])
    wanted = tuple(c for c, label in enumerate(labels) if label in focus and c in truth)
    drawn = resample(len(truth), runs, resamples, seed)
    arms = {arm: replicate(truth, predictions.arms[arm], len(labels), drawn, wanted) for arm in ARMS}
    steps = {"accuracy": one_row(truth), "macro_f1": one_row(truth, tuple(np.unique(truth).tolist()))}
    if wanted:
        steps["focus_f1"] = one_row(truth, wanted)
    return {
        "rows": len(truth),
        "arms": {arm: _arm_score(arms[arm], predictions, arm) for arm in ARMS},
        "comparisons": {
            f"{arm}-{reference}": {
                "arm": arm,
                "reference": reference,
                "gains": {
                    name: _gain(arms[arm], arms[reference], name, confidence, step).to_json()
                    for name, step in steps.items()
                },
                "per_class": _class_gains(
                    arms[arm], arms[reference], predictions, confidence=confidence, min_rows=min_rows_per_class
                ),
            }
            for arm, reference in PAIRS
        },
    }


def _gain(arm: Replicates, reference: Replicates, name: str, confidence: float, step: float) -> Interval:
    runs: Floats = arm.runs[name] - reference.runs[name]
    return interval(arm.scores[name] - reference.scores[name], runs, confidence, step)


def _arm_score(arm: Replicates, predictions: Predictions, name: str) -> ArmScore:
    truth, labels = predictions.truth, predictions.labels
    sizes = np.bincount(truth, minlength=len(labels))
    counted = [counts(truth, run, len(labels)) for run in predictions.arms[name]]
    per_class = np.mean([f1(*run) for run in counted], axis=0)
    return {
        "accuracy": _percent(arm.scores["accuracy"][0]),
        "macro_f1": _percent(arm.scores["macro_f1"][0]),
        "focus_f1": _percent(arm.scores["focus_f1"][0]) if "focus_f1" in arm.scores else None,
        "per_class": [
            {"label": labels[c], "n": int(sizes[c]), "recall": _percent(arm.recall[0, c]), "f1": _percent(per_class[c])}
            for c in np.flatnonzero(sizes)
        ],
        "chosen": predictions.chosen[name],
    }


def _percent(share: float) -> float:
    return round(100 * float(share), 4)


def _class_gains(
    arm: Replicates, reference: Replicates, predictions: Predictions, *, confidence: float, min_rows: int
) -> list[ClassGain]:
    gains: list[ClassGain] = []
    sizes = np.bincount(predictions.truth, minlength=len(predictions.labels))
    for c in np.flatnonzero(sizes):
        n = int(sizes[c])
        found: Interval | None = None
        if n >= min_rows:
            runs = arm.run_recall[:, c] - reference.run_recall[:, c]
            found = interval(arm.recall[:, c] - reference.recall[:, c], runs, confidence, 1 / n)
        gains.append(
            {
                "label": predictions.labels[c],
                "n": n,
                "judged": found is not None,
                "gain": found.gain if found else None,
                "low": found.low if found else None,
                "high": found.high if found else None,
            }
        )
    return gains
