"""What a gate leaves behind: scores of the arms and the gains between them, as plain JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import numpy as np
import pyarrow as pa

from augmill.tasks.gate.arms import ARMS
from augmill.tasks.gate.interval import Floats, Interval, Ints, Replicates, interval, one_row, replicate, resample
from augmill.tasks.gate.verdict import Verdict
from augmill.tasks.metrics.classification import counts, f1

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
